"""Frames of a policy's own rollouts for stage 3: which train, and which are risky or slow (paper section 3.5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from senna2.data.store import SampleStore, write_part
from senna2.types import Array, InputError, Rollout, Samples


@dataclass(frozen=True, eq=False)
class RolloutFrames:
    """safe_N: m_s, TTC under the threshold. slow_N: m_e. speed_N, direction_N: the decision used in the rollout."""

    samples: Samples
    safe_N: Array
    slow_N: Array
    speed_N: Array
    direction_N: Array

    def summary(self) -> dict[str, float]:
        """How many frames there are, and the shares that are flagged, risky and slow."""
        n = len(self.samples)
        marked = {"flagged": self.safe_N | self.slow_N, "risky": self.safe_N, "slow": self.slow_N}
        return {"frames": float(n), **{name: float(m.mean()) for name, m in marked.items()}}


def before_contact(rollout: Rollout) -> Array:
    """(F,) bool: the frames before the first contact, whoever's fault it is."""
    first = min((c.t_s for c in rollout.contacts), default=np.inf)
    return np.asarray(rollout.t_F < first - 1e-6)


def flags(rollout: Rollout, ttc_s: float, slow_share: float, behind_m: float) -> tuple[Array, Array, Array]:
    """(usable, m_s, m_e) of every frame (F,) bool.

    Usable ends at the first contact, whoever's fault it is. m_e: not m_s, speed under `slow_share` of both the
    limit and the expert's speed at the same place, and more than `behind_m` behind the expert at the same time.
    """
    usable = before_contact(rollout)
    safe = rollout.ttc_F < ttc_s
    t, v, s, _ = rollout.expert_E4.T
    v_there = np.interp(rollout.progress_F, s, v)
    reference = np.fmin(v_there, rollout.speed_limit_F)  # fmin: an unknown limit does not count
    behind = rollout.progress_F < np.interp(rollout.t_F, t, s) - behind_m
    slow = ~safe & (rollout.ego_F6[:, 3] < slow_share * reference) & behind
    return usable, safe, slow


def select_frames(
    rollouts: Sequence[Rollout], every: int, ttc_s: float, slow_share: float, behind_m: float
) -> RolloutFrames:
    """D: every `every`-th frame that is usable and was observed, over all rollouts."""
    parts, safe, slow, decisions = [], [], [], []
    for r in rollouts:
        usable, m_s, m_e = flags(r, ttc_s, slow_share, behind_m)
        chosen = [i for i in range(0, len(r), every) if usable[i] and r.observations and r.observations[i] is not None]
        if not chosen:
            continue
        observed = [o for i in chosen if (o := r.observations[i]) is not None]
        parts.append(dataclasses.replace(Samples.from_observations(observed), clips=(r.clip,), families=(r.family,)))
        safe.append(m_s[chosen])
        slow.append(m_e[chosen])
        decisions.append(r.decision_F2[chosen])
    if not parts:
        raise InputError("stage 3: the rollouts hold no usable frame; were observations recorded?")
    samples = Samples.concatenate(parts)
    decision = np.concatenate(decisions)
    samples = dataclasses.replace(samples, index_N=np.arange(len(samples), dtype=np.int64))
    return RolloutFrames(samples, np.concatenate(safe), np.concatenate(slow), decision[:, 0], decision[:, 1])


def save_frames(folder: Path, frames: RolloutFrames) -> None:
    """Write them so that an interrupted stage goes on with the same rollouts; the samples come last, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(
        folder / "flags.npy",
        np.stack([frames.safe_N, frames.slow_N, frames.speed_N, frames.direction_N], 1).astype(np.int8),
    )
    write_part(folder / "frames", "rollouts", frames.samples)


def load_frames(folder: Path) -> RolloutFrames | None:
    """The frames of an interrupted round, or None."""
    if not (folder / "frames" / "rollouts" / "part.json").is_file():
        return None
    store = SampleStore(folder / "frames")
    flag = np.load(folder / "flags.npy", allow_pickle=False)
    samples = store.take(np.arange(len(store)))
    return RolloutFrames(samples, flag[:, 0].astype(bool), flag[:, 1].astype(bool), flag[:, 2], flag[:, 3])
