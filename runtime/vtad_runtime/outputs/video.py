"""An annotated video of what was judged: the heatmap over each frame, verdict and reason in words below."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vtad_runtime.contract.errors import NOT_WRITTEN, USAGE, disk_full
from vtad_runtime.contract.fit import resize
from vtad_runtime.drawing.annotated import annotated
from vtad_runtime.drawing.encoding import RGB, PictureError
from vtad_runtime.drawing.text import PAPER
from vtad_runtime.outputs.results_folder import SinkError
from vtad_runtime.verdict.judgement import Judgement

LEAST = 2**16  # bytes that the disk must take: OpenCV says of a full one that it has no encoder
CODEC = "mp4v"  # MPEG-4 part 2: the one that every OpenCV build with FFmpeg writes


class VideoError(SinkError):
    """A video that cannot be written. One line."""

    exit_code = USAGE  # it cannot be begun


class VideoOutput:
    """An output of one video frame per judgement, `fps` of them a second however far apart they were captured.

    The size is that of the first frame with its legend (of a picture at most 1280 pixels a side); later ones of another size are
    letterboxed. A judgement without a frame (the source is gone), or whose picture cannot be drawn, shows the words alone;
    before the first frame it is left out, for the size is not known yet. The file carries its name only once it is whole:
    an mp4 that is not closed cannot be played.
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
            self._part.write_bytes(bytes(LEAST))
        except OSError as e:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            code = NOT_WRITTEN if disk_full(e) else USAGE
            raise VideoError(f"{path}: cannot write a video: {e.strerror or e}", code) from e
        self._open(64, 64).release()  # the codec is known to work before the first part is judged
        self._part.unlink()

    def write(self, judgement: Judgement) -> None:
        """Draw and append one frame. Raises VideoError."""
        try:
            picture = annotated(judgement)
        except PictureError as e:
            judgement = dataclasses.replace(judgement, frame=None, result=None, reason=judgement.reason or str(e))
            picture = annotated(judgement)
        if self._size is None:
            if judgement.frame is None:
                return
            height, width = picture.shape[:2]
            self._size = width + width % 2, height + height % 2  # the codec needs even numbers
            self._writer = self._open(*self._size)
        self._writer.write(cv2.cvtColor(_letterboxed(picture, *self._size), cv2.COLOR_RGB2BGR))
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
            raise VideoError(
                f"{self._part}: expected {self._frames} frames, got {frames}; is the disk full?", NOT_WRITTEN
            )
        try:
            self._part.replace(self._path)
        except OSError as e:
            raise VideoError(f"{self._path}: cannot name the video {self._part}: {e.strerror or e}", NOT_WRITTEN) from e

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
