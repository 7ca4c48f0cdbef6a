"""Which files to judge: a folder with all below it, a glob, or one file; in natural order (2.png before 10.png)."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.contract.disk.walking import walk
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.image import SUFFIXES, is_image
from vtad_runtime.contract.log import warning

# Pictures of these kinds are not read; that they are left out is said.
UNREAD = frozenset(
    [
        ".gif",
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".jxl",
        ".ppm",
        ".pgm",
        ".exr",
        ".psd",
        ".svg",
        ".raw",
        ".dng",
        ".cr2",
        ".nef",
        ".arw",
    ]
)
RESULTS_FILE = "results.jsonl"  # a folder that holds this one is an output of vtad-run, not a source


class SourceError(VtadError):
    """A source that cannot be read or holds no picture. One line."""


@dataclass(frozen=True)
class Source:
    """The files to judge, in order."""

    root: Path  # the folder that names are relative to
    files: tuple[Path, ...]
    skipped: tuple[Path, ...]  # folders left out: masks of a ground truth, earlier results
    unread: tuple[Path, ...] = ()  # pictures left out, of formats that are not read


def find(source: str | Path) -> Source:
    """The pictures of a folder (recursive), a glob such as "line1/*.png", or a single file.

    In a folder, `ground_truth` next to `test` (masks, not parts) and folders of earlier results are left out. Raises
    SourceError: nothing there, unreadable, or no picture in it.
    """
    path = Path(source)
    if path.is_file():
        return Source(path.parent, (path,), ())
    skipped, unread = list[Path](), list[Path]()
    if path.is_dir():
        files = list(below(path, skipped, unread))
        root, what = path, f"folder {path}"
    elif glob.has_magic(str(source)):
        matches = (Path(m) for m in glob.glob(str(source), recursive=True))
        files = [m for m in matches if m.is_file() and is_image(m)]
        root, what = _fixed_part(path), f"glob {source}"
    else:
        got = "no plain file" if path.exists() else "nothing there"  # a pipe, a device
        raise SourceError(f"{path}: expected a folder, a glob or a file, got {got}; check the path")
    if not files:
        names = ", ".join(str(s) for s in skipped)
        left_out = f" beside {names}, which holds masks or earlier results" if skipped else ""
        raise SourceError(f"{what}: expected pictures ({' '.join(sorted(SUFFIXES))}), got none{left_out}")
    ordered = sorted(files, key=lambda f: natural(f.relative_to(root).as_posix()))
    return Source(root, tuple(ordered), tuple(skipped), tuple(unread))


def below(root: Path, skipped: list[Path], unread: list[Path]) -> Iterator[Path]:
    """All pictures below `root`; folders left out go into `skipped`, pictures of formats that are not read into `unread`.

    Follows links, each folder once. Raises SourceError.
    """
    for folder, subfolders, names in walk(root, _refuse):
        masks = folder.name == "ground_truth" and (folder.parent / "test").is_dir()
        if masks or RESULTS_FILE in names:
            subfolders.clear()
            skipped.append(folder)
            continue
        unread += (folder / name for name in names if Path(name).suffix.lower() in UNREAD and not name.startswith("."))
        yield from (folder / name for name in names if is_image(folder / name))


def say_unread(pictures: Sequence[Path]) -> None:
    """Say that pictures are left out since their formats are not read, if there are any."""
    if pictures:
        said = f"not judged: {len(pictures)} of formats that are not read, such as {pictures[0]}; save them as PNG"
        warning("left_out", said, files=len(pictures))


def _refuse(error: OSError) -> None:
    raise SourceError(f"{error.filename}: expected a readable folder, got {error.strerror}") from error


def _fixed_part(pattern: Path) -> Path:
    """The folder before the first part with a wildcard."""
    fixed: list[str] = []
    for part in pattern.parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)


def natural(name: str) -> str:
    """A sort key by which runs of digits compare as numbers, folder by folder; `name` has its folders before slashes."""
    return re.sub(r"\d+", _number, name.replace("/", "\0"))


def _number(digits: re.Match[str]) -> str:
    """A number sorts before text, by how many digits it has, then by these."""
    value = digits[0].lstrip("0")
    return f"\1{len(value):04d}{value}\1{digits[0]}\1"
