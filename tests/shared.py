"""What is expensive and made once a session, by whichever worker asks first; the others wait, and none may change it."""

from __future__ import annotations

import fcntl
import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
Contents = dict[str, str]  # sha256 by file name


class Shared:
    """Things by name in a folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._contents: dict[Path, Contents] = {}
        folder.mkdir(exist_ok=True)

    def __call__(self, name: str, make: Callable[[Path], Made]) -> Made:
        """What `make` gives, which may write into the folder that it is given; it must be possible to pickle it."""
        folder, stored = self._folder / name, self._folder / f"{name}.pickle"
        with (self._folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not stored.exists():
                folder.mkdir(exist_ok=True)
                made = make(folder)
                stored.write_bytes(pickle.dumps((made, _contents(folder))))
            value: Made
            value, self._contents[folder] = pickle.loads(stored.read_bytes())
        return value

    def check(self) -> None:
        """Fail if a file that was shared is not as it was made."""
        for folder, before in self._contents.items():
            changed = sorted({name for name, _ in _contents(folder).items() ^ before.items()})
            assert not changed, f"a test changed {changed} in {folder}, which other tests use too: copy it first"


def _contents(folder: Path) -> Contents:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
