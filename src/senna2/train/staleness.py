"""Old answers of the VLM for training: features and decision of an earlier frame of the same drive [ours].

When driving, the planner sees an answer that is up to a VLM period old (spec section 2, asynchrony); a planner that has
only learned from fresh ones meets stale ones as something new.
"""

from __future__ import annotations

import numpy as np

from senna2.model.diffusion import AGE, keyed_uniform
from senna2.types import PLAN_DT, Array, InputError, Samples


def drives(states: Samples) -> Array:
    """(N,) number of the drive each sample is of.

    Samples do not carry it, but their order tells: a drive is stored frame by frame, so a new one begins with another
    clip, or where the frame does not grow. Counterfactual ones branch off the drive stored before them.
    """
    number = np.full(len(states), -1, np.int64)
    clip, frame, current = -1, -1, -1
    for i, branched in enumerate(states.counterfactual_N):
        if states.clip_N[i] != clip or (not branched and states.frame_N[i] <= frame):
            current += 1
            frame = -1
        clip = states.clip_N[i]
        number[i] = current
        if not branched:
            frame = states.frame_N[i]
    return number


class EarlierFrames:
    """For each sample, those of its drive from which the VLM's answer may come: up to `stale_max_s` older, itself
    included. Raises `InputError` for a negative age."""

    def __init__(self, states: Samples, stale_max_s: float) -> None:
        if not 0 <= stale_max_s < np.inf:
            raise InputError(f"stale_max_s: {stale_max_s} must be a number of seconds, 0 or more")
        self.frame_N = states.frame_N.astype(np.int64)
        most = round(stale_max_s / PLAN_DT)
        # Recorded samples sorted by drive and frame; a branch has the frames of its drive before it as its past.
        drive_N = drives(states)
        wide = int(self.frame_N.max(initial=0)) + most + 2
        key_N = drive_N * wide + self.frame_N
        recorded = np.flatnonzero(~states.counterfactual_N)
        self.order = recorded[np.argsort(key_N[recorded], kind="stable")] if len(recorded) else np.arange(len(states))
        key_of_order = key_N[self.order]
        oldest = np.maximum(key_N - most, drive_N * wide)
        self.first_N = np.searchsorted(key_of_order, oldest, side="left")
        self.count_N = np.searchsorted(key_of_order, key_N, side="right") - self.first_N

    def draw(self, index_B: Array, seed: int, step: int) -> tuple[Array, Array]:
        """→ (positions (B,) of the samples whose answer is taken, ages (B,) in s), each candidate as likely.

        Keyed by (sample, seed, step), like all other noise: neither batches nor ranks nor resuming matter.
        """
        u = keyed_uniform(np.asarray(index_B), seed, step, (), AGE).numpy()
        count = self.count_N[index_B]
        pick = self.first_N[index_B] + np.minimum((u * count).astype(np.int64), np.maximum(count - 1, 0))
        # A branch whose drive was not kept has no candidate: it keeps its own answer.
        position = np.where(count > 0, self.order[np.minimum(pick, len(self.order) - 1)], index_B)
        frames = self.frame_N[index_B] - self.frame_N[position]
        return np.where(frames > 0, position, index_B), PLAN_DT * frames
