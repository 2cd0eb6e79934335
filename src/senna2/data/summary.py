"""What a folder of samples holds, in numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from senna2.data.store import SampleStore
from senna2.decisions import DIRECTION_TEXT, SPEED_TEXT


def summary(store: SampleStore) -> dict[str, Any]:
    """Counts by class and family, shares without a label, sizes of the frames and on disk.

    Shares and classes are of the samples that the expert drove by itself; forced ones are counted apart.
    """
    s = store.states
    own = ~s.counterfactual_N
    speed, direction = s.speed_N[own], s.direction_N[own]
    family_N = np.array(s.families)[s.clip_N]
    shapes = {name: list(image.shape[1:]) for name, image in store.take(np.zeros(1, int)).images.items()}
    size = sum(p.stat().st_size for p in store.folder.rglob("*") if p.is_file())
    return {
        "samples": len(s),
        "clips": len(s.clips),
        "forced": int(s.counterfactual_N.sum()),
        "with_instruction": sum(bool(text) for text in s.instruction_N),
        "unknown_speed_share": _share(speed < 0),
        "unknown_direction_share": _share(direction < 0),
        "speed": {text: int((speed == k).sum()) for k, text in enumerate(SPEED_TEXT)},
        "direction": {text: int((direction == k).sum()) for k, text in enumerate(DIRECTION_TEXT)},
        "family": {str(f): int(n) for f, n in zip(*np.unique(family_N, return_counts=True), strict=True)},
        "images": shapes,  # frames, height, width, colours
        "megabytes": round(size / 1e6, 2),
    }


def _share(which: np.ndarray) -> float | None:
    return round(float(which.mean()), 4) if len(which) else None
