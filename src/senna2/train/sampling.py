"""Which samples a step takes: from (seed, step) alone, so that resuming and the number of ranks change nothing."""

from __future__ import annotations

import numpy as np

from senna2.types import Array, InputError


def draw_indices(n: int, batch: int, step: int, seed: int, weights_N: Array | None = None) -> Array:
    """The global batch of a step, (batch,) positions in 0…n−1, from (seed, step) alone: resuming and the number of
    ranks change nothing. Without weights: epochs of permutations; with weights: drawn with replacement."""
    if n == 0:
        raise InputError("samples: none can be drawn for this stage; make more clips")
    if weights_N is not None:
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        return rng.choice(n, batch, p=weights_N / weights_N.sum())
    out = np.empty(batch, np.int64)
    for i, position in enumerate(range(step * batch, (step + 1) * batch)):
        epoch, place = divmod(position, n)
        if i == 0 or place == 0:
            order = np.random.Generator(np.random.Philox(key=[seed, 1_000_000_007 + epoch])).permutation(n)
        out[i] = order[place]
    return out
