"""Mutations of exports, each a single fault: caught by the proof where the exporter makes it, and by the digests afterwards.

Made by the exporter: the wrong artefact is sealed with digests of its own, as if it had been meant, and the checks of the export
run on it. Afterwards: the artefact is sealed, then changed. The tests print the list (`pytest -s`): every mutation, and what
catches it. Those that the proof need not see are below its tolerances, and named so.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")

import coreml_mutations
from card_mutations import CARD, Edit
from onnx_mutations import BELOW, GRAPH, INTERFACE, WEIGHTS, Change, noisy_score

from vtad.models.trained import load_detector
from vtad_export.coreml_format.mlpackage import Program, read_program
from vtad_export.coreml_format.reading_back import read_back as read_package_back
from vtad_export.coreml_format.same_program import difference
from vtad_export.folding.detector import folded
from vtad_export.onnx_format.graph import executor
from vtad_export.onnx_format.int8 import int8_matmuls
from vtad_export.onnx_format.reading_back import check_rounded, compare_constants, read_back
from vtad_export.proof.errors import ParityError
from vtad_export.proof.interface import check_card
from vtad_export.proof.material import Samples, samples
from vtad_export.proof.parity import accept, compare
from vtad_export.proof.tolerance import TOLERANCE
from vtad_runtime.contract.card import REFERENCES_KEY, Card, CardError
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.card_entry import replace_card
from vtad_runtime.engine.integrity import MANIFEST, contents, integrity, write_sealed

if TYPE_CHECKING:
    from vtad.run_folder import Run
    from vtad_export.coreml_format.exporter import CoreMLExport
    from vtad_export.proof.exporter import Export

pytestmark = pytest.mark.slow

Check = Callable[[Path], object]  # raises VtadError


class Checked:
    """The checks of an ONNX export, on few pictures."""

    def __init__(self, exported: Export, run: Run, data: Path) -> None:
        found = samples(run, data)
        self.path, self.card, self.detector = exported.path, exported.card, load_detector(run)
        self.arranged = folded(self.detector)
        entries = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
        self.references = entries[REFERENCES_KEY]
        self.sample = Samples(found.good[:1], found.defective[:7])

    def __call__(self, path: Path) -> None:
        """What `to_onnx` does after writing. Raises VtadError."""
        pixels = np.concatenate([self.sample.good, self.sample.defective]).transpose(0, 3, 1, 2)
        card, whole = write_sealed(path, self.card), onnx.load(path)
        read_back(path, card, whole, self.arranged, self.detector, pixels, TOLERANCE, self.references)
        found = compare(self.detector, executor(path), self.sample, self.card.calibration, TOLERANCE)
        accept(found, self.sample, format="onnx", precision="fp32", tolerance=TOLERANCE)


@pytest.fixture(scope="module")
def checked(exported: Export, trained: Run, pills: Path) -> Checked:
    return Checked(exported, trained, pills)


def caught(check: Check, path: Path) -> str | None:
    """What a check says of a wrong artefact; None: nothing."""
    try:
        check(path)
    except VtadError as e:
        return str(e)
    return None


def print_and_expect(found: Mapping[str, str | None], kind: str) -> None:
    """Print the list; each is caught."""
    for name, said in found.items():
        print(f"{kind}: {name:<45} {said or 'SURVIVED'}"[:200])
    assert not [name for name, said in found.items() if said is None]


def changed(checked: Checked, change: Change, folder: Path) -> Path:
    """The exported file with a change, its digests as they were."""
    model = onnx.load(checked.path)
    change(model)
    path = folder / "mutant.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_the_file_as_it_was_exported_passes(checked: Checked, tmp_path: Path) -> None:
    path = Path(shutil.copy(checked.path, tmp_path))
    assert str(integrity(path)) == "as exported"
    checked(path)


def test_a_weight_of_nearly_one_may_be_taken_out_of_the_file(checked: Checked) -> None:
    model, detector = onnx.load(checked.path), copy.deepcopy(checked.arranged)
    detector.ssim_weight.zero_()
    detector.density_weight.fill_(1 - 2**-24)  # as the calibration leaves it where SSIM weighs nothing
    for tensor in [t for t in model.graph.initializer if t.name == "density_weight"]:
        model.graph.initializer.remove(tensor)
    assert "density_weight" in compare_constants(model, detector, detector).folded
    detector.density_weight.fill_(0.9876)
    with pytest.raises(ParityError, match="density_weight"):
        compare_constants(model, detector, detector)


def test_a_file_whose_verdict_alone_has_another_score_is_refused(checked: Checked, tmp_path: Path) -> None:
    """By one bit, far below any tolerance: the score of each run is a little different, and each entry is a run."""
    assert "from its part for a verdict the score of the whole, bit for bit" in str(
        caught(checked, changed(checked, noisy_score, tmp_path))
    )


@pytest.mark.parametrize("kind", ["INTERFACE", "WEIGHTS", "GRAPH"])
def test_every_mutation_of_an_onnx_file_is_caught(checked: Checked, tmp_path: Path, kind: str) -> None:
    mutations = {"INTERFACE": INTERFACE, "WEIGHTS": WEIGHTS, "GRAPH": GRAPH}[kind]
    found: dict[str, str | None] = {}
    for name, change in mutations.items():
        path = changed(checked, change, tmp_path)
        assert integrity(path).changed == ("model",)
        found[name] = caught(checked, path)
    print_and_expect(found, f"onnx {kind.lower()}")


def test_what_the_proof_of_an_onnx_file_need_not_see_is_below_its_tolerances(checked: Checked, tmp_path: Path) -> None:
    for name, change in BELOW.items():
        path = changed(checked, change, tmp_path)
        assert integrity(path).changed == ("model",)  # a file that was sealed shows it
        assert caught(checked, path) is None
        print(f"onnx below tolerance: {name}")


def wrong_card(card: Card, edit: Edit) -> Card | None:
    """The card with one wrong value; None where no such card can be."""
    raw = json.loads(card.to_json())
    edit(raw)
    try:
        return Card.from_json(json.dumps(raw))
    except CardError:
        return None


def test_every_wrong_value_on_a_card_is_caught(checked: Checked, tmp_path: Path) -> None:
    found: dict[str, str | None] = {}
    for name, edit in CARD.items():
        wrong = wrong_card(checked.card, edit)
        assert wrong is not None
        path = tmp_path / "card.onnx"
        replace_card(checked.path, wrong.to_json(), path)
        assert integrity(path).changed == ("card",)
        write_sealed(path, wrong)
        assert integrity(path).changed == ()
        written = Card.from_json(contents(path).card)
        found[name] = caught(lambda _, given=written: check_card(checked.card, given, "onnx"), path)  # type: ignore[misc]
    print_and_expect(found, "card")


def test_every_wrong_number_of_int8_is_caught(checked: Checked, tmp_path: Path) -> None:
    whole = onnx.load(checked.path)
    rounded = int8_matmuls(whole, tmp_path / "beside.onnx")
    check_rounded(rounded, whole)
    found: dict[str, str | None] = {}
    for name, (given_name, edit) in INT8.items():
        model = onnx.ModelProto()
        model.CopyFrom(rounded)
        tensor = next(t for t in model.graph.initializer if t.name == given_name)
        value = onnx.numpy_helper.to_array(tensor).copy()
        tensor.CopyFrom(onnx.numpy_helper.from_array(edit(value).astype(value.dtype), tensor.name))
        found[name] = caught(lambda _, given=model: check_rounded(given, whole), tmp_path)  # type: ignore[misc]
    print_and_expect(found, "int8")


@dataclass(frozen=True)
class CheckedPackage:
    """The checks of a Core ML export on a package whose float32 program is proven."""

    path: Path
    card: Card
    full: Program

    def __call__(self, path: Path) -> None:
        """What `to_coreml` does with a package of float16, its pictures aside. Raises VtadError."""
        read_package_back(path, write_sealed(path, self.card), "iOS16")
        if where := difference(read_program(path), self.full):
            raise ParityError(where)


@pytest.fixture(scope="module")
def checked_package(packaged: CoreMLExport, float32_package: Path) -> CheckedPackage:
    return CheckedPackage(packaged.path, packaged.card, read_program(float32_package))


@pytest.mark.parametrize("kind", ["INTERFACE", "PROGRAM"])
def test_every_mutation_of_a_package_is_caught(checked_package: CheckedPackage, tmp_path: Path, kind: str) -> None:
    checked_package(Path(shutil.copytree(checked_package.path, tmp_path / "whole.mlpackage")))
    found: dict[str, str | None] = {}
    for name, damage in {"INTERFACE": coreml_mutations.INTERFACE, "PROGRAM": coreml_mutations.PROGRAM}[kind].items():
        path = tmp_path / "mutant.mlpackage"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(checked_package.path, path)
        damage(path)
        assert integrity(path).changed
        found[name] = caught(checked_package, path)
    print_and_expect(found, f"coreml {kind.lower()}")


def test_wrong_values_on_the_card_of_a_package_are_caught(checked_package: CheckedPackage, tmp_path: Path) -> None:
    """By the same comparison as in a file; here that it is made."""
    path = Path(shutil.copytree(checked_package.path, tmp_path / "card.mlpackage"))
    found: dict[str, str | None] = {}
    for name in ("threshold x 1.4", "one score", "unit of the score", "a proof that was never made"):
        wrong = wrong_card(checked_package.card, CARD[name])
        assert wrong is not None
        written = write_sealed(path, wrong)
        assert written.digests != checked_package.card.digests
        found[name] = caught(lambda p: read_package_back(p, checked_package.card, "iOS16"), path)
    print_and_expect(found, "coreml card")


def test_files_of_a_package_that_are_added_taken_away_or_exchanged_are_caught(
    checked_package: CheckedPackage, tmp_path: Path
) -> None:
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    changes: list[tuple[str, Callable[[Path], object]]] = [
        ("more.bin", lambda path: (path / "more.bin").write_bytes(b"more")),
        (weights, lambda path: (path / weights).unlink()),
        (weights, lambda path: (path / weights).write_bytes((path / weights).read_bytes()[:-2])),
    ]
    for name, change in changes:
        path = Path(shutil.copytree(checked_package.path, tmp_path / "files.mlpackage"))
        change(path)
        assert integrity(path).changed == (name,)
        shutil.rmtree(path)
    path = Path(shutil.copytree(checked_package.path, tmp_path / "same.mlpackage"))
    (path / ".DS_Store").write_bytes(b"of the Finder")
    manifest = path / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=1, sort_keys=True))
    assert integrity(path).changed == ()


def _one_more(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    value.flat[0] += 1 if value.flat[0] < 127 else -1
    return value


INT8: dict[str, tuple[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]]] = {
    "one weight by one step": ("val_17_quantized", _one_more),
    "signs of a matrix": ("val_17_quantized", lambda v: -v),
    "a column for another": ("val_17_quantized", lambda v: v[:, ::-1]),
    "scales x 1.01": ("val_17_scale", lambda v: 1.01 * v),
    "a scale of another column": ("val_17_scale", lambda v: v[::-1]),
    "a weight that stayed float32": ("model.registers.tokens", lambda v: np.nextafter(v, np.float32(0))),
}
