import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.types import (
    PLAN_DT,
    PLAN_STEPS,
    Camera,
    ClipMeta,
    Decision,
    Direction,
    InputError,
    Observation,
    Rig,
    Samples,
    Speed,
)

SMALL = {"dim": 32, "heads": 2, "blocks": 2, "mlp_ratio": 2, "channels": (8, 8, 16, 16)}


@dataclasses.dataclass(frozen=True)
class Answer:
    hidden_BD: torch.Tensor
    speed_B: torch.Tensor
    direction_B: torch.Tensor
    speed_logp_B4: torch.Tensor


class FakeVLM(nn.Module):
    """Decides by speed alone, and counts how often it is asked."""

    hidden_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
        self.asked = 0

    def decide(self, samples: Samples) -> Answer:
        self.asked += 1
        speed = torch.tensor([0 if v < 8 else 2 for v in samples.motion_N4[:, 0]])
        return Answer(
            hidden_BD=self.weight[speed].detach(),
            speed_B=speed,
            direction_B=torch.zeros_like(speed),
            speed_logp_B4=torch.log_softmax(10.0 * nn.functional.one_hot(speed, 4), -1),
        )


def _policy(obs: str = "state", rig: Rig | None = None, vlm: nn.Module | None = None, **kw) -> DualSystem:
    settings = SMALL | {"adapter": "both" if vlm else "decision"} | kw
    policy = DualSystem(PolicyConfig(obs=obs, **settings), rig or Rig.fake(), vlm=vlm)
    policy.fit_planner(Samples.fake(64))
    return policy


def _shake(policy: DualSystem) -> DualSystem:
    """Leave the zeros of the initialisation, as training would."""
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in policy.planner.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=g))
    return policy


def _double(batch: Batch) -> Batch:
    names = ("motion_B4", "speed_limit_B", "boxes_BA6", "lanes_BLP2", "route_BR2", "future_BT2")
    return dataclasses.replace(batch, **{n: getattr(batch, n).double() for n in names})


def _fit(policy: DualSystem, samples: Samples, steps: int, lr: float = 3e-3) -> tuple[float, float]:
    batch = Batch.from_samples(samples)
    optimiser = torch.optim.AdamW([p for p in policy.parameters() if p.requires_grad], lr)
    losses = []
    for step in range(steps):
        tokens = policy.encode(batch)
        f_vlm = policy.condition(None, batch.speed_B, batch.direction_B)
        loss = policy.planning_loss(tokens, f_vlm, batch, seed=0, step=step).mean()
        for extra in policy.perception_losses(tokens, batch).values():
            loss = loss + 0.1 * extra.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return float(np.mean(losses[:5])), float(np.mean(losses[-10:]))


def _fde(policy: DualSystem, samples: Samples) -> float:
    batch = Batch.from_samples(samples)
    with torch.no_grad():
        f_vlm = policy.condition(None, batch.speed_B, batch.direction_B)
        plan = policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=policy.sample_noise(batch.index_B, 0))
    return float((plan - batch.future_BT2)[:, -1].norm(dim=-1).mean())


# ------------------------------------------------------------------------------------------------ learning


@pytest.mark.parametrize(("obs", "steps"), [("state", 80), ("images", 80)])
def test_overfits_one_batch(obs, steps):
    samples = Samples.fake(6, Rig.fake())
    policy = _policy(obs)
    before = _fde(policy, samples)
    first, last = _fit(policy, samples, steps)
    assert last < 0.35 * first
    assert _fde(policy, samples) < 0.35 * before  # before: the inertial reference


@pytest.mark.parametrize("prediction", ["v", "eps"])
def test_the_other_predictions_learn_too(prediction):
    samples = Samples.fake(6)
    policy = _policy(prediction=prediction, t_start=0.8)
    first, last = _fit(policy, samples, 80)
    assert last < 0.7 * first


def test_faithful_is_the_papers_letter():
    config = PolicyConfig.faithful(obs="state", adapter="decision", **SMALL)
    assert (config.prediction, config.basis, config.loss, config.first_step_share) == ("eps", "points", "mse", 0.0)
    policy = DualSystem(config, Rig.fake())
    policy.fit_planner(Samples.fake(64))
    samples = Samples.fake(4)
    first, last = _fit(policy, samples, 60)
    assert last < first
    assert policy.plan_batch(samples).points_NT2.shape == (4, 30, 2)


def test_loss_is_per_sample_and_keyed_by_index():
    samples = Samples.fake(6)
    policy, batch = _shake(_policy()), Batch.from_samples(samples)

    def loss(b: Batch, seed: int = 0, step: int = 3) -> torch.Tensor:
        return policy.planning_loss(policy.encode(b), None, b, seed=seed, step=step)

    whole = loss(batch)
    assert whole.shape == (6,)
    torch.testing.assert_close(loss(batch.take(torch.tensor([4, 1]))), whole[[4, 1]], atol=1e-5, rtol=1e-4)
    assert not torch.isclose(loss(batch, step=4), whole).any()
    assert not torch.isclose(loss(batch, seed=1), whole).any()


def test_two_ranks_give_the_gradient_of_one():
    batch = _double(Batch.from_samples(Samples.fake(6)))
    policy = _shake(_policy()).double()

    def grads(rows: list[list[int]]) -> torch.Tensor:
        policy.zero_grad()
        for r in rows:
            part = batch.take(torch.tensor(r))
            tokens = policy.encode(part)
            f_vlm = policy.condition(None, part.speed_B, part.direction_B)
            (policy.planning_loss(tokens, f_vlm, part, seed=0, step=1).sum() / 6).backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    one, two = grads([[0, 1, 2, 3, 4, 5]]), grads([[5, 0, 3], [1, 4, 2]])
    assert (one - two).norm() < 1e-9 * one.norm()


def test_samples_without_a_future_are_masked():
    samples = Samples.fake(4)
    future = samples.future_NT3.copy()
    future[1, 20:] = np.nan
    batch = Batch.from_samples(dataclasses.replace(samples, future_NT3=future))
    policy = _shake(_policy())
    loss = policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=0)
    assert loss[1] == 0
    assert (loss[[0, 2, 3]] > 0).all()
    loss.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters() if p.grad is not None)


def test_image_jitter_is_keyed_and_only_on_request():
    policy, batch = _policy("images"), Batch.from_samples(Samples.fake(3, Rig.fake()))
    plain = policy.encode(batch).tokens_BSC
    torch.testing.assert_close(plain, policy.encode(batch).tokens_BSC)
    tinted = policy.encode(batch, augment=(0, 1)).tokens_BSC
    assert not torch.allclose(plain, tinted)
    alone = policy.encode(batch.take(torch.tensor([2])), augment=(0, 1)).tokens_BSC
    torch.testing.assert_close(tinted[2:], alone, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(tinted, policy.encode(batch, augment=(0, 2)).tokens_BSC)


def test_the_planner_reads_queries_and_image_tokens_or_queries_alone():
    batch = Batch.from_samples(Samples.fake(2, Rig.fake()))
    both, queries = _policy("images").encode(batch), _policy("images", image_tokens=False).encode(batch)
    assert both.tokens_BSC.shape == (2, 12 + 12 + 1 + 4 * 2, 32)
    assert queries.tokens_BSC.shape == (2, 25, 32)
    assert both.take(torch.tensor([1])).tokens_BSC.shape[0] == 1


def test_frozen_parts_stay_bit_identical():
    policy = _policy("images")
    policy.freeze("encoder", "perception", "vlm")
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    _fit(policy, Samples.fake(4, Rig.fake()), 3)
    moved = {n.split(".")[0] for n, p in policy.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {"planner", "adapter"}
    policy.freeze("encoder", frozen=False)
    assert all(p.requires_grad for p in policy.encoder.parameters())
    with pytest.raises(InputError, match="part 'head'"):
        policy.part("head")


def test_gradient_reaches_every_part():
    policy, batch = _shake(_policy("images")), Batch.from_samples(Samples.fake(3, Rig.fake()))
    tokens = policy.encode(batch)
    loss = policy.planning_loss(tokens, policy.condition(None, batch.speed_B, batch.direction_B), batch, seed=0, step=0)
    (loss.sum() + sum(v.sum() for v in policy.perception_losses(tokens, batch).values())).backward()
    missing = [n for n, p in policy.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing


# ------------------------------------------------------------------------------------------------ sampling


def test_plans_are_differentiable_through_both_ddim_steps():
    """Finite differences along the gradient of L_safe agree with autograd; cutting the first step changes it."""
    policy, batch = _shake(_policy()).double(), _double(Batch.from_samples(Samples.fake(2)))
    noise = policy.sample_noise(batch.index_B, 0).double()
    weight = policy.planner.out.bias

    def plan() -> torch.Tensor:
        return policy.sample_plan(policy.encode(batch), None, batch, noise=noise)

    anchor = plan().detach()

    def l_safe(p: torch.Tensor) -> torch.Tensor:
        return (p[:, 1:] - anchor[:, :-1]).pow(2).sum()

    (g,) = torch.autograd.grad(l_safe(plan()), weight)
    h = 1e-5
    with torch.no_grad():
        weight.add_(h * g)
        up = l_safe(plan())
        weight.sub_(2 * h * g)
        down = l_safe(plan())
        weight.add_(h * g)
    assert ((up - down) / (2 * h)).item() == pytest.approx(g.pow(2).sum().item(), rel=1e-4)
    x = noise.requires_grad_()
    (through,) = torch.autograd.grad(plan().sum(), x)
    assert through.abs().max() > 0


def test_a_step_of_l_safe_shortens_straight_plans_and_l_eff_lengthens_them():
    samples = Samples.fake(6)
    policy, batch = _policy(), Batch.from_samples(samples)
    _fit(policy, samples, 40)
    noise = policy.sample_noise(batch.index_B, 0)
    state = {n: p.detach().clone() for n, p in policy.named_parameters()}

    def plan() -> torch.Tensor:
        return policy.sample_plan(policy.encode(batch), None, batch, noise=noise)

    for sign in (-1, 1):
        before = plan()
        later, earlier = before[:, 1:], before[:, :-1]
        loss = (later - earlier.detach()) if sign < 0 else (earlier - later.detach())
        policy.zero_grad()
        loss.pow(2).sum(-1).sum(-1).mean().backward()
        with torch.no_grad():
            for p in policy.parameters():
                if p.grad is not None:
                    p.sub_(1e-6 * p.grad)
        moved = (plan() - before).detach()[:, -1].mean(0)
        assert sign * moved[0] > 0
        assert abs(moved[1]) < 0.01 * abs(moved[0])
        with torch.no_grad():
            for n, p in policy.named_parameters():
                p.copy_(state[n])


def test_before_training_the_plan_is_the_inertial_reference():
    plans = _policy().plan_batch(Samples.fake(5))
    v, t = Samples.fake(5).motion_N4[:, 0], PLAN_DT * np.arange(1, PLAN_STEPS + 1)
    np.testing.assert_allclose(plans.points_NT2[..., 0], v[:, None] * t, rtol=1e-5)
    assert (plans.points_NT2[..., 1] == 0).all()


def test_batch_plans_do_not_depend_on_the_batch():
    samples = Samples.fake(7)
    policy = _shake(_policy())
    whole = policy.plan_batch(samples).points_NT2
    np.testing.assert_allclose(policy.plan_batch(samples, chunk=2).points_NT2, whole, atol=1e-4)
    np.testing.assert_allclose(policy.plan_batch(samples.take(np.array([5, 2]))).points_NT2, whole[[5, 2]], atol=1e-4)
    assert np.abs(policy.plan_batch(samples, seed=1).points_NT2 - whole).max() > 1e-4


# ------------------------------------------------------------------------------------------------ decisions


def test_adapter_and_forced_decisions():
    samples = Samples.fake(6)
    policy = _shake(_policy(vlm=FakeVLM()))
    own, forced = policy.plan_batch(samples), policy.plan_batch(samples, Decision(Speed.STOP, Direction.UNKNOWN))
    said = np.where(samples.motion_N4[:, 0] < 8, 0, 2)
    np.testing.assert_array_equal(own.speed_N, said)
    np.testing.assert_array_equal(own.vlm_speed_N, said)
    assert (forced.speed_N == Speed.STOP).all()
    assert (forced.direction_N == Direction.STRAIGHT).all()  # UNKNOWN: the VLM's own
    np.testing.assert_array_equal(forced.vlm_speed_N, said)
    assert np.abs(own.points_NT2 - forced.points_NT2).max() > 1e-3
    deaf = _shake(_policy(adapter="none"))
    assert np.array_equal(deaf.plan_batch(samples).points_NT2, deaf.plan_batch(samples, Decision.fake()).points_NT2)
    assert (deaf.plan_batch(samples, Decision.fake()).speed_N == -1).all()


def test_a_forced_decision_comes_without_the_vlms_state_even_where_it_would_have_said_the_same(monkeypatch):
    """Else plans under several forced decisions would differ by the state too, which argues for one of them."""
    samples, policy = Samples.fake(6), _policy(vlm=FakeVLM())
    kept = []
    condition = policy.condition
    monkeypatch.setattr(policy, "condition", lambda *a: kept.append(a[3].tolist()) or condition(*a))
    own = policy.plan_batch(samples)
    policy.plan_batch(samples, Decision(Speed(int(own.vlm_speed_N[0])), Direction.UNKNOWN))
    policy.plan_batch(samples, Decision(Speed.UNKNOWN, Direction.UNKNOWN))
    assert kept == [[True] * 6, [False] * 6, [True] * 6]


def test_a_fresh_adapter_is_a_no_op():
    samples = Samples.fake(4)
    policy = _policy(vlm=FakeVLM())
    batch = Batch.from_samples(samples)
    for _ in range(2):  # stage 1b: no condition at all
        loss = policy.planning_loss(policy.encode(batch), None, batch, seed=0, step=0).mean()
        loss.backward()
        with torch.no_grad():
            for p in policy.parameters():
                p.sub_(0.1 * (p.grad if p.grad is not None else 0))
    noise = policy.sample_noise(batch.index_B, 0)
    none = policy.sample_plan(policy.encode(batch), None, batch, noise=noise)
    f_vlm = policy.condition(torch.randn(4, 16), batch.speed_B, batch.direction_B)
    assert torch.equal(policy.sample_plan(policy.encode(batch), f_vlm, batch, noise=noise), none)


@pytest.mark.parametrize("detach", [True, False])
def test_planner_losses_do_not_reach_the_vlm_unless_asked(detach):
    policy = _shake(_policy(vlm=FakeVLM(), detach_vlm=detach))
    batch = Batch.from_samples(Samples.fake(3))
    hidden = policy.vlm.weight[:3]
    f_vlm = policy.condition(hidden, batch.speed_B, batch.direction_B)
    policy.planning_loss(policy.encode(batch), f_vlm, batch, seed=0, step=0).sum().backward()
    assert (policy.vlm.weight.grad is None) == detach


def test_driving_asks_the_vlm_at_its_period_and_repeats_itself():
    policy = _shake(_policy(vlm=FakeVLM(), vlm_period_s=0.5))
    rig = Rig.fake()

    def drive(seed: int) -> list:
        policy.reset(dataclasses.replace(ClipMeta.fake(), rig=rig), seed)
        frames = [dataclasses.replace(Observation.fake(rig, i), t_s=0.1 * i) for i in range(12)]
        return [policy.act(f) for f in frames]

    plans = drive(0)
    assert policy.vlm.asked == 3
    np.testing.assert_allclose([p.decision_age_s for p in plans], [0, 0.1, 0.2, 0.3, 0.4] * 2 + [0, 0.1], atol=1e-6)
    assert plans[3].decision == plans[3].vlm_decision == Decision(Speed.KEEP, Direction.STRAIGHT)
    assert plans[3].speed_probs_4.sum() == pytest.approx(1)
    again, other = drive(0), drive(1)
    assert all(
        np.array_equal(a.trajectory.points_T2, b.trajectory.points_T2) for a, b in zip(plans, again, strict=True)
    )
    assert not np.array_equal(plans[0].trajectory.points_T2, other[0].trajectory.points_T2)


def test_decisions_forced_for_a_rollout_or_by_a_callback():
    policy = _shake(_policy(vlm=FakeVLM()))
    observation = Observation.fake(Rig.fake())
    policy.reset(ClipMeta.fake(), 0)
    own = policy.act(observation)
    policy.forced = Decision(Speed.STOP, Direction.UNKNOWN)
    stop = policy.act(observation)
    assert stop.decision == Decision(Speed.STOP, Direction.STRAIGHT)
    assert stop.vlm_decision == own.vlm_decision
    policy.forced = lambda o, said: Decision(Speed.ACCELERATE, said.direction) if o.v > 1 else None
    assert policy.act(observation).decision.speed == Speed.ACCELERATE
    without = _shake(_policy())
    assert without.act(observation).decision is None
    without.forced = Decision(Speed.ACCELERATE, Direction.UNKNOWN)
    assert without.act(observation).decision == Decision(Speed.ACCELERATE, Direction.UNKNOWN)


def test_a_callback_sees_the_frame_and_what_the_vlm_said_and_may_leave_it_alone():
    policy = _shake(_policy(vlm=FakeVLM()))
    heard = []

    def decide(observation: Observation, said: Decision | None) -> Decision | None:
        heard.append((observation.t_s, said))
        return Decision(Speed.STOP, Direction.TURN_LEFT) if observation.t_s > 0.15 else None

    policy.forced = decide
    policy.reset(ClipMeta.fake(), 0)
    frames = [dataclasses.replace(Observation.fake(Rig.fake()), t_s=0.1 * i) for i in range(4)]
    plans = [policy.act(f) for f in frames]
    own = Decision(Speed.KEEP, Direction.STRAIGHT)
    assert heard == [(f.t_s, own) for f in frames]
    assert [p.decision for p in plans] == [own, own, *[Decision(Speed.STOP, Direction.TURN_LEFT)] * 2]
    assert all(p.vlm_decision == own for p in plans)
    policy.forced = lambda _o, _said: "STOP"
    with pytest.raises(InputError, match="returned 'STOP'"):
        policy.act(frames[0])


def test_features_and_decision_are_of_one_tick_and_their_age_is_told():
    """The hidden state that reaches the adapter is the one from which the reported decision was decoded."""
    policy = _shake(_policy(vlm=FakeVLM(), vlm_period_s=0.3))
    given = []
    policy.adapter.register_forward_pre_hook(lambda _m, args: given.append((args[0], int(args[1]), bool(args[3]))))
    policy.reset(ClipMeta.fake(), 0)
    for i, v in enumerate((2.0, 12.0, 2.0, 12.0, 2.0, 2.0, 2.0)):  # the fake VLM accelerates under 8 m/s
        motion = np.array([v, 0, 0, 0], np.float32)
        frame = dataclasses.replace(Observation.fake(Rig.fake()), t_s=0.1 * i, motion_4=motion)
        plan = policy.act(frame)
        tick = i - i % 3
        speed = (0, 2, 0)[tick // 3]  # at 2, 12 and 2 m/s
        assert plan.vlm_decision.speed == speed
        assert plan.decision_age_s == pytest.approx(0.1 * (i - tick))
        hidden, told, keep = given[-1]
        assert (told, keep) == (speed, True)
        assert torch.equal(hidden, policy.vlm.weight[speed][None])


@pytest.mark.parametrize("hidden", ["prompt", "image"])
def test_which_hidden_states_feed_the_adapter_is_a_switch(hidden, monkeypatch):
    asked = []

    def pooled(_vlm, samples, which):
        asked.append(which)
        return torch.full((len(samples), 16), 5.0)

    monkeypatch.setattr("senna2.model.policy.pooled_hidden", pooled)
    samples = Samples.fake(3)
    policy, last = (_shake(_policy(vlm=FakeVLM(), hidden=h)) for h in (hidden, "last"))
    assert (policy.ask(samples).hidden_BD == 5).all()
    assert np.abs(policy.plan_batch(samples).points_NT2 - last.plan_batch(samples).points_NT2).max() > 1e-4
    assert asked == [hidden, hidden]
    _policy(vlm=FakeVLM(), hidden=hidden, adapter="decision").plan_batch(samples)
    assert asked == [hidden, hidden]  # not where nothing reads it
    with pytest.raises(InputError, match=r"policy\.hidden: 'first'"):
        PolicyConfig(hidden="first").validate()


# ------------------------------------------------------------------------------------------------ disk and errors


@pytest.mark.parametrize("obs", ["state", "images"])
def test_save_and_load_give_the_same_plans(tmp_path, obs):
    rig = Rig.default() if obs == "images" else Rig.fake()
    policy, samples = _shake(_policy(obs, rig)), Samples.fake(3, rig)
    folder = tmp_path / "runs" / "checkpoint"
    policy.save_pretrained(folder, {"seed": 3})
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "normalisation.json",
        "provenance.json",
    ]
    assert json.loads((folder / "provenance.json").read_text()) == {"seed": 3}
    again = DualSystem.from_pretrained(folder)
    assert again.config == policy.config
    assert np.array_equal(again.plan_batch(samples).points_NT2, policy.plan_batch(samples).points_NT2)
    _shake(policy).save_pretrained(folder)  # over itself
    assert not [p for p in folder.parent.iterdir() if p != folder]
    assert not np.array_equal(
        DualSystem.from_pretrained(folder).plan_batch(samples).points_NT2, again.plan_batch(samples).points_NT2
    )
    policy.save_pretrained(folder, half=True)
    half = DualSystem.from_pretrained(folder)
    assert next(half.parameters()).dtype == torch.float32
    np.testing.assert_allclose(half.plan_batch(samples).points_NT2, policy.plan_batch(samples).points_NT2, atol=0.05)


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    policy = _shake(_policy())
    policy.save_pretrained(tmp_path / "c", {"n": 1})

    def full_disk(*_a, **_k):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("senna2.model.pretrained.save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        policy.save_pretrained(tmp_path / "c", {"n": 2})
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    assert json.loads((tmp_path / "c" / "provenance.json").read_text()) == {"n": 1}
    DualSystem.from_pretrained(tmp_path / "c")


def test_broken_checkpoints_are_named(tmp_path):
    def fresh() -> None:
        _policy().save_pretrained(tmp_path / "c")

    def broken(match: str) -> None:
        with pytest.raises(InputError, match=match):
            DualSystem.from_pretrained(tmp_path / "c")

    broken("no such checkpoint folder")
    for name in ("config.json", "model.safetensors", "normalisation.json"):
        fresh()
        file = tmp_path / "c" / name
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        broken(f"{name}.*corrupt")
        file.write_bytes(b"")
        broken(name)
        file.unlink()
        broken(f"{name}.*missing" if name != "config.json" else "config.json")
        (tmp_path / "c" / "config.json").write_bytes(b"{}") if name == "config.json" else None
    fresh()
    config = json.loads((tmp_path / "c" / "config.json").read_text())
    for change, match in (
        ({"dim": 64}, "model.safetensors.*shape"),
        ({"blocks": 3}, "model.safetensors.*missing or unknown"),
        ({"plan_dt": 0.2}, "plan_dt"),
        ({"modes": 5}, "normalisation.json"),
        ({"prediction": "x1"}, "prediction"),
        ({"colour": 1}, "colour"),
    ):
        other = config | {"policy": config["policy"] | change}
        (tmp_path / "c" / "config.json").write_text(json.dumps(other))
        broken(match)
    policy = _policy()
    with torch.no_grad():
        policy.planner.out.bias[0] = float("nan")
    policy.save_pretrained(tmp_path / "n")
    with pytest.raises(InputError, match=r"planner\.out\.bias holds NaN"):
        DualSystem.from_pretrained(tmp_path / "n")


def test_other_peoples_folders_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="no checkpoint folder"):
        _policy().save_pretrained(tmp_path)
    assert (tmp_path / "thesis.tex").exists()
    with pytest.raises(InputError, match="not fitted"):
        DualSystem(PolicyConfig(obs="state", adapter="none", **SMALL), Rig.fake()).save_pretrained(tmp_path / "c")


def test_missing_inputs_are_named():
    rig = Rig.default()
    policy = _policy("images", rig)
    observation = Observation.fake(rig)
    less = dataclasses.replace(observation, images={k: v for k, v in observation.images.items() if k != "rear"})
    with pytest.raises(InputError, match="'rear' is missing"):
        policy.act(less)
    with pytest.raises(InputError, match=r"observation\.state"):
        _policy("state").act(dataclasses.replace(observation, state=None))
    with pytest.raises(InputError, match="not fitted"):
        DualSystem(PolicyConfig(obs="state", adapter="none", **SMALL), rig).plan_batch(Samples.fake(1))
    with pytest.raises(InputError, match="hidden size 16"):
        DualSystem(PolicyConfig(obs="state", **SMALL), rig, hidden_size=8).attach_vlm(FakeVLM())


def test_another_rig_is_refused_at_reset():
    rig = Rig.default()
    policy = _policy("images", rig)
    meta = dataclasses.replace(ClipMeta.fake(), rig=rig)
    policy.reset(meta, 0)
    extra = dataclasses.replace(Camera.fake(), name="roof")
    policy.reset(dataclasses.replace(meta, rig=Rig((*rig.cameras, extra))), 0)
    with pytest.raises(InputError, match="no camera 'rear'"):
        policy.reset(dataclasses.replace(meta, rig=Rig(rig.cameras[:3])), 0)
    zoomed = Rig((dataclasses.replace(rig.cameras[0], fx=90.0), *rig.cameras[1:]))
    with pytest.raises(InputError, match="'front' field fx is 90"):
        policy.reset(dataclasses.replace(meta, rig=zoomed), 0)
    _policy("state").reset(dataclasses.replace(meta, rig=zoomed), 0)  # state does not look


def test_initialisation_depends_on_its_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        return torch.cat(
            [
                p.flatten()
                for p in DualSystem(
                    PolicyConfig(obs="state", adapter="decision", **SMALL), Rig.fake(), seed=seed
                ).parameters()
            ]
        )

    torch.manual_seed(1)
    a = weights(0)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert torch.equal(a, weights(0))
    assert torch.equal(state, torch.random.get_rng_state())
    assert not torch.equal(a, weights(1))


# ------------------------------------------------------------------------------------------------ with the real VLM


def test_the_real_tiny_vlm_drives_and_survives_the_disk(tmp_path):
    from senna2.model.vlm.qwen import DrivingVLM

    rig = Rig((dataclasses.replace(Rig.default().cameras[0], width=112, cx=56.0),))
    policy = _shake(_policy("images", rig, DrivingVLM.tiny(seed=0)))
    samples = Samples.fake(2, rig)
    plans = policy.plan_batch(samples)
    assert ((plans.vlm_speed_N >= 0) & (plans.speed_N == plans.vlm_speed_N)).all()
    policy.reset(dataclasses.replace(ClipMeta.fake(), rig=rig), 0)
    assert policy.act(Observation.fake(rig)).speed_probs_4.sum() == pytest.approx(1, abs=1e-5)
    policy.save_pretrained(tmp_path / "c")
    again = DualSystem.from_pretrained(tmp_path / "c").plan_batch(samples)
    assert np.array_equal(again.points_NT2, plans.points_NT2)
    assert np.array_equal(again.vlm_speed_N, plans.vlm_speed_N)
    weights = tmp_path / "c" / "vlm" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="vlm"):
        DualSystem.from_pretrained(tmp_path / "c")
