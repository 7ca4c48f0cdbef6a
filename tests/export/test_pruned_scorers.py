"""What the calibration gave no weight is neither stored nor computed after export, and the verdicts are the same."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import torch
from safetensors.torch import load_file

from vtad.fitting.checkpoint import save_tensors
from vtad.models.score_fusion import ScorerMaps
from vtad.run_folder import Run, sha256
from vtad_export import to_onnx
from vtad_export.proof.exporter import Export

SCORERS = [name for name in ScorerMaps._fields if name != "segmentation_head"]


def scorers_in(path: Path) -> set[str]:
    """Those that an ONNX file computes, which are those whose tensors it stores."""
    graph = onnx.load(path).graph
    computed, stored = (
        {
            scorer
            for scorer in SCORERS
            if any(name.startswith((f"model.{scorer}.", f"model.{scorer}/")) for name in names)
        }
        for names in ([node.name for node in graph.node], [tensor.name for tensor in graph.initializer])
    )
    assert computed == stored
    return computed


def test_an_export_holds_only_the_scorers_that_count(exported: Export, run: Run, tmp_path: Path) -> None:
    """Those that the calibration chose in its export, and all the others where these count instead."""
    tensors = load_file(run.weights)
    weight = tensors["model.score_fusion.weight"]
    counted = {name for name, w in zip(SCORERS, weight[:-1].tolist(), strict=True) if w}
    assert 0 < len(counted) < len(SCORERS)
    assert scorers_in(exported.path) == counted
    tensors["model.score_fusion.weight"] = torch.tensor([*(float(name not in counted) for name in SCORERS), 0.5])
    save_tensors(run.weights, tensors)
    run.write_card(dataclasses.replace(run.card(), weights_sha256=sha256(run.weights)))
    made = to_onnx(run, tmp_path / "a.onnx", tolerance={"score": 1e-2}, max_flips=64)
    assert scorers_in(made.path) == set(SCORERS) - counted
