"""What calibration judges on: held-out good pictures as they are, shifted, and shifted with a synthetic defect of either sort."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vtad.calibration.score_fusion import Defective, Pictures
from vtad.data.augmentation import shifted_and_zoomed
from vtad.defects.damage import difference, synthetic
from vtad.defects.parts import Parts
from vtad.defects.relation import synthetic_relation

FEWEST_RELATED = 8  # pictures; on fewer no choice is made


def drawn_pictures(good: NDArray[np.uint8], parts: Parts, shift: float, count: int, seed: int) -> Pictures:
    """From good pictures (N, H, W, 3), shifted by up to a share of their sides: so many of either sort of defects, by seed.

    Without parts there are no defects of relation.
    """
    shifted = shifted_and_zoomed(good, shift, np.random.default_rng((seed, 5)))
    damage = Defective(*synthetic(shifted, count, seed))
    broken, of = synthetic_relation(good, parts, count, seed)
    if len(broken) < FEWEST_RELATED:
        return Pictures(good, shifted, damage)
    # A part is where it is before the picture is shifted; both are then seen from the same place.
    before, after = (
        shifted_and_zoomed(images, shift, np.random.default_rng((seed, 9))) for images in (good[of], broken)
    )
    masks = np.stack([difference(a, b) for a, b in zip(before, after, strict=True)])
    return Pictures(good, shifted, damage, Defective(after, masks))
