"""How much of what the cameras could see do the perception heads find? Boxes and map lines, sample by sample [ours].

Legend: B samples, Q queries, A true agents, L true lines, P points, K columns of `COUNTED`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.types import Array, InputError, Samples

COUNTED = ("boxes", "boxes_found", "boxes_said", "lines", "lines_found", "lines_said")


@dataclass(frozen=True)
class Found:
    """What counts as found: a query that says "there" with this probability, of the same class, near enough: centres of
    boxes within `box_m` (as nuScenes), points of lines within `line_m` on average (as MapTR's Chamfer distance)."""

    probability: float = 0.5
    box_m: float = 2.0
    line_m: float = 1.0


@torch.no_grad()
def perceived(policy: DualSystem, samples: Samples, how: Found | None = None, *, chunk: int = 64) -> Array:
    """(N, K) counts of each sample: true ones that a camera could see, those found (one to one), and all that are said.

    Occlusion is not considered, so full recall is out of reach. Raises `InputError` for a policy without perception
    heads (obs="state").
    """
    how = how or Found()
    if policy.perception is None:
        raise InputError("perception: this policy drives by privileged state and has no perception heads")
    parts = []
    for i in range(0, len(samples), chunk):
        batch = Batch.from_samples(samples.take(slice(i, i + chunk)), policy.device)
        queries = policy.encode(batch).queries_BQC
        assert queries is not None
        parts.append(_counts(policy, queries, batch, how))
    return np.concatenate(parts)


def _counts(policy: DualSystem, queries_BQC: Tensor, batch: Batch, how: Found) -> Array:
    heads = policy.perception
    assert heads is not None
    there_BQ, box_BQ6, class_BQF = heads.detect(queries_BQC)
    real_BA = (batch.classes_BA >= 0) & heads.visible(batch.boxes_BA6[..., :2])
    gap_BQA = torch.cdist(box_BQ6[..., :2], torch.nan_to_num(batch.boxes_BA6[..., :2]))
    same_BQA = class_BQF.argmax(-1)[..., None] == batch.classes_BA[:, None]
    boxes = _matched(there_BQ >= how.probability, real_BA, gap_BQA, same_BQA, how.box_m)

    line_BQ, points_BQP2, kind_BQF = heads.trace(queries_BQC)
    seen_BL = (batch.lane_kinds_BL >= 0) & heads.visible(batch.lanes_BLP2).any(-1)
    truth_BLP2 = torch.nan_to_num(batch.lanes_BLP2)
    # Neither end of a line is its first: the smaller of both readings, point by point.
    gaps = [
        torch.linalg.vector_norm(points_BQP2[:, :, None] - t[:, None], dim=-1).mean(-1)
        for t in (truth_BLP2, truth_BLP2.flip(2))
    ]
    same_BQL = kind_BQF.argmax(-1)[..., None] == batch.lane_kinds_BL[:, None]
    lines = _matched(line_BQ >= how.probability, seen_BL, torch.minimum(*gaps), same_BQL, how.line_m)
    return np.concatenate([boxes, lines], 1)


def _matched(said_BQ: Tensor, real_BA: Tensor, gap_BQA: Tensor, same_BQA: Tensor, near: float) -> Array:
    """(B, 3): real ones, those matched one to one by queries that say so, and how many say so."""
    fits = (said_BQ[..., None] & real_BA[:, None] & same_BQA & (gap_BQA <= near)).cpu().numpy()
    found = [(one[linear_sum_assignment(~one)]).sum() for one in fits]
    return np.stack([real_BA.sum(1).cpu().numpy(), np.array(found), said_BQ.sum(1).cpu().numpy()], 1).astype(float)
