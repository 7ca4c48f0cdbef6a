"""What a search goes by: the quality of a detector on good pictures that no trial has seen, and on synthetic defects in them.

Test pictures are never read. The judge's pictures are held out of every trial: none learns from them, weighs its scorers by
them, or stops by them. How they are shifted, and where the defects are, follows from a seed of the judge's own. All of it is
drawn once, at one size, so all trials of a study are asked the same, and no option of a trial changes what it is asked.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from vtad.calibration.pictures import drawn_pictures
from vtad.calibration.score_fusion import Defective, Pictures, quality_so_far
from vtad.config import Config
from vtad.data.batches import batches
from vtad.data.images import ImageCache, evenly, split_good
from vtad.data.layout import CategoryFiles
from vtad.data.registration import shift_of, with_shift
from vtad.defects.parts import NONE
from vtad.inspection import input_spec
from vtad.metrics import quality
from vtad.models.detector import Detector
from vtad_runtime.contract.fit import resize

SHARE = 0.2  # of the good pictures, that judge
MOST = 64  # of them, at most, spread evenly
DEFECTIVE = 2  # pictures with synthetic defects, for each good one
SEED = 19_104_104  # of the judge; no trial's
FEW = 24  # pictures of each sort, by which a trial is pruned

Images = NDArray[np.uint8]  # (N, H, W, 3)


class Judge:
    """Good pictures with and without synthetic defects, the same for every trial of a study."""

    def __init__(self, files: CategoryFiles, config: Config) -> None:
        """`config` has the size at which defects are drawn. Raises DataError: too few good pictures, an unreadable one."""
        learnt, kept = split_good(files.train_good, SHARE, SEED)
        self.trial_files = dataclasses.replace(files, train_good=learnt, test=())  # what a trial may see
        with ImageCache([kept[i] for i in evenly(len(kept), MOST)], input_spec(config)) as images:
            good, shift = images[:], shift_of(with_shift(config, images)[0])
        self._pictures = drawn_pictures(good, NONE, shift, DEFECTIVE * len(good), SEED)

    def quality(self, detector: Detector) -> float:
        """Of a calibrated detector: the mean of image AUROC and AUPRO, by its own scores and heatmaps."""
        shifted, (defective, masks) = self._pictures.shifted, self._pictures.damage
        scores: list[float] = []
        heatmaps: list[NDArray[np.float32]] = []
        height, width = masks.shape[1:]
        device = detector.density_mean.device
        asked = _at_size(np.concatenate([defective, shifted]), detector.size)
        with torch.inference_mode():
            for batch in batches(asked, device, label="judging the trial"):
                judged = detector(batch)
                scores += judged.score.tolist()
                heatmaps += [resize(heatmap, width, height) for heatmap in judged.heatmap.cpu().numpy()]
        return _quality(np.array(scores), heatmaps, masks)

    def quality_so_far(self, detector: Detector) -> float:
        """Of a detector that still learns: the same figure on few pictures, by the best weights of its scorers.

        It does not depend on the scale of a loss, whose weights a search changes: trials can be compared by it.
        """
        known, shown, damage, _ = self._pictures
        few = evenly(len(known), FEW)
        broken = np.concatenate([few, few + len(known)])[:FEW]  # defects are drawn on each good picture in turn
        good, shifted, defective = (
            _at_size(part[which], detector.size)
            for part, which in ((known, few), (shown, few), (damage.images, broken))
        )
        masks = _masks_at_size(damage.masks[broken], detector.size)
        device = detector.density_mean.device
        detector.eval()
        found = quality_so_far(detector, Pictures(good, shifted, Defective(defective, masks)), device)
        if found is not None:
            return found
        with torch.inference_mode():  # the preset `paper` has one density and no scorers beside it
            asked = np.concatenate([defective, shifted])
            maps = torch.cat([detector.raw_maps(batch)[0].cpu() for batch in batches(asked, device)])
            return _quality(detector.score(maps).numpy(), list(maps.numpy()), masks)


def _quality(scores: NDArray[np.floating], maps: list[NDArray[np.float32]], masks: NDArray[np.bool_]) -> float:
    """Scores (N,) and maps (N, H, W) of defective pictures with masks (D, H, W), then of N - D good ones."""
    every_mask = [*masks, *np.zeros_like(masks, shape=(len(scores) - len(masks), *masks.shape[1:]))]
    return quality(every_mask, maps, np.arange(len(scores)) < len(masks), scores)


def _at_size(images: Images, size: tuple[int, int]) -> Images:
    """The pictures as a detector with an input of (height, width) takes them."""
    return images if images.shape[1:3] == size else np.stack([resize(image, size[1], size[0]) for image in images])


def _masks_at_size(masks: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Masks (N, H, W): a pixel is defective of which half or more was."""
    if masks.shape[1:] == size:
        return masks
    return np.stack([resize(mask.astype(np.float32), size[1], size[0]) >= 0.5 for mask in masks])
