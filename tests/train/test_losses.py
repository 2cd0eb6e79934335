"""Losses on plans: the shortfall from a decision against f_K; signs of stage 3's against finite differences, in points
and through the whitened basis; the re-timed targets and where each loss leaves a plan that turns."""

import numpy as np
import pytest
import torch

from senna2.decisions import f_k_plan
from senna2.model.basis import PlanBasis
from senna2.train.diagnostics import cross_track, plan_length, retimed
from senna2.train.losses import decision_shortfall, l_eff, l_retime, l_safe

T = 0.1 * torch.arange(1.0, 31.0, dtype=torch.float64)


def arc(v: float = 6.0, radius: float = 20.0, a: float = 0.0) -> torch.Tensor:
    """(1, 30, 2) a plan on a left-hand arc."""
    s = v * T + 0.5 * a * T**2
    return radius * torch.stack([torch.sin(s / radius), 1 - torch.cos(s / radius)], -1)[None]


def straight(v: float = 8.0) -> torch.Tensor:
    return torch.stack([v * T, 0 * T], -1)[None]


def by_hand(tau: np.ndarray, held: np.ndarray, safe: bool) -> float:
    """L_safe or L_eff of one plan, the stopped points taken from `held`."""
    total = 0.0
    for t in range(29):
        moves, stays = (tau[t + 1], held[t]) if safe else (tau[t], held[t + 1])
        total += float(((moves - stays) ** 2).sum())
    return total


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("tau", [straight(), arc(), arc(3.0, 12.0, 1.0)])
def test_gradients_are_the_finite_differences_and_point_the_right_way(safe, tau):
    tau = tau.clone().requires_grad_()
    (l_safe if safe else l_eff)(tau).sum().backward()
    held = tau.detach()[0].numpy()
    numeric = np.zeros_like(held)
    for i in np.ndindex(held.shape):
        for sign in (1, -1):
            moved = held.copy()
            moved[i] += sign * 1e-4
            numeric[i] += sign * by_hand(moved, held, safe) / 2e-4
    np.testing.assert_allclose(tau.grad[0].numpy(), numeric, atol=1e-6)
    step = np.diff(held, axis=0)  # from each point to the next
    if safe:  # a descent step takes every point but the first back toward the one before
        assert (numeric[0] == 0).all()
        assert (-(numeric[1:] * step).sum(1) < 0).all()
    else:
        assert (numeric[-1] == 0).all()
        assert (-(numeric[:-1] * step).sum(1) > 0).all()


def basis() -> PlanBasis:
    """Six whitened modes a side, of residuals that brake, accelerate and turn."""
    rng = np.random.default_rng(0)
    t = T.numpy()
    residual = []
    for _ in range(300):
        v, a, k = rng.uniform(3, 12), rng.normal(0, 1.2), rng.normal(0, 0.03)
        s = np.maximum.accumulate(np.maximum(v * t + 0.5 * a * t**2 + rng.normal(0, 0.1) * t**3, 0))
        x, y = (np.sin(k * s) / k, (1 - np.cos(k * s)) / k) if abs(k) > 1e-4 else (s, 0 * s)
        residual.append(np.stack([x - v * t, y], -1))
    return PlanBasis.fit(np.array(residual), kind="modes", modes=6).double()


def descend(kind: str, steps: int, rate: float, v: float = 6.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(start, end): an arc in the basis, moved by plain gradient steps on its coefficients."""
    fitted = basis()
    reference = straight(v)
    z = fitted.encode(arc(v) - reference).requires_grad_()
    start = (reference + fitted.decode(z)).detach()
    for _ in range(steps):
        tau = reference + fitted.decode(z)
        loss = {"safe": l_safe, "eff": l_eff, "retime": lambda x: l_retime(x, start, -1.5)}[kind](tau).sum()
        (gradient,) = torch.autograd.grad(loss, z)
        z = (z - rate * gradient / max(float(gradient.norm()), 1.0)).detach().requires_grad_()
    return start, (reference + fitted.decode(z)).detach()


@pytest.mark.parametrize(("kind", "longer"), [("safe", False), ("eff", True)])
def test_through_the_whitened_basis_one_loss_shortens_and_the_other_lengthens(kind, longer):
    start, end = descend(kind, 1, 0.05)
    assert bool(plan_length(end) > plan_length(start)) == longer
    assert float((plan_length(end) - plan_length(start)).abs()) > 0.05


def test_retimed_points_lie_on_the_path_at_the_right_place():
    tau = arc(8.0)
    for accel in (-1.5, 1.0):
        target = retimed(tau, accel, 0.1)
        inside = plan_length(target) <= plan_length(tau)
        assert float(cross_track(target, tau)) < 1e-9
        # on the arc itself: straight chords of 0.8 m on a radius of 20 m are off by 4 mm
        radius = (target[0, :29] - torch.tensor([0.0, 20.0])).norm(dim=-1) if bool(inside) else torch.tensor([20.0])
        assert float((radius - 20).abs().max()) < 0.01
    slower = retimed(straight(8.0), -1.5, 0.1)
    torch.testing.assert_close(slower[0, :, 0], 8 * T - 0.75 * T**2)
    faster = retimed(straight(8.0), 1.0, 0.1)
    torch.testing.assert_close(faster[0, :, 0], 8 * T + 0.5 * T**2)  # past its own end straight on


def test_a_retimed_plan_never_goes_backwards_and_a_standing_one_can_start():
    slow = retimed(straight(1.0), -1.5, 0.1)
    assert (slow[0, 1:, 0] >= slow[0, :-1, 0]).all()
    assert float(slow[0, -1, 0]) == pytest.approx(1 / 3, abs=0.01)  # v² / 2a, then it stands
    standing = torch.zeros(1, 30, 2, dtype=torch.float64, requires_grad=True)
    l_retime(standing, standing, 1.0).sum().backward()
    assert (standing.grad[0, :, 0] < 0).all()  # descent goes ahead: parking is not absorbing here
    assert (standing.grad[0, :, 1] == 0).all()


def test_retiming_ends_on_the_path_where_the_literal_loss_cuts_the_corner():
    """Many steps on an arc of 20 m at 6 m/s: the literal loss shortens on and on and leaves the path; the re-timed one
    has its minimum there."""
    start, end = descend("retime", 400, 0.02)
    assert float(cross_track(end, start)) < 0.1
    wanted = plan_length(retimed(start, -1.5, 0.1))
    torch.testing.assert_close(plan_length(end), wanted, rtol=0.02, atol=0.0)
    for steps in range(5, 400, 5):  # until it is as short
        _, literal = descend("safe", steps, 0.02)
        if plan_length(literal) <= wanted:
            break
    assert float(cross_track(literal, start)) > 3 * float(cross_track(end, start))
    _, literal = descend("safe", 400, 0.02)
    assert float(plan_length(literal)) < 0.5 * float(wanted)  # and it does not end there


def test_cross_track_by_hand():
    tau = straight(8.0)
    assert float(cross_track(tau * 0.5, tau)) == pytest.approx(0.0, abs=1e-9)  # slower on the same path
    assert float(cross_track(tau * 1.5, tau)) == pytest.approx(0.0, abs=1e-9)  # beyond its end
    aside = tau + torch.tensor([0.0, 0.3])
    assert float(cross_track(aside, tau)) == pytest.approx(0.3)
    assert float(cross_track(tau, torch.zeros_like(tau))) < 1e-9  # the path of a standing plan: straight ahead


def _plans(n: int, seed: int = 0) -> torch.Tensor:
    """(n, 30, 2) driven with speeds 0 to 15 m/s and accelerations -3 to 3 m/s² that may change on the way."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-3, 3, (n, 1)) * rng.uniform(0, 1, (n, 1)) + rng.normal(0, 0.3, (n, 1)) * np.arange(30) / 10
    v = np.maximum(0, rng.uniform(0, 15, (n, 1)) * rng.integers(0, 2, (n, 1)) + 0.1 * np.cumsum(a, 1))
    x = 0.1 * np.cumsum(v, 1)
    return torch.tensor(np.stack([x, 0.02 * x], -1))


def test_a_plan_without_a_shortfall_is_what_f_k_calls_it():
    tau = _plans(4000)
    said = f_k_plan(tau)[0]
    assert set(said.tolist()) == {-1, 0, 1, 2, 3}
    for speed in range(4):
        shortfall = decision_shortfall(tau, torch.full((len(tau),), speed))
        assert (shortfall >= 0).all()
        assert (said[shortfall == 0] == speed).all()
        near = shortfall[said == speed]
        # nearly all that f_K calls so lie within the margins of the inequalities
        assert (near < 0.25).float().mean() > 0.95
    assert (decision_shortfall(tau, torch.full((len(tau),), -1)) == 0).all()


@pytest.mark.parametrize("speed", range(4))
def test_the_shortfall_falls_to_nothing_by_a_small_change(speed):
    """Down its gradient, in whitened coefficients as the planner has them, any plan becomes one of the class."""
    tau = _plans(400, seed=1)
    tau = tau[tau[:, -1, 0] > 0.5]  # a parked plan has no direction to go
    basis = PlanBasis.fit(tau.float().numpy(), modes=6)
    z = basis.encode(tau.float()).clone().requires_grad_()
    before = f_k_plan(basis.decode(z.detach()))[0] == speed
    optimiser = torch.optim.Adam([z], 0.05)
    for _ in range(300):
        optimiser.zero_grad()
        decision_shortfall(basis.decode(z), torch.full((len(z),), speed)).sum().backward()
        assert torch.isfinite(z.grad).all()
        optimiser.step()
    after = f_k_plan(basis.decode(z.detach()))[0] == speed
    assert before.float().mean() < 0.7
    assert after.float().mean() > 0.95
