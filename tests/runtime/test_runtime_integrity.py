"""A model that was changed since its export: refused in one line, or run on purpose and marked everywhere."""

from __future__ import annotations

import csv
import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tiny_model import THRESHOLD, UNIT, bad, good, make_card, write_model

from vtad_runtime import Detector, ModelError, Verdict, watch
from vtad_runtime.commands.calibrate import calibrate
from vtad_runtime.commands.doctor import doctor
from vtad_runtime.commands.replay import replay
from vtad_runtime.commands.run import run
from vtad_runtime.contract.card import ONNX_KEY, Card, Change
from vtad_runtime.engine.card_entry import replace_card
from vtad_runtime.engine.integrity import contents, integrity
from vtad_runtime.page.state import PageState
from vtad_runtime.review import doctor as checked
from vtad_runtime.verdict import engine_choice

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_choice, "others", lambda: ())  # each is tried in a process of its own
    for packages in ("NEEDED", "EXTRAS"):
        monkeypatch.setattr(checked, packages, {})  # the doctor looks at the model alone, which is quick
    Path("in").mkdir()
    Image.fromarray(bad()).save("in/bad.png")


@pytest.fixture
def model() -> Path:
    return write_model(Path("runs/tiny/1/export/tiny.onnx"))


def flipped(model: Path) -> Path:
    """The model with one bit flipped: a standard deviation of 25 grey levels becomes one of 400, and the bad part a good one."""
    whole, unit = model.read_bytes(), struct.pack("<f", UNIT)
    assert whole.count(unit) == 1
    path = Path("flipped.onnx")
    path.write_bytes(whole.replace(unit, struct.pack("<f", 16 * UNIT)))
    assert sum((a ^ b).bit_count() for a, b in zip(whole, path.read_bytes(), strict=True)) == 1
    return path


def edited(model: Path, edit: Edit, name: str = "edited.onnx") -> Path:
    """The model with another card, its digests as they were."""
    raw = json.loads(contents(model).card)
    edit(raw)
    replace_card(model, json.dumps(raw), Path(name))
    return Path(name)


def invoke(command: click.Command, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(a) for a in arguments])
    assert "Traceback" not in result.output
    return result


def refused(command: click.Command, *arguments: object) -> str:
    """The one line of a command that ends with 2."""
    result = invoke(command, *arguments)
    assert result.exit_code == 2, result.output
    (line,) = [text for text in result.stderr.splitlines() if text.startswith("Error: ")]
    return line


def checks(*arguments: object) -> dict[str, tuple[bool | None, str]]:
    said = json.loads(invoke(doctor, "--json", *arguments).stdout)
    return {check["name"]: (check["ok"], check["line"]) for check in said["checks"]}


def test_a_file_is_as_exported_under_any_name_and_as_bytes(model: Path) -> None:
    assert str(integrity(model)) == "as exported"
    moved = model.rename("other.onnx")
    for given in (moved, moved.read_bytes()):
        assert Detector(given).integrity.changed == ()


def test_one_flipped_bit_that_makes_a_bad_part_good_is_refused_by_every_command(model: Path) -> None:
    path = flipped(model)
    assert Detector(model)(bad()).verdict is Verdict.NG
    assert Detector(path, allow_changed=True)(bad()).verdict is Verdict.OK
    said = "flipped.onnx: expected the model as it was exported, got one changed since its export: model; copy it again"
    for command, arguments in (
        (run, ("--model", path, "--folder", "in")),
        (calibrate, ("--model", path, "--good", "in")),
    ):
        assert said in refused(command, *arguments)
    with pytest.raises(ModelError, match="changed since its export: model"):
        Detector(path)
    with pytest.raises(ModelError, match=r"<bytes>: .* changed since its export: model"):
        Detector(path.read_bytes())
    with pytest.raises(ModelError, match="changed since"):
        watch("in", path)
    assert not Path("results").exists()
    assert invoke(run, "--model", model, "--folder", "in").exit_code == 1
    assert said in refused(replay, "results/0001", "--model", path)


def test_the_doctor_says_as_exported_changed_or_not_known(model: Path) -> None:
    assert checks()["model bytes"] == (True, "as exported")
    found = checks("--model", flipped(model))
    assert found["model"][0] is False
    assert found["model bytes"][0] is False
    assert found["model bytes"][1] == "changed since its export: model"  # what to do is said of the model
    found = checks("--model", "flipped.onnx", "--allow-changed")
    assert found["model bytes"] == (None, "changed since its export: model (--allow-changed)")
    assert found["self-test"][0] is True
    assert "proven" not in found["model"][1]
    old = edited(model, lambda raw: raw.update(schema=2, digests=None))
    found = checks("--model", old)
    assert found["model bytes"][0] is None
    assert found["model bytes"][1].startswith("made before digests")
    assert found["model"][0] is found["self-test"][0] is True
    assert checks("--model", "none.onnx")["model bytes"][0] is None


def test_whoever_changes_a_model_on_purpose_is_told_so_in_every_row(model: Path) -> None:
    path = flipped(model)
    made = invoke(run, "--model", path, "--folder", "in", "--allow-changed", "--json", "rows.jsonl")
    assert made.exit_code == 0, made.output
    assert "changed since its export: model (--allow-changed)" in made.stderr
    results = Path("results/0001")
    for rows in (Path("rows.jsonl"), results / "results.jsonl"):
        assert json.loads(rows.read_text())["model_changed"] == "model"
    with (results / "results.csv").open(newline="") as file:
        assert [row["model_changed"] for row in csv.DictReader(file)] == ["model"]
    for name in ("run.json", "summary.json"):
        assert json.loads((results / name).read_text())["model_changed"] == "model"
    again = invoke(replay, results, "--model", path, "--allow-changed")
    assert again.exit_code == 0, again.output
    assert "changed since its export: model" in (Path("replays/0001") / "report.html").read_text()
    seen: list[str | None] = []
    watch("in", path, lambda judgement: seen.append(judgement.model_changed), allow_changed=True)
    assert seen == ["model"]
    detector = Detector(path, allow_changed=True)
    facts = PageState(detector.card, "camera 0", "tiny.onnx", integrity=detector.integrity).facts()
    assert facts["changed"] == facts["card"]["bytes"] == "changed since its export: model"


def test_rows_of_a_model_as_it_was_exported_say_nothing(model: Path) -> None:
    assert invoke(run, "--model", model, "--folder", "in").exit_code == 1
    assert json.loads(Path("results/0001/results.jsonl").read_text())["model_changed"] is None
    detector = Detector(model)
    assert PageState(detector.card, "camera 0", "tiny.onnx", integrity=detector.integrity).facts()["changed"] is None


CARD_EDITS: dict[str, Edit] = {
    "threshold x 1.4": lambda raw: raw["calibration"].update(threshold=1.4 * THRESHOLD),
    "pixel threshold": lambda raw: raw["calibration"].update(pixel_threshold=9.0),
    "a score in the last place": lambda raw: raw["calibration"]["scores"].__setitem__(0, 0.10000000000000002),
    "budget": lambda raw: raw["calibration"].update(false_alarms=0.06),
    "unit": lambda raw: raw["outputs"][0].update(unit="percent"),
    "fit": lambda raw: raw["input"].update(fit="letterbox"),
    "white": lambda raw: raw["input"].update(full_scale=4095),
    "region": lambda raw: raw["input"].update(roi=[0, 0, 32, 32]),
    "a proof with fewer flips": lambda raw: raw["parity"].update(images_good=4000),
    "results": lambda raw: raw.update(results={"image_auroc": 0.999}),
    "category": lambda raw: raw["identity"].update(category="other"),
    "another model's digest": lambda raw: raw["digests"]["files"].update(model="0" * 64),
    "no digests": lambda raw: raw.update(digests=None),
    "a history": lambda raw: raw.update(history=[dataclasses.asdict(Change("me", "today", "nothing", "0"))]),
}


@pytest.mark.parametrize("name", CARD_EDITS)
def test_a_card_with_one_other_value_is_refused(model: Path, name: str) -> None:
    path = edited(model, CARD_EDITS[name])
    with pytest.raises(ModelError, match="changed since its export"):
        Detector(path)
    assert Detector(path, allow_changed=True).integrity.changed


def test_a_card_of_the_same_values_is_the_same_card(model: Path) -> None:
    path = edited(model, lambda raw: [raw.update({key: raw.pop(key)}) for key in sorted(raw, reverse=True)])
    assert contents(path).card != contents(model).card
    assert Detector(path).integrity.changed == ()


def test_a_second_card_or_a_file_cut_off_is_refused(model: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(str(model))
    graph.metadata_props.add(key=ONNX_KEY, value=make_card().to_json())
    onnx.save(graph, "twice.onnx")
    Path("torn.onnx").write_bytes(model.read_bytes()[:-40])
    for name in ("twice.onnx", "torn.onnx"):
        with pytest.raises(ModelError, match=name):
            Detector(name, allow_changed=True)


def good_pictures() -> None:
    Path("line").mkdir(exist_ok=True)
    for i in range(10):
        rgb = good(32, 32)
        rgb[5, i] = 100 + 5 * i
        Image.fromarray(rgb).save(f"line/{i}.png")


def test_calibration_keeps_the_chain_of_who_changed_what(model: Path) -> None:
    good_pictures()
    for given, out, budget in ((model, "a.onnx", 0.1), ("a.onnx", "b.onnx", 0.2)):
        made = invoke(calibrate, "--model", given, "--good", "line", "--false-alarms", budget, "--out", out)
        assert made.exit_code == 0, made.output
    cards = [Detector(path).card for path in (model, "a.onnx", "b.onnx")]  # each as its digests say
    digests = [card.digests for card in cards if card.digests]
    assert digests[0].files == digests[1].files == digests[2].files
    assert len({d.card for d in digests}) == 3
    assert [len(card.history) for card in cards] == [0, 1, 2]
    first, second = cards[2].history
    assert (first.parent, second.parent) == (digests[0].card, digests[1].card)
    assert first.by.startswith("vtad-calibrate ")
    assert first.when.endswith("+00:00")
    assert first.what.startswith("threshold 2 -> ")
    assert first.what.endswith(" from 10 good pictures")
    said = checks("--model", "b.onnx")["model bytes"]
    assert said[0] is True
    assert said[1].startswith("as exported; ")
    assert said[1].count("by vtad-calibrate") == 2


def test_calibration_heals_no_change_made_by_hand(model: Path) -> None:
    good_pictures()
    by_hand = edited(model, lambda raw: raw["input"].update(fit="letterbox"))
    for given, left in ((flipped(model), "model"), (by_hand, "card before vtad-calibrate")):
        out = f"new-{given}"
        made = invoke(calibrate, "--model", given, "--good", "line", "--allow-changed", "--out", out)
        assert made.exit_code == 0, made.output
        assert f"{out}: changed since its export" in made.stderr
        with pytest.raises(ModelError, match=f"changed since its export: {left}"):
            Detector(out)


def test_an_older_file_has_digests_once_it_is_calibrated(model: Path) -> None:
    good_pictures()
    old = edited(model, lambda raw: raw.update(schema=2, digests=None))
    assert not Detector(old).integrity.sealed
    assert invoke(calibrate, "--model", old, "--good", "line", "--out", "new.onnx").exit_code == 0
    new = Detector("new.onnx")
    assert new.integrity.sealed
    assert new.card.history[0].what.endswith("; it had no digests before")
    assert Card.from_json(new.card.to_json()) == new.card
