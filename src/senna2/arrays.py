"""Arrays and a JSON description in one compressed npz: rollouts, plans and measured suites on disk."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from senna2.files import written_whole
from senna2.types import Array, InputError


def save_arrays(path: Path, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Whole or not at all; `meta` must name its "schema"."""
    with written_whole(path) as fresh, fresh.open("wb") as file:
        np.savez_compressed(file, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]


def load_arrays(path: Path, schema: str, fix: str) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, meta without its schema). Raises `InputError` naming the file, what is wrong, and the `fix`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {fix}") from error
    found = meta.pop("schema", None)
    if found != schema:
        raise InputError(f"{path}: schema '{found}', expected '{schema}'; {fix}")
    return arrays, meta
