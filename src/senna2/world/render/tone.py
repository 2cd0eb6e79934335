"""Light, saturation, fog and sky in torch, by the rules at the head of `render.base`: differentiable, on any device."""

from __future__ import annotations

import torch

from senna2.world.render.base import Sky
from senna2.world.render.rules import LUMA

Tensor = torch.Tensor


def under_sky(colour: Tensor, depth: Tensor, alpha: Tensor, up: Tensor, sky: Sky) -> Tensor:
    """rgb (…, H, W, 3) of what gaussians alone look like, not yet cut at 1.

    colour (…, H, W, 3) over black; depth, alpha (…, H, W) expected depth, m, and covered share; up (…, H, W) upward
    component of the pixel's unit ray.
    """

    def constant(rgb: tuple[float, float, float]) -> Tensor:
        return torch.tensor(rgb, dtype=colour.dtype, device=colour.device)

    if sky.light_rgb != (1, 1, 1):
        colour = colour * constant(sky.light_rgb)
    if sky.saturation != 1:
        luma = (colour @ constant(LUMA))[..., None]
        colour = luma + sky.saturation * (colour - luma)
    if sky.fog_per_m != 0:
        clear = torch.exp(-sky.fog_per_m * depth)[..., None]
        colour = clear * colour + (1 - clear) * alpha[..., None] * constant(sky.fog)
    haze = (1 - up.clamp(0, 1)).square().square()[..., None]
    backdrop = torch.lerp(constant(sky.zenith_rgb), constant(sky.horizon_rgb), haze)
    return colour + (1 - alpha)[..., None] * backdrop
