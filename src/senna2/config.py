"""Frozen dataclass ↔ JSON, strictly, and the difference of two configs. A checkpoint and a recipe both rest on it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from senna2.types import InputError, meant

C = TypeVar("C")


def later(before: Any) -> Any:
    """A field that a config got after files and fingerprints of it were written: these mean `before`. At that value it
    is not written, so that they stay valid; the default may change, `before` may not."""
    if isinstance(before, dict):
        return dataclasses.field(default_factory=before.copy, metadata={"before": before})
    return dataclasses.field(default=before, metadata={"before": before})


def _before(kind: Any) -> dict[str, Any]:
    """What files without them mean, by name of the fields that came `later`."""
    return {f.name: to_dict(f.metadata["before"]) for f in dataclasses.fields(kind) if "before" in f.metadata}


def to_dict(config: Any) -> Any:
    """A dataclass (nested, tuples, dicts of such) as plain JSON values."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        new = _before(config)
        plain = {n: to_dict(v) for n, v in values.items()}
        return {n: v for n, v in plain.items() if n not in new or v != new[n]}
    if isinstance(config, (list, tuple)):
        return [to_dict(v) for v in config]
    if isinstance(config, dict):
        return {str(k): to_dict(v) for k, v in config.items()}
    if isinstance(config, (str, int, float, bool)) or config is None:
        return config
    raise TypeError(f"config: {type(config).__name__} is not a JSON value")


def from_dict(cls: type[C], values: Any, where: str = "config") -> C:
    """The dataclass back; an unknown, missing or wrongly typed field raises `InputError` with its full name."""
    return _read(cls, values, where)


def _read(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        for kind_given in kinds[:-1]:
            try:
                return _read(kind_given, value, where)
            except InputError:
                continue
        return _read(kinds[-1], value, where)
    if origin is typing.Literal:
        if value not in args:
            raise InputError(f"{where}: '{value}' is none of {list(args)}")
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, got {type(value).__name__}")
        hints = typing.get_type_hints(kind)
        names = {f.name for f in dataclasses.fields(kind)}
        for name in value:
            if name not in names:
                raise InputError(f"{where}.{name}: unknown field; known are {sorted(names)}{meant(name, names)}")
        value = {**_before(kind), **value}
        missing = names - set(value)
        if missing:
            raise InputError(f"{where}: lacks {sorted(missing)}")
        return kind(**{n: _read(hints[n], v, f"{where}.{n}") for n, v in value.items()})
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where}: expected a list, got {type(value).__name__}")
        inner = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(inner) != len(value):
            raise InputError(f"{where}: expected {len(inner)} values, got {len(value)}")
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(inner, value, strict=True)))
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected an object, got {type(value).__name__}")
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
        raise InputError(f"{where}: expected {kind.__name__}, got {value!r}")
    return value


def load_json(path: Path) -> Any:
    """The JSON file, or an `InputError` that names it."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: file is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); make the file anew") from error


def diff(a: Any, b: Any) -> dict[str, tuple[Any, Any]]:
    """Fields in which two configs differ: dotted name → (value in a, value in b)."""
    left, right = _flatten(to_dict(a)), _flatten(to_dict(b))
    return {k: (left.get(k), right.get(k)) for k in sorted(left | right) if left.get(k) != right.get(k)}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        flat: dict[str, Any] = {}
        for k, v in value.items():
            flat.update(_flatten(v, f"{prefix}.{k}" if prefix else k))
        return flat
    return {prefix: value}


def fingerprint(config: Any) -> str:
    """Twelve hex digits that change when any field does (names cached artefacts)."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
