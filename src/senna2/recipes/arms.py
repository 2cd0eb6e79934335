"""What a study trains: one arm a training, each from where another one ended.

1a ─┬─────────── 1c both ── senna2@1 ── 2 ── senna2@2 ─┬─ 3 ── senna2
1b ─┤                                                  └─ 3 ── senna2@literal (the paper's losses alone)
    └─ 1c decision ── senna;  1c vlm, none ── senna2@1vlm, senna2@1none (Table 4)
1a ── 1a, on ── 1a@long;  senna ── 1c, on ── senna@long (senna2's total);  senna2@1 ── 1c, on ── senna2@1long (as much
as stage 2): control arms, which go on from where the aligned ones do (docs/decisions/control-arms.md)
1b ── another planner on its encoder ── transfuser, vad …;  and with 1a's decision ── senna_vadv2 …
1b ── its own planner begun anew, as the others are ── dit: their like, without VLM or alignment
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from senna2.config import later
from senna2.recipes.config import Evaluation, Recipe
from senna2.recipes.own_drives import DRIVEN, drives_a_round
from senna2.recipes.results import Study
from senna2.train.guards import off

ANEW = 1000  # added to the seed of a stage that goes on: other draws than the first time
SENNA2 = "dit"  # the planner of 1b, which every other one follows on the same encoder


@dataclass(frozen=True)
class Arm:
    """One training: a stage from an arm (`start`) with the VLM of another."""

    stage: str
    start: str = ""
    vlm: str = ""
    adapter: str = "both"
    prolonged: str = ""  # goes on with its stage: "2", for stage 2's samples; "23", for those of stages 2 and 3
    literal: bool = False
    planner: str = later(SENNA2)  # another one begins anew on the encoder and the perception heads of `start`
    anew: bool = later(False)  # that of `start` begins anew, too: trained like another one, to compare with it
    stage3: dict[str, Any] = later({})  # what differs from the study's
    # Raised when the code of its planner or trainer learns otherwise: rows of an earlier one are trained again.
    revision: int = later(1)

    @property
    def is_peer(self) -> bool:
        """Whether its planner is trained on the encoder of stage 1b for as long as `senna2` is after it."""
        return self.anew or self.planner != SENNA2


ARMS: dict[str, Arm] = {
    "1a": Arm("1a"),
    "1b": Arm("1b"),
    "1a@long": Arm("1a", "1a", prolonged="23"),
    "senna2@1": Arm("1c", "1b", "1a"),
    "senna": Arm("1c", "1b", "1a", "decision"),
    "senna2@1vlm": Arm("1c", "1b", "1a", "vlm"),
    "senna2@1none": Arm("1c", "1b", "1a", "none"),
    "senna2@1long": Arm("1c", "senna2@1", "1a@long", prolonged="2"),
    "senna@long": Arm("1c", "senna", "1a@long", "decision", prolonged="23"),
    "senna2@2": Arm("2", "senna2@1"),
    "senna2": Arm("3", "senna2@2"),
    "senna2@literal": Arm("3", "senna2@2", literal=True),
}


def shown_to(study: Study, who: str, stages: str) -> int:
    """Samples that stages 2 and 3 show the planner (`who` "planner") or the VLM."""
    two, three = study.stage2.optim, study.stage3
    last = three.low if who == "planner" else three.high
    of = {"2": two.steps * two.batch, "3": three.rounds * last.steps * last.batch}
    return sum(of[s] for s in stages)


def arm_recipe(study: Study, seed: int, name: str) -> Recipe:
    """The recipe of one training of one seed. What is evaluated does not belong to it: sizes there may change while a
    stage is under way."""
    arm = ARMS[name]
    plain = {f.name: getattr(study, f.name) for f in dataclasses.fields(Recipe)}
    clips = dataclasses.replace(study.clips, test=0)
    recipe = dataclasses.replace(Recipe(**plain), name=f"{study.name} {name}", seed=seed, clips=clips,
                                 evaluation=Evaluation(0, 0, 0))  # fmt: skip
    if arm.prolonged:
        who, stage = ("vlm", "1a") if arm.stage == "1a" else ("planner", "1c")
        steps = math.ceil(shown_to(study, who, arm.prolonged) / getattr(recipe, f"stage{stage}").optim.batch)
        recipe = _with_steps(recipe, stage, steps, lr=study.longer_lr)
        recipe = dataclasses.replace(recipe, seed=seed + ANEW)
    if arm.is_peer:
        policy = dataclasses.replace(recipe.policy, planner=arm.planner, adapter=arm.adapter,
                                     planner_options=study.peer_options.get(arm.planner, {}))  # fmt: skip
        recipe = dataclasses.replace(recipe, policy=policy)
        steps = peer_steps(study, arm)
        if arm.stage in DRIVEN:
            rounds = dataclasses.replace(stage_config(recipe, arm.stage), rounds=steps)
            recipe = dataclasses.replace(recipe, **{DRIVEN[arm.stage]: rounds})
        else:
            recipe = _with_steps(recipe, arm.stage, steps, lr=study.stage1b.optim.lr)
    if arm.stage3:
        recipe = dataclasses.replace(recipe, stage3=dataclasses.replace(recipe.stage3, **arm.stage3))
    if arm.literal:
        # Without guards: how the literal losses end is what this row shows.
        literal = dataclasses.replace(recipe.stage3, faithful=True, guards=off(recipe.stage3.guards))
        recipe = dataclasses.replace(recipe, stage3=literal)
    return recipe


def _with_steps(recipe: Recipe, stage: str, steps: int, **more: Any) -> Recipe:
    name = f"stage{stage}"
    config = getattr(recipe, name)
    optim = dataclasses.replace(config.optim, steps=steps, **more)
    return dataclasses.replace(recipe, **{name: dataclasses.replace(config, optim=optim)})


# --- the systems it is compared with --------------------------------------------------------------------------

# CPU time of a training step over that of `dit`, encoder and perception with it (benchmarks/planners.py).
STEP_OVER_DIT = {
    "transfuser": 0.80, "vad": 0.64, "vadv2": 1.18, "genad": 0.67, "diffusiondrive": 0.92, "resad": 1.41, SENNA2: 1.0,
    "rad": 0.72,
}  # fmt: skip
BY_IMITATION = tuple(name for name in STEP_OVER_DIT if name not in DRIVEN)
REVISION = {"vad": 2, "genad": 2}  # 2: each step in its own spread, the constraints' weights as released
DIT_STEP_S, ASK_S = 0.2125, 0.0645  # a step of 1b and what the VLM's decision adds in 1c, in the published study
ROUND_S = {"rad": 3.6, "rad2": 0.9}  # of a round, each drive: driven, encoded, learned from
SYSTEM_ARMS: dict[str, Arm] = {
    **{name: Arm("1b", "1b", adapter="none", planner=name, anew=name == SENNA2, revision=REVISION.get(name, 1))
       for name in BY_IMITATION},
    "rad@1": Arm("1b", "1b", adapter="none", planner="rad"),
    "rad": Arm("rad", "rad@1", adapter="none", planner="rad"),
    "rad2": Arm("rad2", "1b", adapter="none", planner="rad2"),  # its generator is the `dit` of 1b
    "senna_vadv2": Arm("1c", "1b", "1a", "decision", planner="vadv2"),
    **{f"{name}+decision": Arm("1c", "1b", "1a", "decision", planner=name) for name in ("diffusiondrive", "resad")},
}  # fmt: skip
# λ_i, at which the gradient of L_E2E (.35) is as large as that of L_safe (70 to 150; both logged): at 1 it is lost.
MIXED = 300.0
# Stage 3 with the options that the literature suggests, and policy gradients in its place.
TRAINER_ARMS: dict[str, Arm] = {
    "senna2@retime": Arm("3", "senna2@2", stage3={"low_mode": "retime"}),
    "senna2@mix": Arm("3", "senna2@2", stage3={"imitation": MIXED}),
    "senna2@grpo": Arm("grpo", "senna2@2"),
    "senna2@ppo": Arm("ppo", "senna2@2"),
}
PEER_ARMS = {**SYSTEM_ARMS, **TRAINER_ARMS}
ARMS |= PEER_ARMS
PEERS = tuple(name for name in SYSTEM_ARMS if "@" not in name)  # the rows; the others only lead to them
TRAINERS = tuple(TRAINER_ARMS)
TRAINER_S = 450.0  # CPU seconds of stage 3, and of what stands in its place
IMITATION_SHARE = {"rad": 0.5, "rad2": 0.0}  # of the minutes, before it learns from its own drives


def peer_seconds(study: Study, arm: Arm) -> float:
    """CPU seconds of this training: with what leads to it, as long as `senna2` trains after stage 1b."""
    if not arm.is_peer:
        return TRAINER_S
    share = IMITATION_SHARE.get(arm.planner, 1.0)
    return (study.deciding_s if arm.vlm else study.peer_s) * (share if arm.stage in ("1b", "1c") else 1 - share)


def peer_steps(study: Study, arm: Arm) -> int:
    """Steps, or rounds, that fill `peer_seconds`."""
    if arm.stage in DRIVEN:
        step_s = ROUND_S[arm.stage] * drives_a_round(stage_config(study, arm.stage))
    else:
        step_s = DIT_STEP_S * STEP_OVER_DIT[arm.planner] + (ASK_S if arm.vlm else 0.0)
    return max(1, round(peer_seconds(study, arm) / step_s))


def stage_config(recipe: Recipe, stage: str) -> Any:
    """What a recipe says of a stage."""
    return getattr(recipe, DRIVEN.get(stage, f"stage{stage}"))
