"""The recipe for GPUs, four steps of every stage at reduced size; on the CPU it is minutes, so it is a slow test."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.abreast import drive_abreast
from senna2.config import load_json
from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.recipes.clips import make_clips
from senna2.recipes.gpu import VLM, gpu, gpu_small
from senna2.recipes.stages import demonstration_samples, new_policy, run_stage
from senna2.registry import make_policy
from senna2.train.distributed import Ranks
from senna2.train.stage1 import vlm_of
from senna2.types import Rig, Samples

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_it_names_a_published_vlm_and_another_can_be_given():
    assert gpu().vlm.checkpoint == VLM
    assert gpu("a/b").vlm.checkpoint == "a/b"
    assert gpu().precision == "bfloat16"
    small, whole = gpu_small("a/b"), gpu("a/b")
    assert (small.policy, small.precision, small.vlm) == (whole.policy, whole.precision, whole.vlm)


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=NEEDS_CUDA)]
)
def test_four_steps_of_every_stage(tmp_path, device):
    DrivingVLM.tiny(seed=0).save_pretrained(tmp_path / "vlm")
    recipe = gpu_small(str(tmp_path / "vlm"))
    clips = make_clips("train", recipe.clips.train, tmp_path / "clips")
    store = demonstration_samples(recipe, clips, tmp_path / "samples", workers=0, training=True)
    ranks = Ranks(device=device)

    def run(stage: str, policy: DualSystem, **data) -> DualSystem:
        saved = run_stage(stage, policy, recipe, tmp_path / stage, ranks=ranks, workers=0, **data)
        assert load_json(saved / "provenance.json")["stage"] == stage
        return DualSystem.from_pretrained(saved, device)

    vlm = vlm_of(run("1a", new_policy(recipe), store=store))
    policy = run("1b", new_policy(recipe), store=store)
    policy.attach_vlm(vlm)
    policy = run("1c", policy, store=store)
    policy = run("2", policy, store=store)
    policy = run("3", policy, clips=clips, tune_clips=clips[:1])
    assert policy.device.type == device
    assert next(vlm_of(policy).parameters()).dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for _, p in policy.policy_parameters())
    assert all(torch.isfinite(p).all() for p in policy.parameters())
    assert np.isfinite(policy.plan_batch(store.take(np.arange(4))).points_NT2).all()


@NEEDS_CUDA
def test_a_card_measures_what_the_cpu_does(tmp_path):
    """The same plans in open loop and the same drive, to what float32 kernels may differ by."""
    clip = make_clips("test", 1, tmp_path / "clips")[0]
    policies = {device: make_policy("senna2", device=device) for device in ("cpu", "cuda")}
    samples = Samples.fake(16, policies["cpu"].rig)
    ours, theirs = (p.plan_batch(samples).points_NT2 for p in policies.values())
    np.testing.assert_allclose(theirs, ours, atol=1e-2)
    here, there = (drive_abreast(p, [clip], policy_name="senna2")[0] for p in policies.values())
    np.testing.assert_allclose(there.ego_F6[:20], here.ego_F6[:20], atol=5e-2)


def test_mixed_precision_leaves_plans_in_metres_whole():
    """bfloat16 has three digits: a plan of 30 m rounded to it would be off by 12 cm, and f_K would read nonsense."""
    samples = Samples.fake(16, Rig.fake(), seed=1)
    bent = samples.future_NT3.copy()
    bent[..., :2] += np.random.default_rng(0).normal(size=(16, 1, 2)) * np.linspace(0, 1.5, 30)[:, None] ** 2
    samples = dataclasses.replace(samples, index_N=np.arange(16, dtype=np.int64), future_NT3=bent)
    config = PolicyConfig(dim=32, blocks=2, channels=(8, 8, 16, 16), agent_queries=4, map_queries=4, adapter="none")
    policy = DualSystem(config, Rig.fake(), seed=0)
    policy.fit_planner(samples)
    batch = Batch.from_samples(samples)
    noise = policy.sample_noise(batch.index_B, 0)
    plans = {}
    for mixed in (None, torch.bfloat16):
        policy.mixed = mixed
        tokens = policy.encode(batch)
        assert tokens.tokens_BSC.dtype == torch.float32
        plans[mixed] = policy.sample_plan(tokens, None, batch, noise=noise)
        assert policy.planning_loss(tokens, None, batch, seed=0, step=0).dtype == torch.float32
    assert plans[torch.bfloat16].dtype == torch.float32
    # The fresh planner drives the reference: metres that no network has touched must agree to the last digit.
    torch.testing.assert_close(plans[None], plans[torch.bfloat16], rtol=0, atol=1e-6)
