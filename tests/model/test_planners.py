"""What every planner keeps, whatever its idea: the contract of `planners.base.Planner` in the policy around it."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.model.config import PolicyConfig
from senna2.model.policy import DualSystem
from senna2.registry import listing
from senna2.types import InputError, Rig, Samples

PLANNERS = sorted(listing("planners"))
SMALL = {"dim": 32, "heads": 2, "blocks": 2}
NOT_BY_IMITATION = {"rad": "values.", "rad2": "discriminator."}
NOTHING_FITTED = ("rad",)
OPTIONS = {"vadv2": {"vocabulary": 24, "drawn": 12}, "diffusiondrive": {"anchors": 8}, "rad2": {"candidates": 4}}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def bent_samples(n: int = 48) -> Samples:
    """Straight and bent futures of several speeds, so that every fitted number has a spread."""
    samples = Samples.fake(n, Rig.fake(), seed=3)
    future = samples.future_NT3.copy()
    future[..., 1] = np.linspace(-1, 1, n)[:, None] * np.linspace(0, 1.5, 30) ** 2
    return dataclasses.replace(samples, index_N=np.arange(n, dtype=np.int64), future_NT3=future)


def policy_of(planner: str, obs: str = "state", **changes) -> DualSystem:
    changes = {"adapter": "decision", "planner_options": OPTIONS.get(planner, {})} | changes
    config = PolicyConfig(planner=planner, obs=obs, **SMALL, **changes)
    policy = DualSystem(config, Rig.fake(), seed=0)
    policy.fit_planner(bent_samples())
    return policy


def stirred(policy: DualSystem) -> DualSystem:
    """Away from the zeros of the initialisation, but where F_vlm enters."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.planner.named_parameters():
            if not name.startswith("f_vlm"):
                p.add_(0.05 * torch.randn(p.shape, generator=g))
    return policy


def told(policy: DualSystem, n: int, speed: int = 1) -> torch.Tensor:
    return policy.condition(None, torch.full((n,), speed), torch.zeros(n, dtype=torch.long))


def plan_of(policy: DualSystem, batch: Batch, speed: int = 1) -> torch.Tensor:
    noise = policy.sample_noise(batch.index_B, 0)
    with torch.no_grad():
        return policy.sample_plan(policy.encode(batch), told(policy, len(batch), speed), batch, noise=noise)


@pytest.mark.parametrize("planner", PLANNERS)
@pytest.mark.parametrize("obs", ["state", "images"])
def test_every_parameter_learns_and_samples_without_a_future_teach_nothing(planner, obs):
    policy = stirred(policy_of(planner, obs))
    torch.nn.init.normal_(policy.planner.f_vlm.weight, std=0.1)
    samples = bent_samples().take(slice(0, 12))
    future = samples.future_NT3.copy()
    future[3] = np.nan
    batch = Batch.from_samples(dataclasses.replace(samples, future_NT3=future))
    tokens, f_vlm = policy.encode(batch), told(policy, 12)
    loss_B = policy.planning_loss(tokens, f_vlm, batch, seed=0, step=0)
    assert loss_B.shape == (12,)
    assert torch.isfinite(loss_B).all()
    assert loss_B[3] == 0
    assert (loss_B[[0, 1, 2, 4]] > 0).all()
    sum(policy.planning_loss(tokens, f_vlm, batch, seed=0, step=i).sum() for i in range(3)).backward()
    still = [n for n, p in policy.planner.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [n for n in still if not n.startswith(NOT_BY_IMITATION.get(planner, "-"))] == []
    assert all(p.grad is not None for p in policy.adapter.parameters() if p.requires_grad)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_plan_is_the_samples_own(planner):
    """Whatever else is in the batch, and the same again; another sample, speed or decision changes it."""
    policy = stirred(policy_of(planner))
    batch = Batch.from_samples(bent_samples().take(slice(0, 6)))
    plans = plan_of(policy, batch)
    assert plans.shape == (6, 30, 2)
    assert torch.isfinite(plans).all()
    assert torch.equal(plan_of(policy, batch), plans)
    torch.testing.assert_close(plan_of(policy, batch.take(torch.tensor([4, 2]))), plans[[4, 2]], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plans[0], plans[1], atol=1e-2)
    assert torch.equal(plan_of(policy, batch, speed=3), plans)  # F_vlm enters through zeros
    torch.nn.init.normal_(policy.planner.f_vlm.weight, std=0.3)
    tokens = policy.encode(batch)
    a, b = (policy.planning_loss(tokens, told(policy, 6, speed), batch, seed=0, step=0) for speed in (1, 3))
    assert not torch.allclose(a, b, rtol=1e-3)


@pytest.mark.parametrize("planner", PLANNERS)
def test_a_checkpoint_plans_the_same_to_the_bit(planner, tmp_path):
    policy = stirred(policy_of(planner))
    policy.save_pretrained(tmp_path / "c")
    again = DualSystem.from_pretrained(tmp_path / "c").eval()
    batch = Batch.from_samples(bent_samples().take(slice(0, 6)))
    assert torch.equal(plan_of(again, batch), plan_of(policy.eval(), batch))


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_was_fitted_for_another_planner_or_shape_is_refused(planner, tmp_path):
    policy = policy_of(planner)
    policy.save_pretrained(tmp_path / "c")
    path = tmp_path / "c" / "normalisation.json"
    good = json.loads(path.read_text())
    for bad in (policy_of("vad" if planner != "vad" else "dit").planner.fitted(), cut(good), [], {}):
        path.write_text(json.dumps(bad))
        with pytest.raises(InputError, match=r"normalisation\.json"):
            DualSystem.from_pretrained(tmp_path / "c")
    if planner not in NOTHING_FITTED:
        with pytest.raises(InputError, match="samples"):
            policy.fit_planner(bent_samples().take(slice(0, 3)))


def cut(fitted: dict) -> dict:
    """One row less in whatever holds arrays; of a planner that fits nothing, not even that is said."""
    if set(fitted) == {"schema"}:
        return {"schema": "another"}
    if "arrays" in fitted:
        return fitted | {"arrays": {n: v[1:] for n, v in fitted["arrays"].items()}}
    return fitted | {"shapes": [rows[1:] for rows in fitted["shapes"]], "scale_m": [r[1:] for r in fitted["scale_m"]]}


HEAVIEST_IS_DRIVEN = ("vadv2", "diffusiondrive", "resad", "rad2")


@pytest.mark.parametrize("planner", PLANNERS)
def test_what_is_weighed_can_be_looked_at(planner):
    policy = stirred(policy_of(planner))
    samples = bent_samples().take(slice(0, 3))
    plans, weights = policy.considered(samples, seed=4)
    assert plans.shape[0] == weights.shape[0] == 3
    assert plans.shape[2:] == (30, 2)
    assert plans.shape[1] == weights.shape[1] == (1 if planner in ("transfuser", "vad") else plans.shape[1])
    assert np.isfinite(plans).all()
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    if planner in HEAVIEST_IS_DRIVEN:
        batch = Batch.from_samples(samples)
        f_vlm = policy.condition(None, *(torch.full((3,), -1) for _ in range(2)))
        driven = policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=policy.sample_noise(batch.index_B, 4))
        heaviest = plans[np.arange(3), weights.argmax(1)]
        np.testing.assert_allclose(heaviest, driven.detach().numpy(), atol=1e-4)


def test_an_unknown_planner_or_option_is_named():
    with pytest.raises(InputError, match=r"policy\.planner: 'vda' is unknown.*'vad'"):
        PolicyConfig(planner="vda").validate()
    with pytest.raises(InputError, match=r"policy\.planner_options\.colour: unknown field"):
        policy_of("vad", planner_options={"colour": 1})
    with pytest.raises(InputError, match=r"planner_options\.layers: expected int"):
        policy_of("transfuser", planner_options={"layers": "three"})


@pytest.mark.parametrize(("planner", "options", "why"), [
    ("vadv2", {"drawn": 0}, "drawn: is 0; it must be at least 1"),
    ("vadv2", {"temperature_m": 0.0}, "temperature_m: is 0.0; it must be above 0"),
    ("resad", {"gamma": 0.0}, "gamma: is 0.0; it must be above 0"),
    ("resad", {"candidates": 0}, "candidates: is 0; it must be at least 1"),
    ("diffusiondrive", {"truncated": 2000}, "truncated: is 2000; it must be at most 1000"),
    ("genad", {"latent": 0}, "latent: is 0; it must be at least 1"),
    ("rad2", {"read_every": 0}, "read_every: is 0; it must be at least 1"),
    ("rad2", {"read_every": 40}, "read_every: is 40; it must be at most 30"),
    ("dit", {"explore": -1.0}, "explore: is -1.0; it must not be under 0"),
    ("vad", {"collision": math.nan}, "collision: is nan"),
])  # fmt: skip
def test_an_option_out_of_range_is_named(planner, options, why):
    with pytest.raises(InputError, match=rf"policy\.planner_options\.{why}"):
        policy_of(planner, planner_options=options)


def fde(policy: DualSystem, samples: Samples) -> float:
    batch = Batch.from_samples(samples)
    return float((plan_of(policy.eval(), batch)[:, -1] - batch.future_BT2[:, -1]).norm(dim=-1).mean())


@pytest.mark.parametrize("planner", PLANNERS)
def test_it_learns_a_few_samples(planner):
    """250 steps on 24 samples whose futures the decision tells apart."""
    samples = bent_samples().take(slice(0, 24))
    samples = dataclasses.replace(samples, speed_limit_N=np.full(24, np.nan, np.float32))
    policy = policy_of(planner).train()
    before = fde(policy, samples)
    policy.train()
    batch = Batch.from_samples(samples)
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    for step in range(250):
        f_vlm = policy.condition(None, batch.speed_B, torch.zeros_like(batch.speed_B))
        loss = policy.planning_loss(policy.encode(batch), f_vlm, batch, seed=0, step=step).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()
    with torch.no_grad():
        policy.eval()
        f_vlm = policy.condition(None, batch.speed_B, torch.zeros_like(batch.speed_B))
        noise = policy.sample_noise(batch.index_B, 0)
        plans = policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=noise)
    after = float((plans[:, -1] - batch.future_BT2[:, -1]).norm(dim=-1).mean())
    assert after < 0.35 * before, (before, after)
