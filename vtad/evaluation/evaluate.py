"""Evaluation of a run on its category's test images: metrics.json, and the results on the card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vtad.data.images import fingerprint
from vtad.data.layout import GOOD, require_test_images
from vtad.data.run_data import RunData, run_data
from vtad.evaluation.at_source import Map, Mask, at_source
from vtad.evaluation.judging import Judged, judged
from vtad.fitting.device import pick_device, room_errors_as_lines
from vtad.inspection import input_spec
from vtad.metrics import Curve, PixelReport, RankedPixels, ScoreReport, evaluate_scores
from vtad.models.trained import load_detector
from vtad.run_folder import Run, require_writable, write_text
from vtad_runtime.contract.progress import Bar, watched
from vtad_runtime.contract.threshold.conformal import REVIEW, review_level


@dataclass(frozen=True)
class Evaluation:
    """How well a detector judges the test images."""

    category: str
    scores: ScoreReport
    heatmap: PixelReport
    ssim_map: PixelReport  # the SSIM map alone
    density_map: PixelReport  # the density map alone
    without_mask: int  # defective pictures that only count as pictures
    unsure_from: float | None  # the score above which a picture is UNSURE if it is not NG; None: there is no such band
    good_with_region: float | None  # share of good pictures that are NG or UNSURE: on these a region is drawn
    defective_ok: float | None  # share of defective pictures that are plain OK
    data_fingerprint: str
    data: str  # the folder of the category
    note: str | None  # one line where its good images are not those of the training, or test images are too bright
    paper_pro: float | None  # preset `paper`: what VT-ADL calls PRO, which is the pixel AUROC
    pro_curve: Curve  # of the heatmap, up to a false-positive rate of 0.3; not in metrics.json

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, ready for JSON."""
        values = dataclasses.asdict(self)
        del values["pro_curve"]
        if self.paper_pro is None:
            del values["paper_pro"]
        return values


ELSEWHERE = "take another --device, or train with smaller --image-height and --image-width"


@dataclass(frozen=True)
class _Maps:
    heatmap: Map  # (H, W)
    ssim_map: Map
    density_map: Map
    mask: Mask | None  # (H, W); None: defective, but nobody marked where


def evaluate(run: Run, *, data: Path | str | None = None, device: str = "auto") -> Evaluation:
    """Judge the test images of a run's category, write metrics.json and the card's results, return them.

    `data`: the folder of categories, by default the one it was trained from. Raises RunError, CardError, DataError, NoRoom.
    """
    return evaluate_on(run, run_data(run, Path(data) if data else None), device)


@room_errors_as_lines(ELSEWHERE)
def evaluate_on(
    run: Run,
    found_data: RunData,
    device: str = "auto",
    watch: Callable[[Judged, Mask | None], None] = lambda judged, mask: None,
) -> Evaluation:
    """`evaluate` on these data. `watch` sees each picture as it is judged, its mask at the picture's size or shrunk with it."""
    config, card = run.config(), run.card()
    files = found_data.files
    require_test_images(files)
    require_writable(run.path, "look at its permissions")
    where = pick_device(device)
    detector = load_detector(run, where)
    scores: list[float] = []
    maps: list[_Maps] = []
    doubtful = 0
    for one in watched(judged(detector, files.test, input_spec(config), where), "judging", len(files.test)):
        scores.append(one.score)
        (heat, ssim, density), mask = at_source(one.image, one.placement, (one.heatmap, one.ssim_map, one.density_map))
        maps.append(_Maps(heat, ssim, density, mask))
        doubtful += one.doubt is not None
        watch(one, mask)
    kinds = [t.kind for t in files.test]
    with Bar("AUROC and AUPRO"):
        ranked = _ranked(maps, density_decides=detector.ssim_weight.item() == 0)
        heatmap, ssim_map, density_map = (pixels.report() for pixels in ranked)
    unsure_from = review_level(card.calibration, REVIEW)
    flagged = np.array(scores) > (card.calibration.threshold if unsure_from is None else unsure_from)
    good = np.array([kind == GOOD for kind in kinds])
    evaluation = Evaluation(
        category=config.category,
        scores=evaluate_scores([k != GOOD for k in kinds], scores, kinds, card.calibration.threshold),
        heatmap=heatmap,
        ssim_map=ssim_map,
        density_map=density_map,
        without_mask=sum(m.mask is None for m in maps),
        unsure_from=unsure_from,
        good_with_region=float(flagged[good].mean()) if good.any() else None,
        defective_ok=float(1 - flagged[~good].mean()) if not good.all() else None,
        data_fingerprint=fingerprint([t.path for t in files.test]),
        data=str(files.root),
        note="; ".join(filter(None, (found_data.note, _brighter(doubtful)))) or None,
        paper_pro=density_map.auroc if config.preset == "paper" else None,
        pro_curve=ranked[0].pro_curve(),
    )
    write_text(run.path / "metrics.json", json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n")
    on_the_card = {key: value for key, value in evaluation.to_dict().items() if key != "data"}  # not where pictures lie
    run.write_card(dataclasses.replace(card, results=on_the_card))
    return evaluation


def _brighter(count: int) -> str | None:
    return f"{count} test images have values above the training's white: vtad-run calls them UNSURE" if count else None


def _ranked(maps: list[_Maps], density_decides: bool) -> tuple[RankedPixels, RankedPixels, RankedPixels]:
    """Of heatmap, SSIM map and density map. Where the density alone decides, the first ranks pixels as the last does."""
    marked = [m for m in maps if m.mask is not None]
    masks = [m.mask for m in marked if m.mask is not None]
    density_map = RankedPixels.of(masks, [m.density_map for m in marked])
    heatmap = density_map if density_decides else RankedPixels.of(masks, [m.heatmap for m in marked])
    return heatmap, RankedPixels.of(masks, [m.ssim_map for m in marked]), density_map
