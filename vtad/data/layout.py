"""Finding the files of a category: the MVTec AD folder layout.

<data>/<category>/train/good/*.png            good pictures to train from; subfolders are searched too, linked ones as well
<data>/<category>/test/<kind>/*.png           optional; "good" or the name of a defect type
<data>/<category>/ground_truth/<kind>/*.png   optional; <stem>_mask.png, or <stem>.png as some sets in this layout do

As people have them: a folder of good pictures may be called good, ok or Good; masks may lie beside the pictures, in a folder gt,
mask or masks, or as part_mask.png beside part.png, or part.png beside part.jpg.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vtad_runtime.contract.disk.walking import walk
from vtad_runtime.contract.errors import VtadError, one_line
from vtad_runtime.contract.image import is_image

GOOD = "good"
GOOD_NAMES = ("good", "ok")  # what people call a folder of good pictures, in any case
MASK_FOLDERS = ("gt", "mask", "masks", "ground_truth")  # among the pictures of a defect type
LITTER = ("thumbs.db", "desktop.ini")  # files that systems leave everywhere
MASK_END = "_mask"  # of the name of a mask, before its suffix
MASK_SUFFIX = ".png"  # of a mask that lies beside its picture under the same name
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
    return tuple(
        sorted(p.name for p in data_dir.iterdir() if p.name[0] != "." and _good_folder(p / "train") is not None)
    )


def find_category(data_dir: Path, category: str) -> CategoryFiles:
    """The files of `data_dir`/`category`. Raises DataError: no such category, no train/good, no pictures in it, a shut folder."""
    root = data_dir / category
    require_folder_name(category)
    train = _good_folder(root / "train") or root / "train" / GOOD
    if not root.is_dir():
        if data_dir.name == category and _good_folder(data_dir / "train") is not None:
            raise DataError(
                f"{root}: expected a folder in the MVTec AD layout, got none; {data_dir} is the category itself: "
                f"give --data {shlex.quote(str(data_dir.parent))}"
            )
        found = ", ".join(find_categories(data_dir)) or "no categories"
        raise DataError(
            f"{root}: expected a folder in the MVTec AD layout, got none ({data_dir} holds {found}); "
            f"put good pictures into {train}, or make demo images: vtad-data demo --category {shlex.quote(category)}"
        )
    if not train.is_dir():
        raise DataError(f"{train}: expected a folder of good pictures, got nothing there; put them there")
    train_good = pictures_below(train)
    if not train_good:
        raise DataError(
            f"{train}: expected pictures of good parts (PNG, JPEG, BMP, TIFF or WebP), got none; put them there"
        )
    return CategoryFiles(category, root, train_good, _test_images(root))


def require_test_images(files: CategoryFiles) -> tuple[TestImage, ...]:
    """The test images of a category. Raises DataError where there are none."""
    if not files.test:
        raise DataError(
            f"{files.root / 'test'}: expected test images in folders good/ and one for each defect type, got none"
        )
    return files.test


def require_folder_name(category: str) -> None:
    """Raise DataError where `category` is a path, empty, or starts with a dot."""
    if not category or Path(category).name != category or category.startswith("."):
        raise DataError(f"category: expected the name of a folder, such as pill, got {category!r}")


def pictures_below(folder: Path) -> tuple[Path, ...]:
    """Every picture file in `folder` and its subfolders, dot folders aside, sorted by relative name; none if it does not exist.

    Raises DataError where a folder cannot be listed.
    """
    files = [path for path in _files_below(folder) if is_image(path) and path.is_file()]
    return tuple(sorted(files, key=lambda path: path.relative_to(folder).as_posix()))


def _files_below(folder: Path) -> list[Path]:
    return [here / name for here, _, names in walk(folder, _refuse) for name in names] if folder.exists() else []


def _refuse(error: OSError) -> None:
    raise DataError(
        f"{error.filename}: expected a readable folder, got {one_line(error)}; check its permissions"
    ) from error


def files_left_out(files: CategoryFiles) -> dict[str, int]:
    """How many files of a category are no pictures that vtad reads, by suffix; hidden files and those of Windows aside."""
    folders = _good_folder(files.root / "train"), files.root / "test"
    found = [path for folder in folders if folder for path in _files_below(folder)]
    shown = [p for p in found if not p.name.startswith(".") and p.name.lower() not in LITTER]
    kinds = [
        "(link to nothing)" if not p.exists() else p.suffix.lower() or "(no suffix)" for p in shown if _left_out(p)
    ]
    return dict(sorted(Counter(kinds).items()))


def _left_out(path: Path) -> bool:
    return not is_image(path) or not path.is_file()


def pictures_elsewhere(files: CategoryFiles) -> dict[str, int]:
    """How many pictures below a category belong to nothing, by folder: beside train/good, or directly in test."""
    known = [*files.train_good, *pictures_below(files.root / "ground_truth")]
    known += [path for image in files.test for path in (image.path, image.mask) if path is not None]
    used = set(map(os.path.realpath, known))  # a linked folder may be found under another name
    others = [p.parent for p in pictures_below(files.root) if os.path.realpath(p) not in used]
    return dict(sorted(Counter(folder.relative_to(files.root).as_posix() for folder in others).items()))


def _good_folder(folder: Path) -> Path | None:
    """The folder of good pictures in `folder`: the one called good, or else one that people call so."""
    if (folder / GOOD).is_dir():
        return folder / GOOD
    if not folder.is_dir():
        return None
    found = [p for p in folder.iterdir() if p.name.lower() in GOOD_NAMES and p.is_dir()]
    return min(found, default=None)


def _kind(folder: Path) -> str:
    return GOOD if folder.name.lower() in GOOD_NAMES else folder.name


def _test_images(root: Path) -> tuple[TestImage, ...]:
    if not (root / "test").is_dir():
        return ()
    found = []
    for folder in sorted(p for p in (root / "test").iterdir() if p.is_dir() and not p.name.startswith(".")):
        kind, masks_dir = _kind(folder), root / "ground_truth" / folder.name
        masks = {} if kind == GOOD or not masks_dir.is_dir() else _masks_by_name(masks_dir)
        pictures, beside = (pictures_below(folder), {}) if kind == GOOD else _apart(folder)
        masks = {**beside, **masks}
        for path in pictures:
            name = _stem(path, folder)
            found.append(TestImage(path, kind, masks.get(name + MASK_END) or masks.get(name)))
    return tuple(found)


def _apart(folder: Path) -> tuple[tuple[Path, ...], dict[str, Path]]:
    """The pictures of a defect type, and the masks that lie among them, by the name of their picture."""
    files = pictures_below(folder)
    in_mask_folder = {
        p for p in files if any(part.lower() in MASK_FOLDERS for part in p.relative_to(folder).parts[:-1])
    }
    pictures = [p for p in files if p not in in_mask_folder]
    others = {_stem(p, folder) for p in pictures if p.suffix.lower() != MASK_SUFFIX}
    beside = {p for p in pictures if p.suffix.lower() == MASK_SUFFIX and _stem(p, folder) in others}
    stems = {_stem(p, folder) for p in pictures}
    beside |= {
        p for p in pictures if (name := _stem(p, folder)).endswith(MASK_END) and name.removesuffix(MASK_END) in stems
    }
    masks = {_stem(p, folder): p for p in beside}
    for mask in in_mask_folder:
        parts = [part for part in mask.relative_to(folder).parts if part.lower() not in MASK_FOLDERS]
        masks[Path(*parts).with_suffix("").as_posix()] = mask
    return tuple(p for p in pictures if p not in beside), masks


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _masks_by_name(folder: Path) -> dict[str, Path]:
    return {_stem(p, folder): p for p in pictures_below(folder)}
