"""vtad-export as a user types it: all formats in one table, the list, the card, limits, and what it says of the images."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from tiny_run import done, error, invoke

from vtad.report import page
from vtad.report.card_words import card_text
from vtad.run_folder import Run, RunError, WriteError
from vtad_export.commands.export import export
from vtad_export.commands.formats import EXPORTERS
from vtad_export.coreml_format.format import CoreML
from vtad_export.onnx_format import exporter as onnx
from vtad_export.onnx_format.format import Onnx
from vtad_export.proof import material
from vtad_export.proof.errors import ParityError, RoundingError
from vtad_export.proof.exporter import ON_REQUEST, Export, Exporter, Request
from vtad_export.proof.parity import Flip
from vtad_runtime.contract.card import Card
from vtad_runtime.engine.model import Integrity

PAIRS = [(f.name, p) for f in EXPORTERS for p in f.precisions if p not in ON_REQUEST]


@dataclasses.dataclass(frozen=True)
class Copied(Export):
    """What stands for an artefact here."""

    @property
    def certificate(self) -> str:
        return ""


def every_format(monkeypatch: pytest.MonkeyPatch, export: Callable[..., Export]) -> None:
    """Let `export(format, material, precision, request)` make the artefacts of every format."""
    for format in EXPORTERS:
        monkeypatch.setattr(type(format), "export", export)
        monkeypatch.setattr(type(format), "available", lambda _: None)


@pytest.fixture
def made_at_once(exported: Export, few_pictures: None, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every artefact is a copy of the ONNX export; a list that takes names of those that are to fail, and how."""
    faults: list[str] = []

    def copied(format: Exporter, material: Any, precision: str, request: Request) -> Export:
        request.folder.mkdir(exist_ok=True)
        name = f"{format.name} {precision}"
        if f"proof of {name}" in faults:
            raise ParityError(f"the {name} artefact does not agree with torch")
        if f"packages of {name}" in faults:
            raise RunError("needs what is not installed: pip install 'vtad[coreai]'")
        if f"disk of {name}" in faults:
            raise WriteError("could not be written")
        path = Path(shutil.copy2(exported.path, format.path(request, "pill", precision)))
        return Copied(path, exported.card, 7, (), None)

    every_format(monkeypatch, copied)
    return faults


@pytest.mark.usefixtures("made_at_once")
def test_all_makes_every_format_in_every_precision_and_prints_one_table(run: Run) -> None:
    out = done(export, "--run", run.path, "--format", "all")
    rows = [line.split() for line in out.splitlines()[1:]]
    assert rows[0][:4] == ["format", "precision", "MB", "operations"]
    assert [tuple(row[:2]) for row in rows[1:]] == PAIRS
    assert all(row[-1] == "proven" for row in rows[1:])
    half = done(export, "--run", run.path, "--format", "all", "--precision", "fp16").splitlines()[2:]
    assert [line.split()[:2] for line in half] == [["coreml", "fp16"], ["coreai", "fp16"]]


@pytest.mark.usefixtures("made_at_once")
def test_after_all_the_newest_export_is_the_default_precision(run: Run) -> None:
    from vtad_runtime.engine.opening import newest_model

    done(export, "--run", run.path, "--format", "all")
    found = newest_model(run.path.parents[1])
    assert found is not None
    assert found.stem == "pill"


@pytest.mark.parametrize("precision", ["int8", None])
def test_what_this_command_did_not_make_does_not_become_the_newest(
    run: Run, made_at_once: list[str], precision: str | None
) -> None:
    from vtad_runtime.engine.opening import newest_model

    old = run.path / "export" / "pill.onnx"
    old.parent.mkdir()
    old.write_text("of an earlier export")
    os.utime(old, (0, 0))
    made_at_once.append("proof of onnx fp32")
    invoke(export, "--run", run.path, "--format", "all", *(("--precision", precision) if precision else ()))
    assert old.stat().st_mtime == 0
    assert newest_model(run.path.parents[1]).stem == "pill-int8"


@pytest.mark.usefixtures("made_at_once")
def test_a_compressed_backbone_is_for_the_compressed_packages_of_all_formats(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, given = CoreML.export, {}

    def noted(format: CoreML, material: Any, precision: Any, request: Request) -> Export:
        given[precision] = format.with_backbone, format.target
        return honest(format, material, precision, request)

    monkeypatch.setattr(CoreML, "export", noted)
    done(export, "--run", run.path, "--format", "all", "--with-backbone", "--target", "iOS17")
    assert given == dict.fromkeys(("fp16", "fp32", "int8"), (True, "iOS17"))
    monkeypatch.undo()
    asked: list[bool] = []
    monkeypatch.setattr(
        "vtad_export.coreml_format.exporter.to_coreml", lambda *_, **options: asked.append(options["with_backbone"])
    )
    material: Any = SimpleNamespace(run=run, card=run.card())
    for precision in ("fp16", "fp32", "int8", "palettized4"):
        CoreML(with_backbone=True).export(material, precision, Request(run.path))
    assert asked == [False, False, True, True]


@pytest.mark.usefixtures("made_at_once")
def test_a_run_that_cannot_be_written_to_costs_its_page_and_nothing_else(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def read_only(_run: Run) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "report.html")

    monkeypatch.setattr(page, "show_certificates", read_only)
    for kind in ("onnx", "all"):
        result = invoke(export, "--run", run.path, "--format", kind, "--out", tmp_path / "exports")
        assert result.exit_code == 0
        assert kind == "onnx" or result.stdout.count("proven") == len(PAIRS)
        said = f"{run.path / 'report.html'}: expected to put the certificates there, got Read-only file system"
        assert said in caplog.text + result.stderr


@pytest.mark.usefixtures("made_at_once")
@pytest.mark.parametrize(
    ("kind", "name"), [("onnx", "tablet.onnx"), ("coreml", "x.mlpackage"), ("coreai", "x.aimodel")]
)
def test_out_with_the_suffix_of_an_artefact_is_the_name_of_the_file(
    run: Run, tmp_path: Path, kind: str, name: str
) -> None:
    done(export, "--run", run.path, "--format", kind, "--out", tmp_path / name)
    assert (tmp_path / name).is_file()
    done(export, "--run", run.path, "--format", kind, "--out", tmp_path / "exports")
    assert [path.stem for path in (tmp_path / "exports").iterdir()] == ["pill"]


@pytest.mark.parametrize(
    ("given", "name", "says"),
    [
        (("--format", "all"), "x.onnx", "a file is one artefact, and --format all makes several; name a folder"),
        (("--format", "coreml"), "x.onnx", "coreml artefacts end in .mlpackage; name such a file, or a folder"),
        ((), "folder.onnx", "expected a file to write, got a folder of that name"),
        (("--format", "coreml", "--batch", "4"), "exports", "--batch 4: coreml artefacts take one picture at a time"),
        (
            ("--precision", "int8", "--batch", "4"),
            "exports",
            "--batch 4: onnx int8 artefacts take one picture at a time",
        ),
        (("--target", "iOS18"), "exports", "--target: expected a Core ML export, got --format onnx"),
        (
            ("--format", "coreai", "--layout", "ane"),
            "exports",
            "--layout: expected a Core ML export, got --format coreai",
        ),
        (("--with-backbone",), "exports", "--with-backbone: expected a Core ML export, got --format onnx"),
        (
            ("--format", "coreml", "--with-backbone"),
            "exports",
            "--with-backbone: expected --precision int8 or palettized6 or palettized4, got --format coreml",
        ),
        (("--json",), "exports", "--json: expected --show FILE, whose card it prints, got none"),
    ],
)
def test_what_no_artefact_can_be_is_one_line_before_anything_is_made(
    run: Run, tmp_path: Path, given: tuple[str, ...], name: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(material, "load_material", lambda *_, **__: pytest.fail("it was loaded"))
    (tmp_path / "folder.onnx").mkdir()
    assert says in error(2, export, "--run", run.path, *given, "--out", tmp_path / name)
    assert not list(tmp_path.glob("*/*.onnx"))


def test_what_cannot_be_made_here_is_a_row_with_its_reason_and_exit_code_3(run: Run, made_at_once: list[str]) -> None:
    made_at_once += ["packages of coreai fp32", "packages of coreai fp16"]
    result = invoke(export, "--run", run.path, "--format", "all")
    assert result.exit_code == 3
    assert "coreai fp32: needs what is not installed: pip install 'vtad[coreai]'" in result.stdout
    assert result.stdout.count("not made") == 2
    assert result.stdout.count("proven") == 5


@pytest.mark.usefixtures("made_at_once")
def test_a_format_whose_packages_are_not_installed_is_not_tried(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "Core ML packages need coremltools, which is not installed: pip install 'vtad[export]'"
    monkeypatch.setattr(CoreML, "available", lambda _: reason)
    result = invoke(export, "--run", run.path, "--format", "all", "--precision", "fp16")
    assert result.exit_code == 3
    assert f"coreml fp16: {reason}" in result.stdout
    assert reason in error(2, export, "--run", run.path, "--format", "coreml")
    assert not list((run.path / "export").glob("*.mlpackage"))


def test_a_failed_proof_among_them_is_exit_code_1_and_the_rest_is_made(run: Run, made_at_once: list[str]) -> None:
    made_at_once += ["proof of onnx int8", "packages of coreai fp32"]
    result = invoke(export, "--run", run.path, "--format", "all")
    assert result.exit_code == 1
    assert "onnx int8: the onnx int8 artefact does not agree with torch" in result.stdout
    assert not (run.path / "export" / "pill-int8.onnx").exists()
    assert (run.path / "export" / "pill.mlpackage").exists()


@pytest.mark.usefixtures("made_at_once")
def test_images_that_are_judged_otherwise_are_named_below_the_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest: Any = Onnx.export

    def flipping(*arguments: Any) -> Export:
        made: Export = honest(*arguments)
        return dataclasses.replace(made, flipped=(Flip("dent/3.png", 2.5, 2.4),))

    every_format(monkeypatch, flipping)
    out = done(export, "--run", run.path, "--format", "all", "--precision", "int8")
    assert "onnx int8: judged otherwise: dent/3.png (2.5 in torch, 2.4)" in out


@pytest.mark.usefixtures("made_at_once")
def test_without_a_precision_a_float16_flip_makes_a_float32_package_and_says_so(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Any = Onnx.export

    def flips(format: Exporter, material: Any, precision: str, request: Request) -> Any:
        if precision == "fp16":
            raise RoundingError("1 of 64 verdicts differ: part 7.png")
        return honest(format, material, precision, request)

    every_format(monkeypatch, flips)
    result = invoke(export, "--run", run.path, "--format", "coreml")
    assert result.exit_code == 0
    assert "1 of 64 verdicts differ: part 7.png; exporting in float32 instead" in result.stderr
    assert (run.path / "export" / "pill-fp32.mlpackage").exists()
    line = error(1, export, "--run", run.path, "--format", "coreml", "--precision", "fp16")
    assert "1 of 64 verdicts differ" in line


def test_a_full_disk_ends_it(run: Run, made_at_once: list[str]) -> None:
    made_at_once.append("disk of coreml fp16")
    result = invoke(export, "--run", run.path, "--format", "all")
    assert result.exit_code == 4
    assert "could not be written" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_removes_what_is_half_written_and_keeps_what_is_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, number: int, code: int
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    old = run.path / "export" / "pill.onnx"
    old.parent.mkdir()
    old.write_text("old")

    def stopped(_model: Any, _card: Any, path: Path, *_: Any) -> None:
        path.write_text("half")
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # as `timeout` does: to the process, then to its group

    monkeypatch.setattr(onnx, "write_graph", stopped)
    monkeypatch.setattr(onnx, "onnx_graph", lambda _: None)
    line = error(code, export, "--run", run.path)
    assert line == "Error: stopped; nothing half written is left"
    assert [p.name for p in old.parent.iterdir()] == ["pill.onnx"]
    assert old.read_text() == "old"
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


@pytest.mark.usefixtures("made_at_once")
def test_a_signal_that_a_library_swallows_or_reports_as_its_own_error_still_ends_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest: Any = Onnx.export

    def swallows(*arguments: Any) -> Any:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        return honest(*arguments)

    every_format(monkeypatch, swallows)
    result = invoke(export, "--run", run.path)
    assert (result.exit_code, result.stderr) == (143, "Error: stopped; what was asked for is complete\n")
    assert (run.path / "export" / "pill.onnx").exists()

    def reports(*_: Any) -> Any:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as e:
            raise ParityError("it cannot be made") from e
        raise AssertionError

    every_format(monkeypatch, reports)
    assert error(143, export, "--run", run.path) == "Error: stopped; nothing half written is left"


# vtad-export with the ONNX graph that is given first
COMMAND = """
import sys, onnx
from vtad_export.commands.export import export
from vtad_export.onnx_format import exporter
graph = sys.argv.pop(1)
exporter.onnx_graph = lambda detector: onnx.load(graph)
export()
"""


def test_sigterm_to_the_command_is_143_and_leaves_no_draft(run: Run, exported: Export) -> None:
    pytest.importorskip("coremltools", reason="coremltools is not installed: pip install 'vtad[export]'")
    given = ["--run", str(run.path), "--format", "coreml"]
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(exported.path), *given],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = run.path / "export"
    deadline = time.monotonic() + 120
    while not any(folder.glob(".*.part/*.mlpackage")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert not (folder / "pill.onnx").exists()  # the ONNX fallback is made by now, and waits beside its name
    assert any(folder.glob(".*.part/pill.onnx"))
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (143, "Error: stopped; nothing half written is left\n")
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("made_at_once")
def test_the_run_and_its_images_are_loaded_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    honest = material.samples

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        return honest(*arguments)

    monkeypatch.setattr(material, "samples", counted)
    done(export, "--run", run.path, "--format", "all")
    assert len(calls) == 1


def test_the_list_says_where_each_runs_and_what_was_proven_how() -> None:
    out = done(export, "--list")
    for f in EXPORTERS:
        assert f"{f.name:<8} {f.suffix:<11} {' '.join(f.precisions)}" in out
        assert f.runs in out
        assert all(proof in out for proof in f.proofs.values())
    assert "reference execution, not device proof" in out
    assert "structure only, not executed" in out


def test_show_is_one_screen_and_its_json_is_the_card(exported: Export) -> None:
    text = done(export, "--show", exported.path)
    assert text.strip() == card_text(exported.path, exported.card, Integrity(sealed=True))
    assert "bytes        as exported" in text
    assert len(text.splitlines()) <= 32
    assert all(len(line) <= 120 for line in text.splitlines()[1:])
    for word in ("32x32 rgb", "16 good images", "onnx fp32 against torch on 4 good images", "0 of 20"):
        assert word in text
    assert Card.from_json(done(export, "--show", exported.path, "--json")) == exported.card


def test_a_run_that_was_evaluated_shows_its_headline(exported: Export, trained: Run) -> None:
    results = {"scores": {"image": {"auroc": 0.987}}, "heatmap": {"aupro": 0.9}}
    text = card_text(exported.path, dataclasses.replace(exported.card, results=results))
    assert "image AUROC 0.987, AUPRO 0.900" in text
    assert "not yet: vtad-eval" in card_text(exported.path, exported.card)
    assert "none: this is not an export" in card_text(trained.path, trained.card())


@pytest.mark.parametrize("given", ["score", "score=", "score=-1", "score=nan", "score=0"])
def test_a_tolerance_is_an_output_and_an_error(run: Run, given: str) -> None:
    result = invoke(export, "--run", run.path, "--tolerance", given)
    assert result.exit_code == 2
    assert "such as score=0.2" in result.stderr


def test_a_tolerance_of_an_unknown_output_names_the_known_ones(run: Run) -> None:
    line = error(2, export, "--run", run.path, "--tolerance", "colour=1")
    assert "expected one of the outputs score, heatmap" in line


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_a_tolerance_below_what_is_measured_refuses(run: Run) -> None:
    line = error(1, export, "--run", run.path, "--tolerance", "reconstruction=1e-12")
    assert "reconstruction" in line
    assert "(at most 1e-12)" in line


@pytest.mark.parametrize(("kind", "precision"), [("onnx", "fp16"), ("coreai", "int8")])
def test_a_precision_that_a_format_has_not_is_refused_before_anything_is_made(
    run: Run, kind: str, precision: str
) -> None:
    known = next(f.precisions for f in EXPORTERS if f.name == kind)
    assert " or ".join(known) in error(2, export, "--run", run.path, "--format", kind, "--precision", precision)
    assert not (run.path / "export").exists()


@pytest.mark.usefixtures("ready_graph", "few_pictures")
def test_images_that_are_not_those_of_the_training_are_said_in_one_line(run: Run, tmp_path: Path, pills: Path) -> None:
    assert "note:" not in done(export, "--run", run.path)
    other = tmp_path / "other"
    shutil.copytree(pills, other)
    first = next((other / "pill" / "train" / "good").iterdir())
    with Image.open(first) as image:
        image.rotate(180).save(first)
    out = done(export, "--run", run.path, "--data", other)
    (note,) = (line for line in out.splitlines() if "note:" in line)
    assert "are not those that the run was trained on" in note


def test_a_device_check_off_a_mac_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "pill.mlpackage").mkdir()
    assert "Mac" in error(2, export, "--device-check", tmp_path / "pill.mlpackage")
    assert "expected a Core ML package (.mlpackage)" in error(2, export, "--device-check", tmp_path / "pill.onnx")
