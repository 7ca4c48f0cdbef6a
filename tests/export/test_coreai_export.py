"""vtad-export --format coreai: executed by Apple's runtime, its hash verified, beta kept apart."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("coreai_torch", reason="coreai-torch is not installed: pip install 'vtad[coreai]'")

from shared_exports import traces
from tiny_run import done, error, tiny

from vtad.models.autoencoder import Autoencoder
from vtad.models.detector import Detector, Judgement
from vtad.run_folder import Run, RunError
from vtad.version import VERSION
from vtad_export.commands.export import export as command
from vtad_export.coreai_format.asset import read_asset_card, verify
from vtad_export.coreai_format.conversion import check_structure, program_of, save_asset, write_card
from vtad_export.coreai_format.exporter import EXECUTED, STRUCTURE, CoreAIExport, to_coreai
from vtad_export.coreai_format.packages import VERSIONS
from vtad_export.coreai_format.reading_back import interface_of, read_back
from vtad_export.coreai_format.rounded import Rounded
from vtad_export.coreai_format.runtime import Runtime
from vtad_export.proof.errors import ParityError
from vtad_export.proof.exporter import Export, for_one_picture
from vtad_export.proof.interface import check_interface, declared
from vtad_export.proof.material import Material, load_material
from vtad_export.proof.tolerance import TOLERANCE
from vtad_runtime.contract.card import Card, CardError
from vtad_runtime.engine.onnxruntime_engine import OnnxSession
from vtad_runtime.engine.opening import newest_model


@pytest.fixture(scope="module")
def material(trained: Run) -> Material:
    """The tiny run with few images, for Apple's runtime is slow here."""
    found = load_material(trained)
    return dataclasses.replace(found, sample=found.sample.first(2))


@pytest.fixture(scope="module")
def made(trained: Run, material: Material, exported: Export, tmp_path_factory: pytest.TempPathFactory) -> CoreAIExport:
    folder = tmp_path_factory.mktemp("coreai")
    shutil.copy2(exported.path, folder / "pill.onnx")
    return to_coreai(trained, folder / "pill.aimodel", material=material)


@pytest.fixture
def ready_asset(made: CoreAIExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports of the tiny run in float32 take what was converted for `made`; all that follows is done anew."""

    def saved(_: None, card: Card, path: Path) -> None:
        shutil.copytree(made.path, path)
        write_card(path, card)

    monkeypatch.setattr("vtad_export.coreai_format.exporter.program_of", lambda _: None)
    monkeypatch.setattr("vtad_export.coreai_format.exporter.save_asset", saved)


def copy(made: CoreAIExport, folder: Path) -> Path:
    return Path(shutil.copytree(made.path, folder / "pill.aimodel"))


def test_apples_runtime_agrees_with_torch_to_its_last_digits(made: CoreAIExport) -> None:
    parity = made.card.parity
    assert parity is not None
    assert (parity.format, parity.precision, parity.verdict_flips, made.method) == ("coreai", "fp32", 0, EXECUTED)
    assert parity.tolerance == TOLERANCE
    assert all(error <= TOLERANCE[name] for name, error in parity.max_error.items())
    assert parity.max_error["heatmap"] > 0  # it was measured


def test_an_asset_says_nothing_of_the_machine(made: CoreAIExport, trained: Run, pills: Path) -> None:
    """coreai-torch writes the paths of all sources into it, unless one asks it not to."""
    assert json.loads((made.path / "metadata.json").read_text())["producer"] == f"vtad {VERSION}"
    assert traces(made.path.parent, trained.path, pills) == []


def test_the_onnx_fallback_lies_beside_it_and_was_compared_too(made: CoreAIExport) -> None:
    assert made.fallback == made.path.with_suffix(".onnx")
    assert OnnxSession(made.fallback).card.weights_sha256 == made.card.weights_sha256
    assert made.against_fallback is not None
    assert made.against_fallback.flips == 0
    assert 0 < made.against_fallback.apart["heatmap"] <= 2 * TOLERANCE["heatmap"]
    report = json.loads((made.path.parent / "parity-coreai.json").read_text())
    assert report["onnx_fallback"]["apart"] == made.against_fallback.apart
    assert report["packages"] == {"coreai-torch": "0.4.3", "coreai-core": "1.0.0b3"}


@pytest.mark.usefixtures("ready_asset")
def test_it_makes_its_fallback_the_newest_model(
    run: Run, material: Material, made: CoreAIExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run.path / "export"
    folder.mkdir()
    for age, name in enumerate(("pill-int8.onnx", "pill.onnx")):
        shutil.copy2(made.fallback, folder / name)
        os.utime(folder / name, (2000 - age, 2000 - age))
    assert newest_model(run.path.parents[1]) == folder / "pill-int8.onnx"
    to_coreai(run, material=dataclasses.replace(material, run=run, sample=material.sample.first(1)))
    assert newest_model(run.path.parents[1]) == folder / "pill.onnx"


def test_the_card_is_one_string_in_the_metadata(made: CoreAIExport, trained: Run) -> None:
    assert read_asset_card(made.path) == made.card
    assert dataclasses.replace(made.card, parity=None, digests=None) == for_one_picture(trained.card())
    about = json.loads((made.path / "metadata.json").read_text())
    held = [v for v in about.values() if isinstance(v, dict)]
    assert isinstance(held[0]["vtad.card"], str)


@pytest.mark.usefixtures("ready_asset")
def test_the_certificate_is_one_screen_and_show_prints_the_card(
    run: Run, material: Material, made: CoreAIExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtad_export.proof import material as loaded

    (run.path / "export").mkdir()
    shutil.copy2(made.fallback, run.path / "export" / "pill.onnx")
    monkeypatch.setattr(loaded, "load_material", lambda *_, **__: dataclasses.replace(material, run=run))
    out = done(command, "--run", run.path, "--format", "coreai")
    assert "executed by Apple's Core AI runtime on this machine" in out
    assert "verdict flips   0 of 4" in out
    assert "ONNX fallback" in out
    assert len(out.splitlines()) <= 24
    assert sorted(p.name for p in (run.path / "export").iterdir()) == [
        "parity-coreai.json",
        "pill.aimodel",
        "pill.onnx",
    ]
    shown = done(command, "--show", run.path / "export" / "pill.aimodel")
    assert "coreai fp32 against torch on 2 good images and 2 synthetic defects" in shown


def test_a_changed_program_is_found_by_its_hash_although_apples_loader_does_not_look(
    made: CoreAIExport, tmp_path: Path
) -> None:
    path = copy(made, tmp_path)
    program = bytearray((path / "main.mlirb").read_bytes())
    program[len(program) // 2] ^= 1
    (path / "main.mlirb").write_bytes(program)
    with pytest.raises(CardError, match=r"main\.mlirb is not the program that main\.hash was written for"):
        verify(path)
    assert "is not the program" in error(2, command, "--show", path)


def test_the_hash_of_an_asset_is_the_sha256_of_its_program(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"expected an \.aimodel"):
        verify(tmp_path)
    (tmp_path / "main.mlirb").write_bytes(b"program")
    (tmp_path / "main.hash").write_bytes(hashlib.sha256(b"program").digest())
    verify(tmp_path)
    (tmp_path / "main.mlirb").write_bytes(b"another")
    with pytest.raises(CardError, match="is not the program"):
        verify(tmp_path)


@pytest.mark.parametrize("damage", ["gone", "torn", "no card", "not text"])
def test_an_asset_that_is_not_ours_is_refused_in_one_line(made: CoreAIExport, tmp_path: Path, damage: str) -> None:
    path = copy(made, tmp_path)
    metadata = path / "metadata.json"
    if damage == "gone":
        (path / "main.hash").unlink()
    elif damage == "torn":
        metadata.write_text(metadata.read_text()[:40])
    else:
        about = json.loads(metadata.read_text())
        kept = {k: v for k, v in about.items() if not isinstance(v, dict)}
        metadata.write_text(json.dumps(kept if damage == "no card" else kept | {"custom": {"vtad.card": 3}}))
    assert "expected" in error(2, command, "--show", path)


@pytest.mark.usefixtures("ready_graph", "few_pictures", "ready_asset")
def test_a_wrong_output_fails_the_proof_and_leaves_nothing(
    run: Run, material: Material, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Runtime.__call__

    def off(self: Runtime, pixels: Any) -> Any:
        values = honest(self, pixels)
        return {**values, "density_map": values["density_map"] + np.float32(0.01)}

    monkeypatch.setattr(Runtime, "__call__", off)
    with pytest.raises(
        ParityError, match=r"the coreai artefact does not agree with torch: density_map .*nothing was kept"
    ):
        to_coreai(run, material=material)
    assert list((run.path / "export").iterdir()) == []


@pytest.mark.usefixtures("ready_asset")
def test_a_fallback_that_no_longer_agrees_is_named(
    trained: Run, material: Material, made: CoreAIExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vtad_export.onnx_format import fallback

    shutil.copy2(made.fallback, tmp_path / "pill.onnx")
    from vtad_export.onnx_format.graph import executor_of as honest

    def off(session: OnnxSession) -> Any:
        execute = honest(session)
        return lambda pixels: {k: v + np.float32(0.01) for k, v in execute(pixels).items()}

    monkeypatch.setattr(fallback, "executor_of", off)
    with pytest.raises(ParityError, match=r"pill\.onnx: the ONNX fallback does not agree with torch any more"):
        to_coreai(trained, tmp_path / "pill.aimodel", material=material)
    assert [p.name for p in tmp_path.iterdir()] == ["pill.onnx"]


def test_float16_is_checked_for_structure_only_and_says_so(
    trained: Run, material: Material, made: CoreAIExport, tmp_path: Path
) -> None:
    shutil.copy2(made.fallback, tmp_path / "pill.onnx")
    half = to_coreai(trained, tmp_path / "pill-fp16.aimodel", precision="fp16", material=material)
    assert half.method == STRUCTURE
    assert "not executed" in STRUCTURE
    parity = half.card.parity
    assert parity is not None
    assert (parity.precision, parity.verdict_flips) == ("fp16", 0)
    assert parity.max_error["reconstruction"] > made.card.parity.max_error["reconstruction"]  # type: ignore[union-attr]
    size = {p: (p / "main.mlirb").stat().st_size for p in (half.path, made.path)}
    assert size[half.path] < size[made.path]
    with pytest.raises(ParityError, match="weights in float16"):
        check_structure(made.path, Rounded(material.detector))


def test_an_asset_is_read_back_against_its_card_its_digests_and_the_declared_interface(
    made: CoreAIExport, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(made.path, tmp_path / "pill.aimodel"))
    read_back(path, made.card)
    other = dataclasses.replace(made.card, input=dataclasses.replace(made.card.input, name="picture"))
    with pytest.raises(ParityError, match="the card is not the one that was written: input"):
        read_back(path, other)
    with pytest.raises(ParityError, match=r"expected inputs of main .*picture.* got .*image tensor uint8 1x3x32x32"):
        check_interface(declared(other, "tensor uint8", {}), interface_of(path), "coreai")
    metadata = path / "metadata.json"
    metadata.write_text(metadata.read_text().replace("Apache-2.0", "nothing"))
    with pytest.raises(ParityError, match=r"changed since its export: metadata\.json"):
        read_back(path, made.card)


def test_weights_of_pruned_scorers_are_neither_there_nor_asked_for(material: Material, tmp_path: Path) -> None:
    detector = Detector(tiny()).eval()
    with torch.no_grad():
        for values in (*detector.parameters(), *detector.buffers()):
            if values.is_floating_point():
                values.normal_()  # a constant of equal numbers is stored as one
    assert isinstance(detector.model, Autoencoder)
    detector.model.score_fusion.weight.zero_()[0] = 1
    detector.model.prune()
    half = Rounded(detector)
    assert half.graph_module.get_parameter("model.embed.weight").dtype is torch.float16
    with pytest.raises(AttributeError, match="context_density"):
        half.graph_module.get_parameter("model.context_density.location.weight")
    path = tmp_path / "half.aimodel"
    save_asset(program_of(half), material.card, path)
    check_structure(path, half)


def test_pooling_that_leaves_the_padding_out_comes_out_right(material: Material, tmp_path: Path) -> None:
    """coreai-torch 0.4.3 counts the padding; the conversion writes the operation so that it does not matter."""

    class Pool(torch.nn.Module):
        size = (8, 8)

        def forward(self, image: torch.Tensor) -> Judgement:
            x = F.avg_pool2d(image.float(), 3, stride=1, padding=1, count_include_pad=False)
            return Judgement(x.mean(dim=(1, 2, 3)), x[:, 0], x[:, 1], x[:, 2], x)

    pool: Any = Pool()
    path = tmp_path / "pool.aimodel"
    save_asset(program_of(pool), material.card, path)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), dtype=np.uint8)
    with Runtime(path) as execute:
        got = execute(pixels)
    np.testing.assert_allclose(got["reconstruction"], pool(torch.from_numpy(pixels)).reconstruction, rtol=1e-5)


def test_it_runs_where_an_event_loop_is_running_already(made: CoreAIExport, material: Material) -> None:
    import asyncio

    async def notebook() -> Any:
        with Runtime(made.path) as execute:
            return execute(np.ascontiguousarray(material.sample.good[:1].transpose(0, 3, 1, 2)))

    assert asyncio.run(notebook())["score"].shape == (1,)


@pytest.mark.parametrize("fault", ["absent", "broken", "other version"])
def test_without_the_pinned_packages_one_line_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    def version(name: str) -> str:
        if fault == "absent":
            raise PackageNotFoundError(name)
        return "9.9" if fault == "other version" else VERSIONS[name]

    monkeypatch.setattr("vtad_export.coreai_format.packages.version", version)
    if fault == "broken":
        monkeypatch.setitem(sys.modules, "coreai_torch", None)
    assert "pip install 'vtad[coreai]'" in error(2, command, "--run", run.path, "--format", "coreai")
    assert not (run.path / "export").exists()


def test_another_file_name_is_refused(trained: Run, material: Material, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"ends in \.aimodel"):
        to_coreai(trained, tmp_path / "pill.mlmodel", material=material)
