"""The command vtad-train: good images become a run folder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from vtad.commands.library_errors import library_errors_as_lines
from vtad.commands.options import ALL, CONTEXT, DEVICES, NAMES_HELP, F, data_option
from vtad.config import PRESETS, Config, ConfigError, Fit, Optimizer, preset
from vtad.data.layout import DataError, find_categories
from vtad.run_folder import Run
from vtad_runtime.contract.command import no_traceback
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.stopping import stoppable

# (flag, type, what it is); the field of Config has the flag's name with underscores.
_OPTIONS: tuple[tuple[str, Any, str], ...] = (
    ("--minutes", click.FloatRange(0, min_open=True), "Minutes of training; --epochs N instead counts passes."),
    ("--epochs", click.IntRange(1), "Passes over the training images, in place of --minutes."),
    (
        "--image-height",
        click.IntRange(16),
        "Height the model sees, pixels. Neither side given: chosen from the images.",
    ),
    ("--image-width", click.IntRange(16), "Width the model sees, pixels."),
    ("--fit", click.Choice(get_args(Fit)), "How pictures of another shape are brought to that size."),
    ("--symmetries", str, "Flips and turns of good images that are good too; names with commas, or none."),
    ("--patch-size", click.IntRange(2), "Side of the square that one token covers, pixels."),
    ("--embed-dim", click.IntRange(1), "Width of a token."),
    ("--heads", click.IntRange(1), "Attention heads."),
    ("--depth", click.IntRange(1), "Encoder blocks."),
    ("--decoder-depth", click.IntRange(0), "Decoder blocks."),
    ("--mlp-dim", click.IntRange(1), "Hidden width of a block's MLP."),
    ("--registers", click.IntRange(0), "Learned tokens without a position; 0 for none."),
    ("--mixture-size", click.IntRange(1), "Components of the context density; paper: of its only one."),
    ("--patches", click.IntRange(1), "Patches of good images that the patch memory stores."),
    ("--components", click.IntRange(1), "Gaussians of the feature GMM."),
    ("--feature-dim", click.IntRange(1), "Whitened feature directions that the context density sees."),
    ("--noise", click.FloatRange(0, 1, max_open=True), "Bottleneck noise: dropout rate; paper: standard deviation."),
    ("--batch-size", click.IntRange(1), "Images a step."),
    ("--optimizer", click.Choice(get_args(Optimizer)), "Optimizer."),
    ("--learning-rate", click.FloatRange(0, min_open=True), "Largest learning rate."),
    ("--weight-decay", click.FloatRange(0), "Weight decay."),
    ("--warmup", click.IntRange(0), "Steps of linear learning-rate growth; a cosine down to 0 follows."),
    ("--patience", click.IntRange(1), "Validations without improvement before training stops."),
    ("--mse-weight", click.FloatRange(0), "Weight of the reconstruction's squared error."),
    ("--ssim-weight", click.FloatRange(0), "Weight of the reconstruction's 1 - SSIM."),
    ("--nll-weight", click.FloatRange(0), "Weight of the density's negative log-likelihood."),
    ("--val-split", click.FloatRange(0, 1, min_open=True, max_open=True), "Share of good images held out."),
    ("--false-alarms", click.FloatRange(0, 1, min_open=True, max_open=True), "Share of good images that may be NG."),
    ("--seed", click.IntRange(0), "The same seed and --epochs give the same weights on one machine."),
    ("--device", click.Choice(DEVICES), "auto: cuda, else mps, else cpu."),
)

_CODES = """\b
Exit codes:
  0    trained, calibrated and saved
  1    the training diverged
  2    usage: bad arguments, missing or unreadable images, too few of them,
       no usable pretrained weights, an output folder that cannot be made
  4    a file could not be written, e.g. the disk is full
  70   internal error
  130  stopped by Ctrl-C, 143 by SIGTERM; continue by vtad-train --resume
"""


def _preset_lines() -> str:
    lines = ["\b", "Presets differ from the defaults above in:"]
    for name, values in PRESETS.items():
        for i, text in enumerate(_wrapped(", ".join(f"{k} {v}" for k, v in values.items() if k != "preset"))):
            lines.append(f"  {name if i == 0 else '':<8} {text}")
    return "\n".join(lines)


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text or "nothing", 90)


def _config_options(command: F) -> F:
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}
    for flag, kind, text in reversed(_OPTIONS):
        shown = defaults[flag.removeprefix("--").replace("-", "_")]
        command = click.option(flag, type=kind, default=None, help=text, show_default=str(shown))(command)
    return command


@click.command(context_settings=CONTEXT, epilog=f"{_preset_lines()}\n\n{_CODES}")
@click.option("--category", help=f"Folder of images below --data, or `{ALL}` for each one found. {NAMES_HELP}")
@data_option
@click.option("--out", default="runs", show_default=True, help="Folder that gets <category>/<number>.")
@click.option(
    "--preset",
    "preset_name",
    type=click.Choice(list(PRESETS)),
    default="default",
    show_default=True,
    help="default: features of a frozen backbone. scratch: no pretrained weights. paper: VT-ADL as published.",
)
@_config_options
@click.option(
    "--backbone",
    "backbone_file",
    type=click.Path(path_type=Path),
    help="A Vision Transformer's weights (DINOv2 or timm; .pth, .pt, .safetensors) as the frozen backbone of the preset default."
    "  [default: EfficientNet-lite0]",
)
@click.option("--published-mixture", is_flag=True, default=None, help="paper: its weighted sum of NLLs.")
@click.option("--synthetic-defects/--no-synthetic-defects", default=None, help="Corrupt the input in training.")
@click.option("--resume", is_flag=True, help="Continue a stopped run: the newest, or --run.")
@click.option("--run", "run_path", type=click.Path(path_type=Path), help="The run folder to --resume.")
@click.version_option(package_name="vtad", prog_name="vtad-train")
def train(
    category: str | None,
    data_dir: Path,
    out: str,
    preset_name: Any,
    resume: bool,
    run_path: Path | None,
    **choices: Any,
) -> None:
    """Train a detector from good images only, calibrate it on held-out good images, and write a run folder."""
    changes = {k: v for k, v in choices.items() if v is not None}
    with no_traceback(), library_errors_as_lines():
        if resume or run_path:
            if not resume:
                raise ConfigError("--run names the run to continue: give --resume with it")
            if changes or preset_name != "default":
                raise ConfigError(
                    "--resume continues with the run's own configuration: leave the other options out, except --data"
                )
            elsewhere = click.get_current_context().get_parameter_source("data_dir") is ParameterSource.COMMANDLINE
            from vtad.training import unfinished_run

            run = unfinished_run(Path(out), run_path, category)
            click.echo(f"continuing {run.path}")
            config = run.config()
            _train(dataclasses.replace(config, data=str(data_dir)) if elsewhere else config, run)
            return
        for name in _categories(category, data_dir):
            _train(preset(preset_name, name, data=str(data_dir), out=out, **changes), None)


def _categories(category: str | None, data_dir: Path) -> tuple[str, ...]:
    found = find_categories(data_dir)
    if category == ALL and found:
        return found
    if category is None or category == ALL:
        raise DataError(
            f"expected --category NAME, got none; {data_dir} holds {', '.join(found) or 'no categories'}; "
            "demo images: vtad-data demo --category pill"
        )
    return (category,)


def _train(config: Config, resume: Run | None) -> None:
    from vtad.fitting.device import keep_memory
    from vtad.fitting.loop import Interrupted
    from vtad.inspection import advice
    from vtad.training import train as train_model

    keep_memory()
    with stoppable() as stop, _reporter() as report:
        try:
            run = train_model(config, resume=resume, report=report, stop=stop)
        except Interrupted as e:
            raise VtadError(e, 128 + (stop.signal or 0)) from e
    card = run.card()
    click.echo(
        f"{run.path}: threshold {card.calibration.threshold:.3f} from {card.calibration.images} held-out good images"
    )
    if line := advice(card):
        click.echo(f"note: {line}")
    if stop.signal is not None:  # it came during calibration
        raise VtadError(f"stopped; {run.path} is complete", 128 + stop.signal)


@contextmanager
def _reporter() -> Iterator[Callable[[Any], None]]:
    """A progress bar on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield lambda report: click.echo(f"{report.fraction:4.0%}  {report.text}") if report.lasting else None
        return
    from tqdm import tqdm

    with tqdm(total=100, bar_format="{l_bar}{bar}| {elapsed}<{remaining} {postfix}", leave=False) as bar:

        def report(report: Any) -> None:
            bar.update(100 * report.fraction - bar.n)
            if report.lasting:
                bar.set_postfix_str(report.text)

        yield report
