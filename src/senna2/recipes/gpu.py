"""`gpu`: a published VLM, a larger planner and bfloat16, for one GPU of 80 GB or several under `torchrun`.

Stage by stage (docs/training.md): `senna2 train 1a --recipe gpu --out runs/1a`, and so on. `--vlm FOLDER` takes another
VLM than the one named here. Sizes are what should fit; nobody has run it at full size yet.
"""

from __future__ import annotations

import dataclasses

from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.recipes.config import Clips, Evaluation, Recipe
from senna2.recipes.results import unguarded
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3

VLM = "Qwen/Qwen2.5-VL-3B-Instruct"  # the paper's backbone, by its name on the hub


def gpu(vlm: str = VLM) -> Recipe:
    return Recipe(
        name="gpu",
        note="A published VLM and a larger planner on a GPU. Never run at full size: no number is claimed from it.",
        seed=0,
        clips=Clips(train=4000, tune=60, test=480, rollout=160, drives=2, every=2, branch_every=20, recover_every=4),
        # 256 visual tokens of 28 × 28 pixels; the town's front camera needs 12.
        vlm=VLMConfig(checkpoint=vlm, dtype="bfloat16", max_pixels=256 * 28 * 28),
        policy=PolicyConfig(dim=256, heads=8, blocks=6, channels=(32, 64, 128, 256), agent_queries=24, map_queries=24),
        # `accumulate`: parts of a batch that are in memory at a time.
        stage1a=Stage1a(Optim(steps=4000, batch=128, lr=1e-5, weight_decay=1e-4, warmup=100, accumulate=8)),
        stage1b=Stage1b(Optim(steps=20_000, batch=256, lr=1e-3, weight_decay=1e-4, warmup=500)),
        stage1c=Stage1c(Optim(steps=4000, batch=256, lr=3e-4, weight_decay=1e-4, accumulate=4)),
        stage2=Stage2(Optim(steps=1000, batch=128, lr=1e-4, accumulate=8)),
        stage3=Stage3(Optim(steps=60, batch=48, lr=1e-4), Optim(steps=120, batch=32, lr=1e-4, accumulate=4), rounds=2),
        evaluation=Evaluation(open_samples=5000, control_samples=1000, forced_clips=24),
        precision="bfloat16",
    )


def gpu_small(vlm: str) -> Recipe:
    """The same with four steps a stage and a handful of clips, from the folder of a tiny VLM: does it run on this
    card?"""
    whole = unguarded(gpu(vlm))

    def few(optim: Optim) -> Optim:
        return dataclasses.replace(optim, steps=4, batch=8, warmup=0, accumulate=min(optim.accumulate, 2))

    return dataclasses.replace(
        whole,
        name="gpu_small",
        note="Four steps of every stage: it proves the machinery on this card, nothing else.",
        clips=Clips(train=2, tune=1, test=1, rollout=1, drives=1, every=8, branch_every=40, instructed=0),
        stage1a=dataclasses.replace(whole.stage1a, optim=few(whole.stage1a.optim)),
        stage1b=dataclasses.replace(whole.stage1b, optim=few(whole.stage1b.optim)),
        stage1c=dataclasses.replace(whole.stage1c, optim=few(whole.stage1c.optim)),
        stage2=dataclasses.replace(whole.stage2, optim=few(whole.stage2.optim)),
        stage3=dataclasses.replace(whole.stage3, low=few(whole.stage3.low), high=few(whole.stage3.high), rounds=1),
        evaluation=Evaluation(open_samples=16, control_samples=8, forced_clips=1),
    )
