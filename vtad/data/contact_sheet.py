"""One picture of all that a check found odd: small pictures side by side, each group with names and the reason below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vtad.config import FULL_SCALES
from vtad.data.bit_depth import bit_depth
from vtad.data.check import CheckReport, Finding
from vtad.data.layout import CategoryFiles
from vtad_runtime.contract.disk.files import replacing
from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, VtadError, disk_full, one_line
from vtad_runtime.contract.image import ImageError, read_mask, read_picture
from vtad_runtime.contract.progress import watched

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
WIDTH = 1280  # of the sheet, pixels
TALLEST_JPEG = 65_500  # pixels
SIDE = 150  # of a small picture at most
MARGIN, LINE = 12, 15  # between groups; of text
SHOWN = 24  # groups of each kind
TOGETHER = 4  # pictures of a group
LONGEST = 46  # characters of a line; the end of a name says more than its start
GROUND, INK, FAINT, TITLE = "#ffffff", "#202020", "#707070", "#9c2c1c"


@dataclass(frozen=True)
class _Group:
    """Pictures that are odd together, and what stands below them."""

    pictures: tuple[Image.Image, ...]
    names: tuple[str, ...]
    why: tuple[str, ...]  # lines

    @property
    def height(self) -> int:
        """Pixels."""
        return max(picture.height for picture in self.pictures) + 4 + LINE * len(self.names + self.why)

    @property
    def width(self) -> int:
        """Pixels."""
        room = max(len(self.pictures), 2)  # of its text
        return room * SIDE + (room - 1) * 4


def require_format(path: Path) -> None:
    """Raise VtadError where a sheet cannot be written in the format that the name says."""
    if path.suffix.lower() not in FORMATS:
        raise VtadError(f"{path}: expected a file name that ends in {' or '.join(FORMATS)}", USAGE)


def write_contact_sheet(path: Path, checked: Sequence[tuple[CategoryFiles, CheckReport]]) -> int:
    """Write what the reports call odd as one picture, whole or not at all; how many groups it holds.

    Nothing is written where nothing is odd. Raises VtadError: another suffix than FORMATS, or a file that cannot be written.
    """
    require_format(path)
    sections = [section for files, report in checked for section in _sections(files, report)]
    if not sections:
        return 0
    sheet = _drawn(sections)
    if FORMATS[path.suffix.lower()] == "JPEG" and sheet.height > TALLEST_JPEG:
        raise VtadError(
            f"{path}: expected findings that fit into a JPEG of {TALLEST_JPEG} rows, got {sheet.height} rows; name a .png",
            USAGE,
        )
    try:
        with replacing(path) as beside:
            sheet.save(beside, FORMATS[path.suffix.lower()])
    except OSError as e:
        raise VtadError(
            f"{path}: could not be written: {one_line(e)}; name another by --contact-sheet",
            NOT_WRITTEN if disk_full(e) else USAGE,
        ) from e
    return sum(len(groups) for _, groups in sections)


def _sections(files: CategoryFiles, report: CheckReport) -> Iterator[tuple[str, list[_Group]]]:
    """A title and what belongs to it."""
    white = FULL_SCALES[bit_depth(files.train_good).bits]
    picture_of = {image.mask: image.path for image in files.test if image.mask is not None}
    for what, found in report.to_see():
        groups = [_group(files, finding, picture_of, white) for finding in watched(found[:SHOWN], "contact sheet")]
        more = f", the first {SHOWN}" if len(found) > SHOWN else ""
        yield f"{files.name}: {what}: {len(found)}{more}", groups


def _group(files: CategoryFiles, finding: Finding, picture_of: dict[Path, Path], white: int) -> _Group:
    paths = [files.root / name for name in finding.files[:TOGETHER]]
    shown = [_small(path, white, mask=path in picture_of or "ground_truth" in path.parts) for path in paths]
    if len(paths) == 1 and (picture := picture_of.get(paths[0])) is not None:
        shown.insert(0, _small(picture, white))
    more = len(finding.files) - TOGETHER
    names = [*finding.files[:TOGETHER], *([f"and {more} more"] if more > 0 else [])]
    return _Group(tuple(shown), tuple(map(_short, names)), tuple(textwrap.wrap(_plain(finding.why), LONGEST)))


def _small(path: Path, white: int, mask: bool = False) -> Image.Image:
    """At most SIDE x SIDE; a cross where it cannot be read."""
    try:
        rgb = read_mask(path).astype(np.uint8) * 255 if mask else read_picture(path, white).rgb
    except ImageError:
        image = Image.new("RGB", (SIDE, SIDE), "#e8e8e8")
        draw = ImageDraw.Draw(image)
        for line in ((0, 0, SIDE, SIDE), (0, SIDE, SIDE, 0)):
            draw.line(line, fill=FAINT, width=2)
        return image
    image = Image.fromarray(rgb).convert("RGB")
    image.thumbnail((SIDE, SIDE))
    return image


def _drawn(sections: Sequence[tuple[str, list[_Group]]]) -> Image.Image:
    """The groups of each section from left to right, in as many rows as they take."""
    places: list[tuple[int, int, _Group]] = []
    titles: list[tuple[int, str]] = []
    y = MARGIN
    for title, groups in sections:
        titles.append((y, title))
        y += 2 * LINE
        x, lowest = MARGIN, 0
        for group in groups:
            if x > MARGIN and x + group.width > WIDTH - MARGIN:
                x, y, lowest = MARGIN, y + lowest + MARGIN, 0
            places.append((x, y, group))
            x += group.width + MARGIN
            lowest = max(lowest, group.height)
        y += lowest + 2 * MARGIN
    sheet = Image.new("RGB", (WIDTH, y), GROUND)
    draw, font, large = ImageDraw.Draw(sheet), ImageFont.load_default(12), ImageFont.load_default(16)
    for top, title in titles:
        draw.text((MARGIN, top), title, TITLE, large)
    for left, top, group in places:
        x = left
        for picture in group.pictures:
            sheet.paste(picture, (x, top))
            draw.rectangle((x - 1, top - 1, x + picture.width, top + picture.height), outline="#c0c0c0")
            x += SIDE + 4
        below = top + group.height - LINE * len(group.names + group.why)
        for i, text in enumerate(group.names + group.why):
            draw.text((left, below + i * LINE), text, INK if i < len(group.names) else FAINT, font)
    return sheet


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def _short(name: str) -> str:
    plain = _plain(name)
    return plain if len(plain) <= LONGEST else f"...{plain[3 - LONGEST :]}"
