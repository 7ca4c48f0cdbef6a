"""The wheel's base install runs a model where neither torch nor onnx exists."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_model import bad, write_model

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = (  # one of the two opencv
    "numpy",
    "opencv-python",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "onnxruntime",
    "click",
)


def run(*command: object, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], check=False, capture_output=True, text=True, **options)


def requirements(names: tuple[str, ...]) -> dict[str, Distribution]:
    """The installed distributions of these names and all that they need without extras."""
    needed: dict[str, Distribution] = {}
    queue = list(names)
    while queue:
        name = queue.pop()
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        if needed.setdefault(found.name, found) is found:
            lines = [line for line in found.requires or [] if "extra ==" not in line]
            queue += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines]
    return needed


@pytest.mark.slow
def test_the_wheel_alone_judges_a_picture(tmp_path: Path) -> None:
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=REPOSITORY)
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("vtad-*.whl")

    home = tmp_path / "env"
    venv.create(home, with_pip=False, symlinks=True)
    scripts = Path(sysconfig.get_path("scripts", "venv", {"base": str(home)}))
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(home)}))
    # pip of this environment installs into the new one: making a pip there takes seconds.
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--no-deps", "--no-index", wheel)
    installed = run(*pip)
    assert installed.returncode == 0, installed.stderr

    for found in requirements(BASE).values():
        for top in {file.parts[0] for file in found.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(Path(str(found.locate_file(top))))

    absent = run(scripts / "python", "-I", "-c", "import torch")
    assert "No module named 'torch'" in absent.stderr
    absent = run(scripts / "python", "-I", "-c", "import onnx")
    assert "No module named 'onnx'" in absent.stderr

    work = tmp_path / "work"
    write_model(work / "runs/tiny/1/export/tiny.onnx")
    Image.fromarray(bad()).save(work / "bad.png")
    environment = {"PATH": str(scripts)}
    judged = run(scripts / "vtad-run", "--folder", "bad.png", cwd=work, env=environment)
    assert judged.returncode == 1, judged.stderr
    assert len(judged.stderr.splitlines()) == 1
    assert "bad.png: judging" in judged.stderr
    assert (work / "results/0001/heatmaps/bad.png.jpg").is_file()
