"""Sets of plans that stand for all of them, fitted on the expert's.

Legend: N plans, K knots, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

from senna2.types import Array, InputError


def furthest_plans(knots_NK2: Array, count: int) -> Array:
    """(V, K, 2) furthest-trajectory sampling (VADv2, section 3.2): repeatedly the plan whose least distance to the set
    is largest; distance is the mean over the knots. The set begins with standing still, as in the release.

    Raises `InputError` for fewer distinct plans than `count`.
    """
    chosen = [np.zeros_like(knots_NK2[0])]
    least_N = np.linalg.norm(knots_NK2, axis=-1).mean(-1)
    while len(chosen) < count:
        furthest = int(np.argmax(least_N))
        if least_N[furthest] < 1e-6:
            more = "give more samples, or ask for fewer by planner_options.vocabulary"
            raise InputError(f"fit: only {len(chosen)} distinct plans for {count}; {more}")
        chosen.append(knots_NK2[furthest])
        least_N = np.minimum(least_N, np.linalg.norm(knots_NK2 - chosen[-1], axis=-1).mean(-1))
    return np.stack(chosen)


def clustered_plans(knots_NK2: Array, count: int) -> Array:
    """(V, K, 2) centres of K-means over whole plans (DiffusionDrive, section 3.1); no randomness is left in them.

    Raises `InputError` for fewer plans than centres.
    """
    flat = knots_NK2.reshape(len(knots_NK2), -1)
    if len(flat) < count:
        raise InputError(f"fit: {len(flat)} plans for {count} anchors; give more samples")
    centres, _ = kmeans2(flat, count, iter=50, minit="++", rng=np.random.default_rng(0), missing="warn")
    return centres.reshape(count, *knots_NK2.shape[1:])
