"""What trainers on a policy's own drives share: rounds that go on where they stopped, drives that sample, and tokens of
what was seen in them.

Legend: N frames, S scene tokens, C width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.model.scene import SceneTokens
from senna2.rollouts import clip_seed
from senna2.train.frames import before_contact
from senna2.train.loop import append_row, keep_rows
from senna2.types import Array, InputError, Rollout, Samples, require

CHUNK = 64  # frames encoded at a time


@contextmanager
def sampling(policy: DualSystem, **how: Any) -> Iterator[None]:
    """Inside, the planner has these options (by default `sampled`: it draws what it does); what is saved of the policy
    has them, too."""
    how = how or {"sampled": True}
    planner, config = policy.planner, policy.config
    options = planner.options
    planner.options = replace(options, **how)
    policy.config = replace(config, planner_options={**config.planner_options, **how})
    try:
        yield
    finally:
        planner.options, policy.config = options, config


def begin_rounds(policy: DualSystem, out: Path, *, resume: bool) -> int:
    """The first round to run: 0 in an emptied folder, or with `resume` the one after the last that is whole, whose
    weights the policy gets."""
    whole = [int(p.parent.name.removeprefix("round-")) for p in out.glob("round-*/config.json")]
    if resume and whole:
        last = DualSystem.from_pretrained(out / f"round-{max(whole)}")
        policy.load_state_dict(last.state_dict())
        keep_rows(out / "log.jsonl", "round", max(whole) + 1)
        return max(whole) + 1
    for old in [*out.glob("round-*"), out / "log.jsonl"]:
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    return 0


def end_round(policy: DualSystem, out: Path, row: dict[str, float]) -> None:
    """A line of `out/log.jsonl`, and the policy in `out/round-k` until the next round is whole."""
    number = int(row["round"])
    append_row(out / "log.jsonl", row)  # before: `begin_rounds` drops the row of a round that is not whole
    policy.save_pretrained(out / f"round-{number}", {})
    shutil.rmtree(out / f"round-{number - 1}", ignore_errors=True)


def choices_in(rollout: Rollout) -> Array:
    """Frames at which a plan was made, up to the first contact."""
    return np.flatnonzero(np.isfinite(rollout.plans_FT2[:, 0, 0]) & before_contact(rollout))


def noise_of(policy: DualSystem, rollout: Rollout, count: int) -> torch.Tensor:
    """The noise of a drive's first `count` plans: a policy keys it by the number of the plan since the start."""
    return policy.sample_noise(torch.arange(count), clip_seed(rollout.seed, rollout.clip))


def seen(rollout: Rollout, frames: Sequence[int] | Array) -> Samples:
    """What the policy saw at these frames. Raises `InputError` if it was not recorded."""
    observed = [rollout.observations[i] for i in frames] if rollout.observations else []
    known = [o for o in observed if o is not None]
    if len(known) < len(frames):
        raise InputError(f"clip {rollout.clip}: of {len(frames)} frames {len(known)} were recorded")
    return replace(Samples.from_observations(known), clips=(rollout.clip,), families=(rollout.family,))


@torch.no_grad()
def encoded(policy: DualSystem, samples: Samples) -> SceneTokens:
    """Tokens of every sample, in chunks; without the queries that only perception losses need."""
    scenes = []
    for i in range(0, len(samples), CHUNK):
        scenes.append(policy.encode(Batch.from_samples(samples.take(slice(i, i + CHUNK)), policy.device)))
    first = scenes[0]
    valid = None if first.valid_BS is None else torch.cat([s.valid_BS for s in scenes if s.valid_BS is not None])
    return SceneTokens(torch.cat([s.tokens_BSC for s in scenes]), valid, None, first.agents, first.lines)


def undecided(policy: DualSystem, stage: str) -> None:
    """`InputError` for a planner that is told decisions when it drives: these trainers learn without one, and would
    take the drives of another policy for their own."""
    adapter = policy.config.adapter
    require(adapter == "none", f"stage {stage}: policy.adapter", f"is '{adapter}'; start from a checkpoint with 'none'")
