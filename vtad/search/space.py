"""The space of a search: options of a training with the values that each may take, from a file in TOML.

learning_rate = { low = 3e-4, high = 1e-2, log = true }
feature_dim = { low = 64, high = 272, step = 16 }
embed_dim = { choices = [96, 192, 288] }
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from vtad.config import Config, ConfigError
from vtad.toml_file import TomlFile, TomlFileError, read_toml
from vtad_runtime.contract.typed_json import WrongJson, typed

if TYPE_CHECKING:
    import optuna

DEFAULT = Path(__file__).with_name("default_space.toml")
Value = int | float | str

SEARCHED = (
    "image_height",
    "image_width",
    "feature_dim",
    "patch_size",
    "embed_dim",
    "heads",
    "depth",
    "decoder_depth",
    "mlp_dim",
    "registers",
    "mixture_size",
    "patches",
    "components",
    "picture_directions",
    "noise",
    "shift_and_zoom",
    "batch_size",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "warmup",
    "mse_weight",
    "ssim_weight",
    "nll_weight",
)
SIDES = ("image_height", "image_width")
PROBES = 100


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included; whole ones where both are."""

    low: int | float
    high: int | float
    step: int | float | None = None  # from low on; None: 1 for whole numbers, any value for others
    log: bool = False  # equal factors are as likely, not equal differences

    def draw(self, name: str, trial: optuna.Trial) -> Value:
        """A value of this range for a trial."""
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: object) -> bool:
        """Whether a trial can draw this value."""
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return self.step is None or math.isclose((steps := (value - self.low) / self.step), round(steps), abs_tol=1e-9)

    def probes(self) -> tuple[Value, ...]:
        """Values that a configuration is tried with before the search: both ends, and the first whole numbers."""
        if isinstance(self.low, float):
            return self.low, self.high
        return *itertools.islice(range(self.low, int(self.high), int(self.step or 1)), PROBES), self.high


@dataclass(frozen=True)
class Choices:
    """One of some values."""

    choices: tuple[Value, ...]

    def draw(self, name: str, trial: optuna.Trial) -> Value:
        """One of them for a trial."""
        found = trial.suggest_categorical(name, list(self.choices))
        assert found is not None
        return found

    def holds(self, value: object) -> bool:
        """Whether it is one of them."""
        return value in self.choices

    def probes(self) -> tuple[Value, ...]:
        """All of them."""
        return self.choices


@dataclass(frozen=True)
class Space:
    """The options that a search changes, by name."""

    options: dict[str, Range | Choices]

    def draw(self, trial: optuna.Trial) -> dict[str, Any]:
        """Values of all options for a trial."""
        return {name: option.draw(name, trial) for name, option in self.options.items()}

    def values_in(self, config: Config) -> dict[str, Value] | None:
        """What a configuration has for these options; None where a trial could not draw it."""
        found = {name: getattr(config, name) for name in self.options}
        return found if all(self.options[name].holds(value) for name, value in found.items()) else None

    def largest(self, config: Config) -> Config:
        """The configuration with the largest input that a trial can have."""
        sides: dict[str, Any] = {side: max(self.options[side].probes()) for side in SIDES if side in self.options}
        return dataclasses.replace(config, **sides)

    def to_json(self) -> dict[str, Any]:
        """Plain values, by which two spaces are compared."""
        return {name: dataclasses.asdict(option) for name, option in self.options.items()}


def read_space(path: Path, config: Config) -> Space:
    """The space in a file, for trainings that start from this configuration. Raises TomlFileError, with the line."""
    file = read_toml(path)
    options = {name: _option(file, name, value) for name, value in file.values.items()}
    if not options:
        raise TomlFileError(
            f"{path}: expected options with ranges, such as noise = {{ low = 0.0, high = 0.5 }}, got none"
        )
    given = [side for side in SIDES if side in options]
    if len(given) == 1:
        raise file.wrong("image_height and image_width: expected both or neither", given[0])
    if given and config.fit != "stretch":
        raise file.wrong(
            f"{given[0]}: expected pictures that are stretched to the input, got fit {config.fit}", given[0]
        )
    for name, option in options.items():
        for value in option.probes():
            changed: dict[str, Any] = {name: value}
            try:
                dataclasses.replace(config, **changed).check()
            except ConfigError as e:
                raise file.wrong(f"{name} {value}: {e}", name) from e
    return Space(options)


def _option(file: TomlFile, name: str, given: object) -> Range | Choices:
    if name not in SEARCHED:
        known = name in get_type_hints(Config)
        why = (
            "this option is not searched: it is the same for all trials"
            if known
            else "expected an option of a training"
        )
        raise file.wrong(f"{name}: {why}; searched are {', '.join(SEARCHED)}", name)
    if not isinstance(given, dict):
        raise file.wrong(
            f"{name}: expected {{ low = ..., high = ... }} or {{ choices = [...] }}, got {given!r:.80}", name
        )
    kind = get_type_hints(Config)[name]
    if "choices" in given:
        return _choices(file, name, kind, given)
    if get_origin(kind) is Literal:
        raise file.wrong(f"{name}: expected choices, some of {', '.join(map(str, get_args(kind)))}", name)
    return _range(file, name, kind, given)


def _choices(file: TomlFile, name: str, kind: Any, given: dict[str, object]) -> Choices:
    if others := [key for key in given if key != "choices"]:
        raise file.wrong(f"{name}: expected choices alone, got {others[0]} beside them", name, others[0])
    values = given["choices"]
    if not isinstance(values, list) or not values:
        raise file.wrong(f"{name}.choices: expected a list of values, got {values!r:.80}", name, "choices")
    found = tuple(_value(file, kind, value, name, "choices") for value in values)
    if len(set(found)) < len(found):
        raise file.wrong(f"{name}.choices: expected each value once, got {values!r:.80}", name, "choices")
    return Choices(found)


def _range(file: TomlFile, name: str, kind: Any, given: dict[str, object]) -> Range:
    known = [field.name for field in dataclasses.fields(Range)]
    if others := [key for key in given if key not in known]:
        raise file.wrong(f"{name}: expected {', '.join(known)} or choices, got {others[0]}", name, others[0])
    if missing := [key for key in ("low", "high") if key not in given]:
        raise file.wrong(f"{name}: expected low and high, got no {missing[0]}", name)
    numbers = {key: _value(file, kind, value, name, key) for key, value in given.items() if key != "log"}
    log = given.get("log", False)
    if not isinstance(log, bool):
        raise file.wrong(f"{name}.log: expected true or false, got {log!r:.80}", name, "log")
    found = Range(**numbers, log=log)
    if not found.low < found.high:
        raise file.wrong(f"{name}: expected low < high, got {found.low} and {found.high}", name, "low")
    if found.step is not None and not 0 < found.step <= found.high - found.low:
        raise file.wrong(f"{name}.step: expected more than 0 and at most high - low, got {found.step}", name, "step")
    if not found.holds(found.high):
        raise file.wrong(f"{name}: expected high to be low and a whole number of steps, got {found.high}", name, "high")
    if found.log and (found.low <= 0 or found.step is not None):
        raise file.wrong(f"{name}.log: expected low above 0, and no step", name, "log")
    return found


def _value(file: TomlFile, kind: Any, value: object, name: str, key: str) -> Any:
    try:
        found = typed(kind, value, f"{name}.{key}")
    except WrongJson as e:
        raise file.wrong(e, name, key) from e
    if isinstance(found, float) and not math.isfinite(found):
        raise file.wrong(f"{name}.{key}: expected a finite number, got {found}", name, key)
    return found
