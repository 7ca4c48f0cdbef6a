"""Every deployment target converts a tiny detector, and the package says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

from shared_conversions import Conversions, Traced

from vtad.models.trained import load_detector
from vtad.run_folder import Run, RunError
from vtad_export.coreml_format.choices import Target
from vtad_export.coreml_format.conversion import convert, write_package
from vtad_export.coreml_format.graph import prepared
from vtad_export.coreml_format.mil import Executor
from vtad_export.coreml_format.mlpackage import specification

pytestmark = pytest.mark.slow

# specification version and operation set of Core ML, by coremltools' table
VERSIONS = {"iOS16": (7, "CoreML6"), "iOS17": (8, "CoreML7"), "iOS18": (9, "CoreML8"), "iOS26": (10, "CoreML9")}
OF_THE_SAME_YEAR = {"macOS13": "iOS16", "macOS14": "iOS17", "macOS15": "iOS18", "macOS26": "iOS26"}


def test_every_target_is_tested_a_mac_being_the_same_target_as_its_phone() -> None:
    import coremltools as ct

    assert set(get_args(Target)) == VERSIONS.keys() | OF_THE_SAME_YEAR.keys()
    for mac, phone in OF_THE_SAME_YEAR.items():
        assert getattr(ct.target, mac) is getattr(ct.target, phone)


@pytest.mark.parametrize("target", VERSIONS)
def test_a_target_converts_and_computes_what_torch_does(
    target: Any, trained: Run, conversions: Conversions, tmp_path: Path
) -> None:
    detector, path = load_detector(trained), tmp_path / "m.mlpackage"
    write_package(conversions.convert(Traced(prepared(detector, "ane")), "fp32", target), trained.card(), path)
    spec = specification(path)
    executor = Executor.load(path)
    assert (spec.specificationVersion, executor.program.opset) == VERSIONS[target]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    with torch.inference_mode():
        expected = detector(torch.from_numpy(pixels))
    found = executor(pixels)
    np.testing.assert_allclose(found["reconstruction"], expected.reconstruction, atol=1e-5)
    np.testing.assert_allclose(found["score"], expected.score, rtol=1e-4)


def test_a_target_that_coremltools_does_not_know_is_refused() -> None:
    unknown: Any = "iOS99"
    with pytest.raises(RunError, match=r"expected a target that coremltools .* knows, got iOS99"):
        convert(torch.export.export(torch.nn.ReLU(), (torch.zeros(1),)), "fp32", unknown)
