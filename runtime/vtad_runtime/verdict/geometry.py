"""What part of a frame is judged, and which way up: cut, then rotate, then flip; all in source pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.fit import Box
from vtad_runtime.contract.image import ImageError


class Misfit(ImageError):
    """A frame that does not fit what was asked for (--roi, --roi-mask). One line."""


@dataclass(frozen=True)
class Geometry:
    """Done to every frame before anything else sees it: rows, regions and saved pictures are in the result's pixels."""

    roi: tuple[int, int, int, int] | None = None  # x, y, width, height of the frame as the source gives it
    rotate: Literal[0, 90, 180, 270] = 0  # degrees clockwise
    flip: Literal["h", "v"] | None = None  # h: left and right change sides; v: top and bottom

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, ...) to (h, w, ...), contiguous. Raises Misfit when the region is not inside the frame."""
        if self.roi is not None:
            box, (height, width) = Box(*self.roi), frame.shape[:2]
            if box.x + box.width > width or box.y + box.height > height:
                raise Misfit(
                    f"--roi {box.x},{box.y},{box.width},{box.height}: expected a region inside the frame, "
                    f"got a frame of {width}x{height}; choose x + w up to {width} and y + h up to {height}"
                )
            frame = frame[box.slices]
        if self.rotate:
            frame = np.rot90(frame, -self.rotate // 90)
        if self.flip is not None:
            frame = frame[:, ::-1] if self.flip == "h" else frame[::-1]
        return np.ascontiguousarray(frame)
