"""`results`: three training seeds, every row of the published tables and its control arms, in one resumable queue.

Sizes are set for under ten hours of two cores. Estimates (core-seconds, from throughputs measured on one thread:
planner 88 training samples/s, VLM 140/s, both together 64/s, stage 2 45/s; a plan in batches 9.5 ms; a clip driven
eight abreast 1.65 s, by a baseline 0.2 s; a clip made 0.5 s, its training samples 2.1 s):

| part | a seed | in all |
| --- | --- | --- |
| clips: 800 train, 60 tune, 480 test, 126 showcase; samples of train and test, shared by all rows and seeds | | 2 600 |
| 1a 256 k samples; 1a@long, on by what stages 2 and 3 show the VLM | 1 900 | 5 800 |
| 1b 320 k samples | 3 640 | 10 900 |
| 1c 32 k samples, four adapters | 2 000 | 6 000 |
| 1c goes on: senna2@1long by stage 2's samples, senna@long by those of stages 2 and 3 | 350 | 1 000 |
| stage 2, 9.6 k samples | 210 | 600 |
| stage 3, default and literal losses: a round of 80 drives, judged on 60 tuning clips | 1 000 | 3 000 |
| plans: nine rows, 5 000 samples and three forced decisions on 1 000; the rows made of it | 940 | 2 800 |
| drives: five rows on 480 test clips, four on 120; showcase twice | 5 200 | 15 500 |
| baselines and forced drives | | 800 |

52 000 core-seconds: 7.2 hours of two quiet cores, 8.3 with the 15 % that two jobs side by side cost each other.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.recipes.config import Clips, Evaluation, Recipe
from senna2.train.guards import off
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3

R = TypeVar("R", bound=Recipe)


@dataclass(frozen=True)
class Study(Recipe):
    """A recipe of several training seeds and of rows that only a comparison needs (`recipes.study`).

    `seed` is that of the perturbed demonstrations, which all training `seeds` share. Sizes that the tables allow to
    be smaller: `side_clips`, the test clips that ablations and control arms drive.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    table: Literal["results", "baselines"] = "results"  # whose rows are measured; the tables hold all that are there
    queue: str = "results"  # recipes of one queue share jobs, and so an --out
    # CPU seconds of `senna2` after stage 1b, as published (1a, 1c, 2, 3), and of those the ones after 1a: what the
    # systems it is compared with train for, without and with 1a's VLM.
    peer_s: float = 3490.0
    deciding_s: float = 1160.0
    peer_options: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)  # by planner, beside its own
    longer_lr: float = 1e-4  # at which the control arms go on with stage 1 (docs/decisions/control-arms.md)
    side_clips: int = 120
    showcase: int = 21  # clips of each of the six families: the clip itself and its 20 variations
    open_every: int = 7  # frames between two open-loop samples of a test clip: over ten a clip
    group: int = 60  # clips a job


def results() -> Study:
    return Study(
        name="results",
        note="Three training seeds on generated clips. Every choice was made on tuning clips, never on these.",
        seed=0,
        clips=Clips(train=800, tune=60, test=480, rollout=80, drives=2, every=4, branch_every=20, recover_every=4),
        vlm=VLMConfig(),
        policy=PolicyConfig(),
        stage1a=Stage1a(Optim(steps=8000, batch=32, lr=1e-3, weight_decay=1e-4, warmup=50)),
        stage1b=Stage1b(Optim(steps=20_000, batch=16, lr=1e-3, weight_decay=1e-4, warmup=100)),
        stage1c=Stage1c(Optim(steps=2000, batch=16, lr=3e-4, weight_decay=1e-4)),
        stage2=Stage2(Optim(steps=300, batch=32, lr=1e-4)),
        stage3=Stage3(Optim(steps=60, batch=48, lr=5e-5), Optim(steps=120, batch=32, lr=1e-4)),
        evaluation=Evaluation(open_samples=5000, control_samples=1000, forced_clips=24),
    )


def baselines() -> Study:
    """The systems that Senna-2 is compared with (docs/planners.md), in the queue and the tables of `results`."""
    return dataclasses.replace(results(), name="baselines", table="baselines")


def results_tiny() -> Study:
    """The same queue in a few minutes: it proves the machinery, its numbers mean nothing (`senna2 run --recipe
    results --tiny`)."""
    few = dataclasses.replace
    full = unguarded(results())
    return few(
        full,
        name="results_tiny",
        queue="results_tiny",
        note="The machinery of `results` on next to nothing: no policy here has learned to drive.",
        clips=Clips(train=10, tune=1, test=3, rollout=2, drives=1, every=8, branch_every=40),
        stage1a=few(full.stage1a, optim=Optim(steps=8, batch=8, lr=1e-3)),
        stage1b=Stage1b(Optim(steps=8, batch=8, lr=1e-3)),
        stage1c=Stage1c(Optim(steps=4, batch=8, lr=3e-4)),
        stage2=few(full.stage2, optim=Optim(steps=2, batch=8, lr=5e-5)),
        stage3=few(full.stage3, low=Optim(steps=2, batch=8, lr=2e-5), high=Optim(steps=2, batch=4, lr=1e-4), rounds=1),
        evaluation=Evaluation(open_samples=24, control_samples=12, forced_clips=1),
        seeds=(0, 1),
        side_clips=2,
        showcase=1,
        open_every=20,
        group=5,
        reinforce=few(full.reinforce, optim=Optim(steps=5, batch=8, lr=1e-4), clips=1, imitation_batch=4),
        rerank=few(
            full.rerank,
            optim=Optim(steps=2, batch=8, lr=1e-4),
            generator=Optim(steps=2, batch=8, lr=1e-5),
            clips=1,
            group=2,
            generator_every=1,
        ),
        gradient=few(full.gradient, optim=Optim(steps=2, batch=8, lr=1e-5), rounds=1, clips=1, group=2),
        peer_s=0.8,
        deciding_s=0.8,
        peer_options={"vadv2": {"vocabulary": 64}},
    )


def baselines_tiny() -> Study:
    return dataclasses.replace(results_tiny(), name="baselines_tiny", table="baselines")


def unguarded(recipe: R) -> R:
    """The recipe without the guards that stop a collapsed stage: after a few steps nothing has learned yet."""
    one, two, three = recipe.stage1a, recipe.stage2, recipe.stage3
    return dataclasses.replace(
        recipe,
        stage1a=dataclasses.replace(one, guards=off(one.guards)),
        stage2=dataclasses.replace(two, guards=off(two.guards)),
        stage3=dataclasses.replace(three, guards=off(three.guards)),
    )
