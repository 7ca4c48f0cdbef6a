"""report.html: what it says, how large it is, and that nothing that a file is called can change it."""

from __future__ import annotations

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_report import made_page, made_pictures, made_run
from tiny_run import disk_fills_up, done, error

from vtad.calibration.record import CalibrationRecord
from vtad.commands.evaluate import evaluate as command
from vtad.report import library, page, pictures
from vtad.report.card_words import card_rows
from vtad.report.page import show_certificates, write_page
from vtad.report.trained import report_training
from vtad.run_folder import Run
from vtad_runtime.contract.threshold.trade_off import Count, choice

VOID = ("meta", "link", "img", "input", "br")
LINKS = ("href", "src", "action", "poster", "data", "srcset")


class Read(HTMLParser):
    """Tags and the text between them, of a page that is well formed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.script: list[str] = []
        self.style: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = self.open[-1] if self.open else ""
        if inside == "h2":
            self.headings.append(data)
        {"script": self.script, "style": self.style}.get(inside, self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def data(self) -> Any:
        """What the page's script knows."""
        return json.loads(self.script[0])

    def all(self, tag: str, **wanted: str) -> list[dict[str, str]]:
        return [a for name, a in self.tags if name == tag and all(a.get(k) == v for k, v in wanted.items())]


def read(path: Path) -> Read:
    return Read(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Read]:
    """The page of 20 good and 30 defective pictures, which no model has seen."""
    run = made_run(tmp_path_factory.mktemp("made"))
    return run, read(write_page(run, made_page(run, made_pictures(20, 30))))


def test_the_page_says_what_the_threshold_costs_with_exact_intervals(made: tuple[Run, Read]) -> None:
    run, shown = made
    calibration = run.card().calibration
    data = shown.data
    good, bad = ([s for s, d in zip(data["score"], data["defective"], strict=True) if d == is_bad] for is_bad in (0, 1))
    cost = choice(calibration.threshold, good, bad)
    for count in (cost.false_alarms, cost.misses):
        low, high = (f"{100 * end:.1f}" for end in count.interval)
        assert f"{count.count} of {count.of} {100 * (count.share or 0):.1f} % {low} to {high} %" in shown.text
    assert f"False alarms {cost.false_alarms.count} of 20" in shown.text
    assert (data["threshold"], len(good), len(bad)) == (calibration.threshold, 20, 30)


def test_wrong_ones_come_first_and_every_picture_has_all_layers_and_its_mask(made: tuple[Run, Read]) -> None:
    run, shown = made
    data, tiles = shown.data, [a for a in shown.all("button") if a.get("class", "").startswith("tile")]
    threshold = run.card().calibration.threshold
    wrong = [(data["score"][i] > threshold) != bool(data["defective"][i]) for i in (int(t["data-at"]) for t in tiles)]
    assert len(tiles) == 50
    assert 0 < sum(wrong) < 50
    assert wrong == sorted(wrong, reverse=True) == [t["class"] == "tile wrong" for t in tiles]
    images = shown.all("img")
    assert len(images) == 50 * len(pictures.LAYERS)
    assert all(a["loading"] == "lazy" and a["src"].startswith("data:image/webp;base64,") for a in images)
    assert shown.text.count("Reconstruction") >= 50
    assert len([a for a in shown.all("path") if a.get("d", "").startswith("M") and "style" not in a]) >= 2 * 30


def test_it_shows_what_the_run_folder_holds(made: tuple[Run, Read]) -> None:
    run, shown = made
    record = CalibrationRecord.read(run)
    assert record is not None
    for words in (
        record.good[0].file,
        "feature GMM pruned",
        "75 % density map and 25 % SSIM map",
        "token norms",
        "segmentation loss",
        run.card().weights_sha256[:16],
        "ROC: area",
        "AUPRO",
        "Precision and recall",
        "vtad-export makes one, proves it",
    ):
        assert words in shown.text, words
    assert {a["data-kind"] for a in shown.all("tr") if "data-kind" in a} == {"crack", "scratch", "dent"}


def test_every_certificate_is_shown_and_what_is_none_is_left_out(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    folder = run.path / "export"
    folder.mkdir()
    show_certificates(run)
    assert not (run.path / "report.html").exists()
    write_page(run, made_page(run, made_pictures(3, 3)))
    near = {"below": 3, "above": 2, "nearest": 0.1, "max_error": 1e-4, "flips": 1}
    parity: dict[str, Any] = {
        "format": "onnx",
        "precision": "fp32",
        "images_good": 11,
        "images_defective": 13,
        "max_error": {"score": 2.5e-6, "ssim_map": 2e-5},
        "tolerance": {"score": 1e-3},
        "verdict_flips": 0,
        "near": near,
    }
    coreml = {"method": "reference execution", "parity": {**parity, "format": "coreml", "verdict_flips": 2}}
    (folder / "parity.json").write_text(json.dumps({**parity, "constants": {"equal": 3}}))
    (folder / "parity-coreml.json").write_text(json.dumps(coreml))
    (folder / "parity-int8.json").write_text('{"format": "onnx"')
    show_certificates(run)
    with_certificates = (run.path / "report.html").read_text()
    page_ = made_page(run, made_pictures(3, 3))
    shown = read(write_page(run, page_)).text
    assert (run.path / "report.html").read_text() == with_certificates
    written = (run.path / "report.html").stat().st_ino
    show_certificates(run)
    assert (run.path / "report.html").stat().st_ino == written  # what says the same is not written again
    for words in ("onnx fp32", "coreml fp32", "reference execution", "2.5e-06", "no limit"):
        assert words in shown, words
    assert "Judges 11 good pictures and 13 synthetic defects as torch does: no verdict differs" in shown
    assert "2 verdicts differ" in shown
    assert "Close to the threshold, 1 of 5 differ" in shown
    assert "onnx int8" not in shown


ODD = ("<img src=x onerror=alert(1)>.png", "</script><b>.png", "quote\"'&amp;.png", "gut_\udce4.png", "two\nlines.png")


def test_no_name_can_change_the_page(tmp_path: Path) -> None:
    category = "a<b>&'\"<title>"
    run = made_run(tmp_path, category)
    kinds = ("</script><script>alert(1)</script>", "good", "{{ 7 * 7 }}")
    odd = [(name, kind, float(i)) for i, name in enumerate(ODD) for kind in kinds]
    note = "the images in gut_\udce4 are not those that the run was trained on"  # of a data folder
    shown = read(write_page(run, made_page(run, odd, note=note)))
    assert "the images in gut_? are not those" in shown.text
    assert "49" not in [option["value"] for option in shown.all("option")]
    assert {a["value"] for a in shown.all("option")} >= set(kinds)
    names = shown.data["name"]
    for name, kind, _ in odd:
        assert f"test/{kind}/{name}".replace("\udce4", "?").replace("\n", "\ufffd") in names
    assert not shown.all("b", onerror="alert(1)")
    assert len(shown.all("script")) == 2
    assert all("onerror" not in a for _, a in shown.tags)
    assert category in shown.text


def test_the_page_loads_nothing_from_elsewhere(made: tuple[Run, Read]) -> None:
    run, shown = made
    for tag, attributes in shown.tags:
        for link in set(attributes) & set(LINKS):
            assert re.match(r"#|data:", attributes[link]) or link == "data", (tag, link, attributes[link][:80])
    text = (run.path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"url\((?!#)|@import|https?://", re.sub(r'"data:[^"]*"', "", text))
    (policy,) = (a["content"] for a in shown.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


@pytest.mark.slow
def test_five_hundred_pictures_of_noise_stay_below_ten_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Noise is what compresses worst; the same few views stand for all, so that the test is quick."""
    run = made_run(tmp_path)
    few: list[pictures.View] = []
    view = pictures.Studio.view

    def seldom(studio: pictures.Studio, *given: Any) -> pictures.View:
        if len(few) < 12:
            few.append(view(studio, *given))
        return few[len(few) // 2 :][len(few) % 6] if len(few) == 12 else few[-1]

    monkeypatch.setattr(pictures.Studio, "view", seldom)
    path = write_page(run, made_page(run, made_pictures(200, 300), side=256, noise=90, distinct=12))
    assert 2e6 < path.stat().st_size < 10e6
    assert all(min(v.width, v.height) >= pictures.SMALLEST // 2 for v in few)


def test_of_more_pictures_the_most_telling_are_shown_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vtad.report.evaluated.MOST", 8)
    run = made_run(tmp_path)
    threshold = run.card().calibration.threshold
    many = made_pictures(20, 20)
    shown = read(write_page(run, made_page(run, many)))
    tiles = [int(a["data-at"]) for a in shown.all("button") if a.get("class", "").startswith("tile")]
    telling = sorted(
        many,
        key=lambda p: (
            ((p[2] > threshold) == (p[1] != "good")),
            abs(p[2] - threshold) * (1 if (p[2] > threshold) == (p[1] != "good") else -1),
        ),
    )[:8]
    assert {shown.data["name"][i] for i in tiles} == {f"test/{kind}/{name}" for name, kind, _ in telling}
    assert len(shown.data["score"]) == 40
    assert "The 8 most telling of 40 pictures." in shown.text


def test_the_command_names_the_export_as_one_would_type_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(tmp_path, "two words")
    page_ = made_page(run, made_pictures(3, 3))
    assert page_.explorer.command == ("vtad-calibrate --model 'runs/two words/0001/export/two words.onnx' --threshold")
    monkeypatch.chdir(run.path)
    assert "--model 'export/two words.onnx'" in made_page(run, made_pictures(3, 3)).explorer.command


def test_without_good_or_without_defective_pictures_there_is_a_page(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for good, bad in ((4, 0), (0, 4)):
        shown = read(write_page(run, made_page(run, made_pictures(good, bad))))
        assert "ROC: area" not in shown.text
        assert ("False alarms" in shown.headings, "Missed" in shown.headings) == (good > 0, bad > 0)
        assert len(shown.data["score"]) == 4


@pytest.mark.usefixtures("pills")
def test_vtad_eval_writes_the_page_beside_the_metrics(run: Run) -> None:
    (run.path / "report.html").write_text("of the training")
    said = done(command, "--run", run.path)
    assert said.rstrip().endswith("report.html")
    shown, metrics = read(run.path / "report.html"), json.loads((run.path / "metrics.json").read_text())
    scores = metrics["scores"]
    misses = Count(scores["defective"], round(scores["miss_rate"] * scores["defective"]))
    assert f"Missed {misses.count} of {misses.of}" in shown.text
    assert f"{scores['image']['auroc']:.3f}" in shown.text
    assert f"{metrics['heatmap']['aupro']:.3f}" in shown.text
    assert len(shown.all("img")) == 9 * len(pictures.LAYERS)
    assert "pro_curve" not in metrics
    for kind in scores["kinds"]:
        assert f"test/{kind}/000.png" in shown.data["name"]
    assert "not yet: vtad-eval" not in shown.text
    assert str(run.path.parents[2]) not in (run.path / "report.html").read_text()


@pytest.mark.usefixtures("pills")
def test_without_the_extra_vtad_eval_says_one_line_and_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_spec", lambda name: None if name == "jinja2" else name)
    said = done(command, "--run", run.path)
    assert said.rstrip().endswith("no report.html: jinja2 is not installed: pip install 'vtad[report]'")
    assert (run.path / "metrics.json").is_file()
    assert not (run.path / "report.html").exists()


def test_a_full_disk_leaves_the_earlier_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    (run.path / "report.html").write_text("as it was")
    disk_fills_up(monkeypatch, page, "write_text")
    assert "report.html: could not be written" in error(4, command, "--run", run.path)
    assert (run.path / "report.html").read_text() == "as it was"
    assert not list(run.path.glob(".*part"))


def test_the_page_of_a_training_shows_the_oddest_good_pictures_by_name(run: Run) -> None:
    path = report_training(run)
    record = CalibrationRecord.read(run)
    assert path == run.path / "report.html"
    assert record is not None
    shown = read(path)
    tiles = [int(a["data-at"]) for a in shown.all("button") if a.get("class", "").startswith("tile")]
    assert [shown.data["name"][i] for i in tiles] == [g.file for g in record.good]
    assert shown.data["defective"].count(1) == len(record.synthetic)
    assert f"Oddest good picture {record.good[0].score:.3g} {record.good[0].file}: look at it" in shown.text
    for words in ("Synthetic defects missed", "held out", "cross-fitted", "What each scorer counts"):
        assert words in shown.text, words
    weights = record.weights
    assert weights is not None
    assert sum(weight > 0 for weight in weights.scorers.values()) >= 1
    assert 0 <= weights.ssim_share <= 1
    card = run.card()
    assert card.weighing == weights
    assert dict(card_rows(card))["scorers"] == ", ".join(weights.counts)
    assert weights.damage is not None
    assert weights.qualities in shown.text
    assert weights.parts
    assert weights.parts in shown.text


def test_the_page_of_a_training_does_without_pictures_that_are_gone(run: Run, tmp_path: Path) -> None:
    run.moved_to(dataclasses.replace(run.config(), data=str(tmp_path / "nowhere")))
    shown = read(report_training(run))
    assert shown.all("img") == []
    assert html.escape("train/good/") in shown.text


def test_a_run_of_an_earlier_version_gets_a_page_of_what_it_kept(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for name in ("calibration.json", "metrics.jsonl"):
        (run.path / name).unlink()
    shown = read(write_page(run, made_page(run, made_pictures(3, 3))))
    assert "What each scorer counts" not in shown.text
    assert "The oddest good pictures" not in shown.text
    assert "Missed" in shown.headings
