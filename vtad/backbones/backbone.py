"""What every backbone gives: maps of four depths, and three of them joined at stride 8."""

from __future__ import annotations

from vtad_runtime.contract.errors import VtadError

MAP_CHANNELS = (16, 24, 40, 112)  # of the maps at strides 2, 4, 8 and 8
CHANNELS = sum(MAP_CHANNELS[1:])  # of the joined map: all but the finest


class BackboneError(VtadError):
    """The pretrained weights are absent or not the ones expected. The message is one line."""
