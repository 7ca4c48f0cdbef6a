"""What a library raises for a file or a package that is not there, as an error that a user understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vtad_runtime.contract.errors import INTERNAL, NOT_WRITTEN, STOPPED, VtadError, disk_full, one_line, why

EXTRAS = {"optuna": "sweep", "sqlalchemy": "sweep", "mlflow": "track", "jinja2": "report", "matplotlib": "report"}


@contextmanager
def library_errors_as_lines() -> Iterator[None]:
    """Turn an OSError or ImportError from inside the block into a VtadError."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of the output went away: `no_traceback` knows what to do
    except OSError as e:
        if disk_full(e):
            raise
        raise VtadError(f"{e.filename or 'a file'}: expected to read it, got {one_line(e)}") from e
    except ImportError as e:
        if not isinstance(e, ModuleNotFoundError) or e.name is None:  # it is there, and cannot be loaded
            said = f"expected libraries that can be loaded, got: {one_line(e)}; install what is missing, or vtad anew"
            raise VtadError(said) from e
        extra = EXTRAS.get(e.name.partition(".")[0], "export")
        raise VtadError(f"this command needs {e.name}, which is not installed: pip install 'vtad[{extra}]'") from e


def code_of(error: Exception) -> int:
    """What a command ends with after an error."""
    return error.exit_code if isinstance(error, VtadError) else INTERNAL


def ends_all(error: Exception) -> bool:
    """Whether the error of one training ends the others, too: stopped, a full disk, a reader of stdout that went away."""
    code = code_of(error)
    return code == NOT_WRITTEN or code >= STOPPED or isinstance(error, BrokenPipeError) or disk_full(error)


def line_of(error: Exception) -> str:
    """One line about an error that ends no command."""
    return str(error) if isinstance(error, VtadError) else f"internal error: {why(error)}; please report it"
