"""What a training run is made of: one frozen dataclass, three presets, and the rules between their numbers."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from vtad_runtime.contract.card import FULL_SCALE, USUAL_RULE, BudgetRule, FullScale
from vtad_runtime.contract.errors import VtadError
from vtad_runtime.contract.typed_json import WrongJson, typed

Optimizer = Literal["adam", "adamw", "adadelta", "adagrad", "sgd", "rmsprop"]
Fit = Literal["stretch", "letterbox", "centre_crop"]
Bits = Literal["auto", 10, 12, 14, 16]
Preset = Literal["default", "scratch", "paper"]

SYMMETRIES = ("mirror", "flip", "turn180", "turn90", "turn270", "transpose", "transverse")
SQUARE_ONLY = SYMMETRIES[3:]  # these exchange rows and columns

FULL_SCALES: dict[Bits, FullScale] = {10: 1023, 12: 4095, 14: 16383, 16: FULL_SCALE}  # what is white, by `bits`
LARGEST_SEED = 2**64 - 1  # that torch takes
CELL = 8  # pixels a side of one cell of the density map, in the presets default and scratch


class ConfigError(VtadError):
    """Options that contradict each other. The message is one line."""


@dataclass(frozen=True)
class Config:
    """Every choice of a run. Defaults are the preset `default`; `preset()` gives the others."""

    category: str  # name of the folder of images
    data: str = "data"  # folder that holds the category folders
    out: str = "runs"  # folder that gets <category>/<number>
    preset: Preset = "default"
    preset_file: str = ""  # that the changes to the preset came from, see vtad.preset_file; none: a preset as it is
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, mps

    size: Literal["auto", "given"] = "auto"  # auto: of the input's size only the area holds, see vtad.data.sizing
    image_height: int = 384  # pixels
    image_width: int = 384  # pixels
    fit: Fit = "stretch"  # how a picture of another shape is brought to that size
    bits: Bits = "auto"  # of pictures of 16 bits, how many the camera uses; auto: 12 or 16, see vtad.data.bit_depth
    symmetries: str = "auto"  # flips and turns that leave good parts good; auto: found, see vtad.fitting.symmetries
    val_split: float = 0.2  # share of good training images held out for calibration and stopping

    backbone: bool = True  # fixed features from a frozen network; otherwise patches of the image itself
    backbone_file: str = ""  # weights of a Vision Transformer (vtad.backbones.vit_checkpoint); none: EfficientNet-lite0
    backbone_shape: str = ""  # what the network of that file is built by; training fills it in
    backbone_sha256: str = ""  # of that file; training fills it in
    feature_dim: int = 176  # whitened directions of the fixed features that the context density sees
    patch_size: int = 16  # pixels a side of one token
    embed_dim: int = 192  # width of a token
    heads: int = 6
    query_key_norm: bool = True  # bounds the logits of attention, see vtad.backbones.layers
    depth: int = 1  # encoder blocks
    decoder_depth: int = 1  # decoder blocks
    mlp_dim: int = 768  # hidden width of a block's MLP
    registers: int = 4  # learned tokens without a position; 0 for none
    mixture_size: int = 1  # components of the context density, K
    patches: int = 4096  # of good images that the patch memory stores
    components: int = 64  # Gaussians of the feature GMM, shared by all positions
    picture_directions: int = 12  # of whole pictures, that the mean of the position Gaussian follows; 0: a mean for all
    noise: float = 0.2  # bottleneck: dropout rate (default, scratch) or standard deviation (paper)
    published_mixture: bool = False  # paper only: its weighted sum of NLLs in place of the likelihood
    synthetic_defects: bool = True  # corrupt the input, aim at the clean image
    shift_and_zoom: float = 0.25  # share of the training pictures that are shown a little nearer and off centre
    shift: float | None = None  # how far, a share of the picture's sides; none: found, see vtad.data.registration

    minutes: float | None = 10.0  # of training, unless `epochs` is given
    epochs: int | None = None  # passes over the training images; given, it decides and not `minutes`
    patience: int = 25  # validations without improvement before training stops
    batch_size: int = 4  # pictures drawn for a step; the head sees earlier ones too, see vtad.fitting.replay_buffer
    optimizer: Optimizer = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 50  # steps of linear learning-rate growth; cosine decay follows
    mse_weight: float = 5.0
    ssim_weight: float = 0.5
    nll_weight: float = 0.1  # more of it, and the reconstruction stays blurred

    false_alarms: float = 0.01  # budget: share of good images that may be called NG
    threshold_rule: BudgetRule = USUAL_RULE

    def __post_init__(self) -> None:
        """Folders may be given as Path; they are kept as text."""
        object.__setattr__(self, "data", os.fspath(self.data))
        object.__setattr__(self, "out", os.fspath(self.out))
        object.__setattr__(self, "backbone_file", os.fspath(self.backbone_file))
        object.__setattr__(self, "preset_file", os.fspath(self.preset_file))

    def check(self) -> Config:
        """Itself, or ConfigError in one line when a value has another type or values cannot work together."""
        for name, kind in get_type_hints(Config).items():
            try:
                typed(kind, getattr(self, name), name)
            except WrongJson as e:
                raise ConfigError(e) from e
        _positive(self, "image_height", "image_width", "patch_size", "embed_dim", "heads", "depth", "mlp_dim")
        _positive(self, "feature_dim", "mixture_size", "patches", "components", "batch_size", "patience")
        for side in ("image_height", "image_width"):
            size, step = getattr(self, side), self.patch_size
            if size % step:
                near = max(step, round(size / step) * step)
                raise ConfigError(
                    f"{side} {size} is not a multiple of patch_size {step}: use {near}, or a patch size that divides it"
                )
            if self.preset != "paper" and size % 16:
                raise ConfigError(
                    f"{side}: expected a multiple of 16, got {size}: use {max(16, round(size / 16) * 16)}"
                )
        if self.preset != "paper" and self.patch_size % CELL:
            raise ConfigError(f"patch_size: expected a multiple of {CELL} pixels, got {self.patch_size}")
        if self.preset == "paper" and (self.patch_size < 2 or self.patch_size & (self.patch_size - 1)):
            raise ConfigError(f"patch_size: the paper's deconvolutions take a power of two, got {self.patch_size}")
        if self.embed_dim % self.heads:
            raise ConfigError(f"embed_dim {self.embed_dim} is not a multiple of heads {self.heads}: change one of them")
        if self.backbone_file and not self.backbone:
            raise ConfigError(
                f"backbone_file: the preset {self.preset} has no backbone: leave --backbone out, or take the preset default"
            )
        if min(self.registers, self.decoder_depth, self.picture_directions, self.warmup) < 0:
            raise ConfigError("registers, decoder_depth, picture_directions and warmup: expected 0 or more")
        _require_seed(self)
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{name}: expected a finite number, got {value}")
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate: expected more than 0, got {self.learning_rate}")
        if min(self.weight_decay, self.mse_weight, self.ssim_weight, self.nll_weight) < 0:
            raise ConfigError("weight_decay and the weights of the loss: expected 0 or more")
        if self.symmetries != "auto":
            turned = set(symmetry_names(self.symmetries)) & set(SQUARE_ONLY)
            if turned and self.size == "given" and self.image_height != self.image_width:
                raise ConfigError(
                    f"symmetries: {min(turned)} needs a square input, got {self.image_height}x{self.image_width}"
                )
        if not 0 < self.val_split < 1:
            raise ConfigError(f"val_split: expected a share between 0 and 1, got {self.val_split}")
        if not 0 <= self.shift_and_zoom <= 1:
            raise ConfigError(f"shift_and_zoom: expected a share from 0 to 1, got {self.shift_and_zoom}")
        if self.shift is not None and not 0 <= self.shift <= 0.5:
            raise ConfigError(f"shift: expected a share from 0 to 0.5, got {self.shift}")
        if not 0 < self.false_alarms < 1:
            raise ConfigError(f"false_alarms: expected a share between 0 and 1, got {self.false_alarms}")
        if not 0 <= self.noise < 1:
            raise ConfigError(f"noise: expected 0 or more and below 1, got {self.noise}")
        if self.minutes is None and self.epochs is None:
            raise ConfigError("expected minutes or epochs, got neither")
        if (self.minutes is not None and self.minutes <= 0) or (self.epochs is not None and self.epochs < 1):
            raise ConfigError("minutes and epochs: expected more than 0")
        if not self.category or "/" in self.category or "\\" in self.category or self.category in (".", ".."):
            raise ConfigError(f"category: expected the name of a folder, got {self.category!r}")
        return self


PRESETS: dict[Preset, dict[str, Any]] = {
    "default": {},
    "scratch": {
        "preset": "scratch",
        "backbone": False,
        "feature_dim": 96,
        "minutes": 25.0,
        "batch_size": 8,
        "nll_weight": 1.0,
        "shift_and_zoom": 0.0,
    },
    "paper": {
        "preset": "paper",
        "backbone": False,
        "image_height": 512,
        "image_width": 512,
        "patch_size": 64,
        "embed_dim": 512,
        "heads": 8,
        "query_key_norm": False,
        "depth": 6,
        "decoder_depth": 0,
        "mlp_dim": 1024,
        "registers": 0,
        "mixture_size": 150,
        "noise": 0.2,
        "symmetries": "none",
        "synthetic_defects": False,
        "shift_and_zoom": 0.0,
        "minutes": None,
        "epochs": 400,
        "patience": 400,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 1e-4,
        "warmup": 0,
        "nll_weight": 1.0,
    },
}


def preset(name: Preset, category: str, **changes: Any) -> Config:
    """The configuration of a preset with some values changed. Raises ConfigError. `minutes` given drops `epochs`."""
    values = {**PRESETS[name], "category": category, **changes}
    if "size" not in changes and {"image_height", "image_width"} & values.keys():
        values["size"] = "given"
    if changes.get("minutes") is not None and changes.get("epochs") is not None:
        raise ConfigError("expected either minutes or epochs, got both")
    if changes.get("minutes") is not None:
        values["epochs"] = None
    config = Config(**values).check()
    if (changes.get("image_height") is None) != (changes.get("image_width") is None):
        raise ConfigError("image_height and image_width: expected both or neither, got one: give the other too")
    return config


def symmetry_names(symmetries: str) -> tuple[str, ...]:
    """The names in a configuration's `symmetries`; "none" holds none. Raises ConfigError for an unknown one."""
    names = tuple(part.strip() for part in symmetries.split(","))
    if names == ("none",):
        return ()
    if unknown := [name for name in names if name not in SYMMETRIES]:
        raise ConfigError(
            f"symmetries: expected auto, none, or some of {', '.join(SYMMETRIES)}, with commas, got {unknown[0]!r}"
        )
    return names


def from_dict(values: object) -> Config:
    """A configuration from JSON. Raises ConfigError: unknown or missing fields, wrong types, or see `Config.check`."""
    try:
        return typed(Config, values, "configuration", defaults=False).check()
    except WrongJson as e:
        raise ConfigError(e) from e


def _positive(config: Config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ConfigError(f"{name}: expected 1 or more, got {getattr(config, name)}")


def _require_seed(config: Config) -> None:
    if not 0 <= config.seed <= LARGEST_SEED:
        raise ConfigError(f"seed: expected 0 or more, up to {LARGEST_SEED}, got {config.seed}")
