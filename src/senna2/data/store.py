"""Samples on disk: a folder of parts, one a clip, each a folder of plain `.npy` arrays.

States are read into memory; images stay on disk and are gathered a batch at a time, their files open only meanwhile:
a store has thousands, a process may have some hundred open. A part is written beside
and renamed, so an interrupted run leaves only whole parts, and a part that exists is not made again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senna2.config import load_json
from senna2.files import replace_folder
from senna2.types import Array, InputError, Samples, require

SCHEMA = "senna2.samples/1"
_TEXT = ("instruction_N", "clips", "families")
_ARRAYS = tuple(n for n in Samples.__dataclass_fields__ if n not in (*_TEXT, "images"))


def write_part(folder: Path, name: str, samples: Samples) -> Path:
    """Write one part; `InputError` if the disk refuses (the store stays whole)."""
    target = folder / name
    temporary = folder / f".{name}.{os.getpid()}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this number
        temporary.mkdir(parents=True)
        for field in _ARRAYS:
            np.save(temporary / f"{field}.npy", getattr(samples, field))
        for camera, images in samples.images.items():
            np.save(temporary / f"images.{camera}.npy", images)
        meta = {
            "schema": SCHEMA,
            "n": len(samples),
            "cameras": list(samples.images),
            **{k: getattr(samples, k) for k in _TEXT},
        }
        (temporary / "part.json").write_text(json.dumps(meta))
        replace_folder(temporary, target)
    except OSError as error:
        raise InputError(
            f"{target}: cannot be written ({error.strerror or error}); free disk space or choose another --out"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


class SampleStore:
    """Every sample of a folder, addressable by position. `index_N` is renumbered to that position."""

    def __init__(self, folder: Path, *, images: bool = True, parts: Sequence[str] | None = None) -> None:
        self.folder = Path(folder)
        found = sorted(p.parent for p in self.folder.glob("*/part.json") if not p.parent.name.startswith("."))
        chosen = found if parts is None else [self.folder / p for p in parts]
        if not chosen:
            raise InputError(f"{folder}: holds no samples; make them with `senna2 run` or `senna2 train 1a`")
        read = [_read_part(p, images) for p in chosen]
        self._images = [r[1] for r in read]
        shapes = [{camera: rows.shape for camera, rows in images.items()} for images in self._images]
        for part, found_shapes in zip(chosen, shapes, strict=True):
            if found_shapes != shapes[0]:
                raise InputError(
                    f"{part}: has images {found_shapes}, {chosen[0].name} has {shapes[0]}; "
                    "samples of one rig belong in one folder"
                )
        self._start = np.concatenate([[0], np.cumsum([len(r[0]) for r in read])])
        states = Samples.concatenate([r[0] for r in read])
        self.states = dataclasses.replace(states, index_N=np.arange(len(states), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index: Array) -> Samples:
        """The samples at these positions, with their images."""
        index = np.asarray(index)
        part = np.searchsorted(self._start, index, side="right") - 1
        row = index - self._start[part]
        images = {camera: np.empty((len(index), *rows.shape), np.uint8) for camera, rows in self._images[0].items()}
        for camera, image_BKHW3 in images.items():
            for out, p, r in zip(image_BKHW3, part, row, strict=True):
                self._images[p][camera].read(r, out)
        return dataclasses.replace(self.states.take(index), images=images)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Where the images of one camera lie in a file; `shape` of one sample's: (K, H, W, 3), uint8."""

    path: Path
    offset: int
    shape: tuple[int, ...]

    def read(self, row: int, out_KHW3: Array) -> None:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.offset + int(row) * out_KHW3.nbytes)
                held = file.readinto(out_KHW3.data)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        if held != out_KHW3.nbytes:
            raise InputError(f"{self.path}: ends before sample {row}; delete its folder and make the samples again")


def _read_part(folder: Path, images: bool) -> tuple[Samples, dict[str, _Rows]]:
    meta = load_json(folder / "part.json")
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{folder / 'part.json'}: schema '{schema}', expected '{SCHEMA}'; make the samples anew")
    for key in ("n", "cameras", *_TEXT):
        if key not in meta:
            raise InputError(f"{folder / 'part.json'}: field '{key}' is missing; make the samples anew")
    values: dict[str, Any] = {k: tuple(meta[k]) for k in _TEXT}
    for field in _ARRAYS:
        values[field] = _load(folder / f"{field}.npy", meta["n"])
    rows = {}
    for camera in meta["cameras"] if images else ():
        path = folder / f"images.{camera}.npy"
        mapped = _load(path, meta["n"], mmap=True)
        sound = mapped.ndim == 5 and mapped.dtype == np.uint8 and mapped.flags.c_contiguous
        require(sound, str(path), "is not (N, K, H, W, 3) uint8 in C order; delete its folder and make it again")
        rows[camera] = _Rows(path, mapped.offset, mapped.shape[1:])
    try:
        return Samples(**values, images={}).validate(), rows
    except InputError as error:
        raise InputError(f"{folder}: {error}; delete this folder and make the samples again") from error


def _load(path: Path, n: int, *, mmap: bool = False) -> Any:
    try:
        value = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete its folder and make the samples again") from error
    held = len(value) if value.ndim else 0
    if held != n:
        raise InputError(f"{path}: holds {held} samples, part.json says {n}; delete its folder and make them again")
    return value


def samples_of(folder: Path, clips: Sequence[Path], *, images: bool = True) -> SampleStore:
    """Those of these clips alone: the folder may hold others of an earlier run. A clip may have left none."""
    parts = [c.name for c in clips if (folder / c.name / "part.json").is_file()]
    return SampleStore(folder, images=images, parts=parts)
