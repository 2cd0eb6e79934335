"""Rollouts → outcome of each clip → rates over clips. Paper Table 3; EVALUATION, Closed loop.

Legend: F frames, E frames of the expert, C clips, S seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from senna2.decisions import f_k_plan
from senna2.evaluate.comfort import is_comfortable
from senna2.evaluate.consistency import average_f1, decision_counts, left_out_note
from senna2.evaluate.metrics import MetricValue, finite
from senna2.evaluate.stats import Sums, measure, missing
from senna2.geometry import bearing
from senna2.types import Array, Contact, InputError, Rollout

STAND_SPEED = 0.05  # m/s
BEHIND = np.deg2rad(150.0)
PARKED_S = 5.0
STRADDLING_S = 4.0
MIN_EXPERT_PROGRESS = 5.0  # m; under it a ratio of distances says nothing [ours, as NAVSIM's]
END_TOLERANCE = 2.0  # steps by which a drive may stop before the recording does and still have reached its end


@dataclass(frozen=True)
class Outcome:
    """One rollout judged. None: the map (or a drive of a few frames) cannot tell."""

    collided: bool
    at_fault: bool
    rear_ended: bool
    lateral_undecided: bool
    min_ttc_s: float
    hit_ahead: bool  # any contact but one from behind
    min_ttc_ahead_s: float
    off_road: bool | None
    straddled: bool | None
    parked: bool
    finished: bool | None
    progress_m: float
    progress_ratio: float | None
    route_completion: float
    comfort: bool | None


def _frame_at(rollout: Rollout, t_s: float) -> int:
    return int(np.clip(np.searchsorted(rollout.t_F, t_s + 1e-9, "right") - 1, 0, len(rollout) - 1))


def from_behind(rollout: Rollout, contact: Contact) -> bool:
    """The other ran into the ego's back: kind `rear`, or a standing ego and an agent over 150° off its
    heading."""
    if contact.kind == "rear":
        return True
    if contact.kind != "stopped_ego" or contact.agent_id not in rollout.agent_ids:
        return False
    frame = _frame_at(rollout, contact.t_s)
    centre = rollout.boxes_FA6[frame, rollout.agent_ids.index(contact.agent_id), :2]
    if not np.isfinite(centre).all():
        return False
    return bool(np.ravel(bearing(rollout.ego_F6[frame, :3], centre[None]))[0] > BEHIND)


def _ttc_without(rollout: Rollout, left_out: Sequence[Contact], others: Sequence[Contact]) -> float:
    """Smallest TTC when the zeros that `left_out` contacts set are not counted."""
    ttc = rollout.ttc_F.astype(np.float64)
    near = np.zeros(len(ttc), bool)
    for contact in left_out:
        near |= np.abs(rollout.t_F - contact.t_s) <= rollout.dt + 1e-9
    for contact in others:
        near &= np.abs(rollout.t_F - contact.t_s) > rollout.dt + 1e-9
    return float(np.where(near & (ttc <= 0), np.inf, ttc).min())


def longest_run(flags_F: Array) -> int:
    """Frames in the longest uninterrupted run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags_F, int), [0]])))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _straddled(rollout: Rollout) -> bool | None:
    if rollout.straddle_F is None:
        return None
    flags = rollout.straddle_F.astype(bool)
    return bool(flags[-1]) or longest_run(flags) * rollout.dt > STRADDLING_S + 1e-9


def _parked(rollout: Rollout) -> bool:
    """Stands, in all, for more than 5 s in which the expert moves."""
    expert_v = np.interp(rollout.t_F, rollout.expert_E4[:, 0], rollout.expert_E4[:, 1])
    waits = (np.abs(rollout.ego_F6[:, 3]) <= STAND_SPEED) & (expert_v > STAND_SPEED)
    return bool(waits.sum() * rollout.dt > PARKED_S + 1e-9)


def judge(rollout: Rollout) -> Outcome:
    """Everything the closed-loop suite says of one rollout."""
    rear = [c for c in rollout.contacts if from_behind(rollout, c)]
    ahead = [c for c in rollout.contacts if c not in rear]
    collided = bool(rollout.contacts)
    straddled = _straddled(rollout)
    reached_end = rollout.t_F[-1] >= rollout.expert_E4[-1, 0] - END_TOLERANCE * rollout.dt - 1e-9
    finished: bool | None = bool(reached_end and not collided)
    if finished and straddled is not False:
        finished = None if straddled is None else False
    progress = float(rollout.progress_F[-1] - rollout.progress_F[0])
    expert_progress = float(rollout.expert_E4[-1, 2] - rollout.expert_E4[0, 2])
    route_ahead = max(rollout.route_length_m - float(rollout.progress_F[0]), 1e-6)
    return Outcome(
        collided=collided,
        at_fault=any(c.at_fault for c in rollout.contacts),
        rear_ended=bool(rear),
        lateral_undecided=any(c.lateral_undecided for c in rollout.contacts),
        min_ttc_s=0.0 if collided else float(rollout.ttc_F.min()),
        hit_ahead=bool(ahead),
        min_ttc_ahead_s=0.0 if ahead else _ttc_without(rollout, rear, ahead),
        off_road=None if rollout.off_road_F is None else bool(rollout.off_road_F.any()),
        straddled=straddled,
        parked=_parked(rollout),
        finished=finished,
        progress_m=progress,
        progress_ratio=progress / expert_progress if expert_progress >= MIN_EXPERT_PROGRESS else None,
        route_completion=float(np.clip(progress / route_ahead, 0, 1)),
        comfort=is_comfortable(rollout.ego_F6[:, 3], rollout.ego_F6[:, 2], rollout.dt),
    )


def clip_row(rollout: Rollout, video: str | None = None) -> dict[str, Any]:
    """One entry of `clips` in results.json; `video`: the file that shows it, if any."""
    o = judge(rollout)
    return {
        "policy": rollout.policy,
        "seed": int(rollout.seed),
        "clip": rollout.clip,
        "scene_seed": int(rollout.scene_seed),
        "family": rollout.family,
        "collided": o.collided,
        "at_fault": o.at_fault,
        "rear_ended": o.rear_ended,
        "off_road": o.off_road,
        "parked": o.parked,
        "straddled": o.straddled,
        "finished": o.finished,
        "min_ttc_s": finite(o.min_ttc_s),
        "progress_m": finite(o.progress_m),
        "video": video,
    }


_RATES: dict[str, Callable[[Outcome], bool | float | None]] = {
    "cr": lambda o: o.collided,
    "af_cr": lambda o: o.at_fault,
    "safety_1": lambda o: not o.collided and o.min_ttc_s > 1.0,
    "safety_2": lambda o: not o.collided and o.min_ttc_s > 2.0,
    "safety_ahead_1": lambda o: not o.hit_ahead and o.min_ttc_ahead_s > 1.0,
    "safety_ahead_2": lambda o: not o.hit_ahead and o.min_ttc_ahead_s > 2.0,
    "straddling": lambda o: o.straddled,
    "finished": lambda o: o.finished,
    "lateral_undecided": lambda o: o.lateral_undecided,
    "progress_ratio": lambda o: o.progress_ratio,
    "parked": lambda o: o.parked,
    "off_road": lambda o: o.off_road,
    "rear_ended": lambda o: o.rear_ended,
    "route_completion": lambda o: o.route_completion,
    "comfort": lambda o: o.comfort,
}
_UNKNOWN_BECAUSE = {
    "straddling": "complete lanes are not in the map",
    "finished": "complete lanes are not in the map",
    "off_road": "the drivable area is not in the map",
    "progress_ratio": f"the expert goes under {MIN_EXPERT_PROGRESS:g} m",
    "comfort": "the drive is too short",
}


def closed_loop(rollouts: Sequence[Rollout]) -> dict[str, MetricValue]:
    """The closed-loop suite of one policy over clips and seeds: every name of `metrics.CLOSED_LOOP`.

    Raises `InputError` for no rollouts, those of several policies, or a clip driven twice by one seed.
    """
    if not rollouts:
        raise InputError("closed_loop: no rollout; drive at least one clip")
    policies = sorted({r.policy for r in rollouts})
    if len(policies) > 1:
        raise InputError(f"closed_loop: rollouts of several policies {policies}; pass one policy's at a time")
    seeds = tuple(sorted({r.seed for r in rollouts}))
    clips = tuple(sorted({r.clip for r in rollouts}))
    at = {(r.seed, r.clip): r for r in rollouts}
    if len(at) != len(rollouts):
        raise InputError("closed_loop: a clip occurs twice under one seed; clip names must be unique")
    outcome = {key: judge(r) for key, r in at.items()}
    setting = _setting_note(rollouts)
    out: dict[str, MetricValue] = {}
    for name, pick in _RATES.items():
        counts_SC2 = np.full((len(seeds), len(clips), 2), np.nan)
        for (seed, clip), o in outcome.items():
            value = pick(o)
            pair = (0.0, 0.0) if value is None else (float(value), 1.0)
            counts_SC2[seeds.index(seed), clips.index(clip)] = pair
        known = np.nansum(counts_SC2[..., 1], 0) > 0
        unknown = len(clips) - int(known.sum())
        why = f"{unknown} clips left out: {_UNKNOWN_BECAUSE[name]}" if unknown and name in _UNKNOWN_BECAUSE else ""
        if unknown == len(clips):
            out[name] = missing(why, len(seeds))
            continue
        named = tuple(c for c, k in zip(clips, known, strict=True) if k)
        share = name not in ("progress_ratio", "route_completion")
        units = Sums(named, seeds, counts_SC2[:, known], is_share=share)
        notes = [why, setting]
        if name == "cr" and not all(r.has_kerbs for r in rollouts):
            blind = len({r.clip for r in rollouts if not r.has_kerbs})
            notes.append("agents only" if blind == len(clips) else f"agents only in {blind} clips without kerbs")
        if name == "cr":
            ignored = sum(r.ignored_at_start for r in rollouts)
            notes.append(f"{ignored} agents that overlap the ego at the start ignored" if ignored else "")
        out[name] = measure(units, len(named), "; ".join(n for n in notes if n))
    out["consistency_avg"] = _consistency(at, seeds, clips)
    return out


def _setting_note(rollouts: Sequence[Rollout]) -> str:
    """What the default is not: vehicle mode and traffic."""
    vehicles, traffic = sorted({r.vehicle for r in rollouts}), sorted({r.traffic for r in rollouts})
    notes = [f"vehicle {', '.join(vehicles)}"] if vehicles != ["bicycle"] else []
    notes += [f"traffic {', '.join(traffic)}"] if traffic != ["replay"] else []
    return "; ".join(notes)


def _consistency(at: dict[tuple[int, str], Rollout], seeds: tuple[int, ...], clips: tuple[str, ...]) -> MetricValue:
    """The average F1 of the open-loop suite, on every frame of the drives in which a plan was made."""
    counts_SCK, n = None, 0
    for (seed, clip), r in at.items():
        planned = np.isfinite(r.plans_FT2).all((1, 2)) & (r.vlm_decision_F2 >= 0).any(1)
        frames = np.flatnonzero(planned)
        decision = r.vlm_decision_F2[frames].astype(int)
        if len(frames):
            speed, path = f_k_plan(r.plans_FT2[frames])
            counts = decision_counts(decision[:, 0], decision[:, 1], speed, path).sum(0)
        else:
            counts = decision_counts(*([np.zeros(0, int)] * 4)).sum(0)
        if counts_SCK is None:
            counts_SCK = np.full((len(seeds), len(clips), len(counts)), np.nan)
        counts_SCK[seeds.index(seed), clips.index(clip)] = counts
        n += len(frames)
    assert counts_SCK is not None
    used = np.nansum(counts_SCK, (0, 2)) > 0
    if not used.any():
        return missing("states no decision", len(seeds))
    named = tuple(c for c, u in zip(clips, used, strict=True) if u)
    units = Sums(named, seeds, counts_SCK[:, used], average_f1)
    return measure(units, n, left_out_note(np.nansum(counts_SCK, (0, 1))))
