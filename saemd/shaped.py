"""Values of a JSON file as dataclasses: every key and every type is checked, for a file may be damaged."""

import dataclasses
import math
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def shaped(kind: type[T], value: Any) -> T:
    """`value` as the dataclass `kind`. Raises `ValueError` for a key that is missing or unknown, and a wrong type.

    Fields may be plain values, lists, dictionaries, unions, literals and dataclasses. Numbers have to be finite.
    """
    return _shaped(kind, value, kind.__name__)


def _shaped(kind: Any, value: Any, name: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        hints, fields = get_type_hints(kind), {field.name: field for field in dataclasses.fields(kind)}
        needed = {key for key, field in fields.items() if field.default is field.default_factory is dataclasses.MISSING}
        if (missing := needed - value.keys()) or (unknown := value.keys() - fields.keys()):
            raise ValueError(f"{name} misses {min(missing)}" if missing else f"{name} has {min(unknown)!s:.40}")
        return kind(**{key: _shaped(hints[key], item, key) for key, item in value.items()})  # type: ignore[operator]
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return _shaped(part, value, name)
            except ValueError:
                continue
    elif origin is Literal and value in parts:
        return value
    elif origin is list and isinstance(value, list):
        return [_shaped(parts[0], item, name) for item in value]
    elif origin is dict and isinstance(value, dict):
        return {_shaped(parts[0], key, name): _shaped(parts[1], item, key) for key, item in value.items()}
    elif kind is Any or (kind is type(None) and value is None) or (kind in (str, bool, int) and type(value) is kind):
        return value
    elif kind is float and type(value) in (int, float) and abs(value) < 2**1000 and math.isfinite(value):
        return float(value)
    raise ValueError(f"{name}={value!r:.40}")
