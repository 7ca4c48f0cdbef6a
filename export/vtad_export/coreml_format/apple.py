"""coremltools, imported when first needed and quietly: off a Mac it warns of every native library that it lacks."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator
from types import ModuleType

from vtad.run_folder import RunError


def coremltools() -> ModuleType:
    """The package. Raises RunError when it is not installed."""
    try:
        with quiet():
            import coremltools as package
    except ImportError as e:
        raise RunError(
            f"Core ML packages need coremltools, which cannot be imported ({e}): pip install 'vtad[export]'"
        ) from e
    return package  # type: ignore[no-any-return]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, warnings or log lines of coremltools and torch.export inside; their errors are exceptions."""
    loggers = [logging.getLogger(name) for name in ("coremltools", "torch.export")]
    levels = [logger.level for logger in loggers]
    bars = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    for logger in loggers:
        logger.setLevel(logging.ERROR + 1)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = bars
