"""The boxes around the regions of a heatmap."""

from __future__ import annotations

from collections.abc import Sequence

import cv2

from vtad_runtime.drawing.encoding import RGB
from vtad_runtime.verdict.detector import Region

MAX_BOXES = 20  # of the strongest regions; all of them are in the results file


def draw_regions(picture: RGB, regions: Sequence[Region], scale: float = 1.0) -> None:
    """Box the strongest regions in place, white on black so that they show on any surface."""
    thickness = max(1, round(min(picture.shape[:2]) / 400))
    for region in regions[:MAX_BOXES]:
        gap = 2 * thickness  # the box stays clear of what it shows
        left, top = round(region.x * scale) - gap, round(region.y * scale) - gap
        right = round((region.x + region.width) * scale) + gap
        bottom = round((region.y + region.height) * scale) + gap
        cv2.rectangle(picture, (left, top), (right, bottom), (0, 0, 0), thickness * 3)
        cv2.rectangle(picture, (left, top), (right, bottom), (255, 255, 255), thickness)
