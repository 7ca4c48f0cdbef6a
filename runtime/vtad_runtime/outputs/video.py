"""An annotated video of what was judged: the heatmap over each frame, verdict and reason in words below."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.image import Box, Placement, resize
from vtad_runtime.drawing.heatmap import INK, PAPER, VERDICT_COLOURS, overlay
from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.verdict.detector import Result
from vtad_runtime.verdict.judgement import Judgement

RGB = NDArray[np.uint8]
CODEC = "mp4v"  # MPEG-4 part 2: the one that every OpenCV build with FFmpeg writes
MAX_SIDE = 1280  # pixels; larger pictures are shrunk first, or drawing and encoding would slow the judging down
MIN_WIDTH = 360  # pixels, so that words are legible


class VideoError(SinkError):
    """A video that cannot be written. One line."""


class VideoOutput:
    """An output of one video frame per judgement, `fps` of them a second however far apart they were captured.

    The size is that of the first frame with its legend (of a picture at most 1280 pixels a side); later ones of another size are
    letterboxed. News without a frame (the source is gone) shows the words alone; before the first frame it is left out,
    for the size is not known yet. The file carries its name only once it is whole: an mp4 that is not closed cannot be played.
    """

    def __init__(self, path: Path, fps: float = 10.0) -> None:
        """Check that `path`, an .mp4, can be written. Raises VideoError: another suffix, there already, no such codec."""
        if path.suffix.lower() != ".mp4":
            raise VideoError(f"{path}: expected a video name that ends in .mp4, got {path.suffix or 'no suffix'!r}")
        if path.exists():
            raise VideoError(f"{path}: expected a new file, got one that is there already; remove it or choose another")
        self._path, self._part, self._fps = path, path.with_suffix(".part.mp4"), fps
        self._size: tuple[int, int] | None = None  # width, height
        self._writer: Any = None
        self._frames = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._part.touch()
        except OSError as e:
            raise VideoError(f"{path}: cannot write a video: {e.strerror or e}") from e
        self._open(64, 64).release()  # the codec is known to work before the first part is judged
        self._part.unlink()

    def write(self, judgement: Judgement) -> None:
        """Draw and append one frame. Raises VideoError."""
        if judgement.frame is None and self._size is None:
            return
        picture = annotated(judgement)
        if self._size is None:
            self._size = _even_size(picture)
            self._writer = self._open(*self._size)
        self._writer.write(_letterboxed(picture, *self._size)[:, :, ::-1])
        self._frames += 1

    def close(self) -> None:
        """Finish the file and give it its name. Raises VideoError when it does not hold every frame: the disk is full."""
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        whole = cv2.VideoCapture(str(self._part))
        frames = max(0, int(whole.get(cv2.CAP_PROP_FRAME_COUNT)))
        whole.release()
        if frames < self._frames - 1:  # some backends count by duration; cut short, an mp4 shows no frame at all
            raise VideoError(f"{self._part}: expected {self._frames} frames, got {frames}; is the disk full?")
        try:
            self._part.replace(self._path)
        except OSError as e:
            raise VideoError(f"{self._path}: cannot name the video {self._part}: {e.strerror or e}") from e

    def _open(self, width: int, height: int) -> Any:
        fourcc = cv2.VideoWriter.fourcc(*CODEC)
        writer = cv2.VideoWriter(str(self._part), fourcc, self._fps, (width, height))
        if not writer.isOpened():
            self._part.unlink(missing_ok=True)
            raise VideoError(
                f"{self._path}: expected OpenCV to write {CODEC} video of {width}x{height} at {self._fps:g} frames/s, "
                "got no encoder; vtad-doctor shows the OpenCV build"
            )
        return writer


def annotated(judgement: Judgement) -> RGB:
    """The picture of a judgement, RGB: the overlay where there is a result, else the frame, or nothing, above the words."""
    frame, result = judgement.frame, judgement.result
    if frame is not None and result is not None:
        # What counts is the verdict over time, which may differ from that of the picture alone.
        said = dataclasses.replace(
            result,
            verdict=judgement.verdict,
            threshold=judgement.threshold,
            error=_line(judgement) if judgement.reason else result.error,
        )
        return overlay(*_shrunk(frame.rgb, said))
    rgb = _within(frame.rgb) if frame is not None else np.full((MIN_WIDTH * 3 // 4, MIN_WIDTH, 3), PAPER, np.uint8)
    if rgb.shape[1] < MIN_WIDTH:
        rgb = resize(rgb, MIN_WIDTH, max(1, round(rgb.shape[0] * MIN_WIDTH / rgb.shape[1])))
    return np.vstack([rgb, _words(judgement, rgb.shape[1])])


def _shrunk(rgb: RGB, result: Result) -> tuple[RGB, Result]:
    """The picture within 1280 pixels, and the result as if it was of that one."""
    small = _within(rgb)
    if small is rgb:
        return rgb, result
    scale_x, scale_y = small.shape[1] / rgb.shape[1], small.shape[0] / rgb.shape[0]
    regions = tuple(
        dataclasses.replace(
            region,
            x=round(region.x * scale_x),
            y=round(region.y * scale_y),
            width=max(1, round(region.width * scale_x)),
            height=max(1, round(region.height * scale_y)),
        )
        for region in result.regions
    )
    used = result.placement.used
    left, top = min(round(used.x * scale_x), small.shape[1] - 1), min(round(used.y * scale_y), small.shape[0] - 1)
    right, bottom = round((used.x + used.width) * scale_x), round((used.y + used.height) * scale_y)
    box = Box(left, top, max(1, right - left), max(1, bottom - top))
    placement = Placement(small.shape[1], small.shape[0], box, result.placement.inside)
    return small, dataclasses.replace(result, regions=regions, placement=placement)


def _within(rgb: RGB) -> RGB:
    """The picture itself, or shrunk to 1280 pixels on its longer side."""
    height, width = rgb.shape[:2]
    scale = MAX_SIDE / max(height, width)
    return rgb if scale >= 1 else resize(rgb, max(1, round(width * scale)), max(1, round(height * scale)))


def _line(judgement: Judgement) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(judgement.captured_at))
    return f"{clock} {judgement.reason or 'not judged'}"


def _words(judgement: Judgement, width: int) -> RGB:
    """A strip `width` pixels wide: the verdict in its colour, the time and the reason, shrunk to fit."""
    scale = min(max(width / 900, 0.42), 4.0)  # as in the overlay's legend
    line = round(34 * scale)
    strip: RGB = np.full((line * 2, width, 3), PAPER, np.uint8)
    box = _text_width(judgement.verdict, scale * 1.1) + line // 2
    left, base = line // 2, round(line * 1.35)
    cv2.rectangle(strip, (left, line // 2), (left + box, round(line * 1.6)), VERDICT_COLOURS[judgement.verdict], -1)
    _text(strip, judgement.verdict, left + line // 4, base, scale * 1.1)
    text, start = _line(judgement), left + box + line // 2
    fits = scale * (width - start - left) / max(_text_width(text, scale), 1)
    _text(strip, text, start, base, max(min(scale, fits), 0.1))
    return strip


def _text_width(text: str, scale: float) -> int:
    return int(cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, max(1, round(1.6 * scale)))[0][0])


def _text(picture: RGB, text: str, x: int, baseline: int, scale: float) -> None:
    thickness = max(1, round(1.6 * scale))
    cv2.putText(picture, text, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, INK, thickness, cv2.LINE_AA)


def _even_size(picture: RGB) -> tuple[int, int]:
    """Width and height, rounded up to even numbers, which the codec needs."""
    height, width = picture.shape[:2]
    return width + width % 2, height + height % 2


def _letterboxed(picture: RGB, width: int, height: int) -> RGB:
    """The picture inside (height, width, 3), aspect kept, centred on dark."""
    if picture.shape[:2] == (height, width):
        return picture
    scale = min(width / picture.shape[1], height / picture.shape[0])
    if scale >= 1 and (width - picture.shape[1] <= 1 or height - picture.shape[0] <= 1):
        scale = 1.0  # a row or column is missing to an even number: not worth blurring the picture
    inner_width = min(width, max(1, round(picture.shape[1] * scale)))
    inner_height = min(height, max(1, round(picture.shape[0] * scale)))
    canvas: RGB = np.full((height, width, 3), PAPER, np.uint8)
    x, y = (width - inner_width) // 2, (height - inner_height) // 2
    canvas[y : y + inner_height, x : x + inner_width] = resize(picture, inner_width, inner_height)
    return canvas
