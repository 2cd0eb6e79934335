"""Stage 2's oracle: who is supervised, what an all-consistent batch does to the weights, and what the log says."""

import dataclasses

import numpy as np
import pytest
import torch

from senna2.evaluate.consistency import consistency
from senna2.model.batch import Batch
from senna2.train import stage2
from senna2.train.diagnostics import CLASSES, agreement_counts, with_f1
from senna2.train.distributed import Ranks
from senna2.train.guards import AlignmentGuards, off
from senna2.train.loop import Optim, train
from senna2.train.losses import decision_shortfall
from senna2.train.stage1 import consistency_of, vlm_of
from senna2.train.stage2 import OpenLoopAlignment, Stage2, run_2
from senna2.types import Direction, InputError, Plans, Samples, Speed

OPTIM = Optim(steps=3, batch=8, lr=1e-2, weight_decay=0.1, log_every=1)
CONFIG = Stage2(OPTIM, draws=2, guards=off(AlignmentGuards()))


def plan(a: float, side: float = 0.0, v: float = 8.0) -> torch.Tensor:
    """Constant acceleration; `side` ±1: on an arc of 20 m radius; a NaN acceleration: jagged, so UNKNOWN to f_K."""
    t = 0.1 * torch.arange(1.0, 31.0)
    s = v * t + (0.0 if np.isnan(a) else 0.5 * a * t**2)
    if np.isnan(a):
        s = s + 0.08 * (-1.0) ** torch.arange(30)
    if side == 0:
        return torch.stack([s, torch.zeros_like(s)], -1)
    return 20.0 * torch.stack([torch.sin(s / 20), side * (1 - torch.cos(s / 20))], -1)


ACC, DEC, KEEP, JAGGED = plan(1.5), plan(-1.5), plan(0.0), plan(np.nan)
STOP, LEFT, RIGHT = plan(0.0, v=0.0), plan(0.0, 1.0), plan(0.0, -1.0)
TABLE = [  # plan, said speed, said direction, consistent with lane changes by speed, with them folded
    (ACC, Speed.ACCELERATE, Direction.STRAIGHT, True, True),
    (ACC, Speed.KEEP, Direction.STRAIGHT, False, False),
    (DEC, Speed.DECELERATE, Direction.STRAIGHT, True, True),
    (KEEP, Speed.KEEP, Direction.STRAIGHT, True, True),
    (STOP, Speed.STOP, Direction.STRAIGHT, True, True),
    (STOP, Speed.KEEP, Direction.STRAIGHT, False, False),
    (LEFT, Speed.KEEP, Direction.TURN_LEFT, True, True),
    (LEFT, Speed.KEEP, Direction.TURN_RIGHT, False, False),
    (RIGHT, Speed.KEEP, Direction.TURN_RIGHT, True, True),
    (LEFT, Speed.KEEP, Direction.STRAIGHT, False, False),
    (KEEP, Speed.KEEP, Direction.TURN_LEFT, False, False),
    (KEEP, Speed.KEEP, Direction.CHANGE_LEFT, True, False),  # f_K calls a lane change straight
    (LEFT, Speed.KEEP, Direction.CHANGE_LEFT, True, True),
    (ACC, Speed.KEEP, Direction.CHANGE_RIGHT, False, False),
    (JAGGED, Speed.KEEP, Direction.STRAIGHT, False, False),  # UNKNOWN must not escape supervision
    (JAGGED, Speed.KEEP, Direction.CHANGE_LEFT, False, False),
]


def test_the_mask_is_a_truth_table():
    plans = torch.stack([row[0] for row in TABLE])
    speed, direction = (torch.tensor([int(row[i]) for row in TABLE]) for i in (1, 2))
    assert consistency_of(plans, speed, direction).tolist() == [row[3] for row in TABLE]
    folded = consistency_of(plans, speed, direction, lane_change_by_speed=False)
    assert folded.tolist() == [row[4] for row in TABLE]


def test_the_literal_reading_is_one_switch():
    literal = dataclasses.replace(CONFIG, faithful=True).effective()
    assert not literal.lane_change_by_speed
    assert (literal.draws, literal.careful, literal.vlm_lr_scale, literal.stale_max_s) == (1, 1.0, 1.0, 0.0)
    assert (literal.told, CONFIG.told) == ("own", "label")
    assert CONFIG.effective() == CONFIG


@pytest.fixture
def stage(make_policy, store):
    policy = make_policy()
    vlm_of(policy).add_lora()
    return OpenLoopAlignment(policy, store, CONFIG, seed=0)


def _agree(monkeypatch, which) -> None:
    monkeypatch.setattr(stage2, "consistency_of", lambda plan_B, *_, **__: torch.as_tensor(which(len(plan_B))))


def test_only_inconsistent_samples_are_learned_from(stage, monkeypatch):
    """The gradient of a mixed batch is that of its inconsistent samples alone, over the whole batch."""

    def gradient(index, which):
        _agree(monkeypatch, which)
        stage.policy.zero_grad()
        loss, _ = stage.loss(stage.load(np.asarray(index)), 0, 8)
        sum(loss.values()).backward()
        return {n: p.grad.clone() for n, p in stage.named_parameters().items() if p.grad is not None}

    mixed = gradient(range(8), lambda n: np.arange(n) % 2 == 0)
    alone = gradient([1, 3, 5, 7], lambda n: np.zeros(n, bool))
    assert mixed.keys() == alone.keys()
    assert any(g.abs().sum() > 0 for n, g in mixed.items() if "lora_" in n)
    for name, g in mixed.items():
        torch.testing.assert_close(g, alone[name], rtol=1e-4, atol=1e-7)


def test_an_all_consistent_batch_moves_nothing_not_even_by_momentum_or_decay(stage, tmp_path, monkeypatch):
    calls = []

    def after_the_first(n):
        calls.append(n)
        return np.full(n, len(calls) > 1)

    _agree(monkeypatch, after_the_first)
    seen = []
    train(stage, OPTIM, tmp_path, on_step=lambda _: seen.append(_flat(stage)))
    assert not torch.equal(seen[0], torch.zeros_like(seen[0]))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[1], seen[2])
    assert torch.isfinite(seen[2]).all()


def _flat(stage) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1).clone() for p in stage.named_parameters().values()])


def test_the_planners_loss_reaches_lora_if_it_is_not_cut(make_policy, store, monkeypatch):
    _agree(monkeypatch, lambda n: np.zeros(n, bool))
    found = {}
    for cut in (True, False):
        policy = make_policy(detach_vlm=cut)
        vlm_of(policy).add_lora()
        _shaken(policy)
        stage = OpenLoopAlignment(policy, store, dataclasses.replace(CONFIG, told="own"), seed=0)
        loss, _ = stage.loss(stage.load(np.arange(4)), 0, 4)
        lora = [p for n, p in stage.named_parameters().items() if "lora_B" in n]
        grads = torch.autograd.grad(loss["planning"], lora, retain_graph=True, allow_unused=True)
        found[cut] = loss["planning"].item(), sum(float(g.abs().sum()) for g in grads if g is not None)
    assert found[True][1] == 0
    assert found[False][1] > 0
    assert found[False][0] == pytest.approx(found[True][0], rel=1e-4)  # only what flows back differs


def _shaken(policy) -> None:
    """As if it had been trained: the planner listens to F_vlm."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if not name.startswith("vlm."):
                p.add_(0.02 * torch.randn(p.shape, generator=rng))


def test_the_planners_loss_does_not_reach_lora_nor_the_vlms_the_planner(stage, monkeypatch):
    _agree(monkeypatch, lambda n: np.zeros(n, bool))
    named = stage.named_parameters()
    loss, _ = stage.loss(stage.load(np.arange(4)), 0, 4)
    for term, foreign in (("planning", lambda n: n.startswith("vlm.")), ("vlm", lambda n: not n.startswith("vlm."))):
        found = torch.autograd.grad(loss[term], list(named.values()), retain_graph=True, allow_unused=True)
        touched = {n for n, g in zip(named, found, strict=True) if g is not None and bool(g.abs().sum() > 0)}
        assert touched
        assert not any(map(foreign, touched))


def test_the_shortfall_to_the_decision_reaches_the_planner_alone(make_policy, store, monkeypatch):
    _agree(monkeypatch, lambda n: np.arange(n) % 2 == 0)
    policy = make_policy()
    vlm_of(policy).add_lora()
    stage = OpenLoopAlignment(policy, store, dataclasses.replace(CONFIG, shortfall_weight=0.5, shortfall_on="all"), 0)
    data = stage.load(np.arange(8))
    loss, values = stage.loss(data, 0, 8)
    assert 0 < values["shortfall"] == loss["shortfall"].item()
    named = stage.named_parameters()
    found = torch.autograd.grad(loss["shortfall"], list(named.values()), retain_graph=True, allow_unused=True)
    touched = {n for n, g in zip(named, found, strict=True) if g is not None and bool(g.abs().sum() > 0)}
    assert touched
    assert not any(n.startswith("vlm.") for n in touched)
    # of the plans that are inconsistent, under the VLM's own decisions, over the whole batch
    tensors = Batch.from_samples(data.take(np.arange(1, 8, 2)))
    said = policy.ask(data).take(np.arange(1, 8, 2))
    f_vlm = policy.condition(said.hidden_BD, said.speed_B, said.direction_B)
    noise = policy.sample_noise(tensors.index_B, 0, 0)
    tau = policy.sample_plan(policy.encode(tensors), f_vlm, tensors, noise=noise, steps=2)
    shortfall_b = decision_shortfall(tau, said.speed_B).detach().numpy()
    right_b = said.speed_B.numpy() == data.speed_N[1:8:2]
    assert loss["shortfall"].item() == pytest.approx(0.5 * shortfall_b.sum() / 8, rel=1e-4)
    stage.config = dataclasses.replace(stage.config, shortfall_on="right")
    assert stage.loss(data, 0, 8)[1]["shortfall"] == pytest.approx(0.5 * (shortfall_b * right_b).sum() / 8, rel=1e-4)
    assert 0 < right_b.sum() < 4


def test_the_log_tells_agreement_scores_and_gradients(make_policy, store, tmp_path):
    log = run_2(make_policy(), store, CONFIG, tmp_path, seed=5, ranks=Ranks(), resume=False)
    row = log[-1]
    assert {"consistent", "coverage", "accuracy", "decision_entropy", "f1_avg", "grad_norm_planning", "grad_norm_vlm",
            "samples_per_s", "waiting_share"} <= row.keys()  # fmt: skip
    assert not any("/" in name for name in row)
    assert sum(row[f"says_{c}"] for c in ("accelerate", "decelerate", "keep", "stop")) == pytest.approx(1)
    assert row["planning"] + row["vlm"] == pytest.approx(row["loss"], rel=1e-5)
    for row in log:
        if row["consistent"] > 0:
            assert 0 <= row["skipped_accuracy"] <= 1


def test_shares_are_of_the_samples_that_nobody_forced(make_policy, store, monkeypatch):
    """Half are counterfactual, a label is unknown: neither is counted against the VLM or the plans."""
    speed_N = np.array([-1] + [Speed.KEEP] * 23, np.int8)
    samples = dataclasses.replace(store.states, counterfactual_N=np.arange(24) % 2 == 1, speed_N=speed_N)
    policy = make_policy()
    vlm_of(policy).add_lora()
    stage = OpenLoopAlignment(policy, type(store)(samples), dataclasses.replace(CONFIG, forced_share=0.5), seed=0)
    _agree(monkeypatch, lambda n: np.ones(n, bool))
    data = stage.load(np.arange(8))
    said = policy.ask(data).speed_B.numpy()
    _, values = stage.loss(data, 0, 8)
    row = stage.derive(values)
    assert row["consistent"] == pytest.approx(1)
    assert sum(row[f"says_{c}"] for c in ("accelerate", "decelerate", "keep", "stop")) == pytest.approx(1)
    right = float((said[2:8:2] == Speed.KEEP).mean())
    assert (row["accuracy"], row["skipped_accuracy"]) == (pytest.approx(right), pytest.approx(right))


def _random_decisions(n: int, seed: int):
    rng = np.random.default_rng(seed)
    plans = [ACC, DEC, KEEP, STOP, LEFT, RIGHT, JAGGED]
    kind = rng.choice(len(plans), n, p=[0.2, 0.2, 0.25, 0.1, 0.1, 0.1, 0.05])
    speed = np.array([0, 1, 2, 3, 2, 2, 2])[kind]
    direction = np.array([0, 0, 0, 0, 1, 2, 0])[kind]
    return torch.stack(plans)[kind], speed, direction


def test_f1_in_the_log_is_the_evaluations_and_shuffled_decisions_fall_to_the_floor():
    n = 4000
    tau, speed, direction = _random_decisions(n, 0)
    shuffled = np.random.default_rng(1).permutation(n)
    base = Samples.fake(1)
    samples = base.take(np.zeros(n, int))
    for order, floored in ((np.arange(n), False), (shuffled, True)):
        said = speed[order].astype(np.int8), direction[order].astype(np.int8)
        tau_speed, tau_path = stage2.f_k_plan(tau)
        counts = agreement_counts(*map(torch.as_tensor, said), tau_speed, tau_path)
        scores = with_f1(counts)
        plans = Plans(tau.numpy(), *said, *said)
        metrics = consistency(samples, plans)
        for name in CLASSES:
            assert scores[f"f1_{name}"] == pytest.approx(metrics[name].value, abs=1e-6), name
            if floored:
                p, q = (counts[f"{what}/{name}"] / n for what in ("said", "did"))
                assert scores[f"f1_{name}"] == pytest.approx(2 * p * q / (p + q), abs=0.04), name
            else:
                assert scores[f"f1_{name}"] == 1.0
        assert scores["f1_avg"] == pytest.approx(metrics["avg"].value, abs=1e-6)


# --- forced decisions -------------------------------------------------------------------------------------------


def _forced_stage(make_policy, store, share: float) -> OpenLoopAlignment:
    """Every third sample is counterfactual."""
    forced = np.arange(len(store)) % 3 == 0
    known = {"speed_N": np.full(len(store), Speed.DECELERATE, np.int8), "direction_N": np.zeros(len(store), np.int8)}
    store = type(store)(dataclasses.replace(store.states, counterfactual_N=forced, **known))
    policy = make_policy()
    vlm_of(policy).add_lora()
    return OpenLoopAlignment(policy, store, dataclasses.replace(CONFIG, forced_share=share), seed=0)


def test_forced_samples_are_drawn_by_their_share(make_policy, store):
    stage = _forced_stage(make_policy, store, 0.5)
    drawn = stage.store.states.counterfactual_N[np.concatenate([stage.draw(step, 64) for step in range(20)])]
    assert drawn.mean() == pytest.approx(0.5, abs=0.05)
    without = _forced_stage(make_policy, store, 0.0)
    assert not without.store.states.counterfactual_N[without.draw(0, 64)].any()
    with pytest.raises(InputError, match=r"stage2\.forced_share: 1.0 must lie in"):
        _forced_stage(make_policy, store, 1.0)


def test_on_a_forced_sample_the_planner_is_told_what_was_forced_and_the_vlm_learns_nothing(make_policy, store):
    stage = _forced_stage(make_policy, store, 0.5)
    data = stage.load(np.array([0, 3, 1, 2]))  # two forced, two not
    said = stage.policy.ask(data)
    speed, direction, own = stage._decided(data, said, data.counterfactual_N)
    assert speed[:2].tolist() == data.speed_N[:2].tolist()
    assert speed[2:].tolist() == said.speed_B[2:].tolist()
    assert direction[2:].tolist() == said.direction_B[2:].tolist()
    assert own[2:].all()
    assert (
        own[:2].tolist() == ((said.speed_B[:2] == speed[:2]) & (said.direction_B[:2] == direction[:2])).tolist()
    )  # the hidden state goes with a decision that is the VLM's own
    loss, values = stage.loss(stage.load(np.array([0, 3, 6])), 0, 3)
    assert "vlm" not in loss
    assert values["said/keep"] == values["right"] == 0.0  # the log speaks of the VLM's own decisions
