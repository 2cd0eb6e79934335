"""Samples as question and answer pairs with their front frames, in the formats of the usual fine-tuning tools.

    llamafactory   senna2.json, dataset_info.json   "sharegpt" messages; images relative to the dataset's folder
    swift          senna2.jsonl                     the same messages, a line each; images relative to the start folder
    trl            train.jsonl                      conversational prompt and completion, so that only the answer trains

The decision is always asked; what else, `kinds` of `data.qa` say. Samples without a decision (UNKNOWN) or with a forced
one are left out, as in stage 1a.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from senna2.data.qa import KINDS, qa_of
from senna2.data.store import SampleStore
from senna2.decisions import decision_text
from senna2.files import replace_folder
from senna2.types import Decision, Direction, InputError, Samples, Speed

Format = Literal["llamafactory", "swift", "trl"]
FORMATS: tuple[Format, ...] = ("llamafactory", "swift", "trl")
ENCODINGS = ("png", "jpg")
JPEG_QUALITY = 95
BATCH = 64
IMAGE_TAG = "<image>"  # where LLaMA-Factory and ms-swift put the image into a turn

# The user's text of sample i: for the decision, or with a question. The model's own prompts, handed in from above.
Ask = Callable[[Samples, int, str], str]


@dataclass(frozen=True)
class Record:
    """One turn of question and answer about one frame. `image` is relative to the export's folder."""

    image: str
    system: str
    user: str
    answer: str
    kind: str


def export(
    store: SampleStore, out: Path, form: str, *, system: str, ask: Ask, kinds: Sequence[str] = (), seed: int = 0,
    encoding: str = "png", limit: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write the whole set into the new folder `out`; returns what was written, counts by kind and by decision.

    `limit`: at most so many frames, drawn over all of them by `seed`. Raises InputError for an unknown format, kind or
    encoding, samples without a front camera, none with a decision, or a folder that is not empty.
    """
    for name, value, known in (("--format", form, FORMATS), ("--images", encoding, ENCODINGS)):
        if value not in known:
            raise InputError(f"{name} {value}: unknown; there are {list(known)}")
    odd = sorted(set(kinds) - set(KINDS))
    if odd:
        raise InputError(f"--kinds {odd}: unknown; there are {list(KINDS)}")
    out = out.absolute()  # "." has no name
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {out}: is not empty; choose another folder")
    index = usable(store.states)
    if len(index) == 0:
        raise InputError(f"{store.folder}: no sample has a known decision of its own; there is nothing to export")
    if limit is not None and limit < len(index):
        index = np.sort(np.random.default_rng(seed).permutation(index)[:limit])
    temporary = out.parent / f".{out.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had this number
    try:
        (temporary / "images").mkdir(parents=True)
        rows = list(_records(store, index, temporary, system, ask, kinds, seed, encoding))
        files = _WRITERS[form](temporary, rows)
        replace_folder(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    decisions = Counter(r.answer for r in rows if r.kind == "decision")
    return {
        "out": str(out), "format": form, "files": [str(out / f) for f in files], "frames": len(index),
        "rows": len(rows), "kinds": dict(Counter(r.kind for r in rows)), "decisions": dict(decisions.most_common()),
    }  # fmt: skip


def usable(states: Samples) -> np.ndarray:
    """Positions of the samples with a whole decision that the expert took by itself."""
    return np.flatnonzero((states.speed_N >= 0) & (states.direction_N >= 0) & ~states.counterfactual_N)


def _records(
    store: SampleStore, index: np.ndarray, folder: Path, system: str, ask: Ask, kinds: Sequence[str], seed: int,
    encoding: str,
) -> Iterator[Record]:  # fmt: skip
    for start in range(0, len(index), BATCH):
        batch = store.take(index[start : start + BATCH])
        if "front" not in batch.images:
            raise InputError(f"{store.folder}: no camera 'front', which the VLM sees; there are {sorted(batch.images)}")
        for i in range(len(batch)):
            image = f"images/{int(batch.index_N[i]):08d}.{encoding}"
            # png knows no quality and does without
            Image.fromarray(batch.images["front"][i, -1]).save(folder / image, quality=JPEG_QUALITY)
            decision = Decision(Speed(int(batch.speed_N[i])), Direction(int(batch.direction_N[i])))
            yield Record(image, system, ask(batch, i, ""), decision_text(decision), "decision")
            for qa in qa_of(batch, i, kinds=kinds, seed=seed):
                yield Record(image, system, ask(batch, i, qa.question), qa.answer, qa.kind)


def _messages(row: Record, tag: str = "") -> list[dict[str, str]]:
    turns = (("system", row.system), ("user", tag + row.user), ("assistant", row.answer))
    return [{"role": role, "content": text} for role, text in turns]


def _tagged(row: Record) -> dict[str, Any]:
    return {"messages": _messages(row, IMAGE_TAG), "images": [row.image]}


def _split(row: Record) -> dict[str, Any]:
    # No tag: TRL puts the images of a row into its first user turn.
    *prompt, answer = _messages(row)
    return {"images": [row.image], "prompt": prompt, "completion": [answer]}


def _llamafactory(folder: Path, rows: Sequence[Record]) -> list[str]:
    (folder / "senna2.json").write_text(json.dumps([_tagged(r) for r in rows], indent=1), encoding="utf-8")
    roles = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    entry = {
        "file_name": "senna2.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", **roles},
    }
    (folder / "dataset_info.json").write_text(json.dumps({"senna2": entry}, indent=1), encoding="utf-8")
    return ["senna2.json", "dataset_info.json"]


def _lines(name: str, shape: Callable[[Record], dict[str, Any]]) -> Callable[[Path, Sequence[Record]], list[str]]:
    def write(folder: Path, rows: Sequence[Record]) -> list[str]:
        (folder / name).write_text("".join(json.dumps(shape(r)) + "\n" for r in rows), encoding="utf-8")
        return [name]

    return write


_WRITERS: dict[str, Callable[[Path, Sequence[Record]], list[str]]] = {
    "llamafactory": _llamafactory,
    "swift": _lines("senna2.jsonl", _tagged),
    "trl": _lines("train.jsonl", _split),
}
