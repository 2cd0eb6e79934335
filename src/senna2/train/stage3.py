"""Stage 3, closed-loop alignment by hierarchical reinforcement learning, bottom-up (paper section 3.5).

Low level, on frames of the policy's own rollouts (every fourth, before the first contact):

    L_safe = Σ_{t=1..T−1} |τ_{t+1} − sg(τ_t)|²      where TTC < 3 s: each point is pulled back, the plan slows down
    L_eff  = Σ_{t=1..T−1} |τ_t − sg(τ_{t+1})|²      where too slow: each point is pulled on, the plan speeds up
    L_low  = mean_F [m_s L_safe + λ_e m_e L_eff] + λ_a mean_U Σ_t |τ_θ − sg τ_θ0|²

F: frames with m_s or m_e; U: the others. The anchor on U is ours (docs/decisions/stage-3-anchor.md): without it the
policy parks or runs away; `forced_share` of U is held under forced decisions. High level, afterwards, on F and U:

    L_high = −log P(f_K(τ) | Q)                     where decision and refined plan disagree (the paper: on F)

`faithful=True` is the paper's letter: L_high + β L_low in one step, λ_e = 1, no anchor, lane changes folded to a side.
`low_mode="retime"` [ours] puts L_safe and L_eff in another way: |τ_θ − sg τ*|², τ* the plan of the start of the stage
(same noise) driven along its own path with a constant braking or acceleration. Unlike the literal losses it has a
minimum, that minimum lies on the path, and a parked plan still has a gradient.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from senna2.config import load_json
from senna2.files import write_json
from senna2.model.policy import DualSystem
from senna2.train.diagnostics import driving
from senna2.train.distributed import Ranks, broadcast
from senna2.train.frames import RolloutFrames, load_frames, save_frames, select_frames
from senna2.train.guards import Verdict
from senna2.train.levels import HighLevel, LowLevel, Stage3, Together, frozen_copy, listen
from senna2.train.loop import GuardTripped, append_row, train
from senna2.train.mixed import LowLevelMixed
from senna2.train.stage1 import Store
from senna2.types import InputError, Rollout

__all__ = ["Collect", "Judge", "Stage3", "Verdict", "run_3"]

Collect = Callable[[DualSystem, int, Path], list[Rollout]]
Judge = Callable[[DualSystem, int], Verdict]


def run_3(
    policy: DualSystem, collect: Collect, config: Stage3, out: Path, *, seed: int, ranks: Ranks, resume: bool,
    judge: Judge | None = None, store: Store | None = None, **more: Any,
) -> list[dict[str, float]]:  # fmt: skip
    """Rounds of: roll out, refine the planner (L_low), then teach the VLM (L_high). Returns the joined log.

    `collect(policy, round, folder)` drives the policy through training clips and returns rollouts with observations.
    `judge` looks at progress, parking and off-road on tuning clips after each round. Both are asked of the first rank
    alone. A round that the judge rejects, or in which a guard trips, is taken back: the policy keeps the weights it had
    before, `out/stopped.json` says why, and the stage ends. `out/log.jsonl` has one row a round. `store`: the
    demonstrations that `config.imitation` wants.
    """
    config = config.effective()
    if config.imitation and store is None:
        raise InputError("stage 3: imitation: needs demonstrations (--data DIR with samples)")
    if policy.vlm is not None:
        policy.vlm.add_lora(config.lora_rank, config.lora_alpha)
    anchor = frozen_copy(policy)
    log: list[dict[str, float]] = []
    if ranks.is_main:
        for name in ("log.jsonl", "stopped.json"):  # rounds that are there already are gone through again
            (out / name).unlink(missing_ok=True)
    for number in range(config.rounds):
        folder = out / f"round-{number}"
        frames = _frames_of_round(policy, collect, config, number, folder, ranks, resume)
        row = {"round": float(number), **frames.summary()}
        if not (frames.safe_N | frames.slow_N).any():
            _end_of_round(out, row, ranks)
            break  # nothing to correct
        before = {n: p.detach().clone() for n, p in policy.named_parameters()}
        stopped: dict[str, Any] | None = None
        try:
            log += _learn(policy, anchor, frames, config, folder, seed + 1000 * number, ranks, resume, store, more)
        except GuardTripped as trip:
            stopped = {"guard": trip.guard, "value": trip.value, "limit": trip.limit, "message": str(trip)}
        if stopped is None and judge is not None:
            verdict = broadcast(judge(policy, number) if ranks.is_main else None, ranks)
            row |= {f"tune_{name}": value for name, value in (verdict.measured or {}).items()}
            if not verdict.fine:
                stopped = {"guard": "judge", "message": verdict.reason}
        row["fine"] = float(stopped is None)
        row |= {f"after_{n}": v for n, v in _last_measured(folder).items()}
        log.append(row)
        _end_of_round(out, row, ranks)
        if stopped is not None:
            with torch.no_grad():
                for n, p in policy.named_parameters():
                    p.copy_(before[n])
            if ranks.is_main:
                write_json(out / "stopped.json", {"round": number, **stopped})
                print(f"stage 3: round {number} is taken back, the stage ends: {stopped['message']}")
            break
    return log


def _frames_of_round(
    policy: DualSystem, collect: Collect, config: Stage3, number: int, folder: Path, ranks: Ranks, resume: bool
) -> RolloutFrames:
    """Those of an interrupted run, else of fresh rollouts by the first rank."""
    frames = load_frames(folder) if resume else None
    if frames is not None:
        return frames
    if ranks.is_main:
        rollouts = collect(policy, number, folder)
        save_frames(folder, select_frames(rollouts, config.every, config.ttc_s, config.slow_share, config.behind_m))
        write_json(folder / "driving.json", driving(rollouts))
    ranks.barrier()
    frames = load_frames(folder)
    assert frames is not None
    return frames


def _learn(
    policy: DualSystem, anchor: DualSystem, frames: RolloutFrames, config: Stage3, folder: Path, key: int,
    ranks: Ranks, resume: bool, store: Store | None, more: dict[str, Any],
) -> list[dict[str, float]]:  # fmt: skip
    """One round's training: both levels one after the other, or together."""
    common: dict[str, Any] = {"ranks": ranks, "resume": resume, **more}
    heard = listen(policy, frames, ranks=ranks)
    if config.together and policy.vlm is not None:
        faster = config.high.lr / config.low.lr
        return train(Together(policy, anchor, frames, config, key, heard), config.low, folder / "together",
                     lr_scale=lambda name: faster if name.startswith("vlm.") else 1.0, **common)  # fmt: skip
    learner = (policy, anchor, frames, config, key, heard)
    low = LowLevelMixed(*learner, store) if config.imitation and store is not None else LowLevel(*learner)
    log = train(low, config.low, folder / "low", **common)
    if policy.vlm is not None:
        # L_low leaves the VLM as it is: what was heard still holds.
        log += train(HighLevel(policy, frames, config, key, heard), config.high, folder / "high", **common)
    return log


def _last_measured(folder: Path) -> dict[str, float]:
    """How plans had changed by the last line of a round's log."""
    for name in ("low", "together"):
        path = folder / name / "log.jsonl"
        if path.is_file():
            row = json.loads(path.read_text().splitlines()[-1])
            return {n: v for n, v in row.items() if n.endswith(("cross_track_m", "length_ratio"))}
    return {}


def _end_of_round(out: Path, row: dict[str, float], ranks: Ranks) -> None:
    if ranks.is_main:
        driven = out / f"round-{int(row['round'])}" / "driving.json"
        before = load_json(driven) if driven.is_file() else {}
        append_row(out / "log.jsonl", {**row, **{f"rollout_{name}": value for name, value in before.items()}})
