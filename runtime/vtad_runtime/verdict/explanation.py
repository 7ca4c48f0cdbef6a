"""What a verdict does not need of a picture: both maps and the reconstruction, computed when somebody looks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.errors import NOT_JUDGED, VtadError
from vtad_runtime.engine.model import Outputs


class MapsError(VtadError):
    """Maps with NaN or infinity in them. One line; it costs that picture alone."""

    exit_code = NOT_JUDGED


class Maps(NamedTuple):
    """What the model shows besides the heatmap, at its own resolution."""

    ssim_map: NDArray[np.float32]  # (height, width), z-scores
    density_map: NDArray[np.float32]  # (height, width), z-scores
    reconstruction: NDArray[np.uint8]  # (height, width, 3) RGB


class Explanation:
    """The maps of one picture, computed at the first look and once. Safe to use from several threads; copies share it."""

    def __init__(self, compute: Callable[[], Maps]) -> None:
        """`compute` runs the model; its errors are raised to whoever looks, and the next look tries again."""
        self._compute: Callable[[], Maps] | None = compute
        self._maps: Maps | None = None
        self._computing = threading.Lock()

    @staticmethod
    def of(maps: Maps) -> Explanation:
        """Maps that are there already."""
        made = Explanation(lambda: maps)
        made.maps()
        return made

    def maps(self) -> Maps:
        """Raises ModelError, MapsError."""
        with self._computing:
            if self._maps is None:
                assert self._compute is not None
                self._maps = self._compute()
                self._compute = None  # and with it the pixels
            return self._maps

    def __reduce__(self) -> tuple[Callable[[Maps], Explanation], tuple[Maps]]:
        """A copy, or what is sent to another process, has the maps."""
        return Explanation.of, (self.maps(),)


def maps_of(outputs: Outputs, i: int) -> Maps:
    """Those of the i-th picture of a batch."""
    levels = np.clip(np.nan_to_num(outputs.reconstruction[i].transpose(1, 2, 0)), 0, 1) * 255  # (height, width, 3)
    return Maps(outputs.ssim_map[i], outputs.density_map[i], np.rint(levels).astype(np.uint8))


def checked_maps(maps: Maps) -> Maps:
    """The maps. Raises MapsError where they are not finite."""
    if not all(np.isfinite(values).all() for values in (maps.ssim_map, maps.density_map)):
        raise MapsError("expected finite maps, got NaN or infinity")
    return maps
