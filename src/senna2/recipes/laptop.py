"""`laptop`: the three stages from scratch on two cores (not tuned yet)."""

from __future__ import annotations

from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.recipes.config import Clips, Evaluation, Recipe
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3


def laptop() -> Recipe:
    return Recipe(
        name="laptop",
        note="One training seed on generated clips, two CPU cores: a first look. Claims need three seeds.",
        seed=0,
        clips=Clips(train=300, tune=30, test=60, rollout=60, drives=2, every=4, branch_every=20),
        vlm=VLMConfig(),
        policy=PolicyConfig(),
        stage1a=Stage1a(Optim(steps=500, batch=32, lr=1e-3, weight_decay=1e-4, warmup=50)),
        stage1b=Stage1b(Optim(steps=2000, batch=16, lr=1e-3, weight_decay=1e-4, warmup=50)),
        stage1c=Stage1c(Optim(steps=500, batch=16, lr=3e-4, weight_decay=1e-4)),
        stage2=Stage2(Optim(steps=100, batch=32, lr=5e-5)),
        stage3=Stage3(Optim(steps=60, batch=48, lr=2e-5), Optim(steps=30, batch=24, lr=1e-4)),
        evaluation=Evaluation(open_samples=1200, control_samples=300, forced_clips=12),
    )
