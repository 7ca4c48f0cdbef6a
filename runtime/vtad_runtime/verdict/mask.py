"""`--roi-mask`: parts of the picture that are seen but must not raise an alarm.

Painting over pixels would be new to the model and light up at its edge, so the picture is judged as it is. In the
heatmap everything outside the mask then takes the lowest value inside it, and the score is taken again by the rule on the
card: the mean of the highest cells. Such a score is never above the graph's own, so a mask adds no false
alarm; what lies inside is judged as before. Whether the graph takes its score that way is checked on every frame.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vtad_runtime.contract.card import Card
from vtad_runtime.contract.fit import fit_mask
from vtad_runtime.contract.image import ImageError, read_mask
from vtad_runtime.verdict.detector import Result, agreeing
from vtad_runtime.verdict.explanation import Explanation, Maps
from vtad_runtime.verdict.geometry import Geometry, Misfit
from vtad_runtime.verdict.score import top_score
from vtad_runtime.verdict.verdict import Verdict, decide

TOLERANCE = 1e-3  # of the score; the graph's own sum differs by rounding


class Mask:
    """Applies one mask to results of one model."""

    def __init__(self, path: Path, geometry: Geometry, card: Card) -> None:
        """Read the mask: not black is judged. Its size is that of the frames before any --roi. Raises ImageError."""
        self.path = path
        self._card = card
        mask = read_mask(path)
        self.sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        self._mask = geometry.apply(mask.astype(np.uint8)) > 0  # (h, w), as the judged picture lies
        # A pixel of the model that sees anything outside is left out: `fit_mask` keeps whatever its mask touches.
        inside = fit_mask(np.ones_like(self._mask), card.input) & ~fit_mask(~self._mask, card.input)
        self._inside = inside  # (height, width) at model resolution
        if not inside.any():
            raise ImageError(f"--roi-mask {path}: expected a part that is not black inside the region, got none")

    def apply(self, result: Result) -> Result:
        """The result with everything outside the mask silenced; an ERROR stays one. Raises Misfit: another size or model."""
        if result.verdict is Verdict.ERROR:
            return result
        size = result.placement.source_width, result.placement.source_height
        expected = self._mask.shape[1], self._mask.shape[0]
        if size != expected:
            raise Misfit(
                f"--roi-mask {self.path}: expected a judged picture of {expected[0]}x{expected[1]}, "
                f"got {size[0]}x{size[1]}; draw the mask on a frame of this source"
            )
        again = top_score(result.model_heatmap, self._card.score_rule)
        if not math.isclose(again, result.score, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
            raise Misfit(
                f"--roi-mask: expected a model whose score is the mean of the highest cells, {again:.4g} here, "
                f"got {result.score:.4g}; this model cannot be masked"
            )
        heatmap, calibration = self._silenced(result.model_heatmap), self._card.calibration
        score = min(top_score(heatmap, self._card.score_rule), result.score)
        silenced = dataclasses.replace(
            result,
            score=score,
            p_value=calibration.p_value(score),
            verdict=decide(calibration, score, doubt=result.doubt),
            regions=(),
            model_heatmap=heatmap,
            explanation=Explanation(lambda: self._silenced_maps(result.explanation.maps())),
        )
        return agreeing(silenced, self._card.score_rule, None)

    def _silenced_maps(self, maps: Maps) -> Maps:
        return Maps(self._silenced(maps.ssim_map), self._silenced(maps.density_map), maps.reconstruction)

    def _silenced(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        lowest = values[self._inside].min()
        return np.where(self._inside, values, np.minimum(values, lowest)).astype(np.float32)
