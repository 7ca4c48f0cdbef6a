"""What the calibration gave no weight is neither stored nor computed after export, and the verdicts are the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file

from vtad.fitting.checkpoint import save_tensors
from vtad.run_folder import Run, sha256
from vtad_export import to_onnx


def stored(run: Run, path: Path, weights: list[float]) -> int:
    """How many numbers the proven export stores when scorers, in the order of `ScorerMaps`, have these weights."""
    tensors = load_file(run.weights)
    tensors["model.score_fusion.weight"] = torch.tensor(weights)
    save_tensors(run.weights, tensors)
    run.write_card(dataclasses.replace(run.card(), weights_sha256=sha256(run.weights)))
    made = to_onnx(run, path, tolerance={"score": 1e-2}, max_flips=64)
    return sum(torch.Size(t.dims).numel() for t in onnx.load(made.path).graph.initializer)


def test_an_export_holds_only_the_scorers_that_count(run: Run, tmp_path: Path) -> None:
    tensors = load_file(run.weights)
    every = stored(run, tmp_path / "every.onnx", [1.0, 1.0, 1.0, 1.0, 0.5])

    def largest(name: str) -> int:
        return max(t.numel() for key, t in tensors.items() if key.startswith(f"model.{name}."))

    without = stored(run, tmp_path / "a.onnx", [0.0, 1.0, 0.0, 1.0, 0.5])
    assert without <= every - largest("patch_memory") - largest("position_gaussian")
    without = stored(run, tmp_path / "b.onnx", [1.0, 0.0, 1.0, 0.0, 0.5])
    assert without <= every - largest("feature_gmm") - largest("context_density")
