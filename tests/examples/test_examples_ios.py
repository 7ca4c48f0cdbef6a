"""What can be said of the iOS example without a Mac: it parses as Swift, is short, and its report is what we read."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, blocks

from bench import device_checks
from vtad_export.coreml_format.device import report as device_report
from vtad_export.coreml_format.device.check import COMPUTE_UNITS
from vtad_export.coreml_format.device.report import DeviceReport
from vtad_export.proof.tolerance import COMPRESSED
from vtad_runtime.contract.card import SCHEMA, Card
from vtad_runtime.contract.errors import VtadError

IOS = ROOT / "examples" / "ios"
SWIFT = sorted(IOS.glob("*.swift"))
SENT: dict[str, Any] = {  # as DeviceCheck.swift writes it
    "kind": "vtad device check",
    "schema": 1,
    "created": "2026-11-27T12:00:00Z",
    "package": {"name": "pill.mlmodelc", "category": "pill", "precision": "fp16", "weights_sha256": "ab" * 32},
    "machine": {"model": "iPhone16,1", "chip": "", "system": "iOS 18.1", "made_by": "examples/ios"},
    "pictures": 8,
    "functions": [
        {
            "name": "main",
            "placements": [
                {"operation": "conv", "output": "a", "device": "Neural Engine", "supported": ["CPU"], "cost": 0.5},
                {"operation": "topk", "output": "b", "device": "CPU", "supported": ["CPU"], "cost": 0},
            ],
            "checks": [
                {
                    "compute_units": units,
                    "load_ms": 812.5,
                    "latency_ms": 9.25,
                    "slowest_ms": 11,
                    "max_error": {"score": error, "heatmap": 0.1},
                    "verdict_flips": 0,
                    "flips_allowed": 0,
                    "over": over,
                }
                for units, error, over in (("CPU_AND_NE", 0.012, []), ("CPU_ONLY", None, ["score"]))
            ],
        }
    ],
}


def test_the_swift_of_the_example_and_of_the_documents_parses() -> None:
    tree_sitter = pytest.importorskip("tree_sitter", reason="needs tree-sitter, of the extra dev on Linux")
    swift = pytest.importorskip("tree_sitter_swift", reason="needs py-tree-sitter-swift, of the extra dev on Linux")
    parser = tree_sitter.Parser(tree_sitter.Language(swift.language()))
    sources = {path.name: path.read_text() for path in SWIFT}
    sources["core-ml.md"] = "\n".join(blocks(ROOT / "docs" / "core-ml.md", "swift"))
    assert all(sources.values())
    for name, source in sources.items():
        assert not parser.parse(source.encode()).root_node.has_error, name
    assert parser.parse((sources["Detector.swift"] + "}").encode()).root_node.has_error


def test_the_app_has_fewer_than_300_lines_and_reads_cards_of_today() -> None:
    assert sum(len((IOS / name).read_text().splitlines()) for name in ("VtadApp.swift", "Detector.swift")) < 300
    assert f"card.schema == {SCHEMA}" in (IOS / "Detector.swift").read_text()


def test_the_app_knows_the_compute_units_and_the_precisions_that_the_program_knows() -> None:
    units = re.search(r"let computeUnits: .*?= \[(.*?)\]\n", (IOS / "Detector.swift").read_text(), re.DOTALL)
    compressed = re.search(r"let compressed = \[(.*?)\]", (IOS / "DeviceCheck.swift").read_text())
    assert units is not None
    assert tuple(re.findall(r'\("(\w+)"', units[1])) == COMPUTE_UNITS
    assert "compute_units" in {field.name for field in dataclasses.fields(Card)}
    assert compressed is not None
    assert tuple(re.findall(r'"(\w+)"', compressed[1])) == COMPRESSED


def test_the_app_writes_the_fields_that_the_report_has() -> None:
    source = (IOS / "DeviceCheck.swift").read_text()
    found = dict(re.findall(r"struct (\w+): Encodable \{(.*?)\}", source, re.DOTALL))
    assert len(found) == 6
    for name, body in found.items():
        written = set(re.findall(r"(?:let|,) (\w+)(?=: | =)", body))
        fields = dataclasses.fields(getattr(device_report, name))
        required = {f.name for f in fields if f.default is dataclasses.MISSING}
        assert required <= written <= {f.name for f in fields}, name
    assert f'kind = "{device_report.KIND}", schema = {device_report.SCHEMA}' in source


def document() -> str:
    return device_checks.BENCHMARKS.read_text(encoding="utf-8")


def test_a_report_becomes_rows_of_the_benchmarks_and_replaces_its_own() -> None:
    report = DeviceReport.from_json(json.dumps(SENT), "sent.json")
    assert not report.ok
    once = device_checks.merged(document(), [report])
    whose = "| iPhone16,1, iOS 18.1 | pill fp16, weights abababab | 2026-11-27 | main |"
    assert f"{whose} CPU_AND_NE | 1 of 2 | 812 | 9.2 | 1.2e-02 | 0 of 8 | yes |" in once
    assert "| CPU_ONLY | 1 of 2 | 812 | 9.2 | not finite | 0 of 8 | no: score |" in once
    assert once.replace("".join(device_checks.rows(report)), "") == document()
    assert device_checks.merged(once, [report]) == once
    other = dataclasses.replace(report, machine=dataclasses.replace(report.machine, model="Mac14,2"))
    assert device_checks.merged(once, [other, report]).count("abababab") == 4


def test_what_is_no_report_or_no_table_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "sent.json"
    monkeypatch.setattr("sys.argv", ["device_checks", str(file)])
    with pytest.raises(SystemExit, match=r"sent\.json: expected the JSON of a device check, got No such file"):
        device_checks.main()
    file.write_text('{"kind": 1}')
    with pytest.raises(
        SystemExit, match="expected the JSON of vtad-export --device-check: expected 'vtad device check'"
    ):
        device_checks.main()
    report = DeviceReport.from_json(json.dumps(SENT), "sent.json")
    with pytest.raises(VtadError, match="expected the table below"):
        device_checks.merged("# Benchmarks", [report])


def test_the_command_writes_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, copy = tmp_path / "sent.json", tmp_path / "benchmarks.md"
    file.write_text(json.dumps(SENT))
    copy.write_text(document(), encoding="utf-8")
    monkeypatch.setattr(device_checks, "BENCHMARKS", copy)
    monkeypatch.setattr("sys.argv", ["device_checks", str(file)])
    device_checks.main()
    assert copy.read_text(encoding="utf-8") == device_checks.merged(
        document(), [DeviceReport.from_json(json.dumps(SENT), "")]
    )
