"""Every option of a run, as the command line and `watch` give them. Standard library only, so that --help stays quick."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.engines import AUTO, ENGINES
from vtad_runtime.outputs.csv_lines import DIALECTS, Dialect
from vtad_runtime.sources.address import Address
from vtad_runtime.verdict.verdict import CHECKS

APPLIES = {  # options that only some sources have
    "batch": ("folder",),
    "every": ("camera", "stream", "video", "golden alone"),
    "drop": ("camera", "stream", "video"),
    "max_age": ("camera", "stream", "video"),
    "resolution": ("camera",),
    "fps": ("camera",),
    "sort_to": ("watch",),
    "frame_check": ("camera", "stream", "video", "watch"),
    "golden_frame": ("camera", "stream"),
}
NEEDS = (
    ("alarm_off", "alarm"),
    ("golden_every", "golden"),
    ("golden_frame", "golden"),
    ("strict", "golden"),
    *(
        (name, "out") for name in ("save", "keep", "save_originals", "csv_dialect", "mqtt", "post")
    ),  # their files lie there
)
CHOICES: dict[str, tuple[object, ...]] = {
    "rotate": (0, 90, 180, 270),
    "flip": (None, "h", "v"),
    "drop": (None, "oldest", "newest", "none"),
    "save": (None, "all", "ng", "none"),
    "view": ("overlay", "panel"),
    "image": ("jpg", "png"),
    "engine": (AUTO, *ENGINES),
    "csv_dialect": (None, *DIALECTS),
}
POSITIVE = ("threads", "batch", "every", "max_frames", "fps", "max_age", "golden_every", "keep")


@dataclass(frozen=True)
class RunOptions:
    """What a run was asked for. None: not asked for, or what suits the source."""

    address: Address | None  # None: only the golden samples are checked
    model: Path | None = None  # None: the newest export below ./runs
    allow_changed: bool = False  # run a model whose file was changed since its export
    engine: str = AUTO  # what runs the model; auto: the fastest that is installed and proves itself
    threads: int | None = None  # CPU threads of the model; None: onnxruntime decides
    batch: int | None = None  # pictures that are judged together, of a folder; None: 4, or up to 8 by the cores

    every: float | None = None  # seconds between judged frames, at least
    max_frames: int | None = None
    roi: tuple[int, int, int, int] | None = None  # x, y, width, height, source pixels
    roi_mask: Path | None = None
    rotate: Literal[0, 90, 180, 270] = 0  # degrees clockwise
    flip: Literal["h", "v"] | None = None
    resolution: tuple[int, int] | None = None  # asked of the camera
    fps: float | None = None  # asked of the camera
    drop: Literal["oldest", "newest", "none"] | None = None
    max_age: float | None = None  # seconds

    review: float | None = None  # share of good pictures that may be UNSURE or NG; None: REVIEW
    unsure_from: float | None = None  # score, in place of that share
    alarm: tuple[int, int] | None = None  # at least N of the last M
    alarm_off: float | None = None  # score; None: the card's threshold
    frame_check: frozenset[str] | None = None  # None: all of `CHECKS` that suit the source
    golden: Path | None = None
    golden_every: float | None = None  # seconds; None: at start only
    golden_frame: bool = False  # a golden good part is before the camera at the start
    strict: bool = False

    out: Path | None = None  # results folders go here; None: nothing is written
    save: Literal["all", "ng", "none"] | None = None  # None: "all" of a folder, "ng" of anything live
    view: Literal["overlay", "panel"] = "overlay"
    image: Literal["jpg", "png"] = "jpg"
    keep: int | None = None  # bytes of saved pictures
    save_originals: bool = False
    csv_dialect: Dialect | None = None  # of results.csv; None: excel
    sort_to: Path | None = None
    json: str | None = None  # a file, or - for stdout
    write_video: Path | None = None
    mqtt: str | None = None
    post: str | None = None
    credentials: Path | None = None  # netrc: users and passwords of stream, mqtt and post
    live: str | None = None  # PORT or HOST:PORT
    show: bool = False
    log_json: bool = False

    def __post_init__(self) -> None:
        """Refuse options that would do nothing, since silence would be a promise, and wrong values. Raises VtadError."""
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise VtadError(f"{_option(name)}: expected one of {', '.join(map(str, choices))}, got {value!r}")
        if self.review is not None and not 0 <= self.review < 1:
            raise VtadError(f"--review: expected a share from 0 to below 1, got {self.review!r}")
        if self.review is not None and self.unsure_from is not None:
            raise VtadError("--review: expected either --review or --unsure-from, got both")
        for name in POSITIVE:
            if (value := getattr(self, name)) is not None and not value > 0:
                raise VtadError(f"{_option(name)}: expected a number above 0, got {value!r}")
        if self.frame_check is not None and not self.frame_check <= set(CHECKS):
            got = ",".join(sorted(self.frame_check))
            raise VtadError(f"--frame-check: expected some of {','.join(CHECKS)}, or none, got {got!r}")
        kind = self.address.kind if self.address else "golden alone"
        for field in dataclasses.fields(self):
            kinds = APPLIES.get(field.name, (kind,))
            if kind not in kinds and getattr(self, field.name) != field.default:
                allowed = ", ".join(f"--{k}" for k in kinds)
                raise VtadError(f"{_option(field.name)}: expected only with {allowed}, got it with --{kind}")
        for name, needed in NEEDS:
            if getattr(self, name) and getattr(self, needed) is None:
                raise VtadError(f"{_option(name)}: expected together with {_option(needed)}, got it alone")
        if self.credentials is not None and kind != "stream" and not (self.mqtt or self.post):
            raise VtadError("--credentials: expected together with --stream, --mqtt or --post, got it alone")
        if kind == "watch" and self.out is None:
            raise VtadError("--watch: expected together with --out, where its journal is kept, got it alone")

    @property
    def source(self) -> Address:
        """The address of a run that has one."""
        if self.address is None:
            raise VtadError("expected a source, got none")
        return self.address

    @property
    def saved(self) -> Literal["all", "ng", "none"]:
        """Which pictures are saved: those asked for, or those that suit the source."""
        return self.save or ("all" if self.source.kind == "folder" else "ng")

    @property
    def shows_everything(self) -> bool:
        """Whether maps and reconstruction of every picture are drawn."""
        return self.out is not None and self.view == "panel" and self.saved == "all"


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
