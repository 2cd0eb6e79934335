"""RAD learns from its drives: nothing pulls before the first step, auxiliaries push the right way, rounds resume."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.model.planners import rad_anchors as anchors
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim
from senna2.train.ppo import advantages
from senna2.train.rad import RadStage, Reinforce, better_cells, live_frames, run_rad, sampling
from senna2.types import Contact, InputError, Observation, Rig, Rollout, Samples

CONFIG = Reinforce(Optim(steps=5, batch=16, lr=3e-3), rounds=2, clips=2, imitation_batch=4)


class Store:
    """What stages need of a `SampleStore`."""

    def __init__(self, n: int = 12) -> None:
        self.states = dataclasses.replace(Samples.fake(n, Rig.fake()), index_N=np.arange(n))

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index) -> Samples:
        return self.states.take(np.asarray(index))


def policy(planner: str = "rad") -> DualSystem:
    torch.set_num_threads(1)
    config = PolicyConfig(planner=planner, obs="state", adapter="none", dim=32, heads=2, blocks=1)
    return DualSystem(config, Rig.fake(), seed=0)


def drives(column: int = anchors.MIDDLE, *, y: float = 0.0, hit: bool = False, n: int = 20) -> list:
    """Two drives whose every plan is at row 16 and `column` in half a second; they leave the path, or hit a leader."""
    rollout = Rollout.fake(n)
    plans = rollout.plans_FT2.copy()
    plans[:, 4] = anchors.grid()[16, column]
    ego = rollout.ego_F6.copy()
    ego[:, 1] = y * np.arange(n)
    contacts = (Contact(1.5, "leader", 0, True, "front", 5.0),) if hit else ()
    pose = np.zeros((60, 3))
    pose[:, 0] = 0.8 * np.arange(60)
    seen = tuple(Observation.fake(Rig.fake(), i) for i in range(n))
    made = dataclasses.replace(rollout, plans_FT2=plans, ego_F6=ego, contacts=contacts, observations=seen)
    return [(made, pose), (dataclasses.replace(made, clip="other"), pose)]


def test_the_ratio_is_one_before_the_first_step():
    p = policy()
    frames, told = live_frames(p, drives(hit=True), CONFIG)
    assert told["ends_dynamic"] == 1
    assert told["alive_s"] == pytest.approx(1.5)
    assert len(frames) == 30
    assert (frames.row_N == 16).all()
    terms = RadStage(p, frames, Store(), CONFIG, 0).reinforced(np.arange(30))
    expected = -frames.advantage_N2.mean(0).sum()
    torch.testing.assert_close(terms["policy"].detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("side", [1, -1])
def test_the_steering_auxiliary_pushes_towards_the_expert(side):
    """The ego leaves the path to one side: afterwards cells to the other are likelier, whatever PPO says."""
    p = policy()
    config = dataclasses.replace(CONFIG, value_weight=0.0)
    frames, told = live_frames(p, drives(y=side * 0.15), config)
    assert told["ends_position"] == 1
    stage = RadStage(p, frames, Store(), config, 0)

    def mass_left() -> float:
        with torch.no_grad():
            now = p.planner.believe(frames.scene, None, _batch(frames))
            across = p.planner.across_logp(now, frames.row_N).exp()
        return float(across[:, anchors.MIDDLE + 1 :].sum(1).mean())

    before = mass_left()
    for _ in range(3):
        stage.reinforced(np.arange(len(frames)))["auxiliary"].backward()
        with torch.no_grad():
            for q in p.planner.parameters():
                if q.grad is not None:
                    q -= 0.5 * q.grad
                    q.grad = None
    assert (mass_left() - before) * -side > 1e-3


@pytest.mark.parametrize(("ahead", "sense"), [(True, 1), (False, -1)])
def test_who_was_hit_ahead_teaches_slower_and_behind_faster(ahead, sense):
    p = policy()
    made = drives(hit=True)
    if not ahead:
        behind = made[0][0].boxes_FA6.copy()
        behind[:, 0, 0] = made[0][0].ego_F6[:, 0] - 6
        made = [(dataclasses.replace(r, boxes_FA6=behind), pose) for r, pose in made]
    frames, _ = live_frames(p, made, CONFIG)
    stage = RadStage(p, frames, Store(), CONFIG, 0)
    stage.reinforced(np.arange(len(frames)))["auxiliary"].backward()
    bias = p.planner.along[-1].bias.grad
    assert sense * float(bias[:16].sum()) < 0  # descending the gradient raises the slower bins
    assert sense * float(bias[17:].sum()) > 0
    frames_across = p.planner.across[-1].bias.grad
    assert frames_across is None or float(frames_across.abs().max()) < 1e-7  # nothing happened across


def test_sides_of_the_chosen_cell():
    got = better_cells(torch.tensor([2, 0, 1]), torch.tensor([1, -1, 0]), torch.zeros(3, 4))
    assert got.tolist() == [[-1, -1, 0, 1], [0, -1, -1, -1], [0, 0, 0, 0]]


def test_inside_it_samples_and_afterwards_it_does_not(tmp_path):
    p = policy()
    with sampling(p):
        assert p.planner.noise_shape == (2,)
        p.save_pretrained(tmp_path / "c")
    assert p.planner.noise_shape == (0,)
    assert p.config.planner_options == {}
    assert DualSystem.from_pretrained(tmp_path / "c").planner.options.sampled


def test_rounds_learn_the_planner_alone_and_go_on_where_they_stopped(tmp_path):
    def run(p: DualSystem, out, *, rounds: int, resume: bool):
        seen = []

        def collect(now: DualSystem, number: int):
            assert now.planner.options.sampled
            seen.append(number)
            return drives(y=0.15)

        config = dataclasses.replace(CONFIG, rounds=rounds)
        log = run_rad(p, collect, Store(), config, out, seed=0, ranks=Ranks(), resume=resume)
        return seen, log

    whole, parts = policy(), policy()
    start = {n: q.detach().clone() for n, q in whole.named_parameters()}
    seen, log = run(whole, tmp_path / "whole", rounds=3, resume=False)
    assert seen == [0, 1, 2]
    assert all(np.isfinite(list(row.values())).all() for row in log)
    moved = {n.split(".")[0] for n, q in whole.named_parameters() if not torch.equal(q, start[n])}
    assert moved == {"planner"}
    assert [p.name for p in (tmp_path / "whole").glob("round-*")] == ["round-2"]
    run(parts, tmp_path / "parts", rounds=2, resume=False)
    again = policy()
    seen, _ = run(again, tmp_path / "parts", rounds=3, resume=True)
    assert seen == [2]
    for (name, a), (_, b) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)


@pytest.mark.parametrize("hit", [True, False])
def test_the_critic_is_subtracted_and_stands_in_for_what_was_cut_off(hit):
    """With values that are not zero, advantages are those of GAE on them: a drive that ended has nothing after it, one
    that was cut goes on at its last value."""
    p = policy()
    with torch.no_grad():
        p.planner.values[-1].bias += torch.tensor([0.7, -0.4])
    frames, told = live_frames(p, drives(hit=hit), CONFIG)
    n = len(frames) // 2
    assert told["ends_dynamic"] == float(hit)
    for k, value in enumerate((frames.old.value_along_B, frames.old.value_across_B)):
        v = value[:n].double().numpy()
        assert abs(v).min() > 0.1
        reward = np.zeros(n)
        reward[-1] = -1.0 if hit and k == 0 else 0.0
        expected = advantages(reward, v, gamma=CONFIG.gamma, lam=CONFIG.lam, after=0.0 if hit else v[-1])
        np.testing.assert_allclose(frames.advantage_N2[:n, k], expected, atol=1e-5)


def test_what_cannot_be_learned_from_is_named(tmp_path):
    p = policy()
    told = DualSystem(dataclasses.replace(p.config, adapter="decision"), Rig.fake(), seed=0)
    with pytest.raises(InputError, match=r"stage rad: policy\.adapter: is 'decision'; start from a checkpoint with"):
        live_frames(told, drives(), CONFIG)
    blind = [(dataclasses.replace(r, observations=()), pose) for r, pose in drives()]
    with pytest.raises(InputError, match="clip fake: of 19 frames 0 were recorded"):
        live_frames(p, blind, CONFIG)
    with pytest.raises(InputError, match="is for planner 'rad', not for 'dit'"):
        run_rad(policy("dit"), lambda *_: [], Store(), CONFIG, tmp_path, seed=0, ranks=Ranks(), resume=False)


def _batch(frames):
    from senna2.model.batch import Batch

    return Batch.from_samples(frames.samples)
