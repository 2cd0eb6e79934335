"""`senna2 label`: what f_K says about a recorded drive."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Any

import numpy as np

from senna2.data.recordings import read_recording
from senna2.decisions import SPEED_TEXT, label_recording
from senna2.types import Array, Path

SCHEMA = "senna2.label/1"
PATH_TEXT = tuple(p.name for p in Path)
UNKNOWN = "UNKNOWN"


def label_file(path: FilePath | str, *, order: str = "standing_first") -> dict[str, Any]:
    """Counts and shares of the speed and path labels of a drive, ready for JSON.

    Keys: schema, file, source (kind of recording), duration_s, frames (labelled instants, 0.1 s apart, each
    with 1.4 s ahead), order, speed and path: {label: {count, share}} in the order of the classes, UNKNOWN
    last, and flips: share of neighbouring frames whose speed label differs. Raises `InputError` as
    `read_recording` does.
    """
    recording = read_recording(path)
    _, speed_F, path_F = label_recording(recording.t_T, recording.poses_T3, order=order)
    return {
        "schema": SCHEMA,
        "file": str(path),
        "source": recording.kind,
        "duration_s": round(recording.duration_s, 3),
        "frames": len(speed_F),
        "order": order,
        "speed": _count(speed_F, SPEED_TEXT),
        "path": _count(path_F, PATH_TEXT),
        "flips": float((np.diff(speed_F) != 0).mean()) if len(speed_F) > 1 else 0.0,
    }


def format_counts(counts: dict[str, Any]) -> str:
    """The result of `label_file` as a table for a terminal."""
    head = f"{counts['file']} ({counts['source']})"
    lines = [f"{head}: {counts['duration_s']:.1f} s, {counts['frames']} labelled frames"]
    for kind in ("speed", "path"):
        lines.append(f"{kind:<12} {'frames':>8} {'share':>8}")
        lines += [f"  {k:<10} {v['count']:>8} {100 * v['share']:>7.1f}%" for k, v in counts[kind].items()]
    lines.append(f"The speed label changes on {100 * counts['flips']:.1f}% of frames. UNKNOWN is masked everywhere.")
    return "\n".join(lines)


def _count(labels_F: Array, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    counts = {name: int((labels_F == i).sum()) for i, name in enumerate(names)}
    counts[UNKNOWN] = int((labels_F < 0).sum())
    return {name: {"count": n, "share": n / len(labels_F)} for name, n in counts.items()}
