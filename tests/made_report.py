"""A run folder and an evaluation without a model, for tests of the page: pictures are drawn, scores are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiny_run import tiny

from vtad.calibration.record import CalibrationRecord, GoodScore
from vtad.data.layout import TestImage
from vtad.evaluation.evaluate import Evaluation
from vtad.evaluation.judging import Judged
from vtad.inspection import input_spec, make_card
from vtad.metrics import RankedPixels, evaluate_scores
from vtad.models.detector import SCORE_RULE
from vtad.report.content import Page
from vtad.report.evaluated import Seen, evaluation_page
from vtad.run_folder import Run, append_line, create_run
from vtad_runtime.contract.card import Weighing
from vtad_runtime.contract.fit import place
from vtad_runtime.contract.threshold.conformal import calibration

Pixels = NDArray[np.uint8]


def made_run(folder: Path, category: str = "pill", good: int = 60) -> Run:
    """A complete run without weights; its threshold is about 2.4."""
    run = create_run(tiny(category=category, data=str(folder / "data"), out=str(folder / "runs")))
    scores = np.random.default_rng(1).normal(0, 1, good).tolist()
    chosen = calibration(scores, scores, 0.01)
    judged = [GoodScore(f"train/good/{i:03d}.png", s, s, i % 5 == 0) for i, s in enumerate(scores)]
    weights = Weighing(
        {"patch_memory": 1.0, "feature_gmm": 0.0, "context_density": 0.5, "segmentation_head": 0.5}, 0.25, 0.95, 0.9
    )
    synthetic = tuple(np.random.default_rng(2).normal(6, 3, 40).tolist())
    CalibrationRecord(tuple(sorted(judged, key=lambda g: -g.score)), synthetic, weights).write(run)
    for epoch in range(1, 13):
        norms = {"token_norm_patch_median": 9.0, "token_norm_patch_max": 14.0, "token_norm_register_mean": 20.0 + epoch}
        loss = 3 / epoch
        row = {"epoch": epoch, "loss": loss, "mse": loss / 9, "ssim": loss / 3, "nll": 2 + loss, "val_loss": 1.2 * loss}
        append_line(run.metrics, {**row, "segmentation_loss": loss / 5, **norms})
    run.write_card(make_card(run.config(), SCORE_RULE, chosen, "f" * 64, "e" * 64))
    return run


def made_page(
    run: Run,
    pictures: Sequence[tuple[str, str, float]],
    side: int = 96,
    noise: int = 40,
    distinct: int = 500,
    note: str | None = None,
) -> Page:
    """The page of an evaluation of pictures with these names below test/, kinds and scores; so many are drawn anew."""
    config, card = run.config(), run.card()
    root = Path(config.data) / config.category
    seen = Seen(len(pictures), root, card.calibration)
    masks, maps, drawn = [], [], dict[int, tuple[Judged, NDArray[np.bool_]]]()
    for number, (name, kind, score) in enumerate(pictures):
        judged, mask = drawn.get(number % distinct) or made_picture(root, kind, score, number, side, noise)
        drawn[number % distinct] = judged, mask
        judged = dataclasses.replace(judged, image=TestImage(root / "test" / kind / name, kind, None), score=score)
        seen.add(judged, mask)
        masks.append(mask)
        maps.append(judged.heatmap)
    kinds, scores = [kind for _, kind, _ in pictures], [score for *_, score in pictures]
    few = slice(None, None, 1 + len(masks) // 40)
    pixels = RankedPixels.of(masks[few], maps[few])
    found = Evaluation(
        category=config.category,
        scores=evaluate_scores([k != "good" for k in kinds], scores, kinds, card.calibration.threshold),
        heatmap=pixels.report(),
        ssim_map=pixels.report(),
        density_map=pixels.report(),
        without_mask=0,
        unsure_from=None,
        good_with_region=None,
        defective_ok=None,
        data_fingerprint="d" * 64,
        data=str(root),
        note=note,
        paper_pro=None,
        pro_curve=pixels.pro_curve(),
    )
    return evaluation_page(run, found, seen.entries())


def made_picture(
    path: Path, kind: str, score: float, number: int, side: int, noise: int
) -> tuple[Judged, NDArray[np.bool_]]:
    """A disc on a dark ground, with a bright spot where it is defective; noise so that it does not compress to nothing."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    disc = np.hypot(rows, columns) < 0.4
    x, y = rng.uniform(-0.2, 0.2, 2)
    spot = np.hypot(rows - y, columns - x)
    mask = (spot < 0.09) & (kind != "good")
    clean = np.where(disc[..., None], (200, 190, 170), (40, 44, 50)).astype(np.float64)
    pixels = clean + rng.normal(0, noise, clean.shape)
    pixels[mask] = (90, 30, 20)
    heat = (max(score, 0) * np.exp(-((spot / 0.09) ** 2)) + rng.normal(0, 0.3, spot.shape)).astype(np.float32)
    spec = input_spec(tiny(image_height=side // 16 * 16, image_width=side // 16 * 16))
    judged = Judged(
        TestImage(path, kind, None),
        np.clip(pixels, 0, 255).astype(np.uint8),
        place(side, side, spec) if side == spec.width else place(spec.width, spec.height, spec),
        None,
        score,
        heat,
        heat / 2,
        heat,
        (clean / 255).astype(np.float32),
    )
    return judged, mask


def made_pictures(good: int, defective: int) -> list[tuple[str, str, float]]:
    """So many of each, most of them on the right side of the threshold."""
    rng = np.random.default_rng(3)
    kinds = ("crack", "scratch", "dent")
    return [
        *((f"{i:03d}.png", "good", float(s)) for i, s in enumerate(rng.normal(0.3, 1, good))),
        *((f"{i:03d}.png", kinds[i % 3], float(s)) for i, s in enumerate(rng.normal(5.5, 2.2, defective))),
    ]
