"""What compares vtad-run with the bare session runs and prints its ratios."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
from tiny_model import good, write_model

from bench import folder, memory, start


@pytest.mark.service  # starts processes
@pytest.mark.parametrize(
    ("program", "options", "said"),
    [
        (folder, ("--pictures", "100"), r"vtad-run: (\S+) pictures/s(?s:.*)pictures/s of vtad-run / bare session: "),
        (memory, ("--pictures", "20"), r"less a batch of frames \(\d+ MB\) (\S+) of the bare session"),
        (start, ("--frames", "5", "--starts", "1"), r"start to first verdict / bare session: median of 1 pairs (\S+)"),
    ],
)
def test_each_comparison_prints_its_ratio(
    program: Any,
    options: tuple[str, ...],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "good").mkdir()
    cv2.imwrite(str(tmp_path / "good/1.png"), good())
    model = write_model(tmp_path / "m.onnx")
    arguments = ["--model", str(model), "--good", str(tmp_path / "good"), "--side", "64", *options]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments])
    program.main()
    found = re.search(said, capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > 0
