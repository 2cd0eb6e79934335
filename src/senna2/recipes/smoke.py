"""`smoke`: every room once, in at most five minutes of two cores. It proves the machinery, nothing else."""

from __future__ import annotations

from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.recipes.config import Clips, Evaluation, Recipe
from senna2.recipes.results import unguarded
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3


def smoke() -> Recipe:
    recipe = Recipe(
        name="smoke",
        note="This run proves that the machinery works from clip to report. It trains for seconds: "
        "its numbers mean nothing more, and no policy here has learned to drive.",
        seed=0,
        clips=Clips(train=12, tune=2, test=6, rollout=4, drives=1, every=4, branch_every=20, recover_every=4),
        vlm=VLMConfig(),
        policy=PolicyConfig(),
        stage1a=Stage1a(Optim(steps=40, batch=16, lr=1e-3, warmup=5)),
        stage1b=Stage1b(Optim(steps=60, batch=16, lr=1e-3, warmup=5)),
        stage1c=Stage1c(Optim(steps=20, batch=16, lr=3e-4)),
        stage2=Stage2(Optim(steps=8, batch=16, lr=2e-4)),
        stage3=Stage3(Optim(steps=8, batch=16, lr=1e-4), Optim(steps=4, batch=8, lr=1e-4)),
        evaluation=Evaluation(open_samples=64, control_samples=32, forced_clips=1, video_every=2),
    )
    return unguarded(recipe)  # after seconds of training nothing has learned what a guard looks for
