"""A preset on one category: trained (or continued, or what is complete is taken), evaluated, exported with its proof, timed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vtad.config import Config
from vtad.data.layout import find_category, require_test_images
from vtad.data.run_data import run_data
from vtad.evaluation.evaluate import evaluate_on
from vtad.fitting.loop import Reporter
from vtad.inspection import input_spec
from vtad.models.trained import load_detector
from vtad.report.evaluated import Seen, evaluation_page
from vtad.report.page import write_page
from vtad.run_folder import Run, RunError
from vtad.training import train
from vtad_benchmark.methods.baseline import gigaflop, stored_numbers
from vtad_benchmark.methods.found import Found, pictures
from vtad_benchmark.methods.judge import decisions
from vtad_benchmark.methods.latency import Latency, latency
from vtad_benchmark.methods.options import Options, adopts
from vtad_benchmark.results.row import Cost, Ranking
from vtad_export.onnx_format.exporter import to_onnx
from vtad_export.proof.errors import ParityError
from vtad_runtime.contract.card import Card
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.engine.opening import open_model

LOSSES = ("mse", "ssim", "nll")  # of the last epoch


def trained(
    method: str,
    options: Options,
    category: str,
    seed: int,
    data: Path,
    runs: Path,
    *,
    report: Reporter,
    stop: Callable[[], bool],
) -> Run:
    """The complete run of a preset below `runs`: one that is there, else one that was stopped, continued, else a new one.

    Raises what training raises, Interrupted among it.
    """
    config = options.config(method, category, seed, data=str(data), out=str(runs))
    if complete := _newest(config, complete=True):
        return complete
    require_test_images(find_category(data, category))  # a training that nothing could judge is not begun
    begun = _newest(config, complete=False)
    return train(config, resume=begun, report=report, stop=stop)


def judged(run: Run, data: Path, out: Path, say: Callable[[str], None]) -> Found:
    """Evaluate a complete run, export it, time the export. Raises RunError, DataError, WriteError.

    An export that is there already and is of these weights is taken. One that cannot be made, or cannot be proven, is said
    in the row.
    """
    say("evaluating")
    config = run.config()
    there = run_data(run, data)
    files, test = there.files, require_test_images(there.files)
    seen = Seen(len(test), files.root, run.card().calibration)
    found = evaluate_on(run, there, watch=seen.add)
    entries, card = seen.entries(), run.card()
    guaranteed, estimated = decisions(card.calibration, test, [entry.score for entry in entries])
    detector = load_detector(run)
    epochs = run.epochs()
    last = epochs[-1] if epochs else {}
    norms: dict[str, Any] = next((row for row in reversed(epochs) if "val_loss" in row), {})
    say("exporting")
    exported, reason = _export(run, card, data)
    write_page(run, evaluation_page(run, found, entries))  # with the export's certificate
    taken = Latency(None, None, None)
    if exported:
        say("timing")
        taken = latency(exported, [image.path for image in test])
    return Found(
        pictures=pictures(files, input_spec(config), card.identity.data_fingerprint),
        ranking=Ranking(
            image_auroc=found.scores.image.auroc,
            image_ap=found.scores.image.average_precision,
            pixel_auroc=found.heatmap.auroc,
            pixel_ap=found.heatmap.average_precision,
            aupro=found.heatmap.aupro,
            ssim_pixel_auroc=found.ssim_map.auroc,
            ssim_aupro=found.ssim_map.aupro,
            density_pixel_auroc=found.density_map.auroc,
            density_aupro=found.density_map.aupro,
        ),
        calibration_pictures=card.calibration.images,
        false_alarm_budget=card.calibration.false_alarms,
        guaranteed=guaranteed,
        estimated=estimated,
        cost=Cost(
            train_seconds=float(last.get("seconds", 0)),
            parameters=sum(p.numel() for p in detector.parameters()),
            stored_numbers=stored_numbers(detector),
            gflop=gigaflop(detector, config.image_height, config.image_width),
            megabytes=(exported.stat().st_size if exported else 4 * stored_numbers(detector)) / 1e6,
            ms=taken.ms,
            ms_session=taken.ms_session,
            ratio=taken.ratio,
        ),
        training={
            "epochs": float(last.get("epoch", 0)),
            **{name: float(last[name]) for name in LOSSES if name in last},
            **{name: float(value) for name, value in norms.items() if name.startswith("token_norm_")},
        },
        export=reason or "proven",
        run=run.path.relative_to(out).as_posix(),
        trained_commit=card.identity.git_commit,
    )


def _newest(config: Config, complete: bool) -> Run | None:
    """The newest run of exactly this configuration, complete or with a checkpoint to continue from."""
    folder = Path(config.out) / config.category
    runs = [Run(path.parent) for path in folder.glob("*/config.json")]
    there = [run for run in runs if run.complete == complete and (complete or run.checkpoint.is_file())]
    fitting = [run for run in there if _is_of(run, config)]
    return max(fitting, key=lambda run: run.path.name, default=None)


def _is_of(run: Run, config: Config) -> bool:
    try:
        return adopts(run.config(), config)
    except RunError:  # damaged, or of a version that is not read any more: a new one is trained
        return False


def _export(run: Run, card: Card, data: Path) -> tuple[Path | None, str | None]:
    """The ONNX file, or why there is none."""
    path = run.path / "export" / f"{card.identity.category}.onnx"
    if path.is_file() and _is_of_weights(path, card):
        return path, None
    try:
        return to_onnx(run, path, data=data).path, None
    except ParityError as e:
        return None, f"failed: {e}"


def _is_of_weights(path: Path, card: Card) -> bool:
    try:
        return open_model(path, 1).card.weights_sha256 == card.weights_sha256
    except VtadError:  # damaged, or of another version: made anew
        return False
