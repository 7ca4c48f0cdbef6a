"""What an export adds to the MLflow run of its training: certificates, the model, and a version in the registry."""

from __future__ import annotations

import base64
import re
import warnings
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np

import vtad_runtime
from vtad.tracking.mirror import Mirror
from vtad_export.proof.exporter import Export
from vtad_runtime.contract.references import as_webp
from vtad_runtime.verdict.detector import Detector

CHAMPION = "champion"  # MLflow's usual word for the version that is in use


def send_export(mirror: Mirror, made: Export) -> None:
    """The certificate and the card of an artefact, and the errors that the proof measured, as metrics.

    Raises what mlflow raises when the store does not answer.
    """
    run_id, name, parity = mirror.run_id(), made.path.name, made.parity
    mirror.client.log_text(run_id, made.certificate + "\n", f"certificates/{name}.txt")
    mirror.client.log_text(run_id, made.card.to_json() + "\n", f"certificates/{name}.card.json")
    mirror.send_numbers(
        {f"error/{output}": error for output, error in parity.max_error.items()} | {"flips": parity.verdict_flips},
        f"{parity.format}-{parity.precision}",
    )


def log_model(mirror: Mirror, onnx: Path) -> str:
    """The ONNX file as an MLflow model of the run, for `mlflow.pyfunc.load_model`; its id.

    See vtad_export.registry.pyfunc_model. The runtime's code goes with it, so that it needs what the runtime needs, and no
    vtad. Nothing is set for the whole process. Raises what mlflow raises when the store does not answer.
    """
    import mlflow.pyfunc
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run_id = mirror.run_id()
    store = mirror.client
    model = store.create_logged_model(
        store.get_run(run_id).info.experiment_id, re.sub(r"[/:.%\"']", "_", onnx.stem), source_run_id=run_id
    )
    detector = Detector(onnx)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.showwarning = _unheard  # mlflow sets its own filters
        mlflow.pyfunc.save_model(
            f"{folder}/model",
            mlflow_model=Model(
                artifact_path=model.artifact_location, run_id=run_id, model_uuid=model.model_id, model_id=model.model_id
            ),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"onnx": str(onnx.absolute())},
            code_paths=[str(Path(vtad_runtime.__file__).parent)],
            pip_requirements=_requirements(),
            input_example=[_example(detector)],
        )
        store.log_model_artifacts(model.model_id, f"{folder}/model")
    store.finalize_logged_model(model.model_id, "READY")
    store.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return str(model.model_id)


def register(mirror: Mirror, model_id: str, category: str) -> str:
    """A version of the model under the category, which becomes the champion; its number. Raises what mlflow raises."""
    from mlflow.exceptions import MlflowException

    try:
        mirror.client.create_registered_model(category)
    except MlflowException as e:
        if e.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = mirror.client.create_model_version(category, f"models:/{model_id}", mirror.run_id(), model_id=model_id)
    mirror.client.set_registered_model_alias(category, CHAMPION, made.version)
    return str(made.version)


def _unheard(*_: object, **__: object) -> None:
    """mlflow would rather that the input were of one type; it may be a file name or an array."""


def _requirements() -> list[str]:
    """What the base install of vtad asks for: the runtime's packages."""
    try:
        return [line for line in requires("vtad") or [] if "extra ==" not in line]
    except PackageNotFoundError:  # a source tree that is not installed
        return ["numpy", "opencv-python-headless", "pillow", "simplejpeg", "onnxruntime", "click"]


def _example(detector: Detector) -> str:
    """A good picture as JSON takes it: the first reference picture, or a grey one where there are none."""
    known, spec = detector.references(), detector.card.input
    if known is None:
        _, encoded = cv2.imencode(".png", np.full((spec.height, spec.width, 3), 127, np.uint8))
        return f"data:image/png;base64,{base64.b64encode(encoded.tobytes()).decode()}"
    return f"data:image/webp;base64,{base64.b64encode(as_webp(known.pixels[0])).decode()}"
