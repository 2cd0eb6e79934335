"""Forward passes over the stock model that share work: one prefix a batch, one cache for prompt and answers.

Legend: B samples, S prefix tokens, T tokens after it, L = S + T, N new tokens, D hidden size.
Positions are always passed explicitly: the stock model keeps them as state of its last prefill, so two
interleaved streams would corrupt each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from senna2.model.vlm.inputs import PromptBatch
from senna2.types import Array


@dataclass(frozen=True, eq=False)
class Prefill:
    """The state after a prompt: final hidden states, cache, which cached keys count, next position."""

    hidden_BTD: Tensor
    cache: Any
    mask_BL: Tensor
    position_B: Tensor


def at(hidden_BTD: Tensor, index_BK: Tensor) -> Tensor:
    """(B, K, D): the hidden states at the given places of each row."""
    return hidden_BTD.gather(1, index_BK[..., None].expand(-1, -1, hidden_BTD.shape[-1]))


def _positions(core: Any, batch: PromptBatch) -> Tensor:
    """(3, 1, L): rows have one image size and differ only in the text behind it, so one tells all."""
    longest = int(batch.rest_mask_BT.sum(1).argmax())
    ids_1L = torch.cat([batch.prefix_S, batch.rest_BT[longest]])[None]
    position, _ = core.get_rope_index(
        ids_1L,
        mm_token_type_ids=(ids_1L == batch.image_token_id).int(),
        image_grid_thw=batch.grid_B3[:1],
        attention_mask=torch.ones_like(ids_1L),
    )
    return position


def prefill(core: Any, batch: PromptBatch, *, cache: bool = True, share_prefix: bool = True) -> Prefill:
    """Run prompts (and answers behind them). `core` is the model without its head; gradients flow throughout.

    The system prompt is causal and the same in all rows: computed once and repeated, exact up to rounding. A
    saving of more than half of all tokens in training. `cache`: whether the state will be extended.
    """
    b, s = len(batch.rest_BT), len(batch.prefix_S)
    position = _positions(core, batch)
    mask = torch.cat([batch.rest_mask_BT.new_ones(b, s), batch.rest_mask_BT], 1)
    image = {"pixel_values": batch.pixel_values_PF, "image_grid_thw": batch.grid_B3}
    if share_prefix and b > 1:
        before = core(input_ids=batch.prefix_S[None], position_ids=position[:, :, :s], use_cache=True)
        before.past_key_values.batch_repeat_interleave(b)
        out = core(
            input_ids=batch.rest_BT, attention_mask=mask, position_ids=position[:, :, s:].expand(-1, b, -1),
            past_key_values=before.past_key_values, use_cache=True, **image,
        )  # fmt: skip
        hidden = out.last_hidden_state
    else:
        full = batch.full()
        out = core(
            input_ids=full["input_ids"], attention_mask=mask, position_ids=position.expand(-1, b, -1),
            use_cache=cache, **image,
        )  # fmt: skip
        hidden = out.last_hidden_state[:, s:]
    end = s + batch.rest_mask_BT.sum(1) - 1
    return Prefill(hidden, out.past_key_values, mask, position[0, 0, end] + 1)


def extend_tree(core: Any, state: Prefill, token_BN: Tensor, depth_BN: Tensor, sees_BNN: Tensor) -> Tensor:
    """(B, N, D): hidden states of packed trees; each node sees the prompt and its ancestors. Consumes `state`.

    No image goes in: the vision tower is not run again.
    """
    n = token_BN.shape[1]
    seen = torch.cat([state.mask_BL.bool()[:, None].expand(-1, n, -1), sees_BNN], 2)[:, None]
    dtype = state.hidden_BTD.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
    out = core(
        input_ids=token_BN, attention_mask=mask, past_key_values=state.cache, use_cache=True,
        position_ids=(state.position_B[:, None] + depth_BN).expand(3, -1, -1),
    )  # fmt: skip
    return out.last_hidden_state


def tree_paths(token_N: Array, depth_N: Array, sees_NN: Array) -> tuple[list[tuple[int, ...]], Array]:
    """A packed tree as whole sequences: the path to each leaf, and for each node the number of one that passes it."""
    inner = (sees_NN & ~np.eye(len(sees_NN), dtype=bool)).any(0)
    leaves = np.flatnonzero(~inner)
    paths = []
    for leaf in leaves:
        above = np.flatnonzero(sees_NN[leaf])
        paths.append(tuple(int(t) for t in token_N[above[np.argsort(depth_N[above])]]))
    return paths, sees_NN[leaves].argmax(0)
