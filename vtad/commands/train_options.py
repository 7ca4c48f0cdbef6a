"""The options of vtad-train that set a field of the configuration, by section of the help."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import click

from vtad.commands.options import DEVICES, F
from vtad.config import LARGEST_SEED, PRESETS, Bits, Config, Fit, Optimizer
from vtad.preset_file import SUFFIX
from vtad_runtime.contract.card import BudgetRule
from vtad_runtime.contract.command_line.sections import SectionOption

DATA, OFTEN, NETWORK, TRAINING, CALIBRATION = (
    "Data",
    "What most people change",
    "The network",
    "The training",
    "Calibration",
)
_SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
_COUNT, _NOT_NEGATIVE, _POSITIVE = click.IntRange(1), click.FloatRange(0), click.FloatRange(0, min_open=True)
_FLAG = None

# section, flag, type, what it is; the field of Config has the flag's name with underscores.
_FIELDS: tuple[tuple[str, str, Any, str], ...] = (
    (OFTEN, "--minutes", _POSITIVE, "Minutes of training; --epochs N instead counts passes."),
    (OFTEN, "--epochs", _COUNT, "Passes over the training images, in place of --minutes."),
    (OFTEN, "--image-height", click.IntRange(16), "Pixels. Neither side given: chosen from the images."),
    (OFTEN, "--image-width", click.IntRange(16), "Pixels."),
    (OFTEN, "--symmetries", str, "Flips and turns of good images that are good too; names with commas, or none."),
    (OFTEN, "--device", click.Choice(DEVICES), "auto: cuda, else mps, else cpu."),
    (NETWORK, "--feature-dim", _COUNT, "Whitened feature directions that the context density sees."),
    (NETWORK, "--patch-size", click.IntRange(2), "Side of the square that one token covers, pixels."),
    (NETWORK, "--embed-dim", _COUNT, "Width of a token."),
    (NETWORK, "--heads", _COUNT, "Attention heads."),
    (NETWORK, "--depth", _COUNT, "Encoder blocks."),
    (NETWORK, "--decoder-depth", click.IntRange(0), "Decoder blocks."),
    (NETWORK, "--mlp-dim", _COUNT, "Hidden width of a block's MLP."),
    (NETWORK, "--registers", click.IntRange(0), "Learned tokens without a position; 0 for none."),
    (NETWORK, "--mixture-size", _COUNT, "Components of the context density; paper: of its only density."),
    (NETWORK, "--patches", _COUNT, "Patches of good images that the patch memory stores."),
    (NETWORK, "--components", _COUNT, "Gaussians of the feature GMM."),
    (NETWORK, "--picture-directions", click.IntRange(0), "Of whole pictures; the position Gaussian follows them."),
    (NETWORK, "--noise", click.FloatRange(0, 1, max_open=True), "Bottleneck: dropout rate; paper: standard deviation."),
    (NETWORK, "--published-mixture", _FLAG, "paper: its weighted sum of NLLs."),
    (
        TRAINING,
        "--shift",
        click.FloatRange(0, 0.5),
        "How far parts shift, of the sides. Not given: found from good pictures.",
    ),
    (TRAINING, "--fit", click.Choice(get_args(Fit)), "How pictures of another shape are brought to the input's size."),
    (TRAINING, "--bits", click.Choice(get_args(Bits)), "What a camera uses of 16; auto: 12 if nothing is above 4095."),
    (TRAINING, "--synthetic-defects/--no-synthetic-defects", _FLAG, "Corrupt the input."),
    (
        TRAINING,
        "--seed",
        click.IntRange(0, LARGEST_SEED),
        "The same seed and --epochs give the same weights on one machine.",
    ),
    (TRAINING, "--batch-size", _COUNT, "Images a step."),
    (TRAINING, "--optimizer", click.Choice(get_args(Optimizer)), "Optimizer."),
    (TRAINING, "--learning-rate", _POSITIVE, "Largest learning rate."),
    (TRAINING, "--weight-decay", _NOT_NEGATIVE, "Weight decay."),
    (TRAINING, "--warmup", click.IntRange(0), "Steps of linear learning-rate growth; a cosine down to 0 follows."),
    (TRAINING, "--patience", _COUNT, "Validations without improvement before training stops."),
    (TRAINING, "--mse-weight", _NOT_NEGATIVE, "Weight of the reconstruction's squared error."),
    (TRAINING, "--ssim-weight", _NOT_NEGATIVE, "Weight of the reconstruction's 1 - SSIM."),
    (TRAINING, "--nll-weight", _NOT_NEGATIVE, "Weight of the context density's negative log-likelihood."),
    (CALIBRATION, "--val-split", _SHARE, "Share of good images held out."),
    (CALIBRATION, "--false-alarms", _SHARE, "Share of good images that may be NG."),
    (
        CALIBRATION,
        "--threshold-rule",
        click.Choice(get_args(BudgetRule)),
        "By the oddest scores, or how they tail off.",
    ),
)


def option(section: str, *names: str, **settings: Any) -> Callable[[F], F]:
    """A click option in a section of the help."""
    return click.option(*names, cls=SectionOption, section=section, **settings)


def preset_option(command: F) -> F:
    """--preset."""
    return option(
        OFTEN,
        "--preset",
        "preset_name",
        metavar=f"[{'|'.join(PRESETS)}|FILE{SUFFIX}]",
        default="default",
        show_default=True,
        help="default: features of a frozen backbone. scratch: no pretrained weights. paper: VT-ADL as published. A file changes "
        "values of one of them, such as the best ones of vtad-sweep.",
    )(command)


def config_options(*sections: str) -> Callable[[F], F]:
    """The options of these sections, in this order; None where not given, so that the preset decides."""
    defaults = {f.name: f.default for f in dataclasses.fields(Config)}

    def decorate(command: F) -> F:
        for section, flag, kind, text in reversed([f for s in sections for f in _FIELDS if f[0] == s]):
            shown = defaults[flag.partition("/")[0].removeprefix("--").replace("-", "_")]
            settings: dict[str, Any] = {"is_flag": True} if kind is _FLAG else {"type": kind}
            if kind is not _FLAG and shown is not None:
                settings["show_default"] = str(shown)
            command = option(section, flag, default=None, help=text, **settings)(command)
            if flag == "--feature-dim":
                command = _backbone(command)
        return command

    return decorate


def _backbone(command: F) -> F:
    return option(
        NETWORK,
        "--backbone",
        "backbone_file",
        type=click.Path(path_type=Path),
        help="A Vision Transformer's weights (DINOv2 or timm; .pth, .pt, .safetensors) as the frozen backbone of the preset "
        "default.  [default: EfficientNet-lite0]",
    )(command)


def preset_lines() -> str:
    """How the presets differ, for the end of the help."""
    lines = ["\b", "Presets differ from the defaults above in:"]
    for name, values in PRESETS.items():
        text = ", ".join(f"{k} {v}" for k, v in values.items() if k != "preset")
        for i, line in enumerate(textwrap.wrap(text or "nothing", 90)):
            lines.append(f"  {name if i == 0 else '':<8} {line}")
    return "\n".join(lines)
