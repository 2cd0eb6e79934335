"""Generated clips and their frames, kept from run to run by content: settings and the code that makes them."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import senna2
from senna2.config import fingerprint, load_json, to_dict
from senna2.files import write_json

CLIP_CODE = ("world", "geometry", "types", "decisions.py", "frames.py", "instructions.py")
FRAME_CODE = (*CLIP_CODE, "data/samples.py", "data/store.py", "demonstrations.py", "displaced.py", "drivers.py",
              "rollouts.py")  # fmt: skip


@functools.cache
def code_digest(parts: tuple[str, ...]) -> str:
    """Twelve hex digits of the source of these files and folders of the package."""
    root = Path(senna2.__file__).parent
    digest = hashlib.sha256()
    for part in parts:
        for path in sorted([root / part] if part.endswith(".py") else (root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def keep_if_same(folder: Path, settings: Any, code: Sequence[str], *, resume: bool) -> bool:
    """Whether what `folder` holds was made with these settings and this code; else it is emptied.

    With `resume` the code does not matter: a run that was begun is ended with the clips it began with.
    """
    mark, key = folder / "content.json", fingerprint(to_dict(settings))
    made = {"settings": key, "code": code_digest(tuple(code))}
    known = load_json(mark) if mark.is_file() else {}
    same = known == made or (resume and known.get("settings") == key)
    if not same:
        shutil.rmtree(folder, ignore_errors=True)
        write_json(mark, made)
    return same
