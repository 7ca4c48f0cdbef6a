"""What the calibration gave no weight is neither stored nor computed after export, and the verdicts are the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file

from vtad.fitting.checkpoint import save_tensors
from vtad.models.score_fusion import ScorerMaps
from vtad.run_folder import Run, sha256
from vtad_export import to_onnx


@pytest.mark.parametrize("kept", [("patch_memory", "position_gaussian"), ("feature_gmm", "context_density")])
def test_an_export_holds_only_the_scorers_that_count(kept: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    scorers = [name for name in ScorerMaps._fields if name != "segmentation_head"]
    tensors = load_file(run.weights)
    tensors["model.score_fusion.weight"] = torch.tensor([*(float(name in kept) for name in scorers), 0.5])
    save_tensors(run.weights, tensors)
    run.write_card(dataclasses.replace(run.card(), weights_sha256=sha256(run.weights)))
    made = to_onnx(run, tmp_path / "a.onnx", tolerance={"score": 1e-2}, max_flips=64)
    graph = onnx.load(made.path).graph
    for names in ([node.name for node in graph.node], [tensor.name for tensor in graph.initializer]):
        found = {
            scorer
            for scorer in scorers
            if any(name.startswith((f"model.{scorer}.", f"model.{scorer}/")) for name in names)
        }
        assert found == set(kept)
