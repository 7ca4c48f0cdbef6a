"""The documents against the program: options, links, files, rooms and figures that they name are there."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
from documents import BLOCK, COMMANDS, DOCS, OURS, PROJECT, README, ROOT, blocks, program

from vtad_runtime.contract.threshold.conformal import calibration


def test_what_is_not_ours_exists() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for line in set(COMMANDS) - set(OURS):
        words = shlex.split(line)
        if words[0] == "make":
            assert words[1] in targets, line
        else:
            assert words[:2] == ["pip", "install"], line
            extras = re.findall(r"\[(.*)\]", words[2])
            assert not extras or set(extras[0].split(",")) <= PROJECT["optional-dependencies"].keys(), line


def test_the_product_stands_in_the_readme_in_three_commands() -> None:
    product = ["vtad-train --category pill", "vtad-export --format coreml", "vtad-run --camera 0"]
    assert [text.splitlines() for text in blocks(README, "sh")][1] == product


def spans(path: Path) -> list[str]:
    """Everything that stands as code: each line of a block, each span between backticks."""
    text = path.read_text(encoding="utf-8")
    lines = [line for _, block in BLOCK.findall(text) for line in block.splitlines()]
    return lines + [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", BLOCK.sub("", text))]


def options(command: click.Command) -> set[str]:
    names = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return names.union(*map(options, command.commands.values())) if isinstance(command, click.Group) else names


HELP = {name: options(program(name)) | {"--help"} for name in PROJECT["scripts"]}
BENCH = {
    "--screenshot",
    "--beside",
    "--counts",
    "--draws",
    "--peers",
    "--peers-model",
    "--plot",
    "--table",
}  # of the programs in bench
TORCHRUN = {"--standalone", "--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint"}


@pytest.mark.parametrize("path", [*DOCS, ROOT / "docs" / "vtad-run.service"], ids=lambda path: path.name)
def test_every_option_that_is_named_exists(path: Path) -> None:
    lines = path.read_text().splitlines() if path.suffix == ".service" else spans(path)
    for line in lines:
        found = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", line))
        commands = [name for name in HELP if re.search(rf"{name}(?![\w.-])", line)]
        known = set().union(*(HELP[name] for name in commands or HELP))
        if "make" in line or not commands:
            known |= BENCH
        known |= TORCHRUN if "torchrun" in line else set()
        if "systemctl" not in line:
            assert found <= known, line


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_and_picture_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", path.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.is_file(), target
        assert not anchor or anchor in anchors(file), target


def anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub writes them in links."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_file_of_ours_that_is_named_exists(path: Path) -> None:
    homes = {f"vtad_{name}": ROOT / name for name in ("runtime", "export", "benchmark")}
    ours = re.compile(
        r"(?<![\w/.])((?:vtad|vtad_runtime|vtad_export|vtad_benchmark|benchmark|export|runtime|tests|bench|docs)/[\w/.-]*\w)"
    )
    for name in ours.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        assert (homes.get(name.split("/")[0], ROOT) / name).exists(), name


def test_the_map_shows_every_room_in_the_order_of_its_layer() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    shown = re.findall(r"^\| (`.*?) \|", text[: text.index("## A picture")], re.MULTILINE)
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    rooms = []
    for package in (
        ROOT / "runtime/vtad_runtime",
        ROOT / "vtad",
        ROOT / "export/vtad_export",
        ROOT / "benchmark/vtad_benchmark",
    ):
        (layers,) = (c["layers"] for c in contracts if c.get("layers", [""])[0] == f"{package.name}.commands")
        names = [name.strip().partition(".")[2] for layer in layers for name in layer.split("|")]
        rooms += [name for name in names if (package / name).is_dir()]
        assert set(rooms) >= {path.parent.name for path in package.glob("*/__init__.py")}
    assert [name for row in shown for name in re.findall(r"`(\w+)`", row)] == rooms


def test_the_readme_has_at_most_150_lines() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_how_many_good_pictures_it_takes_is_what_the_program_says() -> None:
    rows = re.findall(r"^\| (\d+)(?: or more)? \| ([\d.]+) %", README.read_text(), re.MULTILINE)
    assert len(rows) == 3
    for pictures, rate in rows:
        scores = [float(i) for i in range(int(pictures))]
        assert f"{100 * calibration(scores, scores, 0.01).achievable:.1f}" == rate


def test_the_service_starts_what_systemd_would() -> None:
    unit = (ROOT / "docs" / "vtad-run.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    words = shlex.split(line.replace("$VTAD_OPTIONS", "--mqtt mqtts://line:PASSWORD@broker/line1"))
    assert Path(words[0]).name == "vtad-run"
    program("vtad-run").make_context("vtad-run", words[1:])


def test_make_demo_types_what_the_commands_take() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("$(MINUTES)", "1")
    for name, rest in re.findall(r"\$\(BIN\)/(vtad-\w+)(.*?)(?: \|\| .*)?$", makefile, re.MULTILINE):
        assert set(re.findall(r"--[a-z-]+", rest)) <= HELP[name], rest
