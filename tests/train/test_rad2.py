"""RAD-2: the discriminator learns which candidates end well, choices are read off the drives, rounds resume."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.rollouts import clip_seed
from senna2.train.distributed import Ranks
from senna2.train.loop import Optim, TrainingError
from senna2.train.rad2 import Discriminate, Generate, Rerank, choices_of, run_rad2
from senna2.train.returns import drive_return
from senna2.train.rounds import sampling
from senna2.types import Contact, InputError, Observation, Rig, Rollout, Samples

CONFIG = Rerank(Optim(steps=30, batch=16, lr=3e-3), generator=Optim(steps=4, batch=8, lr=1e-3), rounds=2, clips=1,
                group=2, entropy=0.0, generator_every=2)  # fmt: skip


def policy(planner: str = "rad2") -> DualSystem:
    torch.set_num_threads(1)
    options = {"candidates": 6} if planner == "rad2" else {}
    config = PolicyConfig(planner=planner, obs="state", adapter="none", dim=32, heads=2, blocks=1,
                          planner_options=options)  # fmt: skip
    p = DualSystem(config, Rig.fake(), seed=0)
    samples = Samples.fake(64, Rig.fake())
    samples.future_NT3[..., 1] = np.linspace(-2, 2, 64)[:, None] * np.linspace(0, 1, 30) ** 2
    p.fit_planner(samples)
    if planner == "rad2":
        stir(p, 0)  # so that candidates differ
    return p


def stir(p: DualSystem, seed: int) -> None:
    torch.nn.init.normal_(p.planner.out.weight, std=0.3, generator=torch.Generator().manual_seed(seed))


def group(p: DualSystem, n: int = 17, hold: int = 8, drives: int = 6) -> list[Rollout]:
    """Drives of one clip that the policy made: the half that went furthest left ended in a contact."""
    made = []
    with sampling(p):
        for seed in range(drives):
            r = dataclasses.replace(Rollout.fake(n), seed=seed)
            plans = np.full((n, 30, 2), np.nan)
            seen = tuple(Observation.fake(Rig.fake(), i) if i % hold == 0 else None for i in range(n))
            crew = p.lockstep()
            crew.reset(0, _meta(), clip_seed(seed, r.clip))
            for i in range(0, n - 1, hold):
                plans[i] = crew.act({0: seen[i]})[0].trajectory.points_T2
            made.append(dataclasses.replace(r, plans_FT2=plans, observations=seen))
    middle = np.median([r.plans_FT2[0, -1, 1] for r in made])
    contact = (Contact(1.5, "leader", 0, True, "front", 5.0),)
    return [dataclasses.replace(r, contacts=contact if r.plans_FT2[0, -1, 1] > middle else ()) for r in made]


def _meta():
    from senna2.types import ClipMeta

    return dataclasses.replace(ClipMeta.fake(), rig=Rig.fake())


def test_what_was_chosen_is_read_off_the_drives():
    p = policy()
    drives = group(p)
    assert 0 < sum(bool(r.contacts) for r in drives) < len(drives)
    choices, told = choices_of(p, [drives], CONFIG)
    assert len(choices) == 12  # two choices a drive
    assert told["alike"] == 0
    taken = choices.plans_NMT2[torch.arange(12), choices.chosen_N].numpy()
    np.testing.assert_allclose(taken, np.concatenate([r.plans_FT2[[0, 8]] for r in drives]), atol=1e-4)
    assert len(set(choices.chosen_N.tolist())) > 1
    torch.testing.assert_close(choices.old_logp_N, torch.full((12,), -np.log(6.0), dtype=torch.float32))
    advantage = choices.advantage_N.numpy().reshape(6, 2)
    assert (advantage[:, 0] == advantage[:, 1]).all()
    assert all((a < 0) == bool(r.contacts) for a, r in zip(advantage[:, 0], drives, strict=True))


def test_plans_of_another_policy_are_refused():
    p, other = policy(), policy()
    stir(other, 1)
    with pytest.raises(TrainingError, match="from every candidate"):
        choices_of(other, [group(p)], CONFIG)


def test_the_discriminator_learns_which_side_ends_badly_and_nothing_else_moves():
    p = policy()
    choices, _ = choices_of(p, [group(p, n=9, drives=24)], CONFIG)  # one choice a drive
    before = {n: q.detach().clone() for n, q in p.named_parameters()}
    stage = Discriminate(p, choices, CONFIG, 0)
    first, _ = stage.loss(stage.load(np.arange(len(choices))), 0, len(choices))
    torch.testing.assert_close(first.detach(), -choices.advantage_N.mean(), rtol=1e-4, atol=1e-6)  # the ratio is 1
    optimiser = torch.optim.Adam(stage.named_parameters().values(), 3e-3)
    for step in range(60):
        loss, _ = stage.loss(stage.load(stage.draw(step, 16)), step, 16)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    moved = {n for n, q in p.named_parameters() if not torch.equal(q, before[n])}
    assert moved
    assert all(n.startswith("planner.discriminator.") for n in moved)
    batch = Batch.from_samples(choices.samples)
    with torch.no_grad():
        scores = p.planner.scores(choices.plans_NMT2, choices.scene, None, batch)
    y = choices.plans_NMT2[:, :, -1, 1]
    left = y > y.median()
    assert float(scores[~left].mean() - scores[left].mean()) > 0.1


def test_the_generator_learns_slower_plans_where_it_was_risky():
    p = policy()
    drives = [dataclasses.replace(r, ttc_F=np.full(len(r), 1.0), contacts=()) for r in group(p)]
    choices, _ = choices_of(p, [drives], CONFIG)
    driven = choices.plans_NMT2[torch.arange(len(choices)), choices.chosen_N]
    assert (choices.target_NT2[:, -1, 0] < driven[:, -1, 0] - 1).all()
    stage = Generate(p, choices, 0)
    learns = {n for n, q in p.named_parameters() if q.requires_grad}
    assert all(n.startswith("planner.") and "discriminator" not in n for n in learns)
    loss, _ = stage.loss(stage.load(np.arange(8)), 0, 8)
    loss.backward()
    assert float(p.planner.out.weight.grad.abs().max()) > 0


def test_one_drive_a_clip_has_nothing_to_be_compared_with(tmp_path):
    with pytest.raises(InputError, match=r"stage rad2: rerank\.group: must be at least 2"):
        run_rad2(policy(), lambda *_: [], dataclasses.replace(CONFIG, group=1), tmp_path, seed=0, ranks=Ranks(),
                 resume=False)  # fmt: skip


def test_rounds_go_on_where_they_stopped(tmp_path):
    def run(p, out, rounds, resume):
        numbers = []

        def collect(now, number):
            numbers.append(number)
            return [group(now)]

        config = dataclasses.replace(CONFIG, rounds=rounds, optim=dataclasses.replace(CONFIG.optim, steps=3))
        run_rad2(p, collect, config, out, seed=0, ranks=Ranks(), resume=resume)
        return numbers

    whole, parts, again = policy(), policy(), policy()
    assert run(whole, tmp_path / "a", 2, False) == [0, 1]
    run(parts, tmp_path / "b", 1, False)
    with (tmp_path / "b" / "log.jsonl").open("a") as file:
        file.write('{"round": 1.0}\n{"rou')  # of a round that a kill cut off
    assert run(again, tmp_path / "b", 2, True) == [1]
    rows = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [(row["round"], "return" in row) for row in rows] == [(0, True), (1, True)]
    # What they do, not every weight: a key's bias has no gradient but rounding, which AdamW scales up.
    drives = group(policy())
    choices, _ = choices_of(policy(), [drives], CONFIG)
    batch = Batch.from_samples(choices.samples)
    with torch.no_grad():
        a, b, untrained = (
            q.planner.scores(choices.plans_NMT2, choices.scene, None, batch) for q in (whole, again, policy())
        )
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(a, untrained, atol=1e-3)
    with pytest.raises(InputError, match="is for planner 'rad2', not for 'dit'"):
        run_rad2(policy("dit"), lambda *_: [], CONFIG, tmp_path, seed=0, ranks=Ranks(), resume=False)


def test_returns_order_drives_as_they_should():
    fine = Rollout.fake(20)
    near = dataclasses.replace(fine, ttc_F=np.full(20, 1.5))
    slow = dataclasses.replace(fine, progress_F=0.5 * fine.progress_F)
    hit = dataclasses.replace(fine, contacts=(Contact.fake(),))
    off = dataclasses.replace(fine, off_road_F=np.arange(20) > 15)
    assert drive_return(fine) == pytest.approx(1.0)
    assert drive_return(near) == pytest.approx(0.5)
    assert drive_return(slow) == pytest.approx(0.5)
    assert drive_return(hit) == drive_return(off) == pytest.approx(0.0)
    standing = dataclasses.replace(fine, expert_E4=0 * fine.expert_E4)
    assert drive_return(standing) == pytest.approx(1.0)
