"""Evaluation of a run on its category's test images: metrics.json, and the results on the card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vtad.data.batches import BATCH, batches
from vtad.data.images import fingerprint
from vtad.data.layout import GOOD, DataError, TestImage
from vtad.data.run_data import run_data
from vtad.evaluation.at_source import Map, Mask, at_source, fitted
from vtad.fitting.device import pick_device
from vtad.inspection import input_spec
from vtad.metrics import PixelReport, ScoreReport, evaluate_pixels, evaluate_scores
from vtad.models.detector import Detector
from vtad.models.trained import load_detector
from vtad.run_folder import Run, write_text
from vtad_runtime.contract.card import Input
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

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, ready for JSON."""
        values = dataclasses.asdict(self)
        if self.paper_pro is None:
            del values["paper_pro"]
        return values


@dataclass(frozen=True)
class _Maps:
    heatmap: Map  # (H, W)
    ssim_map: Map
    density_map: Map
    mask: Mask | None  # (H, W); None: defective, but nobody marked where


def evaluate(
    run: Run,
    *,
    data: Path | str | None = None,
    device: str = "auto",
) -> Evaluation:
    """Judge the test images of a run's category, write metrics.json and the card's results, return them.

    `data`: the folder of categories, by default the one it was trained from. Raises RunError, CardError, DataError.
    """
    config, card = run.config(), run.card()
    found_data = run_data(run, Path(data) if data else None)
    files = found_data.files
    if not files.test:
        raise DataError(
            f"{files.root / 'test'}: expected test images in folders good/ and one for each defect type, got none"
        )
    where = pick_device(device)
    detector = load_detector(run, where)
    scores: list[float] = []
    maps: list[_Maps] = []
    doubtful = 0
    judged = _judged(detector, files.test, input_spec(config), where)
    for score, found, doubt in watched(judged, "judging", len(files.test)):
        scores.append(score)
        maps.append(found)
        doubtful += doubt is not None
    kinds = [t.kind for t in files.test]
    with Bar("AUROC and AUPRO"):
        heatmap, ssim_map, density_map = _pixel_reports(maps, density_decides=detector.ssim_weight.item() == 0)
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
    )
    write_text(run.path / "metrics.json", json.dumps(evaluation.to_dict(), indent=2, allow_nan=False) + "\n")
    on_the_card = {key: value for key, value in evaluation.to_dict().items() if key != "data"}  # not where pictures lie
    run.write_card(dataclasses.replace(card, results=on_the_card))
    return evaluation


def _brighter(count: int) -> str | None:
    return f"{count} test images have values above the training's white: vtad-run calls them UNSURE" if count else None


def _pixel_reports(maps: list[_Maps], density_decides: bool) -> tuple[PixelReport, PixelReport, PixelReport]:
    """Of heatmap, SSIM map and density map. Where the density alone decides, the first ranks pixels as the last does."""
    marked = [m for m in maps if m.mask is not None]
    masks = [m.mask for m in marked if m.mask is not None]
    density_map = evaluate_pixels(masks, [m.density_map for m in marked])
    heatmap = density_map if density_decides else evaluate_pixels(masks, [m.heatmap for m in marked])
    return heatmap, evaluate_pixels(masks, [m.ssim_map for m in marked]), density_map


def _judged(
    detector: Detector, images: tuple[TestImage, ...], spec: Input, device: torch.device
) -> Iterator[tuple[float, _Maps, str | None]]:
    for i in range(0, len(images), BATCH):
        part = images[i : i + BATCH]
        taken = [fitted(image, spec) for image in part]
        with torch.inference_mode():
            judgement = detector(next(batches(np.stack([pixels for pixels, _, _ in taken]), device, BATCH)))
        heat, ssim, density = (m.float().cpu().numpy() for m in judgement[1:4])
        for j, (image, (_, placement, doubt)) in enumerate(zip(part, taken, strict=True)):
            (heatmap, ssim_map, density_map), mask = at_source(image, placement, (heat[j], ssim[j], density[j]))
            yield judgement.score[j].item(), _Maps(heatmap, ssim_map, density_map, mask), doubt
