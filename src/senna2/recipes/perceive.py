"""`senna2 eval perception`: recall and precision of the perception heads, with intervals over clips."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.evaluate.consistency import per_clip
from senna2.evaluate.metrics import MetricValue
from senna2.evaluate.stats import Sums, measure
from senna2.files import write_json
from senna2.model.policy import DualSystem
from senna2.model.pretrained import check_device
from senna2.model.recall import COUNTED, Found, perceived
from senna2.provenance import provenance
from senna2.recipes.measure import check_writable, open_loop_samples, policy_names, resolve_scenes
from senna2.recipes.stages import checkpoint_in
from senna2.types import Array, Samples
from senna2.workers import worker_count

SCHEMA = "senna2.perception/1"
RATES = {
    "box_recall": ("boxes_found", "boxes"), "box_precision": ("boxes_found", "boxes_said"),
    "line_recall": ("lines_found", "lines"), "line_precision": ("lines_found", "lines_said"),
}  # fmt: skip


def perception_quality(samples: Samples, counts_NK: Array) -> dict[str, MetricValue]:
    """The four rates, from the counts of `model.recall.perceived`. `n` counts true ones (recall) or said ones."""
    table_CK = per_clip(counts_NK, samples.clip_N, len(samples.clips))
    out = {}
    for name, (part, whole) in RATES.items():
        pair = table_CK[:, [COUNTED.index(part), COUNTED.index(whole)]]
        out[name] = measure(Sums(samples.clips, (0,), pair[None]), int(pair[:, 1].sum()))
    return out


def perception_verb(
    specs: Sequence[str], scenes: str, out: Path, *, limit: int | None, workers: int | None, device: str = "cpu"
) -> dict[str, Any]:
    """Write the file, return its headline. Raises `InputError` for a policy that is no checkpoint or has no heads, and
    for a device that is not there."""
    check_device(device)
    folders = {name: checkpoint_in(Path(spec)) for name, spec in policy_names(specs).items()}
    workers = worker_count(workers)
    check_writable(out)
    clips = resolve_scenes(scenes, out, limit=limit, workers=workers)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as folder:
        samples = open_loop_samples(clips, Path(folder), every=5, most=5000, workers=workers)
        found = {
            name: perception_quality(samples, perceived(DualSystem.from_pretrained(where, device).eval(), samples))
            for name, where in folders.items()
        }
    how = Found()
    write_json(out, {
        "schema": SCHEMA, "provenance": provenance(), "scenes": scenes, "samples": len(samples),
        "definition": (
            "Of the true boxes and lines within 60 m and the view of a camera (occluded ones too), those that a query "
            f"says with probability {how.probability:g} or more, of the same class, centres within {how.box_m:g} m, "
            f"points of lines within {how.line_m:g} m on average; one to one."
        ),
        "policies": {name: {m: v.to_json() for m, v in rates.items()} for name, rates in found.items()},
    })  # fmt: skip
    lines = {
        name: "  ".join(f"{m} {np.nan if v.value is None else v.value:.3f}" for m, v in rates.items())
        for name, rates in found.items()
    }
    return {"results": str(out), **lines}
