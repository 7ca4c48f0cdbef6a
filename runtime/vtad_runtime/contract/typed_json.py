"""JSON values as typed Python values: dataclasses, tuples, dicts, unions, literals. Strict, and an error names the field.

Standard library only. The card, the training's configuration and the golden record are read by it.
"""

from __future__ import annotations

import dataclasses
import json
import types
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vtad_runtime.contract.errors import VtadError, one_line

T = TypeVar("T")


class WrongJson(VtadError):
    """Text that is no JSON, or a value of another type than expected. One line: field, expected, got."""


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text. Raises WrongJson: not JSON, a key that comes twice, nested too deeply, a number too long."""
    try:
        return json.loads(text, object_pairs_hook=_each_key_once)
    except RecursionError as e:
        raise WrongJson("expected JSON, got values nested too deeply") from e
    except ValueError as e:  # also bytes that are no text, and numbers of thousands of digits
        raise WrongJson(f"expected JSON, got text that does not parse ({one_line(e)})") from e


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise WrongJson(f"expected each key once, got {twice!r:.80} twice")
    return found


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
        try:
            return float(value)
        except OverflowError as e:
            raise WrongJson(f"{field}: expected float, got a number of {len(str(value))} digits") from e
    elif origin is None and isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    name = kind.__name__ if isinstance(kind, type) and not args else str(kind).replace("typing.", "")
    name = "a JSON object" if dataclasses.is_dataclass(kind) else name
    raise WrongJson(f"{field}: expected {name}, got {value!r:.80}")


def _dataclass(kind: Any, value: dict[str, Any], field: str, defaults: bool) -> Any:
    hints = get_type_hints(kind)
    optional = {f.name for f in dataclasses.fields(kind) if defaults and f.default is not dataclasses.MISSING}
    missing, unknown = sorted(hints.keys() - value.keys() - optional), sorted(value.keys() - hints.keys())
    if missing or unknown:
        raise WrongJson(f"{field}: missing fields {missing}, unknown fields {unknown}")
    return kind(**{k: _typed(t, value[k], f"{field}.{k}", defaults) for k, t in hints.items() if k in value})
