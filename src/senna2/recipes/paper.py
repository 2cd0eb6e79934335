"""`paper`: Tables A1-A5 of the paper as a recipe, in the literal reading. Nobody runs it on a laptop; it is what the
other recipes are compared with (`tests/recipes/test_recipes.py` prints the differences)."""

from __future__ import annotations

from senna2.model.config import PolicyConfig
from senna2.model.vlm.qwen import VLMConfig
from senna2.recipes.config import Clips, Evaluation, Recipe
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a, Stage1b, Stage1c
from senna2.train.stage2 import Stage2
from senna2.train.stage3 import Stage3

NO_CLIP = 0.0  # the paper names no gradient clipping


def paper() -> Recipe:
    return Recipe(
        name="paper",
        note="The paper's own hyper-parameters (Tables A1-A5): 64 to 1024 GPUs and 10 000 hours of driving.",
        seed=0,
        # 1 300 reconstructed clips: 1 044 to train, 256 to evaluate; demonstrations are recorded, not generated.
        clips=Clips(train=1044, tune=0, test=256, rollout=1044, drives=1, every=1, branch_every=0, instructed=0),
        # Sizes come with the checkpoint (--vlm), Qwen2.5-VL-3B in the paper; the cap is [ours].
        vlm=VLMConfig(max_pixels=512 * 28 * 28),
        policy=PolicyConfig.faithful(),
        # Table A1: VLM pre-training, frames at 1 fps
        stage1a=Stage1a(Optim(steps=10_000, batch=512, lr=5e-5, weight_decay=1e-4, clip=NO_CLIP), balance=0.0),
        # Table A2: E2E pre-training
        stage1b=Stage1b(Optim(steps=30_000, batch=12_288, lr=1e-4, weight_decay=1e-4, clip=NO_CLIP),
                        perception_weight=0.0, draws=1, careful=1.0),
        # Table A3: adapter pre-training, planning loss only
        stage1c=Stage1c(Optim(steps=10_000, batch=512, lr=5e-5, weight_decay=1e-4, clip=NO_CLIP),
                        perception_weight=0.0, draws=1, careful=1.0, own_share=1.0, expert_share=0.0,
                        stale_max_s=0.0),
        # Table A4: open-loop alignment, γ = 1
        stage2=Stage2(Optim(steps=5_000, batch=384, lr=1e-5, clip=NO_CLIP), gamma=1.0, draws=1, careful=1.0,
                      vlm_lr_scale=1.0, told="own", shortfall_weight=0.0, faithful=True),
        # Table A5: closed-loop alignment, β = 1
        stage3=Stage3(Optim(steps=500, batch=128, lr=1e-5, clip=NO_CLIP),
                      Optim(steps=500, batch=128, lr=1e-5, clip=NO_CLIP), forced_share=0.0, high_on="flagged",
                      faithful=True),
        evaluation=Evaluation(open_samples=3_600_000, control_samples=3_600_000, forced_clips=256, vlm_period_s=0.5),
    )  # fmt: skip
