"""What is expensive and made once a session, by whichever worker asks first; the others wait, and none may change it."""

from __future__ import annotations

import fcntl
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
Stamps = dict[str, tuple[int, int]]


class Shared:
    """Things by name in a folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamps: dict[Path, Stamps] = {}
        folder.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], Made]) -> Made:
        """What `make` gives, which may write into the folder that it is given; it must be possible to pickle it."""
        folder, stored = self._folder / name, self._folder / f"{name}.pickle"
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stored.exists():
                folder.mkdir(exist_ok=True)
                made = make(folder)
                stored.write_bytes(pickle.dumps((made, _stamps(folder))))
            value: Made
            value, self._stamps[folder] = pickle.loads(stored.read_bytes())
        return value

    def check(self) -> None:
        """Fail if a file that was shared is not as it was made."""
        for folder, stamps in self._stamps.items():
            assert _stamps(folder) == stamps, f"a test changed {folder}, which other tests use too: copy it first"


def _stamps(folder: Path) -> Stamps:
    found = ((path, path.stat()) for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in found}
