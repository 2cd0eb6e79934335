"""Files and folders that are whole or not there: written beside, then renamed; the old stays until the new stands."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from senna2.types import InputError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A name beside `path`, with its ending, to write to; at the end of the block that file takes `path`'s place. If
    the block raises (a full disk, Ctrl-C), `path` is as it was. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield fresh
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """As `write_text`."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Raises `InputError` naming the file if the place cannot be written."""
    try:
        with written_whole(path) as fresh:
            fresh.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); free disk space or choose another --out"
        ) from error


def copy_file(source: Path, target: Path) -> None:
    """A copy in `target`'s place, whole or not at all."""
    with written_whole(target) as fresh:
        shutil.copy2(source, fresh)


def replace_folder(fresh: Path, target: Path) -> None:
    """Put a complete folder in `target`'s place; what was there goes only once the new one stands."""
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    try:
        os.replace(fresh, target)
    except BaseException:
        if old.exists():
            os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
