"""Reading pickles of recordings without running what is in them.

A pickle is a program: its opcodes may call any importable function. This reader admits numpy arrays, dtypes and scalars
and plain containers, by an allow-list of exact names; everything else is refused before it is imported.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy._core.multiarray as multiarray
import numpy._core.numeric as numeric

from senna2.types import InputError


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """numpy's protocol-2 pickles carry bytes as latin-1 text; no other codec is admitted (some unpack archives)."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode to '{encoding}'")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any] | type] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _latin1_bytes,
}
for _builtins in ("builtins", "__builtin__"):  # protocols up to 2 write Python 2's module name
    _ALLOWED.update({(_builtins, t.__name__): t for t in (set, frozenset, complex, bytearray)})
for _core in ("numpy.core", "numpy._core"):  # numpy 1 and numpy 2 write different module paths
    _ALLOWED[(f"{_core}.multiarray", "_reconstruct")] = multiarray._reconstruct
    _ALLOWED[(f"{_core}.multiarray", "scalar")] = multiarray.scalar
    _ALLOWED[(f"{_core}.numeric", "_frombuffer")] = numeric._frombuffer  # type: ignore[attr-defined]


class _Refused(pickle.UnpicklingError):
    pass


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[(module, name)]
        except KeyError:
            raise _Refused(f"{module}.{name}") from None


def load_restricted(path: Path) -> Any:
    """The object in a pickle file, if it consists of numpy arrays and plain containers.

    Raises `InputError` naming the file and the refused global, or that the file is missing, truncated or corrupt.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a readable pickle file") from None
    try:
        return _RestrictedUnpickler(io.BytesIO(data)).load()
    except _Refused as refused:
        raise InputError(
            f"{path}: the pickle asks for '{refused}', which is refused: only numpy arrays and plain containers are "
            "read. Write the scenario again with numpy arrays and builtin containers"
        ) from None
    except Exception as error:  # a broken opcode stream can raise nearly anything, MemoryError and IndexError included
        raise InputError(
            f"{path}: truncated or corrupt pickle ({type(error).__name__}: {error}); copy the file again"
        ) from None
