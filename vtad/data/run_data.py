"""The images that a run was trained from: where they are now, and whether they are the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vtad.data.images import fingerprint
from vtad.data.layout import CategoryFiles, DataError, find_category
from vtad.run_folder import Run


@dataclass(frozen=True)
class RunData:
    """The files of a run's category."""

    files: CategoryFiles
    note: str | None  # one line where the good images are not those of the training


def run_data(run: Run, data: Path | None = None) -> RunData:
    """The category of a complete run, in the folder of categories `data`, by default the one it was trained from.

    Raises RunError, CardError, or DataError: nothing there; or without `data`, other images below a folder that an early run
    remembers only relative to where it was started.
    """
    config = run.config()
    folder = data or Path(config.data)
    root = folder / config.category
    if not root.is_dir():
        raise DataError(
            f"{root}: expected the images that {run.path} was trained from, got nothing there; if they were moved, name "
            "the folder that holds them by --data"
        )
    files = find_category(folder, config.category)
    if fingerprint(files.train_good) == run.card().identity.data_fingerprint:
        return RunData(files, None)
    if data is None and not folder.is_absolute():
        raise DataError(
            f"{files.root}: expected the good images that {run.path} was trained from, got others; name the folder that "
            "holds them by --data"
        )
    return RunData(files, f"the images in {files.root} are not those that the run was trained on")
