"""A run whose backbone is a Vision Transformer from a file: exported without that file, proven, and judged by the runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from tiny_run import done, flags
from tiny_vit import write_vit
from torch.export import ExportedProgram

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from vtad.commands.train import train as vtad_train
from vtad.models.trained import load_detector
from vtad.run_folder import Run
from vtad_export.commands.export import export as vtad_export
from vtad_export.coreml_format import exporter
from vtad_export.coreml_format.conversion import convert
from vtad_export.coreml_format.mlpackage import read_package_card
from vtad_export.onnx_format.int8 import learned_products
from vtad_export.proof import grading, material
from vtad_runtime import Detector
from vtad_runtime.contract.image import read_rgb

pytestmark = pytest.mark.service  # converts a model of full depth: half a minute


@pytest.fixture(scope="module")
def changed() -> list[str]:
    """Tensors of traced programs that a conversion of the export changed."""
    return []


@pytest.fixture(scope="module")
def run(pills: Path, tmp_path_factory: pytest.TempPathFactory, changed: list[str]) -> Run:
    """Trained, then exported to Core ML with its ONNX fallback, both proven; the backbone's file was gone before the export."""
    here = tmp_path_factory.mktemp("vit")
    file = write_vit(here / "vit.pth", patch=14, depth=2, registers=4)
    options = flags(preset="default", epochs=1)
    done(vtad_train, "--category", "pill", "--data", pills, "--out", here / "runs", "--backbone", file, *options)
    file.unlink()

    def watched(program: ExportedProgram, *given: Any) -> Any:
        before = {k: v.clone() for k, v in program.state_dict.items()}
        made = convert(program, *given)
        changed.extend(k for k, v in program.state_dict.items() if not torch.equal(v, before[k]))
        return made

    run = Run(here / "runs" / "pill" / "0001")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "DEFECTIVE_IMAGES", 4)
        patch.setattr(grading, "DEFECTS", 1)
        patch.setattr(grading, "GOOD", 1)
        patch.setattr(exporter, "convert", watched)
        done(vtad_export, "--run", run.path, "--format", "coreml", "--layout", "standard")
    return run


def test_both_artefacts_carry_their_proof(run: Run) -> None:
    package = read_package_card(run.path / "export" / "pill.mlpackage")
    fallback = Detector(run.path / "export" / "pill.onnx").card
    assert package.parity is not None
    assert fallback.parity is not None
    assert package.parity.verdict_flips == fallback.parity.verdict_flips == 0
    assert package.weights_sha256 == fallback.weights_sha256 == run.card().weights_sha256


def test_the_runtime_says_what_torch_says(run: Run, pills: Path) -> None:
    from vtad.inspection import input_spec
    from vtad_runtime.contract.fit import fit_image

    rgb = read_rgb(pills / "pill" / "test" / "crack" / "000.png")
    pixels = np.ascontiguousarray(fit_image(rgb, input_spec(run.config()))[0].transpose(2, 0, 1))
    with torch.inference_mode():
        expected = load_detector(run)(torch.from_numpy(pixels)[None]).score.item()
    assert Detector(run.path / "export" / "pill.onnx")(rgb).score == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_in_int8_the_backbone_stays_as_it_is(run: Run) -> None:
    model = onnx.load(run.path / "export" / "pill.onnx")
    chosen = learned_products(model)
    assert chosen
    backbone = [node.name for node in model.graph.node if node.name.startswith("model.features.backbone")]
    assert [name for name in backbone if "/linear" in name]
    assert not set(chosen) & set(backbone)


@pytest.mark.usefixtures("run")
def test_a_conversion_leaves_the_traced_program_as_it_was(changed: list[str]) -> None:
    """coremltools negates in place what is subtracted after a convolution; the next precision would be of another network."""
    assert changed == []
