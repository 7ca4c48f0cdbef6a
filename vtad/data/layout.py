"""Finding the files of a category: the MVTec AD folder layout.

<data>/<category>/train/good/*.png            good pictures to train from; subfolders are searched too
<data>/<category>/test/<kind>/*.png           optional; "good" or the name of a defect type
<data>/<category>/ground_truth/<kind>/*.png   optional; <stem>_mask.png, or <stem>.png as some sets in this layout do
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.image import is_image

GOOD = "good"
MVTEC_CATEGORIES = (
    "bottle",
    "cable",
    "capsule",
    "carpet",
    "grid",
    "hazelnut",
    "leather",
    "metal_nut",
    "pill",
    "screw",
    "tile",
    "toothbrush",
    "transistor",
    "wood",
    "zipper",
)


class DataError(VtadError):
    """Pictures that are missing or cannot be used. One line: expected, got, where, what to do."""


@dataclass(frozen=True)
class TestImage:
    """A picture whose verdict is known."""

    __test__ = False  # the name is not that of a test class

    path: Path
    kind: str  # "good" or the defect type
    mask: Path | None  # of the defect; None for good pictures and where no mask was found


@dataclass(frozen=True)
class CategoryFiles:
    """The files of one category, each list in the order of the relative names."""

    name: str
    root: Path
    train_good: tuple[Path, ...]
    test: tuple[TestImage, ...]  # empty when there is no test folder


def default_data_dir() -> Path:
    """The folder of categories: $VTAD_DATA, or ./data."""
    return Path(os.environ.get("VTAD_DATA") or "data")


def find_categories(data_dir: Path) -> tuple[str, ...]:
    """Names of the folders in `data_dir` that hold a train/good folder, sorted; none if it does not exist."""
    if not data_dir.is_dir():
        return ()
    return tuple(sorted(p.name for p in data_dir.iterdir() if p.name[0] != "." and (p / "train" / GOOD).is_dir()))


def find_category(data_dir: Path, category: str) -> CategoryFiles:
    """The files of `data_dir`/`category`. Raises DataError: no such category, no train/good, or no pictures in it."""
    root = data_dir / category
    train = root / "train" / GOOD
    require_folder_name(category)
    if not root.is_dir():
        found = ", ".join(find_categories(data_dir)) or "no categories"
        raise DataError(
            f"{root}: expected a folder in the MVTec AD layout, got none ({data_dir} holds {found}); "
            f"put good pictures into {train}, or make demo images: vtad-data demo --category {category}"
        )
    if not train.is_dir():
        raise DataError(f"{train}: expected a folder of good pictures, got nothing there; put them there")
    train_good = pictures_below(train)
    if not train_good:
        raise DataError(
            f"{train}: expected pictures of good parts (PNG, JPEG, BMP, TIFF or WebP), got none; put them there"
        )
    return CategoryFiles(category, root, train_good, _test_images(root))


def require_folder_name(category: str) -> None:
    """Raise DataError where `category` is a path, empty, or starts with a dot."""
    if not category or Path(category).name != category or category.startswith("."):
        raise DataError(f"category: expected the name of a folder, such as pill, got {category!r}")


def pictures_below(folder: Path) -> tuple[Path, ...]:
    """Every picture file in `folder` and its subfolders, dot folders aside, sorted by relative name."""
    names = [p.relative_to(folder) for p in folder.rglob("*") if is_image(p) and p.is_file() and not _hidden(p, folder)]
    return tuple(folder / name for name in sorted(names, key=lambda name: name.as_posix()))


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _test_images(root: Path) -> tuple[TestImage, ...]:
    if not (root / "test").is_dir():
        return ()
    found = []
    for folder in sorted(p for p in (root / "test").iterdir() if p.is_dir() and not p.name.startswith(".")):
        masks_dir = root / "ground_truth" / folder.name
        masks = {} if folder.name == GOOD or not masks_dir.is_dir() else _masks_by_name(masks_dir)
        for path in pictures_below(folder):
            name = path.relative_to(folder).with_suffix("").as_posix()
            found.append(TestImage(path, folder.name, masks.get(f"{name}_mask") or masks.get(name)))
    return tuple(found)


def _masks_by_name(folder: Path) -> dict[str, Path]:
    return {p.relative_to(folder).with_suffix("").as_posix(): p for p in pictures_below(folder)}
