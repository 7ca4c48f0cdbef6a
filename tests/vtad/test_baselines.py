"""`make quality`: the baselines that users could pick instead, judged like a run, in rows that are made once."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_run import done, error
from torch import Tensor, nn

from bench.baselines.baseline import Baseline, gigaflop, stored_numbers
from bench.baselines.judge import judge
from bench.baselines.padim import REGULARISATION, Padim
from bench.baselines.patchcore import NEIGHBOURS, Patchcore, squared_distances
from bench.baselines.plain_autoencoder import Measure, PlainAutoencoder
from bench.quality import Plan, fill, quality, read_rows
from bench.quality_table import markdown
from vtad.data.images import ImageCache
from vtad.data.layout import find_category
from vtad.evaluation import at_source
from vtad.evaluation.evaluate import evaluate
from vtad.inspection import input_spec
from vtad.models.patch_memory import greedy_coreset
from vtad.models.trained import load_detector
from vtad.run_folder import Run, RunError
from vtad_runtime.contract.card import Input

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
    assert found.image_auroc == of_run.scores.image.auroc
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


@pytest.fixture
def plan(pills: Path, tmp_path: Path) -> Plan:
    """64 px pictures, half a second of training."""
    return Plan(pills, tmp_path / "quality", minutes=0.008, size=(SIDE, SIDE))


@pytest.mark.slow
def test_rows_are_made_once(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    rows = fill(plan, ("pill",), (0,), ("scratch", "l1"))
    assert [row["method"] for row in rows] == ["scratch", "l1"]
    before = plan.rows.read_bytes()
    capsys.readouterr()
    assert fill(plan, ("pill",), (0,), ("scratch", "l1")) == rows
    assert capsys.readouterr().out.count("there already") == 2
    assert plan.rows.read_bytes() == before
    assert len(fill(plan, ("pill",), (0, 1), ("l1",))) == 3  # another seed is another row
    longer = dataclasses.replace(plan, minutes=0.009)
    assert len(fill(longer, ("pill",), (0,), ("l1",))) == 4  # so are other minutes


@pytest.mark.slow
def test_a_run_that_is_complete_is_evaluated_and_not_trained_again(plan: Plan) -> None:
    (row,) = fill(plan, ("pill",), (0,), ("scratch",))
    plan.rows.unlink()
    (again,) = fill(plan, ("pill",), (0,), ("scratch",))
    timing = ("train_seconds",)
    assert {k: v for k, v in again.items() if k not in timing} == {k: v for k, v in row.items() if k not in timing}
    assert again["train_seconds"] > 0


@pytest.mark.slow
def test_a_row_holds_the_figures_of_the_evaluation_and_the_cost(plan: Plan) -> None:
    (row,) = fill(plan, ("pill",), (0,), ("scratch",))
    of_run = json.loads((Path(row["run"]) / "metrics.json").read_text())
    assert row["image_auroc"] == of_run["scores"]["image"]["auroc"]
    assert (row["pixel_auroc"], row["aupro"]) == (of_run["heatmap"]["auroc"], of_run["heatmap"]["aupro"])
    assert (row["ssim_aupro"], row["density_aupro"]) == (of_run["ssim_map"]["aupro"], of_run["density_map"]["aupro"])
    assert 0 <= row["context_aupro"] <= 1
    assert 0 <= row["context_image_auroc"] <= 1
    assert (row["missed"], row["false_alarms"]) == (of_run["scores"]["miss_rate"], of_run["scores"]["false_alarm_rate"])
    assert row["train_seconds"] > 0
    assert row["stored_numbers"] > row["parameters"] > 0
    assert row["gflop"] > 0


@pytest.mark.slow
def test_baselines_see_what_default_sees(plan: Plan) -> None:
    sized = dataclasses.replace(plan, size=(48, 64))
    default, padim, patchcore = fill(sized, ("pill",), (0,), ("patchcore", "padim", "default"))
    assert (default["method"], padim["method"], patchcore["method"]) == ("default", "padim", "patchcore")
    assert default["input"] == padim["input"] == patchcore["input"] == "48x64 stretch"
    assert padim["image_auroc"] is not None
    assert padim["aupro"] is not None


@pytest.mark.slow
def test_baselines_take_the_size_that_default_would_choose(pills: Path, tmp_path: Path) -> None:
    (row,) = fill(Plan(pills, tmp_path / "quality", minutes=0.008), ("pill",), (0,), ("l1",))
    assert row["input"] == f"{SIDE}x{SIDE} stretch"


def test_a_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"category": "pill", "seed": 0, "method": "l1", "asked": {}, "commit": "c"}\n{"half\n')
    with pytest.raises(RunError, match="line 2"):
        read_rows(path)


def row(
    method: str, seed: int, figures: tuple[float, float, float | None], category: str = "cup", **more: Any
) -> dict[str, Any]:
    image, pixel, aupro = figures
    return {
        "category": category,
        "seed": seed,
        "method": method,
        "asked": {},
        "commit": "abc",
        "input": "64x64 stretch",
        "image_auroc": image,
        "pixel_auroc": pixel,
        "aupro": aupro,
        **more,
    }


def line(text: str, start: str) -> list[str]:
    """The cells of the first line of a table that starts so."""
    found = next(part for part in text.splitlines() if part.startswith(f"| {start} |"))
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_table_gives_means_over_seeds_and_marks_the_better_baseline() -> None:
    text = markdown(
        [
            row("default", 0, (0.9, 0.8, 0.7), missed=0.1),
            row("default", 1, (1.0, 0.9, 0.8), missed=0.3),
            row("padim", 0, (0.9, 0.9, 0.5)),
            row("patchcore", 0, (0.8, 0.95, 0.6)),
        ]
    )
    assert line(text, "default")[:6] == ["default", "0, 1", "64x64 stretch", "0.950", "0.850", "0.750"]
    assert "20.0%" in line(text, "default")
    assert line(text, "padim")[3:6] == ["**0.900**", "0.900", "0.500"]
    assert line(text, "patchcore")[3:6] == ["0.800", "**0.950**", "**0.600**"]
    assert "default against the better baseline: image AUROC +0.050, pixel AUROC -0.100, AUPRO +0.150" in text
    assert "Mean of" not in text
    assert all(len(line(text, name)) == len(line(text, "method")) for name in ("default", "padim", "patchcore"))


def test_the_table_says_nothing_where_a_figure_is_missing_and_keeps_unlike_rows_apart() -> None:
    text = markdown(
        [
            row("padim", 0, (0.9, 0.8, None)),
            row("padim", 1, (0.9, 0.8, 0.7)),
            row("l1", 0, (0.5, 0.5, 0.5), asked={"minutes": 2.0}),
            row("l1", 0, (0.6, 0.6, 0.6)),
        ]
    )
    assert line(text, "padim")[5] == "-"
    assert line(text, "l1, minutes 2.0")[3] == "0.500"
    assert line(text, "l1")[3] == "0.600"


def test_the_mean_over_categories_is_of_methods_that_ran_on_all() -> None:
    text = markdown(
        [
            row("default", 0, (1.0, 1.0, 1.0), "cup"),
            row("default", 0, (0.5, 0.5, 0.5), "lid"),
            row("default", 1, (0.0, 0.0, 0.0), "lid"),
            row("padim", 0, (1.0, 1.0, 1.0), "cup"),
        ]
    )
    mean = text[text.index("## Mean of cup, lid") :]
    assert line(mean, "default")[1:4] == ["0", "64x64 stretch", "0.750"]
    assert "| padim |" not in mean


@pytest.mark.slow
def test_the_command_prints_and_writes_the_table(pills: Path, tmp_path: Path) -> None:
    out = tmp_path / "quality"
    given = ("--data", pills, "--seeds", "0", "--methods", "l1", "--minutes", 0.005, "--size", "64x64", "--out", out)
    printed = done(quality, *given)
    table = (out / "quality.md").read_text()
    assert table.rstrip("\n") in printed
    assert line(table, "l1, minutes 0.005, size 64x64")[1] == "0"


@pytest.mark.slow
def test_a_changed_preset_is_a_row_of_its_own_with_what_its_tokens_did(pills: Path, tmp_path: Path) -> None:
    out = tmp_path / "quality"
    given = ["--data", pills, "--seeds", "0", "--methods", "scratch", "--epochs", 3, "--size", "32x32", "--out", out]
    changes = {"patches": 16, "embed_dim": 16, "heads": 2, "feature_dim": 8, "symmetries": "none", "val_split": 0.25}
    for name, value in changes.items():
        given += ["--change", f"{name}={value}"]
    for registers in (0, 2):
        done(quality, *given, "--change", f"registers={registers}")
    none, two = read_rows(out / "rows.jsonl")
    assert (none["asked"]["registers"], two["asked"]["registers"]) == (0, 2)
    assert "token_norm_register_mean" in two
    assert "token_norm_register_mean" not in none
    assert none["last_nll"] != two["last_nll"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--methods", "padim,fastflow", "got fastflow"),
        ("--categories", "cup", "expected some of pill, got cup"),
        ("--size", "64", "expected HEIGHTxWIDTH"),
        ("--size", "60x64", "multiple of"),
        ("--seeds", "0,one", "expected whole numbers"),
        ("--change", "registers=few", "--change: expected a field of the configuration and its value"),
        ("--change", "register=0", "got 'register=0'"),
        ("--data", "nowhere", "expected a folder of categories"),
    ],
)
def test_a_bad_option_is_one_line(pills: Path, tmp_path: Path, option: str, value: str, said: str) -> None:
    good = {"--data": str(pills), "--methods": "l1", "--out": str(tmp_path / "quality"), option: value}
    assert said in error(2, quality, *(part for pair in good.items() for part in pair))
