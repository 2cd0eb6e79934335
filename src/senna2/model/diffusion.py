"""Diffusion of the residual plan: schedules, prediction types, DDIM, and noise keyed by the sample.

Legend: B samples, D draws, K coefficients, T diffusion steps; `…` any shape. All of it in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from senna2.types import InputError

PREDICTIONS = ("x0", "v", "eps")
SCHEDULES = ("cosine", "linear", "scaled_linear")

# Streams of the keyed generator: what is drawn for one sample at one step must not repeat itself.
NOISE, TIME, SAMPLE, JITTER, TOLD, AGE, ASKED = range(7)


class Schedule(nn.Module):
    """ᾱ_t of `steps` training steps. The paper names none: `cosine` (Nichol & Dhariwal) by default [ours]; `linear` is
    the mild scaled-linear one (β 8.5e-4 … 1.2e-2), whose last ᾱ keeps ε-prediction within a factor 15 of its error;
    `scaled_linear` has the usual ends (1e-4 … 2e-2), as DiffusionDrive."""

    alpha_bar_T: Tensor

    def __init__(self, name: str = "cosine", steps: int = 1000) -> None:
        super().__init__()
        if name == "cosine":
            edge = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
            beta = np.minimum(1 - edge[1:] / edge[:-1], 0.999)
        elif name in ("linear", "scaled_linear"):
            low, high = (8.5e-4, 1.2e-2) if name == "linear" else (1e-4, 2e-2)
            beta = np.linspace(math.sqrt(low), math.sqrt(high), steps) ** 2
        else:
            raise InputError(f"schedule: '{name}' is unknown; use one of {SCHEDULES}")
        self.steps = steps
        self.register_buffer("alpha_bar_T", torch.tensor(np.cumprod(1 - beta), dtype=torch.float32), persistent=False)

    def roots(self, t: Tensor, dims: int) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1−ᾱ_t), with `dims` trailing axes to broadcast over. t = −1 stands for clean data (ᾱ = 1)."""
        alpha = torch.where(t < 0, torch.ones_like(self.alpha_bar_T[0]), self.alpha_bar_T[t.clamp_min(0)])
        alpha = alpha[(...,) + (None,) * dims]
        return alpha.sqrt(), (1 - alpha).sqrt()

    def q_sample(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = √ᾱ x0 + √(1−ᾱ) ε. `t` has the leading axes of `x0`."""
        a, s = self.roots(t, x0.ndim - t.ndim)
        return a * x0 + s * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor, prediction: str) -> Tensor:
        """What the network learns to output: x0, ε, or v = √ᾱ ε − √(1−ᾱ) x0."""
        a, s = self.roots(t, x0.ndim - t.ndim)
        return {"x0": x0, "eps": noise, "v": a * noise - s * x0}[prediction]

    def resolve(self, output: Tensor, x_t: Tensor, t: Tensor, prediction: str) -> tuple[Tensor, Tensor]:
        """The network's output at x_t → (x̂0, ε̂)."""
        a, s = self.roots(t, x_t.ndim - t.ndim)
        if prediction == "x0":
            return output, (x_t - a * output) / s
        if prediction == "v":
            return a * x_t - s * output, a * output + s * x_t
        return (x_t - s * output) / a, output

    def sampling_steps(self, steps: int, t_start: float = 1.0) -> list[int]:
        """Descending time steps, "trailing" spacing: the first one is the noisiest, so that DDIM starts where
        noise is (nearly) all there is. `t_start` < 1 begins lower: ε-prediction divides by √ᾱ, which is ~0 at T."""
        if not 0 < t_start <= 1 or steps < 1:
            raise InputError(f"sampling: steps={steps}, t_start={t_start}; need steps ≥ 1 and 0 < t_start ≤ 1")
        top = round(t_start * self.steps)
        return [round(top - i * top / steps) - 1 for i in range(steps)]

    def ddim(
        self, denoise: Callable[[Tensor, Tensor], Tensor], noise: Tensor, *, prediction: str, steps: int = 2,
        t_start: float = 1.0,
    ) -> Tensor:  # fmt: skip
        """Deterministic DDIM (η = 0, Song et al. eq. 12) from `noise` (B, …) to x0; differentiable through all steps.

        `denoise(x_t, t_B)` is the network. The paper: two steps.
        """
        x = noise
        times = self.sampling_steps(steps, t_start)
        for now, after in zip(times, [*times[1:], -1], strict=True):
            t = torch.full((len(x),), now, device=x.device)
            x0, eps = self.resolve(denoise(x, t), x, t, prediction)
            a, s = self.roots(torch.full_like(t, after), x.ndim - 1)
            x = a * x0 + s * eps
        return x


def inertial_reference(v_B: Tensor, steps: int, dt: float) -> Tensor:
    """(B,) m/s → (B, steps, 2) m: straight on at the initial speed, v₀·t on the ego's x axis (spec section 2)."""
    t = dt * torch.arange(1, steps + 1, device=v_B.device, dtype=v_B.dtype)
    x = v_B[:, None] * t
    return torch.stack([x, torch.zeros_like(x)], -1)


def _generators(index_B: Tensor | np.ndarray, seed: int, step: int, stream: int) -> list[np.random.Generator]:
    """One counter-based generator a sample: key (seed, step), counter (…, stream, index); it counts the low words."""
    word = (1 << 64) - 1
    key = np.array([seed & word, step & word], np.uint64)
    index = np.asarray(index_B, np.int64).astype(np.uint64)
    return [
        np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, stream, i], np.uint64))) for i in index
    ]


def keyed_noise(
    index_B: Tensor | np.ndarray, seed: int, step: int, shape: Sequence[int], stream: int = NOISE
) -> Tensor:
    """Standard normal (B, *shape) on the CPU that depends on (global sample index, seed, step, stream) alone: not on
    batch composition, order, rank or device: two ranks give the loss of one, a resumed run that of an unbroken one."""
    rows = [g.standard_normal(tuple(shape), np.float32) for g in _generators(index_B, seed, step, stream)]
    return torch.tensor(np.stack(rows) if rows else np.zeros((0, *shape), np.float32))


def keyed_uniform(
    index_B: Tensor | np.ndarray, seed: int, step: int, shape: Sequence[int], stream: int = TIME
) -> Tensor:
    """As `keyed_noise`, uniform in [0, 1)."""
    rows = [g.random(tuple(shape), np.float32) for g in _generators(index_B, seed, step, stream)]
    return torch.tensor(np.stack(rows) if rows else np.zeros((0, *shape), np.float32))


def keyed_tint(index_B: Tensor, seed: int, step: int, jitter: float) -> Tensor:
    """(B, 3) factors on the colour channels: one for brightness, a smaller one a channel for colour."""
    u = keyed_uniform(index_B, seed, step, (4,), JITTER) * 2 - 1
    return (1 + jitter * u[:, :1]) * (1 + 0.4 * jitter * u[:, 1:])


def training_times(
    index_B: Tensor, seed: int, step: int, *, draws: int, steps: int, t_start: float, first_share: float
) -> Tensor:
    """(B, draws) time steps: uniform in [0, t_start·steps), but a share `first_share` at the noisiest sampled step.

    The share is stratified over a sample's draws: with 4 draws and ½ always two of them. Two-step DDIM spends half of
    its evaluations there, and the first error is the one that counts [ours, spec section 8].
    """
    top = round(t_start * steps)
    u = keyed_uniform(index_B, seed, step, (draws + 1,))
    t = (u[:, :draws] * top).long().clamp_max(top - 1)
    first = (torch.arange(draws) + u[:, draws:]) / draws < first_share
    return torch.where(first, torch.full_like(t, top - 1), t)
