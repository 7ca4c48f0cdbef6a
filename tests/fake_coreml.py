"""A stand-in for Core ML on a Mac: answers coremltools' calls, each checked against the signature of the real function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vtad_runtime.engine.coreml_engine

Predict = Callable[[Path, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]  # package, (H, W, 3) -> outputs


class MLNeuralEngineComputeDevice:
    """Named as coremltools names it."""


class MLCPUComputeDevice:
    """Named as coremltools names it."""


@dataclass
class FakeMac:
    """What was asked of Core ML."""

    predict: Predict
    loaded: list[tuple[str, str]] = field(default_factory=list)  # package, compute units; of models that can predict
    functions: list[str | None] = field(default_factory=list)  # of those models
    predictions: int = 0
    planned: list[str] = field(default_factory=list)  # compute units of the plans asked for
    compiled: list[Path] = field(default_factory=list)
    plan_fails: bool = False
    refused: set[str] = field(default_factory=set)  # compute units on which no model loads


def fake_mac(monkeypatch: pytest.MonkeyPatch, predict: Predict, tmp_path: Path) -> FakeMac:
    """Let this machine be a Mac whose Core ML answers `predict`."""
    import coremltools as ct
    from coremltools.models.compute_plan import MLComputePlan

    mac = FakeMac(predict)
    real_model, real_plan = ct.models.MLModel, MLComputePlan.load_from_path
    real_compile = ct.models.utils.compile_model

    class Model:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            bound = inspect.signature(real_model).bind(*args, **kwargs)
            bound.apply_defaults()
            self.path = Path(bound.arguments["model"])
            units = bound.arguments["compute_units"]
            assert isinstance(units, ct.ComputeUnit)
            self.runs = not bound.arguments["skip_model_load"]
            if self.runs:
                if units.name in mac.refused:
                    raise RuntimeError(f"Error compiling model:\n{units.name} is not there")
                mac.loaded.append((self.path.name, units.name))
                mac.functions.append(bound.arguments["function_name"])

        def get_spec(self) -> Any:
            return ct.utils.load_spec(str(self.path))

        def predict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            bound = inspect.signature(real_model.predict).bind(self, *args, **kwargs)
            assert self.runs, "a model opened with skip_model_load predicts nothing"
            (image,) = bound.arguments["data"].values()
            assert isinstance(image, Image.Image), "an image input takes a PIL image"
            mac.predictions += 1
            return mac.predict(self.path, np.asarray(image))

    def load_plan(*args: Any, **kwargs: Any) -> Any:
        bound = inspect.signature(real_plan).bind(*args, **kwargs)
        if mac.plan_fails:
            raise ValueError("MLComputePlan is not supported.")
        assert Path(bound.arguments["path"]).suffix == ".mlmodelc"
        mac.planned.append(bound.arguments["compute_units"].name)
        return FakePlan()

    def compile_model(*args: Any, **kwargs: Any) -> str:
        inspect.signature(real_compile).bind(*args, **kwargs)
        made = tmp_path / "compiled.mlmodelc"
        made.mkdir()
        mac.compiled.append(made)
        return str(made)

    monkeypatch.setattr(ct.models, "MLModel", Model)
    monkeypatch.setattr(ct.models.utils, "compile_model", compile_model)
    monkeypatch.setattr(MLComputePlan, "load_from_path", load_plan)
    monkeypatch.setattr(vtad_runtime.engine.coreml_engine, "on_mac", lambda: True)
    return mac


class FakePlan:
    """A plan of four operations: a constant, two on the Neural Engine, one on the CPU of which the cost is not known."""

    def __init__(self) -> None:
        kinds = (("const", "weight"), ("ios16.conv", "stem"), ("ios16.softmax", "attention"), ("ios16.topk", "score"))
        operations = [
            SimpleNamespace(operator_name=kind, outputs=[SimpleNamespace(name=name)], inputs={}, blocks=[])
            for kind, name in kinds
        ]
        block = SimpleNamespace(operations=operations)
        self.model_structure = SimpleNamespace(
            program=SimpleNamespace(functions=dict.fromkeys(("main", "explain"), SimpleNamespace(block=block)))
        )

    def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
        if operation.operator_name == "const":
            return None
        cpu = operation.operator_name == "ios16.topk"
        return SimpleNamespace(
            preferred_compute_device=MLCPUComputeDevice() if cpu else MLNeuralEngineComputeDevice(),
            supported_compute_devices=[MLNeuralEngineComputeDevice(), MLCPUComputeDevice()],
        )

    def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
        costs = {"ios16.conv": 0.75, "ios16.softmax": 0.25}
        weight = costs.get(operation.operator_name)
        return None if weight is None else SimpleNamespace(weight=weight)
