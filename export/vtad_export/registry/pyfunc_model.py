"""The MLflow model of an export: vtad_runtime's Detector behind mlflow.pyfunc.

model = mlflow.pyfunc.load_model("models:/pill@champion")
model.predict(["a.png", "b.png"])   # or "a.png"; or an array, (H, W, 3) or (N, H, W, 3) uint8 RGB; or a list of such

MLflow keeps this file and the package vtad_runtime beside the .onnx, and runs it wherever the model is loaded ("models from
code"): nothing else of vtad is needed there.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from pydantic import BaseModel

from vtad_runtime import Detector, ImageError

DATA = "data:"  # the beginning of data:image/png;base64,... (RFC 2397), a picture inside JSON
BATCH = 8  # pictures at a time: some hundred megabytes of maps


class Judged(BaseModel):
    """What is said of one picture; the names are those of vtad-run's rows."""

    score: float | None = None  # None where the picture could not be judged
    p_value: float | None = None
    verdict: str = "ERROR"
    threshold: float = 0.0
    reason: str | None = None  # why the verdict is ERROR or, whatever the score, UNSURE


class _Judging:
    """What takes part in no check of types by mlflow: that would refuse an array that is in no list."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the model."""
        self.detector = Detector(context.artifacts["onnx"])

    def predict(self, model_input: list[Any]) -> list[Judged]:
        """Judge each picture: files by name, data: addresses, bytes of files, arrays (H, W, 3) of uint8 RGB."""
        pictures = _pictures(model_input)
        return [one for i in range(0, len(pictures), BATCH) for one in self._batch(pictures[i : i + BATCH])]

    def _batch(self, pictures: Sequence[Any]) -> list[Judged]:
        try:
            return [_judged(result) for result in self.detector.batch([_picture(one) for one in pictures])]
        except (ImageError, ValueError) as e:
            if len(pictures) > 1:  # one of them, and it takes no other with it
                return [self._batch([one])[0] for one in pictures]
            return [Judged(threshold=self.detector.card.calibration.threshold, reason=" ".join(str(e).split()))]


class Judge(_Judging, PythonModel):  # type: ignore[misc]  # the two say the same of predict, with other words
    """The detector, as mlflow calls it."""


def _pictures(given: Any) -> list[Any]:
    if hasattr(given, "iloc"):  # a pandas table: its first column
        return list(given.iloc[:, 0])
    if isinstance(given, str | bytes):
        return [given]
    if isinstance(given, np.ndarray):
        return [given] if given.ndim == 3 else list(given)
    return list(given)


def _picture(one: Any) -> Any:
    """As the detector takes it."""
    if isinstance(one, str) and one.startswith(DATA):
        return base64.b64decode(one.partition(",")[2])
    if isinstance(one, list):  # an array that came as JSON
        return _levels(one)
    return one


def _levels(one: list[Any]) -> np.ndarray[Any, Any]:
    """A picture of JSON's numbers. Raises ValueError: they are not whole numbers from 0 to 255, be it that they are 0 to 1."""
    given = np.asarray(one)
    if given.dtype.kind not in "iu" or (given.size and not 0 <= given.min() <= given.max() <= 255):
        raise ValueError("expected whole numbers from 0 to 255 (height, width, 3), RGB, got other values")
    return given.astype(np.uint8)


def _judged(result: Any) -> Judged:
    return Judged(
        score=result.score if np.isfinite(result.score) else None,
        p_value=result.p_value if np.isfinite(result.p_value) else None,
        verdict=str(result.verdict),
        threshold=result.threshold,
        reason=result.error or result.doubt,
    )


set_model(Judge())
