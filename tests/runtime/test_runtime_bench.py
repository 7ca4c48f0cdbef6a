"""One table holds every ratio of vtad-run and the bare session, with those that this machine cannot measure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
from tiny_model import good, write_model

from bench.__main__ import main
from bench.growth import Growth, Point, plot
from bench.table import BEGIN, END, NotMeasured, Part, Ratio, put, rows, table

QUICK = Ratio("quick : slow", at_most=1.3)
MANY = Ratio("many : few", at_least=0.9)
PLAIN = Ratio("one : other")
THERE = Ratio("with a library : without")
LAST = Ratio("last : first", at_least=2)


def measured(_: object) -> Iterator[tuple[Ratio, float | str]]:
    yield QUICK, 1.304
    yield MANY, 0.89
    yield PLAIN, 2.0
    yield THERE, "the library | is not here"
    raise NotMeasured("there are no pictures")


def test_every_ratio_has_its_row_whether_it_could_be_measured_or_not() -> None:
    found = rows(Part("some", (QUICK, MANY, PLAIN, THERE, LAST), measured), None)
    assert table("Two cores.", found).splitlines() == [
        "Two cores.",
        "",
        "| measured | ratio | aim | met |",
        "|---|---|---|---|",
        "| quick : slow | 1.30 | at most 1.3 | yes |",
        "| many : few | 0.89 | at least 0.9 | no |",
        "| one : other | 2.00 |  |  |",
        "| with a library : without | not measured: the library / is not here |  | |",
        "| last : first | not measured: there are no pictures | at least 2 | |",
    ]


def test_the_table_goes_between_its_markers_and_the_words_around_it_stay(tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(f"# Before\n{BEGIN}\nold\n| table |\n{END}\nAfter é\n", encoding="utf-8")
    put(document, "new")
    assert document.read_text(encoding="utf-8") == f"# Before\n{BEGIN}\nnew\n{END}\nAfter é\n"
    put(document, "newer")
    assert document.read_text(encoding="utf-8") == f"# Before\n{BEGIN}\nnewer\n{END}\nAfter é\n"
    assert list(tmp_path.iterdir()) == [document]


@pytest.mark.parametrize("text", ["no markers", f"{BEGIN} alone", f"{END} before {BEGIN}"])
def test_a_document_without_both_markers_is_not_touched(text: str, tmp_path: Path) -> None:
    document = tmp_path / "benchmarks.md"
    document.write_text(text, encoding="utf-8")
    with pytest.raises(NotMeasured, match="expected the lines"):
        put(document, "new")
    assert document.read_text(encoding="utf-8") == text


def test_the_documents_of_this_project_have_their_markers() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_parts_that_cannot_run_here_say_so_and_wrong_names_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = str(write_model(tmp_path / "m.onnx"))
    main(["peers", "training", "--model", model])
    said = capsys.readouterr().out
    assert "tiny, 32 x 32" in said
    assert len(re.findall(r"^\| .* \| not measured: name .* \|$", said, re.MULTILINE)) == 8
    for wrong in (["folders"], ["start", "--write", "benchmarks.md"]):
        with pytest.raises(SystemExit) as ended:
            main([*wrong, "--model", model])
        assert ended.value.code == 2
        assert "expected" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"bench: .*nothing there"):
        main(["start", "--model", str(tmp_path / "none.onnx")])


def test_growth_is_fitted_and_what_is_worse_than_linear_is_named(tmp_path: Path) -> None:
    """Time as the square of its size, memory as its root."""
    grown = Growth("pictures", tuple(Point(x, 0.01 * x**2, 50 * x**0.5) for x in (1.0, 10.0, 100.0)))
    assert grown.time_exponent == pytest.approx(2)
    assert grown.memory_exponent == pytest.approx(0.5)
    assert not grown.linear
    assert str(grown) == "| pictures | 1 to 100 | 0.0 to 100.0 s | 2.00 | 50 to 500 MB | 0.50 |"
    linear = Growth("threads", tuple(Point(x, 3 * x, 90) for x in (1.0, 2.0)))
    assert linear.linear
    plot([grown, linear], tmp_path / "growth.png")
    assert cv2.imread(str(tmp_path / "growth.png")) is not None
    assert (tmp_path / "growth.png").stat().st_size < 60_000


@pytest.mark.service  # starts processes
def test_every_part_measures_its_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good").mkdir()
    cv2.imwrite(str(tmp_path / "good/1.png"), good())
    given = ["--model", str(write_model(tmp_path / "m.onnx")), "--good", str(tmp_path / "good"), "--side", "64"]
    main(["start", "memory", "folder", *given, "--pictures", "100", "--frames", "5", "--starts", "1"])
    found = re.findall(r"^\| .* \| (\d+\.\d\d) \|", capsys.readouterr().out, re.MULTILINE)
    assert len(found) == 6
    assert all(float(value) > 0 for value in found)
