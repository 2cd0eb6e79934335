"""`laptop`: `senna` and `senna2` from scratch on two cores, and both measured on 60 core clips.

Sizes follow what was measured about learning at this scale: imitation needs tens of thousands of samples before it
drives (open loop is good long before), the VLM twice as many before it decides rightly, stage 3 about 60 drives and 60
steps. Minutes of two cores, from the throughput of its stages (samples/s of a thread: 1a 140, 1b 110, 1c 72): clips and
frames 4, 1a and 1b side by side 8, both 1c side by side 3, stage 2 2, stage 3 4, evaluation 6; 27 in all, and 23 where
clips and frames are still there from an earlier run into the same folder.
"""

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
        clips=Clips(train=300, tune=30, test=60, rollout=60, drives=2, every=4, branch_every=20, recover_every=4),
        vlm=VLMConfig(),
        policy=PolicyConfig(),
        stage1a=Stage1a(Optim(steps=2000, batch=32, lr=1e-3, weight_decay=1e-4, warmup=50)),
        stage1b=Stage1b(Optim(steps=3000, batch=16, lr=1e-3, weight_decay=1e-4, warmup=50)),
        stage1c=Stage1c(Optim(steps=800, batch=16, lr=3e-4, weight_decay=1e-4)),
        stage2=Stage2(Optim(steps=150, batch=32, lr=2e-4)),
        stage3=Stage3(Optim(steps=60, batch=48, lr=1e-4), Optim(steps=60, batch=32, lr=1e-4)),
        evaluation=Evaluation(open_samples=1200, control_samples=300, forced_clips=6, video_every=2),
    )
