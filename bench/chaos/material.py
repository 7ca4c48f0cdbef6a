"""What the kinds of chaos share, each made when it is first asked for: tiny models, pictures, a run that nobody disturbed."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from random import Random

import cv2
import numpy as np

from .programs import Process

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT / "tests"), str(ROOT / "tests" / "runtime")]  # tiny models are made as in the tests
MODEL_BYTES = 8_000_000  # large enough to be killed while it is written
SIDE = 160  # pixels of a picture
EPOCHS = 80  # of 3 steps; a checkpoint every 40, and at the end
PICTURES = 40
DEFECT_EVERY = 4


class Material:
    """Below one folder; nothing in it is changed once it is made."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def model(self) -> Path:
        """The model of the runtime's tests, how far a pixel is from grey 100, with a long description."""
        import onnx
        from tiny_model import make_card, write_model

        from vtad_runtime.engine.integrity import write_sealed

        path, card = self._folder / "model" / "tiny.onnx", make_card(64, 64)
        model = onnx.load(write_model(path, card))
        model.doc_string = "-" * MODEL_BYTES
        onnx.save(model, path)
        write_sealed(path, card)
        return path

    @cached_property
    def pictures(self) -> Path:
        """A folder of pictures, some of them with a defect."""
        return self._pictures("pictures", range(PICTURES))

    @cached_property
    def good(self) -> Path:
        """A folder of good pictures."""
        return self._pictures("good", (n for n in range(PICTURES) if not is_defective(n)))

    @cached_property
    def data(self) -> Path:
        """A data folder with the category pill."""
        from vtad.data.demo import write_demo

        write_demo(self._folder / "data" / "pill", size=64, train=16, good=4, per_defect=1)
        return self._folder / "data"

    @cached_property
    def training(self) -> list[str]:
        """The options of a tiny training."""
        from tiny_run import flags

        return ["--category", "pill", "--data", str(self.data), "--device", "cpu", *flags(epochs=EPOCHS)]

    @cached_property
    def run(self) -> Path:
        """The run folder of that training, never disturbed."""
        self.training_s = self._undisturbed("vtad-train", *self.training, "--out", str(self._folder / "runs"))
        return self._folder / "runs" / "pill" / "0001"

    @cached_property
    def exported(self) -> Path:
        """A copy of that run with its export, never disturbed."""
        run = Path(shutil.copytree(self.run, self._folder / "exported"))
        self.export_s = self._undisturbed("vtad-export", "--run", str(run))
        return run

    training_s = export_s = 0.0  # that they took, starts of the process included

    def _pictures(self, name: str, numbers: Iterable[int]) -> Path:
        folder = self._folder / name
        folder.mkdir()
        for number in numbers:
            (folder / f"{number:03d}.png").write_bytes(picture(number))
        return folder

    def _undisturbed(self, program: str, *arguments: str) -> float:
        ended = Process(program, *arguments, cwd=self._folder).ended()
        if ended.exit_code != 0:
            raise RuntimeError(f"{ended.command}: exit code {ended.exit_code}: {ended.errors}")
        return ended.seconds


def is_defective(number: int) -> bool:
    """Whether the picture of this number has a white square."""
    return number % DEFECT_EVERY == 0


def picture(number: int) -> bytes:
    """A PNG of a noisy plain surface; no two are alike."""
    rng = np.random.default_rng(number)
    rgb = rng.integers(97, 104, (SIDE, SIDE, 3), dtype=np.uint8)
    if is_defective(number):
        x, y = rng.integers(8, SIDE - 48, 2)
        rgb[y : y + 40, x : x + 40] = 255
    return cv2.imencode(".png", rgb)[1].tobytes()


def drawn_room(rng: Random, needed: int) -> int:
    """Bytes that are left on a disk: from none to somewhat more than needed."""
    return int(needed * rng.uniform(0, 1.2) ** 2)
