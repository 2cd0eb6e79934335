"""Each published planner does what its defining idea says (docs/planners)."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from test_planners import bent_samples, plan_of, policy_of, stirred, told
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from senna2.model.batch import Batch
from senna2.model.diffusion import keyed_noise
from senna2.model.planners.diffusiondrive import CALLS, NOISE_AT, focal
from senna2.model.planners.genad import gaussian_kl
from senna2.model.planners.vocabulary import clustered_plans, furthest_plans
from senna2.model.policy import DualSystem
from senna2.types import Direction, InputError


def _batch(n: int = 6) -> Batch:
    return Batch.from_samples(bent_samples().take(slice(0, n)))


def _plans(n: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.cumsum(rng.uniform((0, -1), (5, 1), (n, 6, 2)), 1)


# ------------------------------------------------------------------------------------------------------- vocabularies


def test_the_vocabulary_begins_standing_and_adds_the_furthest():
    plans = _plans()
    found = furthest_plans(plans, 20)
    assert (found[0] == 0).all()

    def least(plan: np.ndarray, chosen: np.ndarray) -> float:
        return min(np.linalg.norm(plan - c, axis=-1).mean() for c in chosen)

    for i in range(1, 20):
        assert least(found[i], found[:i]) == pytest.approx(max(least(p, found[:i]) for p in plans))
    with pytest.raises(InputError, match="only 3 distinct"):
        furthest_plans(np.repeat(plans[:2], 50, 0), 20)


def test_anchors_are_centres_and_the_same_again():
    plans = _plans()
    anchors = clustered_plans(plans, 5)
    np.testing.assert_array_equal(clustered_plans(plans, 5), anchors)
    own = np.linalg.norm((plans[:, None] - anchors).reshape(300, 5, -1), axis=-1).argmin(1)
    for i in range(5):
        np.testing.assert_allclose(plans[own == i].mean(0), anchors[i], atol=0.05)


# -------------------------------------------------------------------------------------------------------------- VADv2


@pytest.mark.parametrize("seed", [0, 1])
def test_vadv2_a_sample_learned_by_heart_takes_its_nearest_and_a_conflict_is_suppressed(seed, monkeypatch):
    planner, batch = policy_of("vadv2").planner, _batch(1)
    nearest, second, third = (
        (planner.vocabulary_VK2 - planner.expert(batch)).norm(dim=-1).mean(-1).argsort()[:3].tolist()
    )
    bad = planner.vocabulary_VK2[second]

    def learned(meets) -> torch.Tensor:
        monkeypatch.setattr("senna2.model.planners.vadv2.conflicts", meets)
        policy = stirred(policy_of("vadv2")).train()
        optimiser = torch.optim.AdamW(policy.planner.parameters(), 1e-3)
        for step in range(100):
            loss = policy.planning_loss(policy.encode(batch), None, batch, seed=seed, step=step).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return policy.planner.logits(policy.planner.vocabulary_VK2[None], policy.encode(batch), None, batch)[0]

    free = learned(lambda plans, *_: torch.zeros(plans.shape[:2], dtype=torch.bool))
    watched = learned(lambda plans, *_: (plans == bad).all(-1).all(-1))
    assert int(free.argmax()) == int(watched.argmax()) == nearest
    assert free[second] > free[third] + 1  # nearer, so the soft target likes it better
    assert watched[second] < watched[third]


def test_vadv2_draws_the_nearest_first_and_never_twice():
    planner, batch = policy_of("vadv2").planner, _batch()
    nearest = torch.tensor([3, 0, 5, 7, 2, 23])
    gap = 1 - F.one_hot(nearest, 24).float()
    drawn = planner._drawn(gap, batch, 0, 0)
    assert drawn.shape == (6, 12)
    assert torch.equal(drawn[:, 0], nearest)
    assert all(len(set(row.tolist())) == 12 for row in drawn)
    assert not torch.equal(drawn, planner._drawn(gap, batch, 0, 1))
    assert torch.equal(drawn[2:4], planner._drawn(gap[2:4], batch.take(torch.tensor([2, 3])), 0, 0))


def test_vadv2_scores_the_plans_that_begin_at_the_egos_speed():
    policy = stirred(policy_of("vadv2", planner_options={"vocabulary": 24, "scored": 6, "drawn": 4}))
    planner, batch = policy.planner, _batch()
    begins = planner.vocabulary_VK2[:, 0].norm(dim=-1) / 0.5
    speeds = torch.tensor([0.0, 5.0, 11.0])
    for plans, v in zip(planner.in_reach(speeds), speeds, strict=True):
        wanted = (begins - v).abs().sort().values[:6]
        torch.testing.assert_close((plans[:, 0].norm(dim=-1) / 0.5 - v).abs(), wanted)
    seen = []
    logits = planner.logits
    planner.logits = lambda plans, *more: seen.append(plans) or logits(plans, *more)
    policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=0)
    noise = policy.sample_noise(batch.index_B, 0)
    policy.sample_plan(policy.encode(batch), None, batch, noise=noise)
    of = planner.in_reach(batch.motion_B4[:, 0])
    drawn, scored = seen
    assert drawn.shape[1] == 4
    assert torch.equal(scored, of)
    inside = (drawn[:, :, None] == of[:, None]).all(-1).all(-1).any(-1)
    assert inside.all()


def test_vadv2_sampled_follows_the_distribution():
    policy = stirred(policy_of("vadv2", planner_options={"vocabulary": 5, "drawn": 4, "sampled": True}))
    batch = _batch(1)
    n = 4000
    rows = torch.zeros(n, dtype=torch.long)
    many = batch.take(rows)
    noise = torch.randn(n, 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = policy.encode(batch)
        plans = policy.planner.in_reach(batch.motion_B4[:, 0])
        p = policy.planner.logits(plans, tokens, None, batch).softmax(1)[0]
        ends = policy.sample_plan(tokens.take(rows), None, many, noise=noise)[:, -1]
        every = torch.stack([policy.planner.to_plan(v[None], batch)[0, -1] for v in plans[0]])
    share = F.one_hot(torch.cdist(ends, every).argmin(1), 5).float().mean(0)
    torch.testing.assert_close(share, p, atol=0.03, rtol=0)


# ---------------------------------------------------------------------------------------------------- DiffusionDrive


def test_diffusiondrive_learns_the_anchor_nearest_to_the_expert():
    """Moving the expert onto another anchor moves the positive mode, and with it the gradient of the logits."""
    policy = policy_of("diffusiondrive")
    planner, batch = policy.planner, _batch()
    assert len({tuple(a.flatten().tolist()) for a in planner.anchors_VK2}) == 8
    seen = []
    decode = planner._decode

    def spy(*args):
        found = decode(*args)
        for _, logit in found:
            logit.retain_grad()
        seen.append(found)
        return found

    planner._decode = spy
    policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=0).sum().backward()
    own = (planner.anchors_VK2 - planner.expert(batch)[:, None]).norm(dim=-1).mean(-1).argmin(1)
    assert len(set(own.tolist())) > 1
    for _, logit in seen[0]:
        assert torch.equal(logit.grad.argmin(1), own)  # the only logit that is raised
        assert ((logit.grad < 0).sum(1) == 1).all()


def test_diffusiondrive_nudges_its_anchors_by_little():
    """Of the release: noise of about .03 (in units of half the range) when driving, under .1 in training."""
    planner = policy_of("diffusiondrive").planner
    _, s = planner.schedule.roots(torch.tensor([NOISE_AT, planner.options.truncated - 1]), 0)
    assert s[0] == pytest.approx(0.03, abs=0.005)
    assert s[1] == pytest.approx(0.09, abs=0.01)
    assert CALLS == (10, 0)
    normal = planner._normal(planner.anchors_VK2)
    assert normal.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(planner._metres(normal), planner.anchors_VK2, atol=1e-4, rtol=1e-5)


def test_diffusiondrive_reads_nudged_anchors_at_its_second_call_too():
    """Training shows the decoder anchors with a little noise. A step down to 0 would show it, at the call that is
    driven, plans moved by three quarters of the first refinement; the release's moves them by a tenth."""
    policy = policy_of("diffusiondrive")
    planner, batch = policy.planner, _batch()
    tokens, noise = policy.encode(batch), policy.sample_noise(batch.index_B, 0)
    decode = planner._decode

    def read_second(refined_by_m: float) -> torch.Tensor:
        read = []

        def moved(plans, *more):
            read.append(plans)
            return [(at + refined_by_m, logit) for at, logit in decode(plans, *more)]

        planner._decode = moved
        policy.sample_plan(tokens, None, batch, noise=noise)
        assert len(read) == 2
        return read[1]

    share = (read_second(1.0) - read_second(0.0)).mean()
    assert 0.02 < share < 0.2
    planner._decode = decode
    modes, _ = planner.modes(tokens, None, batch, noise=noise)
    apart = torch.cdist(modes.flatten(2), modes.flatten(2)) + 9 * torch.eye(8)
    assert apart.min() > 0.1


def test_focal_loss_by_hand():
    logit, own = torch.tensor([[0.3, -1.2, 2.0]]), torch.tensor([0])
    p = logit.sigmoid()[0]
    expected = -0.25 * (1 - p[0]) ** 2 * p[0].log()
    expected = expected - sum(0.75 * q**2 * (1 - q).log() for q in p[1:])
    assert float(focal(logit, own)) == pytest.approx(float(expected) / 3, rel=1e-5)


# -------------------------------------------------------------------------------------------------------------- GenAD


@pytest.mark.parametrize("planner", ["vad", "genad"])
def test_planners_that_state_steps_state_each_in_its_own_spread(planner, tmp_path):
    policy, samples = policy_of(planner), bent_samples()
    knots = samples.future_NT3[:, policy.planner.at_K, :2]
    steps = np.diff(knots, axis=1, prepend=0 * knots[:, :1])
    units = (steps - steps.mean(0)) / np.maximum(steps.std(0), 0.05)
    found = policy.planner.from_steps(torch.tensor(units, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, knots, atol=1e-4)
    policy.save_pretrained(tmp_path / "old")
    file = tmp_path / "old" / "normalisation.json"
    fitted = json.loads(file.read_text())
    del fitted["arrays"]["step_std_K2"]  # a checkpoint of before
    file.write_text(json.dumps(fitted))
    old = DualSystem.from_pretrained(tmp_path / "old").planner
    np.testing.assert_allclose(old.step_std_K2.numpy(), np.repeat(policy.planner.std_K2[:1].numpy(), 6, 0))


@pytest.mark.parametrize("planner", ["vad", "genad"])
def test_without_a_command_they_drive_as_straight_on(planner):
    policy = stirred(policy_of(planner))
    samples = bent_samples().take(slice(0, 4))
    batches = {c: Batch.from_samples(dataclasses.replace(samples, navigation_N=np.full(4, c)))
               for c in (Direction.STRAIGHT, Direction.TURN_LEFT, Direction.UNKNOWN)}  # fmt: skip
    before = {c: plan_of(policy, batch) for c, batch in batches.items()}
    with torch.no_grad():
        policy.planner.head[-1].bias.view(len(Direction), -1)[Direction.STRAIGHT] += 1.0
    moved = {c: float((plan_of(policy, batch) - before[c]).abs().max()) for c, batch in batches.items()}
    assert moved[Direction.UNKNOWN] == pytest.approx(moved[Direction.STRAIGHT], rel=1e-3)
    assert moved[Direction.UNKNOWN] > 1
    assert moved[Direction.TURN_LEFT] == 0


def test_genad_kl_is_that_of_two_gaussians():
    g = torch.Generator().manual_seed(0)
    mean_q, log_q, mean_p, log_p = torch.randn(4, 3, 7, generator=g)
    expected = kl_divergence(Normal(mean_q, log_q.exp()), Normal(mean_p, log_p.exp())).sum(-1)
    torch.testing.assert_close(gaussian_kl(mean_q, log_q, mean_p, log_p), expected)
    assert (gaussian_kl(mean_q, log_q, mean_q, log_q) == 0).all()


def test_genad_posterior_sees_the_future_and_its_prior_does_not():
    policy = stirred(policy_of("genad"))
    planner, batch = policy.planner, _batch()
    state = planner._state(policy.encode(batch), None, batch)
    z = torch.zeros(6, 32)
    assert not torch.allclose(planner._roll(state, z, batch), planner._roll(state, z + 1, batch), atol=1e-3)
    plans = plan_of(policy, batch)
    blind = bent_samples().take(slice(0, 6))
    blind.future_NT3[:] = np.nan
    assert torch.equal(plan_of(policy, Batch.from_samples(blind)), plans)
    mean = policy_of("genad", planner_options={"sampled": False})
    assert mean.planner.options.latent == 32
    noise = torch.randn(2, 6, 32)
    tokens = mean.encode(batch)
    a, b = (mean.sample_plan(tokens, None, batch, noise=n) for n in noise)
    assert torch.equal(a, b)


def test_genad_learns_from_draws_of_a_posterior_that_reads_the_future():
    policy = stirred(policy_of("genad"))
    planner = policy.planner
    planner.prior[-1].bias.data += 3.0  # apart, so that it is seen whose draw is rolled out
    said, rolled, roll = [], [], planner._roll
    planner.posterior.register_forward_hook(lambda _, given, out: said.append(out))
    planner._roll = lambda state, z, batch: rolled.append(z) or roll(state, z, batch)
    samples = bent_samples().take(slice(0, 6))
    for aside in (0.0, 2.0):
        samples.future_NT3[..., 1] += aside
        batch = Batch.from_samples(samples)
        policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=0)
        mean, log_sigma = planner._gaussian(said[-1])
        noise = keyed_noise(batch.index_B, 0, 0, (planner.options.latent,))
        torch.testing.assert_close(rolled[-1], mean + log_sigma.exp() * noise)
    assert (said[0] - said[1]).abs().mean() > 1e-3


# -------------------------------------------------------------------------------------------------------------- ResAD


def test_resad_references_fan_out_but_the_first():
    planner, batch = policy_of("resad").planner, _batch()
    noise = torch.randn(6, 9, 2, generator=torch.Generator().manual_seed(0))
    v = batch.motion_B4[:, 0]
    references = planner.references(v, noise)
    clean = torch.stack([v[:, None] * planner.t_K, torch.zeros(6, 6)], -1)
    assert torch.equal(references[:, 0], clean)
    assert len({tuple(r.flatten().tolist()) for r in references[0]}) == 9
    end = (references[:, 1:, -1] - clean[:, None, -1]) / 3.0  # m/s
    torch.testing.assert_close(end, noise[:, 1:] * torch.tensor([1.0, 0.2]), atol=1e-4, rtol=1e-4)


def test_resad_normalises_every_training_residual_into_its_range_and_back():
    policy = policy_of("resad")
    planner, samples = policy.planner, bent_samples()
    batch = Batch.from_samples(samples)
    residual = planner.expert(batch) - planner.references(batch.motion_B4[:, 0], torch.zeros(len(batch), 1, 2))[:, 0]
    normal = planner.normalised(residual)
    assert normal.abs().max() == pytest.approx(planner.options.gamma, abs=1e-4)
    torch.testing.assert_close(planner.residual(normal), residual, atol=1e-4, rtol=1e-4)


def test_resad_every_candidate_aims_at_the_same_expert():
    """A denoiser that is always right recovers the expert's plan from every reference."""
    policy = policy_of("resad")
    planner, batch = policy.planner, _batch()
    noise = policy.sample_noise(batch.index_B, 0)
    reference = planner.references(batch.motion_B4[:, 0], noise[:, :, -1])
    planner._denoise = lambda *_: planner.normalised(planner.expert(batch)[:, None] - reference)
    found = planner.candidates(policy.encode(batch), None, batch, noise=noise)
    assert found.shape == (6, 20, 6, 2)
    torch.testing.assert_close(found, planner.expert(batch)[:, None].expand_as(found), atol=1e-3, rtol=1e-4)


def test_resad_drives_the_candidate_its_ranker_likes():
    policy = stirred(policy_of("resad"))
    planner, batch = policy.planner, _batch()
    noise = policy.sample_noise(batch.index_B, 0)
    tokens = policy.encode(batch)
    with torch.no_grad():
        plans = planner.candidates(tokens, None, batch, noise=noise)
        planner.scores = lambda *_: (F.one_hot(torch.arange(6), 20) * 9.0, torch.zeros(6, 20))
        torch.testing.assert_close(
            planner.plan(tokens, None, batch, noise=noise),
            planner.to_plan(plans[torch.arange(6), torch.arange(6)], batch),
        )


# ---------------------------------------------------------------------------------------------------------------- VAD


def test_vad_the_command_selects_the_plan():
    """Only the given command's branch of the head gets a gradient."""
    policy = stirred(policy_of("vad"))
    batch = _batch()
    assert set(batch.navigation_B.tolist()) == {0}
    policy.planning_loss(policy.encode(batch), told(policy, 6), batch, seed=0, step=0).sum().backward()
    grad = policy.planner.head[-1].weight.grad.view(6, -1)
    assert grad[0].abs().max() > 0
    assert (grad[1:] == 0).all()
