"""Layers shared by the encoders, the perception queries and the planner.

Legend: B batch, Q queries, S keys, C width, H heads, F features.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with SiLU between them."""
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Linear(a, b)] if i == 0 else [nn.SiLU(), nn.Linear(a, b)]
    return nn.Sequential(*layers)


def zero(linear: nn.Linear) -> nn.Linear:
    """The layer with weight and bias set to 0 (adaLN-zero, DiT section 3.2)."""
    nn.init.zeros_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
    return linear


def zero_last(net: nn.Sequential) -> nn.Sequential:
    """The network with its last layer at 0: what it states begins at nothing."""
    zero(cast(nn.Linear, net[-1]))
    return net


def sines(x: Tensor, octaves: int, longest: float) -> Tensor:
    """(…, F) → (…, F·2·octaves): sine and cosine of wavelengths `longest`, `longest`/2, …"""
    omega = 2 * math.pi / longest * 2.0 ** torch.arange(octaves, device=x.device, dtype=x.dtype)
    angle = (x[..., None] * omega).flatten(-2)
    return torch.cat([angle.sin(), angle.cos()], -1)


class Attention(nn.Module):
    """Multi-head attention of queries (B, Q, C) over a context (B, S, C); without a context, over themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)

    def forward(self, x_BQC: Tensor, context_BSC: Tensor | None = None, valid_BS: Tensor | None = None) -> Tensor:
        """`valid_BS`: False hides a key; every row needs at least one True."""
        context = x_BQC if context_BSC is None else context_BSC
        key, value = self.kv(context).chunk(2, -1)
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (self.q(x_BQC), key, value))
        mask = None if valid_BS is None else valid_BS[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return cast(Tensor, self.out(y.transpose(1, 2).flatten(-2)))
