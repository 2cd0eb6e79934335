"""From a prefilled prompt to decisions: what the token trie leaves open, and exact scoring of all answers.

Legend: B samples, V vocabulary, A answers, N nodes of a tree, U edges of open places, E edges of all answers, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from senna2.model.vlm.trie import OpenTree, PackedTree
from senna2.types import Array

# (B, N) tokens, (B, N) depths, (B, N, N) "sees" → (B, N, D) hidden states of these nodes behind the prompt.
Feed = Callable[[Tensor, Tensor, Tensor], Tensor]


@lru_cache(maxsize=16)
def _tensors(tree: OpenTree, device: torch.device) -> dict[str, Tensor]:
    """The tree on the device, once."""
    return {name: torch.as_tensor(getattr(tree, name), device=device) for name in tree.__dataclass_fields__}


def open_edges(hf: Any, feed: Feed, tree: OpenTree, choice_B: Tensor, hidden_BD: Tensor) -> tuple[Tensor, Tensor]:
    """Decide what is open below each row's choice, in one pass: (answer (B,), log-probability (B, A)).

    `hidden_BD`: the last prompt token. The answer is the one that constrained greedy generation gives: the best token
    at each open place, on from there. Probabilities are those of constrained sampling: a softmax at each open place
    over the tokens allowed there, multiplied along the answer.
    """
    t = {name: value[choice_B] for name, value in _tensors(tree, hidden_BD.device).items()}
    hidden = hidden_BD[:, None]
    if t["token_CN"].shape[1]:
        hidden = torch.cat([hidden, feed(t["token_CN"], t["depth_CN"], t["sees_CNN"])], 1)
    source_BU = t["edge_from_CU"] + 1  # -1, the prompt, becomes 0
    here_BUD = hidden.gather(1, source_BU[..., None].expand(-1, -1, hidden.shape[-1]))
    # Only the rows of the head that are asked for: a real vocabulary has 150 000.
    logits_BU = (here_BUD * hf.lm_head.weight[t["edge_to_CU"]]).sum(-1).float()
    place_BU = t["place_CU"]
    same_BUU = place_BU[:, :, None] == place_BU[:, None, :]
    logp_BU = logits_BU - logits_BU[:, None].masked_fill(~same_BUU, -torch.inf).logsumexp(-1)
    used_BAU = t["uses_CAU"].to(logp_BU.dtype)
    return _walk(logits_BU, place_BU, t["next_CU"]), (used_BAU * logp_BU[:, None]).sum(-1)


def _walk(logits_BU: Tensor, place_BU: Tensor, next_BU: Tensor) -> Tensor:
    """From place 0 the best edge (the first one on a tie), on to the place behind it, until an answer is reached."""
    at_B = torch.zeros(len(logits_BU), dtype=torch.long, device=logits_BU.device)
    for _ in range(int(place_BU.max()) + 1):  # no path has more places than there are
        best_B1 = logits_BU.masked_fill(place_BU != at_B[:, None], -torch.inf).argmax(1, keepdim=True)
        at_B = torch.where(at_B < 0, at_B, next_BU.gather(1, best_B1)[:, 0])
    return -1 - at_B


def score_tree(hf: Any, feed: Feed, hidden_BD: Tensor, tree: PackedTree) -> Tensor:
    """(B, A) log-probability of each whole answer, closing token included; not normalised over A.

    `hidden_BD`: the last prompt token, which predicts every answer's first one. One pass over the packed tree
    replaces A whole sequences and gives the same numbers.
    """
    device, b = hidden_BD.device, len(hidden_BD)

    def rows(x: Array) -> Tensor:
        return torch.as_tensor(x, device=device).expand(b, *x.shape)

    nodes_BND = feed(rows(tree.token_N), rows(tree.depth_N), rows(tree.sees_NN))
    hidden = torch.cat([hidden_BD[:, None], nodes_BND], 1)  # source -1 becomes 0
    logp_BSV = hf.lm_head(hidden).float().log_softmax(-1)
    source_E, to_E, answer_E = (
        torch.as_tensor(x, device=device) for x in (tree.edge_from_E + 1, tree.edge_to_E, tree.answer_E)
    )
    total = logp_BSV.new_zeros(b, int(tree.answer_E.max()) + 1)
    return total.index_add(1, answer_E, logp_BSV[:, source_E, to_E])
