"""The methods of vtad-bench: what users could pick instead, judged like a run; what thresholds make of scores; what it costs."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vtad.data.images import ImageCache
from vtad.data.layout import find_category
from vtad.evaluation import at_source
from vtad.evaluation.evaluate import evaluate
from vtad.inspection import input_spec
from vtad.models.patch_memory import greedy_coreset
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad_benchmark.methods.baseline import Baseline, gigaflop, stored_numbers
from vtad_benchmark.methods.judge import decision, decisions, judge
from vtad_benchmark.methods.latency import latency
from vtad_benchmark.methods.padim import REGULARISATION, Padim
from vtad_benchmark.methods.patchcore import NEIGHBOURS, Patchcore, squared_distances
from vtad_benchmark.methods.plain_autoencoder import Measure, PlainAutoencoder
from vtad_runtime.contract.card import Estimate, Input
from vtad_runtime.contract.threshold.conformal import REVIEW, calibration, review_level

if TYPE_CHECKING:
    from vtad_export.proof.exporter import Export

SIDE = 64  # pixels
CHANNELS = 24
GOOD = 20  # images, more than two batches
SPEC = Input("image", SIDE, SIDE, "rgb", "area-linear", "stretch", None)
CPU = torch.device("cpu")


def pictures(count: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Stripes with noise (count, SIDE, SIDE, 3)."""
    rng = np.random.default_rng(seed)
    stripes = 120 + 60 * np.sin(np.arange(SIDE) / 3)[None, None, :, None]
    return (stripes + rng.normal(0, 4, (count, SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageCache:
    folder = tmp_path_factory.mktemp("stripes")
    for i, rgb in enumerate(pictures(GOOD, 0)):
        Image.fromarray(rgb).save(folder / f"{i:02d}.png")
    return ImageCache(sorted(folder.glob("*.png")), SPEC)


@pytest.fixture(scope="module")
def features() -> nn.Module:
    """Random weights: the baselines need no particular features to be right. CHANNELS maps of 8 x 8 cells."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Conv2d(3, CHANNELS, 8, stride=8).requires_grad_(False)
    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return layer


def batch(rgb: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    return torch.from_numpy(rgb).permute(0, 3, 1, 2)


def finds_a_square(baseline: Baseline) -> None:
    unseen = pictures(6, 1)
    unseen[0, 24:40, 8:24] = (255, 0, 0)
    with torch.inference_mode():
        scores, maps = baseline(batch(unseen))
    assert maps.shape == (6, SIDE, SIDE)
    assert scores[0] > 1.1 * scores[1:].max()
    y, x = divmod(int(maps[0].argmax()), SIDE)
    assert 24 <= y < 40
    assert 8 <= x < 24


def test_padim_finds_a_defect(features: nn.Module, images: ImageCache) -> None:
    baseline = Padim(features)
    baseline.fit(images)
    finds_a_square(baseline)


def test_patchcore_finds_a_defect(features: nn.Module, images: ImageCache) -> None:
    baseline = Patchcore(features, patches=300, candidates=600)
    baseline.fit(images)
    assert baseline.memory.shape == (300, CHANNELS)
    finds_a_square(baseline)


@pytest.mark.slow
@pytest.mark.parametrize("measure", ["l1", "ssim"])
def test_the_plain_autoencoder_learns_and_finds_a_defect(images: ImageCache, measure: Measure) -> None:
    baseline = PlainAutoencoder(SIDE, SIDE, measure, seconds=600, steps=80)
    x = batch(images[:]).float() / 255
    with torch.no_grad():
        before = baseline.unlike(x).mean()
        baseline.eval()
    baseline.fit(images)
    with torch.no_grad():
        assert baseline.unlike(x).mean() < 0.5 * before
    assert baseline.epochs == 80 * 8 / GOOD
    finds_a_square(baseline)


def test_the_plain_autoencoder_trains_for_the_time_it_is_given(images: ImageCache) -> None:
    baseline = PlainAutoencoder(SIDE, SIDE, "l1", seconds=0.2)
    baseline.fit(images)
    assert baseline.taken > 0


def test_padim_whitens_by_the_sample_covariance_of_each_position(features: nn.Module, images: ImageCache) -> None:
    baseline = Padim(features)
    baseline.fit(images)
    with torch.inference_mode():
        f = features(batch(images[:]).float() / 255).flatten(2).double().numpy()  # (N, C, P)
    for position in (0, 27, 63):
        covariance = np.cov(f[:, :, position], rowvar=False) + REGULARISATION * np.eye(f.shape[1])
        whitener = baseline.whitener[position].double().numpy()
        np.testing.assert_allclose(whitener @ covariance @ whitener.T, np.eye(f.shape[1]), atol=1e-3)
        np.testing.assert_allclose(baseline.mean[position, 0], f[:, :, position].mean(0), atol=1e-5)


def test_patches_that_are_all_stored_are_at_no_distance(features: nn.Module, images: ImageCache) -> None:
    baseline = Patchcore(features, patches=GOOD * 64, candidates=GOOD * 64)
    baseline.fit(images)
    assert len(baseline.memory) == GOOD * 64
    with torch.inference_mode():
        scores, maps = baseline(batch(images[:3]))
        _, others = baseline(batch(pictures(3, 1)))
    scale = others.max()
    assert scores.max() < 0.01 * scale
    assert maps.max() < 0.01 * scale


def test_the_score_of_patchcore_is_its_equation_7(features: nn.Module, images: ImageCache) -> None:
    baseline = Patchcore(features, patches=200, candidates=400)
    baseline.fit(images)
    unseen = batch(pictures(1, 2))
    with torch.inference_mode():
        score, _ = baseline(unseen)
        patches = features(unseen.float() / 255)[0].flatten(1).T.double()
    memory = baseline.memory.double()
    distance = torch.cdist(patches, memory)
    odd = int(distance.min(1).values.argmax())
    nearest = int(distance[odd].argmin())
    around = torch.cdist(memory[nearest][None], memory)[0].argsort()[:NEIGHBOURS]
    weight = 1 - math.exp(distance[odd, nearest]) / sum(math.exp(d) for d in distance[odd, around].tolist())
    assert score.item() == pytest.approx(weight * distance[odd, nearest].item(), rel=1e-3)


def test_the_coreset_takes_one_point_of_each_cluster_first() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = 100 * torch.randn(12, 8, generator=generator)
    points = centres.repeat(50, 1) + torch.randn(600, 8, generator=generator)
    assert sorted((greedy_coreset(points, 12) % 12).tolist()) == list(range(12))


def test_the_coreset_covers_better_than_a_random_choice() -> None:
    points = torch.randn(2000, 8, generator=torch.Generator().manual_seed(1))
    chosen = greedy_coreset(points, 200)
    assert len(set(chosen.tolist())) == 200

    def radius(index: Tensor) -> float:
        return squared_distances(points, points[index]).min(1).values.max().sqrt().item()

    assert radius(chosen) < 0.8 * radius(torch.arange(200))


def test_a_coreset_of_equal_points_repeats_none() -> None:
    assert len(set(greedy_coreset(torch.ones(20, 3), 15).tolist())) == 15


class Trained(Baseline):
    """A trained detector as if it were a baseline."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.detector = load_detector(run)

    def fit(self, images: ImageCache) -> None:
        raise AssertionError("it is trained")

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        judgement = self.detector(image)
        return judgement.score, judgement.heatmap


@pytest.mark.parametrize("longest", [1024, 48])
def test_baselines_are_judged_like_runs(run: Run, pills: Path, monkeypatch: pytest.MonkeyPatch, longest: int) -> None:
    monkeypatch.setattr(at_source, "LONGEST_SIDE", longest)
    of_run = evaluate(run)
    found = judge(Trained(run), find_category(pills, "pill").test, input_spec(run.config()), CPU)
    assert found.image == of_run.scores.image
    assert found.pixels == of_run.heatmap


def test_gigaflop_counts_two_for_each_multiply_and_add_attention_too() -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3, padding=1)

        def forward(self, image: Tensor) -> Tensor:
            y: Tensor = self.conv(image.float())
            tokens = y.flatten(2)[:, None]  # one head, 5 tokens of 64 numbers
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)

    macs = 8 * 8 * 5 * 3 * 9 + 2 * 5 * 5 * 64
    assert gigaflop(Layers(), 8, 8) == pytest.approx(2 * macs / 1e9)


def test_what_a_baseline_stores_is_counted(features: nn.Module, images: ImageCache) -> None:
    baseline = Patchcore(features, patches=50, candidates=100)
    baseline.fit(images)
    assert stored_numbers(baseline) == sum(p.numel() for p in features.parameters()) + 50 * CHANNELS


def test_a_decision_counts_what_vtad_run_would_say() -> None:
    chosen = calibration([i / 200 for i in range(200)], [1.0] * 200, 0.01)
    unsure_from = review_level(chosen, REVIEW)
    assert unsure_from is not None
    odd = (unsure_from + chosen.threshold) / 2
    found = decision(chosen, good=[0.0, 0.1, odd, 2.0], defective=[0.2, odd, odd, 3.0, 4.0])
    assert (found.false_alarms, found.good_unsure, found.good_with_region) == (1, 1, 2)
    assert (found.misses, found.defective_ok) == (3, 1)
    assert (found.threshold, found.unsure_from) == (chosen.threshold, unsure_from)


def test_both_rules_decide_by_their_own_threshold(run: Run, pills: Path) -> None:
    card = run.card()
    test = find_category(pills, "pill").test
    scores = [float(i) for i in range(len(test))]
    few = dataclasses.replace(card.calibration, estimated=None)
    assert decisions(few, test, scores)[1] is None
    estimate = Estimate(threshold=2.5, lowest=0.0, highest=0.1)
    guaranteed, estimated = decisions(dataclasses.replace(few, guaranteed=-1.0, estimated=estimate), test, scores)
    good = [score for image, score in zip(test, scores, strict=True) if image.kind == "good"]
    assert guaranteed.false_alarms == len(good)
    assert estimated is not None
    assert estimated.false_alarms == sum(score > 2.5 for score in good)
    assert (guaranteed.misses, estimated.misses) == (
        0,
        sum(score <= 2.5 for score in scores) - len(good) + estimated.false_alarms,
    )


def test_an_export_is_timed_beside_its_bare_session(exported: Export, pills: Path) -> None:
    found = latency(exported.path, [image.path for image in find_category(pills, "pill").test], rounds=3)
    assert found.ms is not None
    assert found.ms_session is not None
    assert found.ratio is not None
    assert found.ms > found.ms_session > 0
    assert found.ratio > 1
