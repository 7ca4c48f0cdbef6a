"""Every option of a run, as the command line gives them. Standard library only, so that --help stays quick."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vtad_runtime.sources.address import Address

ALL_CHECKS = frozenset({"frozen", "black", "saturated", "focus"})

Save = Literal["all", "ng", "none"]
View = Literal["overlay", "panel"]


@dataclass(frozen=True)
class RunOptions:
    """What `vtad-run` was asked for. None: not asked for, or what suits the source."""

    address: Address | None  # None: only the golden samples are checked
    model: Path | None = None  # None: the newest export below ./runs
    threads: int | None = None  # CPU threads of the model; None: onnxruntime decides
    batch: int = 4  # pictures per run of the model, for a folder

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

    unsure_from: float | None = None  # score
    alarm: tuple[int, int] | None = None  # at least N of the last M
    alarm_off: float | None = None  # score; None: the card's threshold
    frame_check: frozenset[str] = ALL_CHECKS
    golden: Path | None = None
    golden_every: float | None = None  # seconds; None: at start only
    golden_frame: bool = False  # a golden good part is before the camera at the start
    strict: bool = False

    out: Path = field(default_factory=lambda: Path("results"))
    save: Save | None = None  # None: "all" of a folder, "ng" of anything live
    view: View = "overlay"
    image: Literal["jpg", "png"] = "jpg"
    keep: int | None = None  # bytes of saved pictures
    save_originals: bool = False
    sort_to: Path | None = None
    json: str | None = None  # a file, or - for stdout
    write_video: Path | None = None
    mqtt: str | None = None
    post: str | None = None
    live: str | None = None  # PORT or HOST:PORT
    show: bool = False
    log_json: bool = False
