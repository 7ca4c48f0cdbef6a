"""Calibration: the conformal threshold keeps its budget, and the better map gets the weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny_run import tiny
from torch import Tensor

from vtad.calibration.map_fusion import (
    Maps,
    fit_map_fusion,
    fit_z_scores,
    fused_maps,
    raw_maps,
    scores_and_peaks,
    weighted_maps,
)
from vtad.calibration.score_fusion import Defective, Pictures, Quality, fit_score_fusion
from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import SCORE_RULE, Detector
from vtad.models.score_fusion import ScorerMaps
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad_runtime.contract.threshold.conformal import (
    MARGIN,
    CalibrationError,
    calibration,
    conformal_threshold,
    images_needed,
    spread,
)
from vtad_runtime.verdict.score import top_score

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("images", "budget", "rank"),
    [(99, 0.01, 1), (100, 0.02, 2), (99, 0.05, 5), (98, 0.05, 4), (9, 0.1, 1), (3, 0.01, 1), (19, 0.5, 10)],
)
def test_the_threshold_is_a_margin_above_the_kth_largest_score(images: int, budget: float, rank: int) -> None:
    scores = np.random.default_rng(images).permutation(images).astype(float).tolist()
    threshold = conformal_threshold(scores, budget)
    level = sorted(scores, reverse=True)[rank - 1]
    widest = MARGIN * float(np.std(scores))
    assert threshold == pytest.approx(level + (widest if rank == 1 else min(widest, 0.5)))  # neighbours are 1 apart
    assert sum(s > threshold for s in scores) == rank - 1


@pytest.mark.parametrize(("budget", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.003, 333)])
def test_a_budget_needs_so_many_images_that_one_more_rank_fits_into_it(budget: float, needed: int) -> None:
    assert images_needed(budget) == needed
    assert 1 / (needed + 1) <= budget + 1e-12
    assert 1 / needed > budget


def test_the_share_of_false_alarms_stays_within_the_budget() -> None:
    """Exchangeable scores: n to calibrate and one new, drawn alike, many times."""
    rng = np.random.default_rng(0)
    for n, budget in ((99, 0.05), (40, 0.1), (60, 0.02), (10, 0.05)):
        draws = rng.gamma(2.0, size=(4000, n + 1))
        alarms = np.mean([new > conformal_threshold(scores, budget) for *scores, new in draws.tolist()])
        promised = max(budget, 1 / (n + 1))  # a budget too small for n cannot be kept
        exact = max(1, math.floor(budget * (n + 1) + 1e-9)) / (n + 1)
        noise = 3 * math.sqrt(exact * (1 - exact) / 4000)
        assert alarms <= promised + noise
        assert alarms == pytest.approx(exact, abs=noise + 1e-3)  # and not far below: the margin is small


def test_the_card_says_what_share_can_be_vouched_for_and_p_values_agree_with_the_threshold() -> None:
    scores = np.random.default_rng(1).gamma(2.0, size=49).tolist()
    found = calibration(scores, [s + 1 for s in scores], 0.1, "guaranteed")
    assert found.scores == tuple(sorted(scores))
    assert (found.images, found.false_alarms, found.achievable) == (49, 0.1, 0.1)
    assert found.pixel_threshold == pytest.approx(found.threshold + 1)
    for score in np.linspace(0, 15, 500):
        literal = (1 + sum(s >= score for s in scores)) / 50
        assert found.p_value(score) == pytest.approx(literal)
        if score > found.threshold:
            assert found.p_value(score) <= 0.1
    few = calibration(scores[:4], scores[:4], false_alarms=0.01)
    assert few.achievable == pytest.approx(0.2)
    assert few.threshold > max(few.scores)


def test_equal_scores_still_leave_a_margin() -> None:
    assert spread([2.0, 2.0, 2.0]) > 0
    assert conformal_threshold([2.0, 2.0, 2.0], 0.1) > 2.0


def test_too_few_scores_and_scores_that_are_no_numbers_are_one_line() -> None:
    with pytest.raises(CalibrationError, match=r"at least 3 good images to calibrate, got 2: add good images"):
        conformal_threshold([1.0, 2.0], 0.01)
    for wrong in (math.nan, math.inf, -math.inf):
        with pytest.raises(CalibrationError, match="not a number: the training diverged") as error:
            conformal_threshold([1.0, 2.0, wrong], 0.01)
        assert "\n" not in str(error.value)


class Scripted(Detector):
    """One map shows what a picture's red channel shows, the other is noise."""

    def __init__(self, good_map: str) -> None:
        super().__init__(tiny())
        self.good_map = good_map
        self.noise = torch.Generator().manual_seed(0)

    def raw_maps(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        seen = self.smooth(image[:, 0].float() / 255)
        noise = 5 + 3 * torch.randn(seen.shape, generator=self.noise)
        maps = (seen, noise) if self.good_map == "nll" else (noise, seen)
        return maps[0], maps[1], image.float() / 255


def pictures(rng: np.random.Generator, count: int) -> NDArray[np.uint8]:
    return rng.integers(90, 110, (count, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("good_map", ["nll", "ssim"])
def test_the_map_that_sees_the_defects_gets_the_weight_when_the_other_is_noise(good_map: str) -> None:
    rng = np.random.default_rng(2)
    detector = Scripted(good_map)
    good, defective = pictures(rng, 24), pictures(rng, 24)
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 10:18, 12:24] = True
    defective[masks] += 4  # far less than the noise of a pixel, far more than that of the blurred map
    maps = raw_maps(detector, good, CPU)
    fit_z_scores(detector, maps)
    found = fit_map_fusion(detector, maps, maps, raw_maps(detector, defective, CPU), masks)
    best = max(found, key=lambda share: found[share])
    assert best == ("0" if good_map == "nll" else "1")
    assert found[best] > 0.8
    assert found["1" if good_map == "nll" else "0"] < 0.4
    assert (detector.ssim_weight > detector.density_weight) == (good_map == "ssim")


def test_a_map_that_shows_defects_better_and_ranks_pictures_worse_is_the_worse_one() -> None:
    """SSIM sees each defect, and as much in a small spot of each good picture when it is shifted."""
    rng = np.random.default_rng(9)
    detector = Scripted("nll")
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:24, 8:24] = True
    spots = np.zeros((24, 32, 32), np.bool_)
    spots[:, :8, :8] = True

    def maps(density: float, unlike: float, where: NDArray[np.bool_]) -> Maps:
        noise = rng.normal(size=(2, 24, 32, 32))
        return Maps(
            *(torch.tensor(n + by * where, dtype=torch.float32) for n, by in zip(noise, (density, unlike), strict=True))
        )

    good = maps(0.0, 0.0, masks)
    fit_z_scores(detector, good)
    found = fit_map_fusion(detector, good, maps(0.0, 4.0, spots), maps(1.5, 4.0, masks), masks)
    assert found["1"] < found["0"]


def test_a_handful_of_pictures_leaves_the_heatmap_to_the_density() -> None:
    rng = np.random.default_rng(4)
    detector = Scripted("ssim")
    good, masks = pictures(rng, 6), np.zeros((6, 32, 32), np.bool_)
    masks[:, 10:18, 12:24] = True
    maps = raw_maps(detector, good, CPU)
    fit_z_scores(detector, maps)
    assert list(fit_map_fusion(detector, maps, maps, maps, masks)) == ["0"]
    assert detector.ssim_weight == 0


class ScriptedScorers(Autoencoder):
    """Patch memory: red through noise. Feature GMM: red, less or more. Position Gaussian: green. Context density: blue.

    The head: green, if anything.
    """

    def __init__(self, gmm_sees: float = 0.0, head_sees: float = 0.0, **changes: Any) -> None:
        super().__init__(tiny(**changes))
        self.noise = torch.Generator().manual_seed(0)
        self.gmm_sees, self.head_sees = gmm_sees, head_sees

    def scorer_maps(self, image: Tensor) -> tuple[Tensor, ScorerMaps]:
        red, green, blue = torch.nn.functional.avg_pool2d(image, 8).unbind(1)
        noise = 0.05 * torch.randn((2, *red.shape), generator=self.noise)
        gmm = self.gmm_sees * red + noise[1]
        return image, ScorerMaps(red + noise[0], gmm, green, blue, self.head_sees * green)


@pytest.mark.parametrize(
    ("seen_by", "position", "context"),
    [((0, 1), True, True), ((0, 2), None, True), ((0,), False, False)],
    ids=["position", "context", "neither"],
)
def test_a_scorer_is_active_when_it_helps_on_shifted_images(
    seen_by: tuple[int, ...], position: bool | None, context: bool
) -> None:
    """What does not see the defects is noise of its own, so weighing it would harm, unless another corrects it.

    The context density need not help: beside a position Gaussian that sees all defects it costs nothing.
    """
    rng = np.random.default_rng(6)
    good, defective = (rng.integers(90, 110, (24, 32, 32, 3), np.uint8) for _ in range(2))
    for channel in {1, 2} - set(seen_by):
        for pictures_ in (good, defective):  # whole cells of different brightness
            cells = rng.integers(0, 250, (24, 4, 4))
            pictures_[..., channel] = cells.repeat(8, axis=1).repeat(8, axis=2)
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:16, 16:24] = True
    for channel in seen_by:
        defective[..., channel][masks] += 20
    detector = Detector(tiny())
    model = detector.model = ScriptedScorers()
    found = fit_score_fusion(detector, Pictures(good, good, Defective(defective, masks)), CPU).qualities
    weight = model.score_fusion.weight
    assert position is None or bool(weight[2] > 0) == position
    assert bool(weight[3] > 0) == context
    assert weight[0] > 0
    alone = {f"{m} {p} 0" for m in ("1 0", "0 1") for p in ("0", "1")}
    assert alone <= set(found)
    assert (
        len({" ".join(known.split()[:3]) for known in set(found) - alone}) == 1
    )  # the context density beside the best of them
    assert {known.split()[3] for known in found} <= {"0", "0.25", "0.5", "1"}


@pytest.mark.parametrize(("sees", "chosen"), [(5.0, True), (1.0, False), (0.2, False)])  # as much: ahead by chance
def test_the_feature_gmm_stands_for_the_patch_memory_where_it_sees_more(sees: float, chosen: bool) -> None:
    rng = np.random.default_rng(8)
    good, shifted, defective = (rng.integers(90, 110, (24, 32, 32, 3), np.uint8) for _ in range(3))
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:16, 16:24] = True
    defective[..., 0][masks] += 20
    detector = Detector(tiny())
    model = detector.model = ScriptedScorers(sees)
    fit_score_fusion(detector, Pictures(good, shifted, Defective(defective, masks)), CPU)
    assert (model.score_fusion.weight[:2] > 0).tolist() == [not chosen, chosen]


def test_a_position_gaussian_that_cannot_bear_a_shift_is_not_active() -> None:
    """It sees the defects best on images as they are, and every edge of shifted ones."""
    rng = np.random.default_rng(7)
    good, shifted, defective = (rng.integers(90, 110, (24, 32, 32, 3), np.uint8) for _ in range(3))
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:16, 16:24] = True
    defective[..., 0][masks] += 40
    defective[..., 1][masks] += 40
    for images in (shifted, defective):
        images[:, 24:, :, 1] += 90
    detector = Detector(tiny())
    model = detector.model = ScriptedScorers()
    fit_score_fusion(detector, Pictures(good, shifted, Defective(defective, masks)), CPU)
    assert model.score_fusion.weight[2] == 0


def test_the_context_density_is_active_while_it_costs_nothing() -> None:
    """It sees every defect that the patch memory sees and no more: synthetic defects do not speak for it, nor against it."""
    rng = np.random.default_rng(9)
    good, shifted, defective = (rng.integers(90, 110, (24, 32, 32, 3), np.uint8) for _ in range(3))
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:16, 16:24] = True
    for channel in (0, 2):
        defective[..., channel][masks] += 90
    detector = Detector(tiny())
    model = detector.model = ScriptedScorers()
    found = fit_score_fusion(detector, Pictures(good, shifted, Defective(defective, masks)), CPU)
    assert model.score_fusion.weight[3] > 0
    assert max(found.qualities.values()).damage > 0.99
    assert [name for name, weight in found.weights.items() if weight] == list(
        np.array(ScorerMaps._fields)[(model.score_fusion.weight != 0).numpy()]
    )


def test_a_context_density_that_surely_costs_is_not_active_however_little_that_is() -> None:
    """It cries out at one cell in 576 of every picture, good or not: a small harm, and no chance."""
    side = 192
    rng = np.random.default_rng(11)
    good, shifted, defective = (rng.integers(90, 110, (12, side, side, 3), np.uint8) for _ in range(3))
    masks = np.zeros((12, side, side), np.bool_)
    masks[:, 48:72, 96:120] = True
    defective[..., 0][masks] += 90
    for pictures_ in (shifted, defective):
        pictures_[:, :8, :8, 2] = 250
    detector = Detector(tiny(image_height=side, image_width=side))
    model = detector.model = ScriptedScorers(image_height=side, image_width=side)
    found = fit_score_fusion(detector, Pictures(good, shifted, Defective(defective, masks)), CPU).qualities
    assert 0 < found["1 0 1 0"].damage - found["1 0 1 0.25"].damage < 0.005
    assert model.score_fusion.weight[3] == 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 160), (384, 384)])
def test_the_runtime_takes_a_score_from_a_heatmap_as_the_graph_does(height: int, width: int) -> None:
    """A mask is laid over the heatmap after the graph, and the score taken anew: of the same share of the same cells."""
    heatmap = np.random.default_rng(10).normal(0, 3, (height, width)).astype(np.float32)
    detector = Detector(tiny(image_height=height, image_width=width))
    assert detector.score(torch.from_numpy(heatmap)[None]).item() == pytest.approx(
        top_score(heatmap, SCORE_RULE), rel=1e-5
    )


def test_maps_of_good_images_are_z_scores() -> None:
    detector = Scripted("nll")
    good = pictures(np.random.default_rng(3), 40)
    fit_z_scores(detector, raw_maps(detector, good, CPU))
    with torch.no_grad():
        judgement = detector(torch.from_numpy(good).permute(0, 3, 1, 2))
    for values in (judgement.density_map, judgement.ssim_map):
        assert values.mean().item() == pytest.approx(0, abs=0.05)
        assert values.std().item() == pytest.approx(1, abs=0.1)


def test_the_score_of_an_image_does_not_depend_on_its_batch(trained: Run) -> None:
    detector = load_detector(trained)
    images = np.random.default_rng(4).integers(0, 256, (11, 32, 32, 3), np.uint8)
    scores, peaks = scores_and_peaks(detector, raw_maps(detector, images, CPU))
    alone = [scores_and_peaks(detector, raw_maps(detector, images[i : i + 1], CPU)) for i in range(11)]
    assert scores == pytest.approx([s[0] for s, _ in alone], rel=1e-5)
    assert peaks == pytest.approx([p[0] for _, p in alone], rel=1e-5)
    assert all(peak >= score for peak, score in zip(peaks, scores, strict=True))


def test_what_was_seen_once_gives_the_maps_of_whatever_weights_are_chosen_from_it(trained: Run) -> None:
    detector = load_detector(trained, prune=False)
    good, shifted, damaged = (np.random.default_rng(i).integers(0, 256, (11, 32, 32, 3), np.uint8) for i in range(3))
    defective = Defective(damaged, np.random.default_rng(4).random((11, 32, 32)) < 0.1)
    found = fit_score_fusion(detector, Pictures(good, shifted, defective), CPU, compared=9)
    assert isinstance(detector.model, Autoencoder)
    assert found.seen is not None
    for seen, images in ((found.seen.good, good), (found.seen.shifted, shifted[:9]), (found.seen.damage, damaged[:9])):
        for once, again in zip(
            fused_maps(detector, detector.model, seen), raw_maps(detector, images, CPU), strict=True
        ):
            torch.testing.assert_close(once, again, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "weighs", [(1.0, 0.0, 0.0, 0.0, 0.5), (0.0, 1.0, 0.0, 1.0, 0.0)], ids=["no transformer", "with it"]
)
@pytest.mark.parametrize("ssim", [0.0, 0.3])
def test_scores_are_the_same_where_what_weighs_nothing_is_not_computed(
    trained: Run, weighs: tuple[float, ...], ssim: float
) -> None:
    detector = load_detector(trained, prune=False)
    assert isinstance(detector.model, Autoencoder)
    detector.model.score_fusion.weight.copy_(torch.tensor(weighs))
    detector.ssim_weight.fill_(ssim)
    images = np.random.default_rng(5).integers(0, 256, (5, 32, 32, 3), np.uint8)
    whole = scores_and_peaks(detector, raw_maps(detector, images, CPU))
    detector.model.prune()
    for some, all_ in zip(scores_and_peaks(detector, weighted_maps(detector, images, CPU)), whole, strict=True):
        assert some == pytest.approx(all_, rel=1e-5)


def defects_of_both_sorts(seed: int) -> tuple[NDArray[Any], ...]:
    """Good pictures, others that stand for shifted ones, damaged in red, out of relation in green; the masks of either."""
    rng = np.random.default_rng(seed)
    good, shifted, damaged, related = (rng.integers(90, 110, (24, 32, 32, 3), np.uint8) for _ in range(4))
    masks = np.zeros((24, 32, 32), np.bool_)
    masks[:, 8:16, 16:24] = True
    damaged[..., 0][masks] += 130
    related[..., 1][masks] += 40
    return good, shifted, damaged, related, masks


@pytest.mark.parametrize("shakes", [False, True], ids=["free", "harms on damage"])
def test_with_defects_of_relation_the_weights_are_best_for_those_among_all_that_cost_little_on_damage(
    shakes: bool,
) -> None:
    """Damage is seen by the patch memory; what is elsewhere by the position Gaussian alone, which may cry out at each shift."""
    good, shifted, damaged, related, masks = defects_of_both_sorts(12)
    for pictures_ in (shifted, damaged, related) if shakes else ():
        pictures_[:, 24:, :, 1] += 90
    detector = Detector(tiny())
    model = detector.model = ScriptedScorers()
    sorts = Defective(damaged, masks), Defective(related, masks)
    found = fit_score_fusion(detector, Pictures(good, shifted, *sorts), CPU)
    assert found.chosen is not None
    assert found.chosen.relation is not None
    weight = model.score_fusion.weight
    assert bool(weight[2] > 0) != shakes
    best = max(found.qualities.values())
    assert best.damage - found.chosen.damage <= 0.005
    if not shakes:
        assert found.chosen.relation > 0.95
        alone = fit_score_fusion(detector, Pictures(good, shifted, sorts[0]), CPU)
        assert isinstance(alone.chosen, Quality)
        assert alone.chosen.relation is None


def test_a_head_that_finds_each_defect_of_relation_does_not_hide_what_the_others_miss() -> None:
    good, shifted, damaged, related, masks = defects_of_both_sorts(13)
    found = []
    for head_sees in (0.0, 1.0):
        detector = Detector(tiny())
        detector.model = ScriptedScorers(head_sees=head_sees)
        pictures_ = Pictures(good, shifted, Defective(damaged, masks), Defective(related, masks))
        found.append(fit_score_fusion(detector, pictures_, CPU))
    without, with_head = found
    assert with_head.qualities == without.qualities
    assert with_head.weights == without.weights
    assert with_head.weights["position_gaussian"] > 0
