"""Every stage on one small batch: it overfits, it leaves frozen weights alone, and an interruption changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.decisions import f_k_plan
from senna2.model.batch import Batch
from senna2.train.distributed import Ranks
from senna2.train.frames import RolloutFrames, save_frames
from senna2.train.guards import AlignmentGuards, DrivingGuards, off
from senna2.train.loop import Optim
from senna2.train.stage1 import (
    AdapterStage,
    Stage1a,
    Stage1b,
    Stage1c,
    run_1a,
    run_1b,
    run_1c,
    told_decision,
    vlm_of,
)
from senna2.train.stage2 import OpenLoopAlignment, Stage2, run_2
from senna2.train.stage3 import Stage3, run_3


def _optim(steps: int, lr: float = 2e-3, batch: int | None = None) -> Optim:
    """Short runs are interrupted; long ones must overfit a batch of twelve."""
    short = steps < 10
    batch = batch or (6 if short else 12)
    return Optim(steps=steps, batch=batch, lr=lr, checkpoint_every=2 if short else 1000, log_every=4)


def _config(stage: str, steps: int):
    if stage == "1a":
        return Stage1a(_optim(steps))
    if stage == "1b":
        return Stage1b(_optim(steps), draws=2)
    if stage == "1c":
        return Stage1c(_optim(steps), draws=2)
    if stage == "2":
        return Stage2(_optim(steps), draws=2, guards=off(AlignmentGuards()))
    return Stage3(_optim(steps, 1e-4, 8), _optim(2, 1e-3, 4), guards=off(DrivingGuards()))


def _frames(store) -> RolloutFrames:
    """Every third frame risky, every third slow, every third neither."""
    kind = np.arange(len(store)) % 3
    n = len(store)
    return RolloutFrames(store.states, kind == 0, kind == 1, np.zeros(n, np.int8), np.zeros(n, np.int8))


def _run(stage, policy, store, config, out, *, resume=False, **more):
    common = {"seed": 5, "ranks": Ranks(), "resume": resume, **more}
    if stage == "3":
        if not resume:
            save_frames(out / "round-0", _frames(store))  # what `collect` would have left
        common["resume"] = True
        return run_3(policy, lambda *_: pytest.fail("frames are there already"), config, out, **common)
    return {"1a": run_1a, "1b": run_1b, "1c": run_1c, "2": run_2}[stage](policy, store, config, out, **common)


def _weights(policy) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in policy.named_parameters()}


@pytest.mark.parametrize(("stage", "steps", "share"), [("1a", 25, 0.5), ("1b", 30, 0.6), ("1c", 30, 0.7)])
def test_stage_1_overfits_one_batch(stage, steps, share, make_policy, store, tmp_path):
    one = type(store)(store.states.take(slice(0, 12)))
    log = _run(stage, make_policy(), one, _config(stage, steps), tmp_path)
    assert log[-1]["loss"] < share * log[0]["loss"]


def test_stage_2_overfits_one_batch(make_policy, store, tmp_path):
    """Supervised only where inconsistent, so what must fall is the loss of the samples that disagreed at the start."""
    one = type(store)(store.states.take(slice(0, 12)))
    log = _run("2", make_policy(), one, dataclasses.replace(_config("2", 20), vlm_lr_scale=3.0), tmp_path)
    assert log[0]["consistent"] < 0.5
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]


FROZEN = {
    "1a": ("adapter.", "encoder.", "perception.", "planner."),
    "1b": ("vlm.", "adapter."),
    "1c": ("vlm.",),
}


@pytest.mark.parametrize("stage", ["1a", "1b", "1c"])
def test_frozen_parameters_stay_bit_identical(stage, make_policy, store, tmp_path):
    policy = make_policy()
    before = _weights(policy)
    _run(stage, policy, store, _config(stage, 3), tmp_path)
    changed = {n for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert not any(n.startswith(FROZEN[stage]) for n in changed)


def test_freezing_the_backbone_is_an_option_of_1c(make_policy, store, tmp_path):
    policy = make_policy()
    before = _weights(policy)
    _run("1c", policy, store, dataclasses.replace(_config("1c", 2), freeze_backbone=True), tmp_path)
    assert all(torch.equal(p, before[n]) for n, p in policy.named_parameters() if n.startswith("encoder."))


def test_after_stage_1b_a_fresh_adapter_changes_no_plan(make_policy, store, tmp_path):
    """adaLN-zero, kept through 1b: whatever a new adapter says about VLM and decision, the planner drives as before;
    after one step of 1c it no longer does."""
    policy = make_policy()
    _run("1b", policy, store, _config("1b", 4), tmp_path / "1b")
    batch = Batch.from_samples(store.take(np.arange(6)))
    noise = policy.sample_noise(batch.index_B, 0)
    hidden = torch.randn(6, policy.hidden_size)

    def plans(f_vlm):
        with torch.no_grad():
            return policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=noise)

    alone = plans(None)
    assert not torch.allclose(alone, plans(None)[torch.arange(5, -1, -1)])
    assert torch.equal(plans(policy.condition(hidden, batch.speed_B, batch.direction_B)), alone)
    nothing = torch.full((6,), -1)
    assert torch.equal(plans(policy.condition(None, nothing, nothing)), alone)
    _run("1c", policy, store, _config("1c", 1), tmp_path / "1c")
    assert not torch.equal(plans(policy.condition(hidden, batch.speed_B, batch.direction_B)), plans(None))


def test_the_planning_loss_of_1c_gives_the_vlm_no_gradient(make_policy, store):
    policy = make_policy()
    _shake(policy)
    stage = AdapterStage(policy, store, _config("1c", 1), 0)
    loss, _ = stage.loss(stage.load(np.arange(8)), 0, 8)
    loss.backward()
    assert all(p.grad is None for n, p in policy.named_parameters() if n.startswith("vlm."))
    for part in ("adapter.", "planner.", "encoder.", "perception."):
        found = [p.grad for n, p in policy.named_parameters() if n.startswith(part) and p.grad is not None]
        assert sum(float(g.abs().sum()) for g in found) > 0, part


def test_forced_decisions_are_not_counted_against_the_vlm(make_policy, store):
    samples = dataclasses.replace(store.states, counterfactual_N=np.arange(24) % 2 == 1)
    policy = make_policy()
    stage = AdapterStage(policy, type(store)(samples), dataclasses.replace(_config("1c", 1), stale_max_s=0.0), 0)
    data = stage.load(np.arange(8))
    _, values = stage.loss(data, 0, 8)
    right = policy.ask(data).speed_B.numpy()[::2] == data.speed_N[::2]
    assert stage.derive(values)["vlm_speed_accuracy"] == pytest.approx(right.mean())


def _shake(policy) -> None:
    """As if it had been trained: no weight is exactly zero any more."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if not name.startswith("vlm."):
                p.add_(0.02 * torch.randn(p.shape))


def test_the_papers_letter_is_one_switch_a_stage():
    optim = _optim(1)
    assert Stage1a(optim, balance=0.7, qa_share=0.1, faithful=True).effective() == Stage1a(
        optim, balance=0.0, qa_share=0.0, faithful=True
    )
    literal = Stage1b(optim, faithful=True).effective()
    assert (literal.perception_weight, literal.draws, literal.careful) == (0.0, 1, 1.0)
    literal = Stage1c(optim, faithful=True).effective()
    assert (literal.own_share, literal.expert_share, literal.stale_max_s, literal.perception_weight) == (1, 0, 0, 0)
    literal = Stage3(optim, optim, faithful=True, low_mode="retime").effective()
    assert (literal.lambda_eff, literal.lambda_anchor, literal.low_mode, literal.together) == (
        1.0,
        0.0,
        "literal",
        True,
    )
    for config in (Stage1a(optim), Stage1b(optim), Stage1c(optim), Stage2(optim), Stage3(optim, optim)):
        assert config.effective() == config


@pytest.mark.parametrize("stage", ["2", "3"])
def test_the_vlm_learns_by_lora_alone(stage, make_policy, store, tmp_path):
    policy = make_policy()
    before = {n.replace("base_layer.", ""): p for n, p in _weights(policy).items()}
    _run(stage, policy, store, _config(stage, 3), tmp_path)
    vlm = {n: p for n, p in policy.named_parameters() if n.startswith("vlm.")}
    base = {n.replace("base_layer.", ""): p for n, p in vlm.items() if "lora_" not in n}
    assert len(base) < len(vlm)
    assert all(torch.equal(p, before[n]) for n, p in base.items())
    assert any(bool(p.abs().sum() > 0) for n, p in vlm.items() if "lora_B" in n)
    assert any(not torch.equal(p, before[n]) for n, p in policy.named_parameters() if n.startswith("planner."))


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stage", ["1a", "1b", "1c", "2", "3"])
def test_interrupted_and_resumed_equals_unbroken(stage, make_policy, store, tmp_path):
    def interrupt(step: int) -> None:
        if step == 3:
            raise _Stop

    config = _config(stage, 6)
    whole = make_policy()
    _run(stage, whole, store, config, tmp_path / "whole")
    broken = make_policy()
    with pytest.raises(_Stop):
        _run(stage, broken, store, config, tmp_path / "broken", on_step=interrupt)
    resumed = make_policy()
    _run(stage, resumed, store, config, tmp_path / "broken", resume=True)
    theirs = _weights(resumed)
    assert all(torch.equal(p, theirs[n]) for n, p in whole.named_parameters())


def test_consistent_samples_get_no_gradient_in_stage_2(make_policy, store):
    policy = make_policy()
    vlm_of(policy).add_lora()
    stage = OpenLoopAlignment(policy, store, _config("2", 1), seed=0)
    data = stage.load(np.arange(8))
    said = vlm_of(policy).decide(data)

    def agreeing(*_, **__):  # plans that do what the VLM said: constant acceleration of that sign, straight on
        t = torch.arange(1, 31) * 0.1
        a = torch.tensor([1.5, -1.5, 0.0, 0.0])[said.speed_B]
        v = torch.where(said.speed_B == 3, 0.0, 8.0)
        x = v[:, None] * t + 0.5 * a[:, None] * t**2
        y = torch.tensor([0.0, 1.0, -1.0, 0.0, 0.0])[said.direction_B][:, None] * 2.0 * t**2
        return torch.stack([x, y], -1)

    policy.sample_plan = agreeing
    speed, _ = f_k_plan(agreeing())
    loss, values = stage.loss(data, 0, 8)
    if bool((speed == said.speed_B).all()) and values["consistent"] == 1:
        assert loss is None
    else:  # the rows that still disagree are the only ones that count
        assert values["consistent"] < 1
        assert loss is not None


def test_told_decisions_follow_their_shares_and_force_counterfactuals():
    from senna2.types import Samples

    data = Samples.fake(3000)
    forced = np.arange(3000) % 10 == 0
    data = dataclasses.replace(data, counterfactual_N=forced, index_N=np.arange(3000, dtype=np.int64))
    own = torch.full((3000,), 3), torch.zeros(3000, dtype=torch.long)
    speed, direction, with_hidden = told_decision(data, *own, seed=0, step=0, own_share=0.5, expert_share=0.25)
    speed = speed.numpy()
    assert (speed[forced] == data.speed_N[forced]).all()
    free = ~forced
    assert abs((speed[free] == 3).mean() - 0.5) < 0.04
    assert abs((speed[free] == -1).mean() - 0.25) < 0.04
    assert (direction.numpy()[speed == -1] == -1).all()
    assert (with_hidden.numpy() == (speed == 3)).all()
