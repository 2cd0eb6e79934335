"""Policy gradients of the diffusion planner: its density, what is read off the drives, and that it learns from returns;
and stage 3 with demonstrations among its frames."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from tests.train.test_rad import policy as rad

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem
from senna2.rollouts import clip_seed
from senna2.train.distributed import Ranks
from senna2.train.frames import RolloutFrames
from senna2.train.gradient import Critic, GradientStage, PolicyGradient, choices_of, log_density, run_gradient
from senna2.train.levels import LowLevel, Stage3, frozen_copy, listen
from senna2.train.loop import Optim
from senna2.train.mixed import LowLevelMixed
from senna2.train.rounds import sampling
from senna2.train.stage3 import run_3
from senna2.types import ClipMeta, InputError, Observation, Plan, Rig, Rollout

CONFIG = PolicyGradient(Optim(steps=2, batch=16, lr=1e-4), rounds=2, clips=1, group=6, explore=0.3)
HOLD = CONFIG.hold


def drives(policy: DualSystem, count: int = 6, n: int = 9) -> list[list[tuple[Rollout, np.ndarray]]]:
    """One clip, driven several times by the policy that explores; the shorter its first plan, the less progress."""
    pose = np.zeros((60, 3))
    pose[:, 0] = 0.8 * np.arange(60)
    made = []
    with sampling(policy, explore=CONFIG.explore):
        for seed in range(count):
            r = dataclasses.replace(Rollout.fake(n), seed=seed)
            seen = tuple(Observation.fake(Rig.fake(), i) if i % HOLD == 0 else None for i in range(n))
            crew = policy.lockstep()
            crew.reset(0, dataclasses.replace(ClipMeta.fake(), rig=Rig.fake()), clip_seed(seed, r.clip))
            plans = np.full((n, 30, 2), np.nan)
            for i in range(0, n - 1, HOLD):
                plan: Plan = crew.act({0: seen[i]})[0]
                plans[i] = plan.trajectory.points_T2
            share = plans[0, -1, 0] / 30
            made.append((dataclasses.replace(r, plans_FT2=plans, observations=seen, progress_F=share * r.progress_F),
                         pose))  # fmt: skip
    return [made]


def test_exploring_is_a_normal_noise_about_ddims_plan(straight_driver):
    policy, samples = straight_driver
    batch = Batch.from_samples(samples)
    scene = policy.encode(batch)
    with sampling(policy, explore=0.3):
        noise = policy.sample_noise(batch.index_B, 5)
        assert noise.shape == (24, 12, 2)
        plan = policy.sample_plan(scene, None, batch, noise=noise)
    mean = policy.planner.coefficients(scene, None, batch, noise=noise[:, :6])
    away = policy.planner.coefficients_of(plan, batch) - mean
    torch.testing.assert_close(away, 0.3 * noise[:, 6:], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(log_density(mean + away, mean, 0.3), -0.5 * (noise[:, 6:] ** 2).sum((1, 2)),
                               atol=1e-1, rtol=1e-2)  # fmt: skip
    plain = policy.sample_plan(scene, None, batch, noise=policy.sample_noise(batch.index_B, 5))
    assert policy.sample_noise(batch.index_B, 5).shape == (24, 6, 2)
    assert not torch.allclose(plain, plan, atol=1e-2)


def test_choices_are_read_off_the_drives_and_the_ratio_is_one(straight_driver):
    policy = copy.deepcopy(straight_driver[0])
    groups = drives(policy)
    choices, told = choices_of(policy, None, groups, CONFIG)
    assert len(choices.frames.samples) == 6
    assert told["collided"] == 0
    with sampling(policy, explore=CONFIG.explore):
        drawn = torch.cat([policy.sample_noise(torch.arange(1), clip_seed(r.seed, r.clip)) for r, _ in groups[0]])
    torch.testing.assert_close(choices.noise_NK2, drawn[:, :6])
    torch.testing.assert_close(choices.old_logp_N, -0.5 * (drawn[:, 6:] ** 2).sum((1, 2)), atol=2e-2, rtol=1e-2)
    order = np.argsort([r.progress_F[-1] for r, _ in groups[0]])
    assert (np.diff(choices.advantage_N.numpy()[order]) > 0).all()  # the further, the better
    stage = GradientStage(policy, None, choices, CONFIG, 0)
    index = np.arange(6)
    loss, values = stage.loss(stage.load(index), 0, 6)
    torch.testing.assert_close(loss.detach(), -choices.advantage_N.mean(), atol=1e-4, rtol=1e-4)
    assert values["ratio_off"] == 0


def test_plans_grow_when_longer_ones_are_rewarded(straight_driver):
    policy = copy.deepcopy(straight_driver[0])
    config = dataclasses.replace(CONFIG, optim=Optim(steps=8, batch=24, lr=1e-4, schedule="constant"))
    choices, _ = choices_of(policy, None, drives(policy, count=24), config)
    stage = GradientStage(policy, None, choices, config, 0)
    batch = Batch.from_samples(straight_driver[1])
    noise = policy.sample_noise(batch.index_B, 3)

    def length() -> float:
        with torch.no_grad():
            return float(policy.sample_plan(policy.encode(batch), None, batch, noise=noise)[:, -1, 0].mean())

    before = length()
    optimiser = torch.optim.Adam(stage.named_parameters().values(), 1e-4)
    for step in range(8):
        loss, _ = stage.loss(stage.load(stage.draw(step, 24)), step, 24)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert length() > before + 0.02


def test_the_critic_learns_beside_the_policy_and_has_its_own_parameters(straight_driver):
    policy = copy.deepcopy(straight_driver[0])
    critic = Critic(policy.config.dim, policy.config.heads)
    groups = drives(policy)
    off = [(dataclasses.replace(r, off_road_F=np.arange(len(r)) >= 6), pose) for r, pose in groups[0]]
    choices, _ = choices_of(policy, critic, [off], CONFIG)
    value = choices.old_value_N.numpy()
    np.testing.assert_allclose(choices.raw_N.numpy(), -1 - value, rtol=1e-5)  # one choice, then the event
    stage = GradientStage(policy, critic, choices, CONFIG, 0)
    assert {n.split(".")[0] for n in stage.named_parameters()} == {"encoder", "planner", "critic"}
    loss, values = stage.loss(stage.load(np.arange(6)), 0, 6)
    loss.backward()
    assert values["value"] > 0
    assert all(p.grad is not None for p in critic.parameters())


def test_what_follows_an_event_teaches_nothing_and_the_rest_is_standardised(straight_driver):
    policy = copy.deepcopy(straight_driver[0])
    critic = Critic(policy.config.dim, policy.config.heads)
    drives_G = drives(policy, count=4, n=3 * HOLD + 1)[0]
    late = [(dataclasses.replace(r, off_road_F=np.arange(len(r)) >= 1.5 * HOLD), pose) for r, pose in drives_G[:2]]
    whole = [(dataclasses.replace(r, off_road_F=np.zeros(len(r), bool)), pose) for r, pose in drives_G[2:]]
    choices, told = choices_of(policy, critic, [late + whole], CONFIG)
    assert choices.live_N.tolist() == [True, True, False] * 2 + [True] * 6
    assert told["ends_static"] == 0.5
    reach = CONFIG.gamma**CONFIG.hold  # of the event to the choice before its own
    np.testing.assert_allclose(
        choices.raw_N[:6].numpy(), [-reach, -1, 0] * 2, atol=1e-6
    )  # the critic knows nothing yet
    live = choices.advantage_N.numpy()[choices.live_N]
    np.testing.assert_allclose([live.mean(), live.std()], [0, 1], atol=1e-5)
    assert (choices.advantage_N[6:] > 0).all()  # it ended well: more of that
    assert (choices.advantage_N.numpy()[~choices.live_N] == 0).all()
    stage = GradientStage(policy, critic, choices, CONFIG, 0)
    assert {int(i) for step in range(4) for i in stage.draw(step, 10)} == set(np.flatnonzero(choices.live_N).tolist())
    nothing, told = choices_of(policy, critic, [late + whole], dataclasses.replace(CONFIG, events=("dynamic",)))
    assert told["ends_static"] == 0
    assert nothing.live_N.all()
    assert (nothing.advantage_N == 0).all()


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_rounds_run_and_leave_a_log(method, straight_driver, tmp_path):
    policy = copy.deepcopy(straight_driver[0])
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    seen = []

    def collect(now, number):
        assert now.planner.options.explore == CONFIG.explore
        seen.append(number)
        return drives(now)

    log = run_gradient(policy, collect, CONFIG, tmp_path, method=method, seed=0, ranks=Ranks(), resume=False)
    assert seen == [0, 1]
    assert policy.planner.options.explore == 0
    assert all(np.isfinite(list(row.values())).all() for row in log)
    if method == "grpo":
        assert any(not torch.equal(p, before[n]) for n, p in policy.named_parameters())
        again = copy.deepcopy(straight_driver[0])
        longer = dataclasses.replace(CONFIG, rounds=3)
        run_gradient(again, collect, longer, tmp_path, method=method, seed=0, ranks=Ranks(), resume=True)
        assert seen == [0, 1, 2]
    with pytest.raises(InputError, match="is for planner 'dit'"):
        run_gradient(rad(), collect, CONFIG, tmp_path, method=method, seed=0, ranks=Ranks(), resume=False)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"explore": 0.0}, "explore"), ({"group": 1}, "group"), ({"events": ("crash",)}, "events")],
)
def test_settings_that_teach_nothing_are_refused(change, field, straight_driver, tmp_path):
    config = dataclasses.replace(CONFIG, **change)
    with pytest.raises(InputError, match=rf"stage grpo: gradient\.{field}: must be"):
        run_gradient(straight_driver[0], lambda *_: [], config, tmp_path, method="grpo", seed=0, ranks=Ranks(),
                     resume=False)  # fmt: skip


# --- demonstrations among the frames --------------------------------------------------------------------------


class _Store:
    def __init__(self, samples) -> None:
        self.states = samples

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index):
        return self.states.take(np.asarray(index))


def test_an_imitation_mix_adds_its_loss_and_nothing_else(straight_driver, tmp_path):
    policy, samples = copy.deepcopy(straight_driver[0]), straight_driver[1]
    none = np.full(24, -1, np.int8)
    frames = RolloutFrames(samples, np.arange(24) % 2 == 0, np.zeros(24, bool), none, none)
    config = Stage3(Optim(1, 8, 1e-3), Optim(1, 8, 1e-3), imitation=0.5, forced_share=0.0)
    anchor, heard, store = frozen_copy(policy), listen(policy, frames), _Store(samples)
    mixed = LowLevelMixed(policy, anchor, frames, config, 0, heard, store)
    plain = LowLevel(policy, anchor, frames, config, 0, heard)
    index = mixed.draw(0, 8)
    assert len(index) == 16
    np.testing.assert_array_equal(index[::2], plain.draw(0, 8))
    assert (index[1::2] >= 24).all()
    found, values = mixed.loss(mixed.load(index), 0, 8)
    own, _ = plain.loss(plain.load(index[::2]), 0, 8)
    assert set(found) == {*own, "imitation"}
    for name, term in own.items():
        torch.testing.assert_close(found[name], term, msg=name)
    shown = Batch.from_samples(samples.take(index[1::2] - 24))
    tokens, f_vlm = policy.encode(shown), policy.condition(None, shown.speed_B, shown.direction_B)
    by_hand = 0.5 * policy.planning_loss(tokens, f_vlm, shown, seed=0, step=0).mean()
    torch.testing.assert_close(found["imitation"], by_hand)
    assert values["imitation"] == pytest.approx(float(by_hand.detach()))
    with pytest.raises(InputError, match="imitation: needs demonstrations"):
        run_3(policy, lambda *_: [], config, tmp_path, seed=0, ranks=Ranks(), resume=False)
