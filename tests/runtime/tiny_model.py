"""A tiny ONNX detector without torch: the heatmap is how far a pixel is from a constant grey."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vtad_runtime.contract.card import (
    ONNX_KEY,
    REFERENCES_KEY,
    SCHEMA,
    Calibration,
    Card,
    CardError,
    Identity,
    Input,
    Output,
    Parity,
    ScoreRule,
)
from vtad_runtime.contract.card import UNIT as UNIT_ON_CARD
from vtad_runtime.contract.references import References, sampled
from vtad_runtime.engine.integrity import write_sealed

GREY = 100  # the good surface
UNIT = 25.0  # grey levels per standard deviation of good pictures
PIXEL_THRESHOLD = 3.0  # 75 grey levels
THRESHOLD = 2.0
GOOD_SCORES = tuple(round(0.1 * i, 1) for i in range(1, 20))  # 19 good images: the smallest p-value is 1/20
OUTPUTS = ("score", "heatmap", "ssim_map", "density_map", "reconstruction")


def make_card(width: int = 32, height: int = 32, **changes: Any) -> Card:
    """A whole card with a parity certificate; `changes` replace fields of its input."""
    shapes: dict[str, tuple[int | str, ...]] = dict.fromkeys(OUTPUTS, ("batch", height, width))
    shapes |= {"score": ("batch",), "reconstruction": ("batch", 3, height, width)}
    spec = Input("image", width, height, "rgb", "area-linear", "stretch", None)
    return Card(
        schema=SCHEMA,
        identity=Identity(
            "tiny", "2025-01-01T00:00:00Z", "0.1.0", None, {"size": width, "nested": {"a": [1]}}, "ab" * 32
        ),
        input=dataclasses.replace(spec, **changes),
        outputs=tuple(Output(name, shapes[name], UNIT_ON_CARD) for name in OUTPUTS),
        score_rule=ScoreRule(cell=8, top_share=0.01),
        calibration=Calibration(GOOD_SCORES, 0.05, 0.05, THRESHOLD, PIXEL_THRESHOLD, len(GOOD_SCORES)),
        weights_sha256="cd" * 32,
        results={"image_auroc": 0.5},
        parity=Parity("onnx", "fp32", 4, 4, {"score": 1e-6}, {"score": 1e-3}, 0),
    )


def write_model(path: Path, card: Card | None = None, text: str | None = None, **graph: Any) -> Path:
    """Write the model with digests; `text` replaces the card's JSON, "" leaves it out, `graph` goes to `make_graph`."""
    card = card or make_card()
    model = helper.make_model(
        make_graph(card.input.width, card.input.height, **graph),
        opset_imports=[helper.make_opsetid("", 20)],
        producer_name="tiny",
        ir_version=10,
    )
    given = card.to_json() if text is None else text
    if given:
        helper.set_model_props(model, {ONNX_KEY: given})
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    with suppress(CardError):  # text that is no card has no digests
        write_sealed(path, Card.from_json(given))
    return path


def make_graph(width: int, height: int, batch: int | str = "batch", drop: str = "", score_scale: float = 1.0) -> Any:
    """score = max of the heatmap; ssim_map = heatmap; density_map = heatmap of the red channel alone."""
    constants: dict[str, np.ndarray[Any, Any]] = {
        "grey": np.array(GREY, np.float32),
        "unit": np.array(UNIT, np.float32),
        "scale": np.array(score_scale, np.float32),
        "white": np.array(255, np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
        "channels": np.array([1], np.int64),
        "plane": np.array([1, 2], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["pixels", "grey"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Div", ["distance", "unit"], ["units"]),  # (B, 3, H, W)
        helper.make_node("ReduceMax", ["units", "channels"], ["heatmap"], keepdims=0),
        helper.make_node("Identity", ["heatmap"], ["ssim_map"]),
        helper.make_node("Slice", ["units", "zero", "one", "channels"], ["red"]),
        helper.make_node("Squeeze", ["red", "channels"], ["density_map"]),
        helper.make_node("ReduceMax", ["heatmap", "plane"], ["peak"], keepdims=0),
        helper.make_node("Mul", ["peak", "scale"], ["score"]),
        helper.make_node("Div", ["pixels", "white"], ["reconstruction"]),
    ]
    shapes: dict[str, list[int | str]] = {name: [batch, height, width] for name in OUTPUTS}
    shapes |= {"score": [batch], "reconstruction": [batch, 3, height, width]}
    return helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [batch, 3, height, width])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shapes[n]) for n in OUTPUTS if n != drop],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )


def good(width: int = 64, height: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A plain surface: every map is 0."""
    return np.full((height, width, 3), GREY, np.uint8)


def bad(
    width: int = 64, height: int = 64, x: int = 16, y: int = 24, size: int = 8
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The surface with a white square, 6.2 units."""
    rgb = good(width, height)
    rgb[y : y + size, x : x + size] = 255
    return rgb


def references(**changes: Any) -> References:
    """Two pictures and what the tiny model says of them."""
    noise = np.random.default_rng(0).integers(0, 9, (32, 32, 3), dtype=np.uint8)
    pixels = np.stack([p.transpose(2, 0, 1) for p in (good(32, 32) + noise, bad(32, 32, size=4))])
    units = np.abs(pixels.astype(np.float32) - GREY) / np.float32(UNIT)
    heatmap = units.max(axis=1)
    expected = {
        "score": heatmap.max(axis=(1, 2)),
        "heatmap": sampled(heatmap),
        "reconstruction": sampled(pixels.astype(np.float32) / np.float32(255)),
    }
    made = References(("good.png", "bad.png"), (False, True), pixels, expected, make_card().weights_sha256)
    return dataclasses.replace(made, **changes)


def with_references(path: Path, text: str, **graph: Any) -> Path:
    """Write the model with the text of reference pictures in it."""
    card = make_card()
    model = onnx.load(write_model(path, card, **graph))
    helper.set_model_props(model, {ONNX_KEY: card.to_json(), REFERENCES_KEY: text})
    onnx.save(model, path)
    write_sealed(path, card)
    return path
