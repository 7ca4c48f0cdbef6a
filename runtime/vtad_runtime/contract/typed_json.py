"""JSON values as typed Python values: dataclasses, tuples, dicts, unions, literals. Strict, and an error names the field.

Standard library only. The card, the training's configuration and the golden record are read by it.
"""

from __future__ import annotations

import dataclasses
import types
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vtad_runtime.contract.errors import VtadError

T = TypeVar("T")


class WrongJson(VtadError):
    """A JSON value of another type than expected. One line: field, expected, got."""


def typed(kind: type[T], value: object, field: str, *, defaults: bool = True) -> T:
    """`value` from JSON as `kind`; `field` names it in errors. Raises WrongJson.

    Lists become tuples, and whole numbers floats where floats are expected. `defaults`: a field of a dataclass that has a
    default may be absent.
    """
    return cast(T, _typed(kind, value, field, defaults))


def _typed(kind: Any, value: Any, field: str, defaults: bool) -> Any:  # noqa: PLR0911 - one per kind of type
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any or (origin is Literal and value in args):
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _dataclass(kind, value, field, defaults)
    if origin in (Union, types.UnionType):
        for arg in args:
            try:
                return _typed(arg, value, field, defaults)
            except WrongJson:
                continue
    elif origin is tuple and isinstance(value, list):
        kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            return tuple(_typed(part, item, f"{field}[{i}]", defaults) for i, (part, item) in pairs)
    elif origin is dict and isinstance(value, dict):
        return {key: _typed(args[1], item, f"{field}.{key}", defaults) for key, item in value.items()}
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind).replace("typing.", "")
    raise WrongJson(f"{field}: expected {name}, got {value!r:.80}")


def _dataclass(kind: Any, value: dict[str, Any], field: str, defaults: bool) -> Any:
    hints = get_type_hints(kind)
    optional = {f.name for f in dataclasses.fields(kind) if defaults and f.default is not dataclasses.MISSING}
    missing, unknown = sorted(hints.keys() - value.keys() - optional), sorted(value.keys() - hints.keys())
    if missing or unknown:
        raise WrongJson(f"{field}: missing fields {missing}, unknown fields {unknown}")
    return kind(**{k: _typed(t, value[k], f"{field}.{k}", defaults) for k, t in hints.items() if k in value})
