"""A Vision Transformer from a file as the backbone: what it computes, what files it takes, and that a run keeps it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from tiny_run import done, error, flags, tiny
from tiny_vit import DIM, State, random_vit, write_vit
from torch import Tensor

from vtad.backbones import pretrained
from vtad.backbones.backbone import BackboneError
from vtad.backbones.pretrained import read_pretrained, with_backbone
from vtad.backbones.vit_backbone import VitBackbone, at_grid, projection
from vtad.backbones.vit_checkpoint import VitCheckpoint, VitShape, read_checkpoint
from vtad.commands.train import train as command
from vtad.config import Config, ConfigError, preset
from vtad.fitting.loop import Interrupted
from vtad.models.detector import Detector
from vtad.models.trained import load_detector
from vtad.run_folder import Run, sha256
from vtad.training import train

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def literal_maps(state: State, image: Tensor) -> list[Tensor]:
    """The last norm on the tokens after each quarter of the blocks, from the definition: one image, one head at a time."""
    dim, _, patch, _ = state["patch_embed.proj.weight"].shape
    rows, columns = image.shape[2] // 16, image.shape[3] // 16
    x = (image - MEAN) / STD
    x = F.interpolate(x, size=(rows * patch, columns * patch), mode="bilinear", align_corners=False)
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=patch)
    tokens = x.flatten(2).transpose(1, 2)
    position = state["pos_embed"]
    prefix = state.get("cls_token", torch.zeros(1, 0, dim))
    side = int(position.shape[1] ** 0.5)
    if side**2 != position.shape[1]:
        prefix = prefix + position[:, :1]
        position = position[:, 1:]
    square = position.transpose(1, 2).reshape(1, dim, side, side)
    square = F.interpolate(square, size=(rows, columns), mode="bicubic", antialias=False, align_corners=False)
    registers = state.get("register_tokens", state.get("reg_token", torch.zeros(1, 0, dim)))
    first = prefix.shape[1] + registers.shape[1]
    x = torch.cat([p.expand(len(image), -1, -1) for p in (prefix, registers)] + [tokens + square.flatten(2).mT], dim=1)
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    after = []
    for i in range(depth):
        x = literal_block(state, f"blocks.{i}.", x)
        after.append(F.layer_norm(x, (dim,), state["norm.weight"], state["norm.bias"], eps=1e-6)[:, first:])
    return [after[depth * n // 4 - 1].mT.reshape(len(image), dim, rows, columns) for n in (1, 2, 3, 4)]


def literal_block(state: State, at: str, x: Tensor) -> Tensor:
    def norm(name: str, y: Tensor) -> Tensor:
        return F.layer_norm(y, y.shape[-1:], state[f"{at}{name}.weight"], state[f"{at}{name}.bias"], eps=1e-6)

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, state[f"{at}{name}.weight"], state.get(f"{at}{name}.bias"))

    q, k, v = linear("attn.qkv", norm("norm1", x)).chunk(3, dim=-1)
    heads = []
    for start in range(0, x.shape[-1], 64):
        own = slice(start, start + 64)
        weights = torch.softmax(q[..., own] @ k[..., own].mT / 64**0.5, dim=-1)
        heads.append(weights @ v[..., own])
    x = x + state.get(f"{at}ls1.gamma", torch.ones(())) * linear("attn.proj", torch.cat(heads, dim=-1))
    return x + state.get(f"{at}ls2.gamma", torch.ones(())) * linear(
        "mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x)))
    )


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def loaded(path: Path, height: int = 48, width: int = 64) -> VitBackbone:
    found = read_checkpoint(path)
    backbone = VitBackbone(found.shape, height, width).eval()
    backbone.load_pretrained(found)
    return backbone


def pixels(height: int = 48, width: int = 64) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"registers": 0},
        {"patch": 16, "depth": 8},
        {"patch": 8, "dim": 128},
        {"layout": "timm"},
        {"layout": "timm", "registers": 0},
        {"layout": "timm", "class_position": False},
        {"layout": "timm", "class_position": False, "layer_scale": False, "qkv_bias": False},
        {"layout": "timm", "class_position": False, "class_token": False},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_maps_are_those_of_the_definition(choices: dict[str, Any], tmp_path: Path) -> None:
    state = random_vit(**choices)
    backbone = loaded(saved(tmp_path / "vit.pth", state))
    for got, expected in zip(backbone.maps(pixels()), literal_maps(state, pixels()), strict=True):
        assert expected.std() > 0.3
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_its_outputs_have_the_shapes_of_the_default_backbone_and_never_train(tmp_path: Path) -> None:
    backbone = loaded(write_vit(tmp_path / "vit.pth"))
    joined, maps = backbone(pixels())
    assert joined.shape == (2, 176, 6, 8)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 24, 32), (24, 12, 16), (40, 6, 8), (112, 6, 8)]
    assert torch.equal(joined[:, :, ::2, ::2], joined[:, :, 1::2, 1::2])  # a token stands for 2 x 2 cells
    assert not any(p.requires_grad for p in backbone.parameters())


@torch.no_grad()
def test_class_token_and_registers_take_part(tmp_path: Path) -> None:
    state = random_vit()
    before = loaded(saved(tmp_path / "a.pth", state)).maps(pixels())
    for name in ("register_tokens", "cls_token"):
        changed = state | {name: state[name].flip(-1)}
        after = loaded(saved(tmp_path / "b.pth", changed)).maps(pixels())
        assert all((a - b).abs().max() > 1e-2 for a, b in zip(before, after, strict=True))


def test_positions_are_kept_where_the_grid_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    state = random_vit(side=4)
    backbone = loaded(saved(tmp_path / "vit.pth", state), 64, 64)
    assert torch.equal(backbone.position, state["pos_embed"][:, 1:])
    square = torch.randn(1, 8, 3, 3)
    assert at_grid(square, (5, 2)).shape == (1, 10, 8)


def test_the_positions_of_registers_are_added_to_them_where_there_are_any(tmp_path: Path) -> None:
    state = random_vit("timm", side=5)
    extra, squares = torch.randn(1, 5, DIM), torch.randn(1, 25, DIM)
    backbone = loaded(saved(tmp_path / "vit.pth", state | {"pos_embed": torch.cat([extra, squares], dim=1)}), 80, 80)
    tokens = torch.cat([state["cls_token"], state["reg_token"]], dim=1)
    torch.testing.assert_close(backbone.extra.tokens.data, tokens + extra)
    assert torch.equal(backbone.position, squares)


def test_projections_nearly_keep_distances_and_are_the_same_each_time() -> None:
    for wide, narrow in ((1152, 176), (192, 40)):
        matrix = projection(wide, narrow)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(narrow), atol=1e-5, rtol=0)
        assert torch.equal(matrix, projection(wide, narrow))
    x = torch.randn(50, 1152, generator=torch.Generator().manual_seed(0))
    ratio = torch.pdist(x @ projection(1152, 176).T) / torch.pdist(x) * (1152 / 176) ** 0.5
    assert 0.75 < ratio.min() < ratio.max() < 1.25
    lossless = projection(12, 16)
    torch.testing.assert_close(lossless.T @ lossless, torch.eye(12), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda s: {"model": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"teacher": {f"backbone.{k}": v for k, v in s.items()} | {"dino_head.mlp.0.weight": torch.ones(2)}},
        lambda s: {"model": {"teacher": {f"module.backbone.{k}": v for k, v in s.items()}}},
        lambda s: {k: v.half().float() for k, v in s.items()},
    ],
    ids=["model", "state_dict", "teacher", "both", "plain"],
)
def test_nested_and_prefixed_checkpoints_are_the_same_weights(
    wrapped: Callable[[State], dict[str, Any]], tmp_path: Path
) -> None:
    state = {k: v.half().float() for k, v in random_vit().items()}
    plain = read_checkpoint(saved(tmp_path / "plain.pth", state))
    found = read_checkpoint(saved(tmp_path / "other.pth", wrapped(state)))
    assert found.shape == plain.shape == VitShape(DIM, 4, 14, 4, 2 * DIM, 1)
    assert all(torch.equal(plain.tensors[k], x) for k, x in found.tensors.items())


def test_safetensors_and_half_precision_are_taken(tmp_path: Path) -> None:
    state = {k: v.half() for k, v in random_vit().items()}
    save_file(state, tmp_path / "vit.safetensors")
    found = read_checkpoint(tmp_path / "vit.safetensors")
    assert found.sha256 == sha256(tmp_path / "vit.safetensors")
    assert all(x.dtype == torch.float32 for x in found.tensors.values())
    assert torch.equal(found.tensors["norm.weight"], state["norm.weight"].float())


def swiglu(state: State) -> State:
    return {k.replace("fc1", "w12").replace("fc2", "w3"): v for k, v in state.items()}


def without(name: str) -> Callable[[State], State]:
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (swiglu, r"a plain ViT \(no SwiGLU\), got 'blocks.0.mlp.w12.bias' and 15 more"),
        (lambda s: s | {"norm_pre.weight": torch.ones(DIM)}, "got 'norm_pre.weight' and 0 more"),
        (without("norm.bias"), "a tensor norm.bias, got none"),
        (without("blocks.2.attn.proj.weight"), "a tensor blocks.2.attn.proj.weight, got none"),
        (without("patch_embed.proj.weight"), "a tensor patch_embed.proj.weight, got none"),
        (lambda s: {k: v for k, v in s.items() if "blocks" not in k}, "a tensor blocks.0.mlp.fc1.bias, got none"),
        (lambda s: s | {"norm.bias": torch.ones(9)}, r"norm.bias of shape \(64,\), got \(9,\)"),
        (lambda s: s | {"norm.bias": torch.full((DIM,), torch.nan)}, "finite numbers in norm.bias"),
        (lambda s: s | {"norm.bias": torch.ones(DIM, dtype=torch.int8)}, "finite numbers in norm.bias"),
        (lambda s: s | {"pos_embed": torch.ones(1, 12, DIM)}, r"pos_embed for a square of patches.*got \(1, 12, 64\)"),
        (lambda s: s | {"cls_token": torch.ones(DIM)}, r"cls_token of shape \(1, count, 64\), got \(64,\)"),
        (lambda s: s | {"patch_embed.proj.weight": torch.ones(DIM, 1, 14, 14)}, "patches of RGB squares"),
        (lambda s: s | {"patch_embed.proj.weight": torch.ones(96, 3, 14, 14)}, "a multiple of 64, .* got 96"),
        (lambda s: {**s, "epoch": 3}, "a state dict of tensors alone, got an entry 'epoch'"),
        (lambda s: {0: "a"}, "a state dict of tensors alone, got an entry 0"),
        (lambda s: {}, "a state dict, got dict without tensors"),
        (lambda s: torch.ones(3), "a state dict, got Tensor without tensors"),
        (lambda s: random_vit(dim=96), "a multiple of 64, .* got 96"),
    ],
)
def test_what_is_no_plain_vit_is_one_line_that_names_the_file_and_the_tensor(
    change: Callable[[State], object], says: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "vit.pth", change(random_vit()))
    with pytest.raises(BackboneError, match=f"vit.pth: expected .*{says}.*: give --backbone the weights") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return write_vit(tmp_path / "vit.pth")


@pytest.fixture
def configured(pills: Path, tmp_path: Path, vit: Path) -> Callable[..., Config]:
    """configured(**changes) -> a tiny configuration with a tiny ViT as its backbone."""
    values = {"data": str(pills), "out": str(tmp_path / "runs"), "backbone_file": vit, "epochs": 1}
    return lambda **changes: tiny("default", **{**values, **changes})


def unusable(kind: str, folder: Path) -> Path:
    path = folder / ("weights.safetensors" if kind == "torn safetensors" else "weights.pth")
    whole = write_vit(folder / "whole.pth").read_bytes()
    match kind:
        case "folder":
            path.mkdir()
        case "loop":
            path.symlink_to(path)
        case "pipe":
            os.mkfifo(path)
        case "text":
            path.write_text("no weights")
        case "empty":
            path.touch()
        case "torn":
            path.write_bytes(whole[: len(whole) // 2])
        case "torn safetensors":
            save_file(random_vit(), path)
            path.write_bytes(path.read_bytes()[:1000])
        case "objects":
            torch.save(np.random.default_rng(0), path)
        case "gone":
            pass
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("gone", "No such file"),
        ("folder", "got a folder"),
        ("loop", "symbolic links"),
        ("pipe", "got something else"),
        ("text", "that torch.load reads"),
        ("empty", "that torch.load reads"),
        ("torn", "that torch.load reads"),
        ("torn safetensors", "or .safetensors"),
        ("objects", "that torch.load reads"),
    ],
)
def test_an_unusable_file_is_one_line_and_exit_code_2_and_leaves_nothing(
    pills: Path, tmp_path: Path, kind: str, says: str
) -> None:
    path, out = unusable(kind, tmp_path), tmp_path / "runs"
    options = ["--category", "pill", "--data", pills, "--out", out, "--backbone", path, *flags(preset="default")]
    line = error(2, command, *options)
    assert line.startswith(f"Error: {path}: expected")
    assert says in line
    assert not out.exists()


@pytest.mark.parametrize("name", ["scratch", "paper"])
def test_a_preset_without_a_backbone_takes_none(name: Any, pills: Path, tmp_path: Path, vit: Path) -> None:
    line = error(2, command, "--category", "pill", "--data", pills, "--preset", name, "--backbone", vit)
    assert f"backbone_file: the preset {name} has no backbone: leave --backbone out" in line
    with pytest.raises(ConfigError):
        preset(name, "pill", backbone_file=vit)


@pytest.fixture(scope="module")
def own(pills: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A training of two epochs from a file that is gone, and the digest of that file. Read only."""
    here = tmp_path_factory.mktemp("vit")
    vit = write_vit(here / "vit.pth")
    digest = sha256(vit)
    run = train(tiny("default", data=str(pills), out=str(here), backbone_file=str(vit)))
    vit.unlink()
    return run, digest


@pytest.mark.slow
def test_a_trained_run_says_what_its_backbone_was_and_needs_the_file_no_more(own: tuple[Run, str], vit: Path) -> None:
    run, digest = own
    config = run.config()
    assert config.backbone_sha256 == run.card().identity.config["backbone_sha256"] == digest
    assert config.backbone_shape == "dim=64,depth=4,patch=14,registers=4,mlp_dim=128,class_token=1"
    found, expected = load_file(run.weights), loaded(vit, 32, 32).state_dict()
    assert all(torch.equal(found[f"model.features.backbone.{k}"], v) for k, v in expected.items())
    judged = load_detector(run)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    assert torch.isfinite(judged.score).all()


@pytest.mark.slow
def test_the_size_and_symmetries_are_found_with_it_too(configured: Callable[..., Config]) -> None:
    config = train(configured(size="auto", symmetries="auto")).config()
    assert (config.image_height, config.image_width) == (64, 64)
    assert config.symmetries != "auto"


@pytest.mark.slow
@pytest.mark.parametrize("change", ["gone", "another"])
def test_a_stopped_training_continues_to_the_same_weights_whatever_became_of_the_file(
    own: tuple[Run, str], configured: Callable[..., Config], vit: Path, change: str
) -> None:
    unbroken, _ = own
    config = configured(epochs=2)
    calls = iter([False, True])
    with pytest.raises(Interrupted) as caught:
        train(config, stop=lambda: next(calls))
    vit.unlink()
    if change == "another":
        write_vit(vit, seed=1, depth=2)
    run = caught.value.run
    assert f"continuing {run.path}" in done(command, "--resume", "--run", run.path)
    first, second = load_file(unbroken.weights), load_file(run.weights)
    assert [k for k in first if not torch.equal(first[k], second[k])] == []


@pytest.mark.slow
def test_the_file_is_read_once(configured: Callable[..., Config], vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that what becomes of it while a training starts does not matter."""

    def read_and_remove(path: Path) -> VitCheckpoint:
        found = read_checkpoint(path)
        path.unlink()
        return found

    monkeypatch.setattr(pretrained, "read_checkpoint", read_and_remove)
    assert train(configured(symmetries="auto")).complete
    assert not vit.exists()


def test_the_shape_survives_text_and_other_text_is_refused(vit: Path) -> None:
    shape = read_checkpoint(vit).shape
    assert VitShape.from_text(shape.text()) == shape
    for text in ("", "dim=64", shape.text() + ",x=1", shape.text().replace("64", "65"), shape.text().replace("4", "0")):
        with pytest.raises(BackboneError, match="backbone_shape: expected dim, depth") as caught:
            VitShape.from_text(text)
        assert "\n" not in str(caught.value)


def test_a_detector_cannot_be_built_before_the_shape_is_known(configured: Callable[..., Config]) -> None:
    with pytest.raises(BackboneError, match="backbone_shape"):
        Detector(configured())
    assert with_backbone(configured(), read_pretrained(configured())).backbone_shape
    assert with_backbone(tiny("default"), read_pretrained(tiny("default"))) == tiny("default")


@pytest.mark.slow
def test_a_damaged_shape_in_a_run_is_one_line(own: tuple[Run, str], tmp_path: Path) -> None:
    from vtad.commands.evaluate import evaluate

    run = Run(Path(shutil.copytree(own[0].path, tmp_path / "runs" / "pill" / "0001")))
    text = (run.path / "config.json").read_text()
    (run.path / "config.json").write_text(text.replace("dim=64", "dim=none"))
    assert "backbone_shape: expected" in error(2, evaluate, "--run", run.path)
