"""Plans with and without a passenger's words, for `instruction_followed`; kept by name, so that files can hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from senna2.evaluate.control import Instructed, instructed_samples, without_instruction
from senna2.instructions import WISHES
from senna2.sample_plans import plan_samples
from senna2.types import Plans, Samples

UNTOLD = "told nothing"
TOLD = {wish.asks: f"told {wish.asks}" for wish in WISHES}


def plan_instructed(policy: Any, samples: Samples, *, seed: int, own: Plans | None = None) -> dict[str, Plans]:
    """Plans of a policy for the samples with nobody speaking ("told nothing") and under each wish ("told faster" …).

    own: its plans of these samples, or of more that begin with them, where they exist and the samples are silent.
    """
    silent = not any(samples.instruction_N)
    if own is not None and silent:
        columns = {f.name: getattr(own, f.name)[: len(samples)] for f in dataclasses.fields(own)}
        untold = Plans(**columns)
    else:
        untold = plan_samples(policy, without_instruction(samples), seed=seed)
    told = instructed_samples(samples)
    return {UNTOLD: untold} | {TOLD[ask]: plan_samples(policy, some, seed=seed) for ask, some in told.items()}


def instructed_of(plans_by_seed: Mapping[int, Mapping[str, Plans]]) -> Instructed | None:
    """What `evaluate.control` takes, from the plans of every seed by name (others are ignored); None where a seed has
    none."""
    if not all(UNTOLD in plans for plans in plans_by_seed.values()):
        return None
    return Instructed(
        told={ask: {seed: plans[name] for seed, plans in plans_by_seed.items()} for ask, name in TOLD.items()},
        without={seed: plans[UNTOLD] for seed, plans in plans_by_seed.items()},
    )
