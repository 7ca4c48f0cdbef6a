"""What a user chooses of a Core ML package besides its precision."""

from __future__ import annotations

from typing import Literal

# From iOS 16 on there is pixel_unshuffle; macOS 13 has what iOS 16 has, and so on.
Target = Literal["iOS16", "iOS17", "iOS18", "iOS26", "macOS13", "macOS14", "macOS15", "macOS26"]
Layout = Literal["ane", "standard"]  # the transformer as the Neural Engine likes it, or as it was trained

Function = Literal["verdict", "explain"]  # score and heatmap only, or everything
# Targets that have attention as one operation, and packages of several functions.
FROM_IOS18: frozenset[Target] = frozenset(("iOS18", "iOS26", "macOS15", "macOS26"))
