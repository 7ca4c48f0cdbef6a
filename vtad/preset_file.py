"""A preset in a file: the name of a built-in one, and the values that differ from it.

preset = "default"
learning_rate = 0.0031
embed_dim = 288
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from vtad.config import PRESETS, Config, ConfigError, Preset, preset
from vtad.toml_file import TomlFile, read_toml, toml_value
from vtad_runtime.contract.typed_json import WrongJson, typed

SUFFIX = ".toml"
# What a training gets beside its preset, and what it fills in by itself.
NOT_OF_A_PRESET = ("category", "data", "out", "device", "preset_file", "size", "backbone_shape", "backbone_sha256")
SIDES = ("image_height", "image_width")  # a file names both or neither
LENGTHS = ("minutes", "epochs")  # either says how long a training is


def named_preset(name: str) -> tuple[Preset, dict[str, Any]]:
    """The built-in preset and the changes that a name or a file (its path ends in .toml) stands for.

    Raises ConfigError for an unknown name, TomlFileError with the line where a file is wrong.
    """
    if name in PRESETS:
        return name, {}
    if not name.endswith(SUFFIX):
        raise ConfigError(f"--preset: expected {', '.join(PRESETS)}, or a file that ends in {SUFFIX}, got {name!r}")
    file = read_toml(Path(name))
    base = file.values.get("preset", "default")
    if base not in PRESETS:
        raise file.wrong(f"preset: expected {', '.join(PRESETS)}, got {base!r:.80}", "preset")
    changes = _changes(file)
    try:
        preset(base, "any", **changes)
    except ConfigError as e:
        named = next((key for key in changes if key in str(e)), "preset")
        raise file.wrong(e, named) from e
    return base, {**changes, "preset_file": name}


def preset_of(name: str, category: str, **changes: Any) -> Config:
    """The configuration of a preset, by name or file, with further changes. Raises ConfigError, TomlFileError."""
    base, of_file = named_preset(name)
    if any(changes.get(length) is not None for length in LENGTHS):
        of_file = {key: value for key, value in of_file.items() if key not in LENGTHS}
    return preset(base, category, **{**of_file, **changes})


def changes_of(config: Config) -> dict[str, Any]:
    """What a configuration changes of its preset, as a file can say it; how long a training is, is left out."""
    built_in = preset(config.preset, config.category)
    left_out = (*NOT_OF_A_PRESET, *LENGTHS)
    found = {name: value for name, value in vars(config).items() if name not in left_out}
    sides = {side for side in SIDES if config.size == "given" and found[side] != getattr(built_in, side)}
    return {
        name: value for name, value in found.items() if value != getattr(built_in, name) or (sides and name in SIDES)
    }


def preset_text(base: Preset, values: Mapping[str, float | str | bool]) -> str:
    """What `named_preset` reads."""
    lines = [f"preset = {toml_value(base)}", *(f"{key} = {toml_value(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _changes(file: TomlFile) -> dict[str, Any]:
    """The fields of the configuration in a file, each of its type."""
    kinds = {name: kind for name, kind in get_type_hints(Config).items() if name not in NOT_OF_A_PRESET}
    found: dict[str, Any] = {}
    for name, value in file.values.items():
        if name not in kinds:
            raise file.wrong(f"{name}: expected an option of a training, such as learning_rate", name)
        try:
            found[name] = typed(kinds[name], value, name)
        except WrongJson as e:
            raise file.wrong(e, name) from e
    found.pop("preset", None)
    return found
