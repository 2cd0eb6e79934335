"""Oracles: diffusers' DDIMScheduler, and the closed form of an exact denoiser."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from senna2.model import diffusion
from senna2.model.diffusion import Schedule, inertial_reference, keyed_noise, keyed_uniform, training_times
from senna2.types import InputError

NAMES = {"x0": "sample", "v": "v_prediction", "eps": "epsilon"}


def _theirs(name: str, prediction: str, **kw) -> DDIMScheduler:
    curve = {"cosine": {"beta_schedule": "squaredcos_cap_v2"},
             "linear": {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 1.2e-2}}[name]  # fmt: skip
    return DDIMScheduler(
        **({"num_train_timesteps": 1000} | curve | kw), prediction_type=NAMES[prediction], clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip


def _net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Any smooth function of x_t and t stands for a network."""
    return torch.tanh(0.7 * x.roll(1, -1) + 0.1) * (1 + t.view(-1, *[1] * (x.ndim - 1)) / 1000)


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["x0", "v", "eps"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_ddim_agrees_with_diffusers(name, prediction, steps):
    ours, theirs = Schedule(name), _theirs(name, prediction)
    theirs.set_timesteps(steps)
    assert ours.sampling_steps(steps) == theirs.timesteps.tolist()
    noise = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(1))
    x = noise
    for t in theirs.timesteps:
        x = theirs.step(_net(x, t.expand(3)), int(t), x, eta=0.0).prev_sample
    got = ours.ddim(_net, noise, prediction=prediction, steps=steps)
    torch.testing.assert_close(got, x, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("prediction", ["x0", "v", "eps"])
def test_starting_lower_is_a_shorter_schedule_of_diffusers(prediction):
    ours = Schedule()
    betas = DDIMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").betas[:800]
    theirs = _theirs("cosine", prediction, num_train_timesteps=800, trained_betas=betas.numpy())
    theirs.set_timesteps(2)
    assert ours.sampling_steps(2, 0.8) == theirs.timesteps.tolist() == [799, 399]
    x = noise = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(2))
    for t in theirs.timesteps:
        x = theirs.step(_net(x, t.expand(3)), int(t), x, eta=0.0).prev_sample
    got = ours.ddim(_net, noise, prediction=prediction, steps=2, t_start=0.8)
    torch.testing.assert_close(got, x, rtol=2e-4, atol=2e-4)


def test_q_sample_and_targets_agree_with_diffusers():
    ours, theirs = Schedule(), _theirs("cosine", "v")
    g = torch.Generator().manual_seed(3)
    x0, noise, t = (
        torch.randn(5, 6, 2, generator=g),
        torch.randn(5, 6, 2, generator=g),
        torch.tensor([0, 1, 300, 700, 999]),
    )
    torch.testing.assert_close(ours.q_sample(x0, noise, t), theirs.add_noise(x0, noise, t))
    torch.testing.assert_close(ours.target(x0, noise, t, "v"), theirs.get_velocity(x0, noise, t))


@pytest.mark.parametrize("prediction", ["x0", "v", "eps"])
@pytest.mark.parametrize("steps", [1, 2, 10])
def test_an_exact_denoiser_recovers_the_plan(prediction, steps):
    schedule = Schedule()
    x0 = torch.randn(4, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)).float()
    noise = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(5))

    def oracle(x, t):
        a, s = schedule.roots(t, 2)
        return {"x0": x0, "eps": (x - a * x0) / s, "v": (a * (x - a * x0) / s) - s * x0}[prediction]

    got = schedule.ddim(oracle, noise, prediction=prediction, steps=steps, t_start=0.8)
    torch.testing.assert_close(got, x0, rtol=1e-4, atol=1e-4)


def test_reference_is_straight_on_at_the_initial_speed():
    ref = inertial_reference(torch.tensor([0.0, 8.0]), 30, 0.1)
    assert (ref[0] == 0).all()
    assert (ref[..., 1] == 0).all()
    torch.testing.assert_close(ref[1, :, 0], 0.8 * torch.arange(1.0, 31))


def test_noise_depends_on_index_seed_and_step_alone():
    a = keyed_noise(torch.tensor([5, 9, 70_000_000_000]), 3, 11, (4, 6, 2))
    b = keyed_noise(torch.tensor([9, 1, 5]), 3, 11, (4, 6, 2))
    assert torch.equal(a[0], b[2])
    assert torch.equal(a[1], b[0])
    for other in (
        keyed_noise(torch.tensor([5]), 4, 11, (4, 6, 2)),
        keyed_noise(torch.tensor([5]), 3, 12, (4, 6, 2)),
        keyed_noise(torch.tensor([6]), 3, 11, (4, 6, 2)),
        keyed_noise(torch.tensor([5]), 3, 11, (4, 6, 2), diffusion.SAMPLE),
    ):
        assert not torch.isclose(a[0], other[0]).any()
    # More draws prolong the sequence, they do not reshuffle it.
    assert torch.equal(a[0].flatten()[:12], keyed_noise(torch.tensor([5]), 3, 11, (1, 6, 2))[0].flatten())
    assert keyed_noise(torch.zeros(0), 0, 0, (6, 2)).shape == (0, 6, 2)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator must not matter
    assert torch.equal(a[0], keyed_noise(torch.tensor([5]), 3, 11, (4, 6, 2))[0])


def test_noise_is_standard_normal_across_samples():
    x = keyed_noise(torch.arange(4000), 0, 0, (4,))
    assert abs(x.mean()) < 0.03
    assert abs(x.std() - 1) < 0.03
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 0.05
    u = keyed_uniform(torch.arange(4000), 0, 0, ())
    assert 0 <= u.min() < 0.01
    assert 0.99 < u.max() < 1


@pytest.mark.parametrize("draws", [1, 3, 4])
def test_a_share_of_the_draws_sits_at_the_first_sampling_step(draws):
    schedule = Schedule()
    kw = {"steps": 1000, "t_start": 0.8}
    t = training_times(torch.arange(3000), 0, 0, draws=draws, first_share=0.5, **kw)
    first = schedule.sampling_steps(2, 0.8)[0]
    assert t.max() == first
    assert abs((t == first).float().mean() - 0.5) < 0.02
    uniform = training_times(torch.arange(3000), 0, 0, draws=draws, first_share=0.0, **kw).float()
    assert uniform.max() < 800
    assert abs(uniform.mean() - 400) < 12
    if draws == 4:
        assert ((t == first).sum(1) >= 2).all()


def test_unknown_names_and_steps_are_refused():
    with pytest.raises(InputError, match="schedule"):
        Schedule("sigmoid")
    with pytest.raises(InputError, match="t_start"):
        Schedule().sampling_steps(2, 1.5)
