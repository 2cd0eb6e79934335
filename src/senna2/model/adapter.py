"""Decision adapter: F_vlm = MLP(concat(T_vlm, T_vel, T_dir)) (spec section 2, paper 3.1).

Legend: B batch, T prompt tokens, D hidden size of the VLM, C width of F_vlm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from senna2.model.layers import mlp
from senna2.types import Direction, InputError, Samples, Speed

if TYPE_CHECKING:
    from senna2.model.vlm.qwen import DrivingVLM

MODES = ("none", "decision", "vlm", "both")
HIDDEN = ("last", "prompt", "image")
SPEEDS = sum(s >= 0 for s in Speed)
DIRECTIONS = sum(d >= 0 for d in Direction)


class DecisionAdapter(nn.Module):
    """Fuses the VLM's hidden state and its decoded decision into one vector for the planner's adaLN.

    `mode` is Table 4's ablation: nothing, decision tokens, VLM token, both. Category -1 is a learned null row, a
    missing hidden state a learned null token: a planner can always be asked what it would do by itself.
    """

    def __init__(self, hidden_size: int, dim: int, mode: str = "both") -> None:
        super().__init__()
        if mode not in MODES:
            raise InputError(f"adapter: mode '{mode}' is unknown; use one of {MODES}")
        self.mode, self.dim, self.hidden_size = mode, dim, hidden_size
        parts = 0
        if mode in ("vlm", "both"):
            if hidden_size <= 0:
                raise InputError(f"adapter: mode '{mode}' reads the VLM's hidden state; give its hidden_size")
            # The norm: hidden states of a language model have any scale.
            self.t_vlm = nn.Sequential(nn.LayerNorm(hidden_size), mlp(hidden_size, dim, dim))
            self.no_hidden = nn.Parameter(torch.randn(dim) * 0.02)
            parts += 1
        if mode in ("decision", "both"):
            self.t_vel = nn.Embedding(SPEEDS + 1, dim)
            self.t_dir = nn.Embedding(DIRECTIONS + 1, dim)
            parts += 2
        if parts:
            self.fuse = mlp(parts * dim, dim, dim)

    def forward(
        self, hidden_BD: Tensor | None, speed_B: Tensor, direction_B: Tensor, hidden_valid_B: Tensor | None = None
    ) -> Tensor:
        """→ F_vlm (B, C). `hidden_valid_B`: False replaces that row's hidden state by the null token."""
        parts = []
        if self.mode in ("vlm", "both"):
            null = self.no_hidden.expand(len(speed_B), -1)
            if hidden_BD is None:
                parts.append(null)
            else:
                token = self.t_vlm(hidden_BD)
                parts.append(token if hidden_valid_B is None else torch.where(hidden_valid_B[:, None], token, null))
        if self.mode in ("decision", "both"):
            parts.append(self.t_vel(torch.where(speed_B < 0, SPEEDS, speed_B)))
            parts.append(self.t_dir(torch.where(direction_B < 0, DIRECTIONS, direction_B)))
        if not parts:
            return torch.zeros(len(speed_B), self.dim, device=speed_B.device)
        return cast(Tensor, self.fuse(torch.cat(parts, -1)))


@torch.no_grad()
def pooled_hidden(vlm: DrivingVLM, samples: Samples, which: str, chunk: int = 64) -> Tensor:
    """(B, D) the VLM's final hidden states, merged: the mean over the whole prompt ("prompt") or over its image tokens
    ("image"). No gradient. "last" needs no pass of its own: `DrivingVLM.decide` returns it.

    Raises `InputError` for any other name.
    """
    if which not in ("prompt", "image"):
        raise InputError(f"hidden: '{which}' cannot be pooled; use 'prompt' or 'image' (and `decide` for 'last')")
    parts = []
    for i in range(0, len(samples), chunk):
        inputs = vlm.prepare(samples.take(slice(i, i + chunk)))
        states_BTD = vlm.hf.model(**inputs, use_cache=False).last_hidden_state.float()
        wanted = inputs["mm_token_type_ids"] == 1 if which == "image" else inputs["attention_mask"]
        weight_BT = wanted.to(states_BTD.dtype)
        parts.append(torch.einsum("btd,bt->bd", states_BTD, weight_BT) / weight_BT.sum(1, keepdim=True))
    return torch.cat(parts)
