"""Reading the files of a clip folder: every value checked, every error names the file and the field."""

from __future__ import annotations

import json
import math
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from senna2.types import Array, InputError, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.ply import load_ply

MADE_AGAIN = "the file is damaged; make or copy the clip again"


def read_json(path: Path) -> dict[str, Any]:
    require(path.is_file(), str(path), "is missing; make or copy the clip again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: is not readable JSON ({error}); {MADE_AGAIN}") from None
    require(isinstance(value, dict), str(path), "must hold a JSON object")
    return value


def field(data: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """A required field of a JSON object, of the given type (an int passes as a float)."""
    require(key in data, where, f"field '{key}' is missing; {MADE_AGAIN}")
    value = data[key]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    require(isinstance(value, kind), where, f"field '{key}' is {value!r:.60}, expected {kind.__name__}")
    require(kind is not float or math.isfinite(value), where, f"field '{key}' must be finite")
    return value


def points_of(value: Any, where: str, minimum: int = 2) -> Array:
    """(P, 2) finite points of a JSON list."""
    try:
        points = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{where}: must be a list of [x, y] points; {MADE_AGAIN}") from None
    require(points.ndim == 2 and points.shape[1] == 2 and len(points) >= minimum, where,
            f"shape {points.shape}, expected at least {minimum} points [x, y]")  # fmt: skip
    require(bool(np.isfinite(points).all()), where, "holds NaN or infinity")
    return points


def numbers_or_null(value: Any, where: str) -> Array:
    try:
        return np.array([np.nan if v is None else float(v) for v in value])
    except (TypeError, ValueError):
        raise InputError(f"{where}: must be a list of numbers or null; {MADE_AGAIN}") from None


def read_cloud(path: Path) -> GaussianCloud:
    require(path.is_file(), str(path), "is missing; make or copy the clip again")
    return load_ply(path)


def read_table(path: Path, columns: tuple[str, ...], *, optional: tuple[str, ...] = ()) -> dict[str, Array]:
    """Columns of a Parquet file as numpy arrays; numbers without NaN or null. An `optional` column of numbers may hold
    nulls, which are read as NaN, or be missing altogether, which is all null; infinity is refused there too."""
    require(path.is_file(), str(path), "is missing; make or copy the clip again")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: is not a readable Parquet file ({first}); {MADE_AGAIN}") from None
    out = {}
    for name in columns:
        require(name in table.column_names, str(path), f"column '{name}' is missing; {MADE_AGAIN}")
        column = table[name]
        require(column.null_count == 0, str(path), f"column '{name}' holds nulls; {MADE_AGAIN}")
        values = column.to_numpy()
        if np.issubdtype(values.dtype, np.floating):
            bad = np.flatnonzero(~np.isfinite(values))
            require(
                len(bad) == 0, str(path), f"column '{name}' holds NaN or infinity (row {bad[0] if len(bad) else 0})"
            )
        out[name] = values
    for name in optional:
        out[name] = _optional_numbers(table, name, path)
    return out


def _optional_numbers(table: pa.Table, name: str, path: Path) -> Array:
    if name not in table.column_names:
        return np.full(len(table), np.nan)
    column = table[name]
    numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)
    require(numeric, str(path), f"column '{name}' must hold numbers or nulls; {MADE_AGAIN}")
    values = column.cast(pa.float64()).to_numpy()
    bad = np.flatnonzero(np.isinf(values))
    require(len(bad) == 0, str(path), f"column '{name}' holds infinity (row {bad[0] if len(bad) else 0})")
    return values


def floats(columns: dict[str, Array], names: tuple[str, ...], path: Path) -> dict[str, Array]:
    for name in names:
        numeric = np.issubdtype(columns[name].dtype, np.number)
        require(numeric, str(path), f"column '{name}' must hold numbers; {MADE_AGAIN}")
    return {name: columns[name].astype(np.float64) for name in names}


def enum_of(values: Array, kind: type[IntEnum], path: Path, column: str) -> list[Any]:
    try:
        return [kind[v] for v in values]
    except KeyError as error:
        names = ", ".join(kind.__members__)
        raise InputError(f"{path}: column '{column}' holds {error}, expected one of {names}") from None
