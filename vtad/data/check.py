"""What is wrong with the pictures of a category: found before a night of training, not after."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vtad.config import FULL_SCALES
from vtad.data.bit_depth import bit_depth
from vtad.data.images import FEWEST, of_one_colour
from vtad.data.layout import GOOD, CategoryFiles, files_left_out, pictures_below, pictures_elsewhere
from vtad_runtime.contract.image import SUFFIXES, ImageError, pages, read_mask, read_picture
from vtad_runtime.contract.progress import watched

SHOWN = 5  # files named per finding in the text
READ = " ".join(sorted(SUFFIXES))
LOSSY = (".jpg", ".jpeg", ".jfif")
NEARLY_ALL = 0.8  # share of the pictures whose size is the usual one, so that another is odd
ENOUGH = 10  # good pictures, among which one can be odd
DEVIATIONS, LEVELS = 6.0, 12.0  # standard deviations, and levels of 255, that an exposure is off at least
MAD_TO_DEVIATION = 1.4826  # of a Gaussian: its standard deviation by its median absolute deviation
MOST_OF_IT = 0.5  # share of a picture that a mask covers at most; above it black and white are probably exchanged


@dataclass(frozen=True)
class Sizes:
    """Width and height over all readable pictures, pixels."""

    smallest: tuple[int, int]  # by area
    largest: tuple[int, int]
    most_common: tuple[int, int]
    distinct: int


@dataclass(frozen=True)
class Finding:
    """One picture, or several that are odd together, and why."""

    files: tuple[str, ...]  # names relative to the folder of the category
    why: str = ""  # where the name of the finding does not say it

    def __str__(self) -> str:
        return " = ".join(self.files) + (f": {self.why}" if self.why else "")


Findings = list[tuple[str, tuple[Finding, ...]]]  # by what they are


@dataclass(frozen=True)
class CheckReport:
    """The findings of `check_category`; files are named relative to the folder of the category."""

    category: str
    train_good: int  # pictures
    test: dict[str, int]  # pictures by kind
    masks: int  # that belong to a picture
    sizes: Sizes | None  # None when no picture is readable
    unreadable: tuple[Finding, ...]  # pictures and masks
    missing_masks: tuple[str, ...]  # defective pictures without a mask, although others of their kind have one
    unmasked_kinds: tuple[str, ...]  # defect types without any mask: allowed, but no pixel metrics
    wrong_size_masks: tuple[Finding, ...]
    empty_masks: tuple[str, ...]
    inverted_masks: tuple[Finding, ...]  # that cover most of their picture
    lossy_masks: int  # saved as JPEG: half of the maximum counts as defect
    depth: str | None  # how vtad-train takes pictures of 16 bits; None where it finds none
    brighter: int  # test pictures with values above what is white then
    left_out: dict[str, int]  # files that are no pictures that vtad reads, by suffix
    elsewhere: dict[str, int]  # pictures that belong to nothing, by folder
    blank: tuple[str, ...]  # good pictures of one colour
    several_pages: int  # files of which the first page alone is used
    stray_masks: tuple[str, ...]  # without a picture
    leaked: tuple[tuple[str, ...], ...]  # groups of the same pixels in both train and test
    repeated: tuple[tuple[str, ...], ...]  # groups of the same pixels within train
    odd_sizes: tuple[Finding, ...]  # pictures, where nearly all others have one size
    odd_exposures: tuple[Finding, ...]  # good pictures much darker or brighter than the others

    @property
    def ok(self) -> bool:
        """Whether nothing has to be put right. Defect types without any mask do not count."""
        return self.train_good >= FEWEST and not self._problems()

    def _problems(self) -> Findings:
        found = [
            ("unreadable files", self.unreadable),
            ("good pictures of one colour (a covered lens, a wrong exposure?)", _each(self.blank)),
            ("defective pictures without a mask", _each(self.missing_masks)),
            ("masks of another size than their picture", self.wrong_size_masks),
            ("masks without a single defective pixel", _each(self.empty_masks)),
            (
                f"masks that cover more than {MOST_OF_IT:.0%} of their picture (is white the defect?)",
                self.inverted_masks,
            ),
            ("masks without a picture", _each(self.stray_masks)),
            ("the same picture in train and test", tuple(map(Finding, self.leaked))),
            ("the same picture more than once in train", tuple(map(Finding, self.repeated))),
        ]
        return [(what, files) for what, files in found if files]

    def _odd(self) -> Findings:
        """What is worth a look, and may be right."""
        found = [
            ("pictures of another size than the others", self.odd_sizes),
            ("good pictures much darker or brighter than the others", self.odd_exposures),
        ]
        return [(what, files) for what, files in found if files]

    def to_see(self) -> Findings:
        """All pictures and masks that were found odd: problems, and what may be right."""
        return [*self._problems(), *self._odd()]

    def to_text(self) -> str:
        """A table and the findings, for people. At most five files are named per finding."""
        rows = [("train/good", self.train_good), *((f"test/{kind}", n) for kind, n in self.test.items())]
        rows.append(("masks", self.masks))
        width = max(len(name) for name, _ in rows)
        lines = [self.category, *(f"  {name:<{width}}  {count:>6}" for name, count in rows)]
        if self.sizes is not None:
            s = self.sizes
            small, large, usual = (f"{w}x{h}" for w, h in (s.smallest, s.largest, s.most_common))
            lines.append(f"  sizes: {usual}" if s.distinct == 1 else f"  sizes: {small} to {large}, mostly {usual}")
        if self.unmasked_kinds:
            lines.append(f"  note: no masks for {', '.join(self.unmasked_kinds)}; no pixel metrics from these")
        if self.depth is not None:
            lines.append(f"  note: {self.depth}")
        if self.brighter:
            lines.append(f"  note: test pictures with values above that, which vtad-run calls UNSURE: {self.brighter}")
        if self.lossy_masks:
            lines.append(
                f"  note: masks in JPEG, of which what is above half of the maximum counts: {self.lossy_masks}; save PNG"
            )
        if self.left_out:
            found = ", ".join(f"{count} {suffix}" for suffix, count in self.left_out.items())
            lines.append(f"  note: left out, for vtad does not read them: {found}; it reads {READ}")
        if self.elsewhere:
            found = ", ".join(f"{count} in {folder}" for folder, count in self.elsewhere.items())
            lines.append(f"  note: not used, for they lie in no folder of good or of defective pictures: {found}")
        if self.several_pages:
            lines.append(f"  note: files of several pages or frames, of which the first is used: {self.several_pages}")
        for what, files in self._odd():
            lines += _listed(f"note: {what}", files)
        if self.train_good < FEWEST:
            few = f"  problem: fewer than {FEWEST} good pictures to train from: add more; some dozens make a usable detector"
            lines.append(few)
        for what, files in self._problems():
            lines += _listed(f"problem: {what}", files)
        lines.append(f"  {'ok' if self.ok else 'not ok'}")
        return "\n".join(line.replace("\n", "?") for line in lines)  # a name may hold the end of a line


@dataclass(frozen=True)
class _Seen:
    """One decoded picture."""

    size: tuple[int, int] | None  # width, height; None when unreadable
    pixels: bytes  # sha256 of size and RGB
    error: str
    brighter: bool = False  # than white
    blank: bool = False
    pages: int = 1
    brightness: float = 0.0  # mean, levels of 255


def check_category(files: CategoryFiles, workers: int | None = None) -> CheckReport:
    """Decode every picture and mask of a category and report what is wrong. Duplicates are found by decoded pixels."""
    pictures = [*files.train_good, *(image.path for image in files.test)]
    depth = bit_depth(files.train_good)
    white = FULL_SCALES[depth.bits]
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        looks = pool.map(lambda path: _look(path, white), pictures)
        seen = dict(zip(pictures, watched(looks, f"checking {files.name}", len(pictures)), strict=True))
    unreadable = [Finding((_name(path, files),), s.error) for path, s in seen.items() if s.size is None]
    wrong_size, empty, inverted = list[Finding](), list[str](), list[Finding]()
    for image in files.test:
        if image.mask is None:
            continue
        try:
            mask = read_mask(image.mask)
        except ImageError as e:
            unreadable.append(Finding((_name(image.mask, files),), _reason(e, image.mask)))
            continue
        size, expected = (mask.shape[1], mask.shape[0]), seen[image.path].size
        if expected is not None and size != expected:
            why = f"{size[0]}x{size[1]}, picture {expected[0]}x{expected[1]}"
            wrong_size.append(Finding((_name(image.mask, files),), why))
        if not mask.any():
            empty.append(_name(image.mask, files))
        elif mask.mean() > MOST_OF_IT:
            inverted.append(Finding((_name(image.mask, files),), f"{mask.mean():.0%}"))
    masked = Counter(image.kind for image in files.test if image.mask is not None)
    unmasked = [image for image in files.test if image.mask is None and image.kind != GOOD]
    leaked, repeated = _duplicates(files, seen)
    return CheckReport(
        category=files.name,
        train_good=len(files.train_good),
        test=dict(Counter(image.kind for image in files.test)),
        masks=masked.total(),
        sizes=_sizes([s.size for s in seen.values() if s.size is not None]),
        unreadable=tuple(unreadable),
        missing_masks=tuple(_name(image.path, files) for image in unmasked if masked[image.kind]),
        unmasked_kinds=tuple(sorted({image.kind for image in unmasked if not masked[image.kind]})),
        wrong_size_masks=tuple(wrong_size),
        empty_masks=tuple(empty),
        inverted_masks=tuple(inverted),
        lossy_masks=sum(image.mask is not None and image.mask.suffix.lower() in LOSSY for image in files.test),
        depth=depth.note,
        brighter=sum(s.brighter for s in seen.values()),
        left_out=files_left_out(files),
        elsewhere=pictures_elsewhere(files),
        blank=tuple(_name(path, files) for path in files.train_good if seen[path].blank),
        several_pages=sum(s.pages > 1 for s in seen.values()),
        stray_masks=_stray_masks(files),
        leaked=leaked,
        repeated=repeated,
        odd_sizes=tuple(_odd_sizes(files, seen)),
        odd_exposures=tuple(_odd_exposures(files, seen)),
    )


def _look(path: Path, white: int) -> _Seen:
    try:
        picture, count = read_picture(path, white), pages(path)
    except ImageError as e:
        return _Seen(None, b"", _reason(e, path))
    rgb = picture.rgb
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(rgb.tobytes())
    return _Seen(
        (rgb.shape[1], rgb.shape[0]),
        digest.digest(),
        "",
        picture.doubt is not None,
        of_one_colour(rgb),
        count,
        float(rgb.mean()),
    )


def _reason(error: ImageError, path: Path) -> str:
    return str(error).removeprefix(f"{path}: ")


def _name(path: Path, files: CategoryFiles) -> str:
    return path.relative_to(files.root).as_posix()


def _sizes(sizes: list[tuple[int, int]]) -> Sizes | None:
    if not sizes:
        return None
    ranked = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return Sizes(ranked[0], ranked[-1], Counter(sizes).most_common(1)[0][0], len(ranked))


def _odd_sizes(files: CategoryFiles, seen: dict[Path, _Seen]) -> Iterator[Finding]:
    """Pictures of another size, where nearly all have one: where sizes vary anyhow, none is odd."""
    counts = Counter(s.size for s in seen.values() if s.size is not None)
    (usual, count), *_ = counts.most_common(1) or [((0, 0), 0)]
    if count < NEARLY_ALL * counts.total():
        return
    for path, s in seen.items():
        if s.size not in (None, usual):
            (w, h), (usual_w, usual_h) = s.size, usual
            yield Finding((_name(path, files),), f"{w}x{h}, others {usual_w}x{usual_h}")


def _odd_exposures(files: CategoryFiles, seen: dict[Path, _Seen]) -> Iterator[Finding]:
    """Good pictures whose mean brightness lies far from the median of those to train from, by median absolute deviation."""
    good = [*files.train_good, *(image.path for image in files.test if image.kind == GOOD)]
    readable = [path for path in good if seen[path].size is not None and not seen[path].blank]
    known = np.array([seen[path].brightness for path in readable if path in set(files.train_good)])
    if len(known) < ENOUGH:
        return
    middle = float(np.median(known))
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(known - middle)))
    for path in readable:
        level = seen[path].brightness
        if abs(level - middle) > max(LEVELS, DEVIATIONS * spread):
            yield Finding((_name(path, files),), f"mean brightness {level:.0f} of 255, others about {middle:.0f}")


def _listed(what: str, found: Sequence[Finding]) -> list[str]:
    more = [f"    and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return [f"  {what}: {len(found)}", *(f"    {one}" for one in found[:SHOWN]), *more]


def _each(names: Sequence[str]) -> tuple[Finding, ...]:
    return tuple(Finding((name,)) for name in names)


def _stray_masks(files: CategoryFiles) -> tuple[str, ...]:
    folder = files.root / "ground_truth"
    if not folder.is_dir():
        return ()
    used = {image.mask for image in files.test}
    return tuple(_name(mask, files) for mask in pictures_below(folder) if mask not in used)


def _duplicates(
    files: CategoryFiles, seen: dict[Path, _Seen]
) -> tuple[tuple[tuple[str, ...], ...], tuple[tuple[str, ...], ...]]:
    """Groups of pictures with the same pixels: those in both train and test, and those within train."""
    train = _by_pixels(files.train_good, seen)
    test = _by_pixels((image.path for image in files.test), seen)
    leaked = tuple(
        tuple(_name(p, files) for p in [*group, *test[pixels]]) for pixels, group in train.items() if pixels in test
    )
    repeated = tuple(tuple(_name(p, files) for p in group) for group in train.values() if len(group) > 1)
    return leaked, repeated


def _by_pixels(paths: Iterable[Path], seen: dict[Path, _Seen]) -> dict[bytes, list[Path]]:
    groups: dict[bytes, list[Path]] = {}
    for path in paths:
        if seen[path].size is not None:
            groups.setdefault(seen[path].pixels, []).append(path)
    return groups
