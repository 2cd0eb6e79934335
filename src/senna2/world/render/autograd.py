"""The CPU renderer inside torch's autograd, for fitting clouds to images: `backward`'s kernels as one operation.

The kernels give sums over splats and take their gradients; what follows (light, saturation, fog, sky) is `tone`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch.autograd.function import once_differentiable

from senna2.types import InputError, require
from senna2.world.gaussians import GaussianCloud
from senna2.world.render.backward import Gradients, backward, forward
from senna2.world.render.base import PosedCamera, Sky, unit_rays
from senna2.world.render.tone import under_sky

Tensor = torch.Tensor
NAMES = ("means", "scales", "quats", "opacities", "sh")

_up: WeakKeyDictionary[PosedCamera, Tensor] = WeakKeyDictionary()


def render_differentiable(
    means: Tensor,
    scales: Tensor,
    quats: Tensor,
    opacities: Tensor,
    sh: Tensor,
    cameras: Sequence[PosedCamera],
    sky: Sky,
) -> tuple[Tensor, Tensor, Tensor]:
    """rgb (V, H, W, 3), expected depth (V, H, W) and alpha (V, H, W) of one cloud, differentiable by the cloud.

    means (N, 3) m, scales (N, 3) m, quats (N, 4) wxyz of any length, opacities (N,) 0…1, sh (N, K, 3) of degree 0…3:
    float32 on the CPU, after their activations. The images are `CpuRenderer`'s, except that rgb is not cut at 1: a
    splat that is too bright keeps its gradient. Where a gaussian is not drawn (near plane, veil, alpha under 1/255)
    its gradient is 0. One thread; gradients are the same bits every time.

    Raises `InputError` for tensors of wrong shape, type or device or with values that are not finite (in a fit: a
    learning rate too high), for cameras of different sizes, and for none.
    """
    _check((means, scales, quats, opacities, sh), cameras)
    sums = _Blend.apply(means, scales, quats, opacities, sh, tuple(cameras))
    alpha, colour, depth = 1 - sums[..., 0], sums[..., 1:4], sums[..., 4]
    # clamped as the reference does, and not to 0/0: where nothing is drawn the gradient must be 0, not NaN
    depth = torch.where(alpha > 0, depth / alpha.clamp_min(1e-10), 0)
    up = torch.stack([_elevation(camera) for camera in cameras])
    return under_sky(colour, depth, alpha, up, sky), depth, alpha


class _Blend(torch.autograd.Function):
    """Five tensors of a cloud → (V, H, W, 5) of `backward.Trace.sums_HW5`."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Tensor,
        scales: Tensor,
        quats: Tensor,
        opacities: Tensor,
        sh: Tensor,
        cameras: tuple[PosedCamera, ...],
    ) -> Tensor:
        tensors = [t.detach().contiguous() for t in (means, scales, quats, opacities, sh)]
        cloud = GaussianCloud(*(t.numpy() for t in tensors))
        ctx.traces = forward(cloud, cameras)
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(np.stack([trace.sums_HW5 for trace in ctx.traces]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cloud = GaussianCloud(*(t.numpy() for t in ctx.saved_tensors))
        total = Gradients.zeros(len(cloud), cloud.sh_NK3.shape[1])
        for trace, gradient in zip(ctx.traces, gradients[0].contiguous().numpy(), strict=True):
            backward(cloud, trace, gradient, total)
        arrays = (total.means_N3, total.scales_N3, total.quats_N4, total.opacities_N, total.sh_NK3)
        return (*(torch.from_numpy(a) for a in arrays), None)


def _check(tensors: tuple[Tensor, ...], cameras: Sequence[PosedCamera]) -> None:
    n = len(tensors[0])
    k = tensors[4].shape[1] if tensors[4].ndim == 3 else 0
    require(k in (1, 4, 9, 16), "render_differentiable: sh", f"shape {tuple(tensors[4].shape)}, expected (N, K, 3)")
    for name, tensor, shape in zip(NAMES, tensors, ((n, 3), (n, 3), (n, 4), (n,), (n, k, 3)), strict=True):
        where = f"render_differentiable: {name}"
        require(tuple(tensor.shape) == shape, where, f"shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.dtype != torch.float32 or tensor.device.type != "cpu":
            raise InputError(f"{where} is {tensor.dtype} on {tensor.device}; pass float32 on the CPU")
        if not bool(torch.isfinite(tensor.detach()).all()):
            raise InputError(f"{where} holds NaN or infinity; lower the learning rate of what fits it")
    if bool((tensors[2].detach() == 0).all(-1).any()):
        raise InputError("render_differentiable: quats holds a quaternion of length zero; start from (1, 0, 0, 0)")
    sizes = {(c.camera.height, c.camera.width) for c in cameras}
    require(len(sizes) == 1, "render_differentiable: cameras", f"sizes {sorted(sizes)}; give one or more of one size")


def _elevation(posed: PosedCamera) -> Tensor:
    """(H, W) upward component of the pixels' unit rays. Kept: a fit sees the same camera thousands of times."""
    up = _up.get(posed)
    if up is None:
        rays = unit_rays(posed.camera).astype(np.float64)
        up = _up[posed] = torch.from_numpy((rays @ posed.cam_to_world_44[2, :3]).astype(np.float32))
    return up
