"""From a prefilled prompt to decisions: greedy over the token trie, and exact scoring of all answers.

Legend: B samples, V vocabulary, A answers, N nodes of the packed tree, E its edges, D hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from senna2.model.vlm.forward import Prefill, at, extend, extend_tree
from senna2.model.vlm.trie import Branch, PackedTree


def greedy(hf: Any, state: Prefill, logits_BV: Tensor, root: Branch, pad_id: int) -> Tensor:
    """(B,) numbers of the answers that constrained generation gives, in one pass a level of choices.

    `logits_BV` are those of the root's choice. Forced tokens between two choices are fed at once; rows that
    have finished drop out. Consumes `state`.
    """
    device = logits_BV.device
    answer = torch.zeros(len(logits_BV), dtype=torch.long, device=device)
    rows = torch.arange(len(logits_BV), device=device)
    places = [root] * len(rows)
    while True:
        children = _choose(logits_BV, places)
        for row, child in zip(rows.tolist(), children, strict=True):
            if isinstance(child, int):
                answer[row] = child
        going = [i for i, child in enumerate(children) if not isinstance(child, int)]
        if not going:
            return answer
        if len(going) < len(children):
            keep = torch.tensor(going, device=device)
            rows, state = rows[keep], state.select(keep)
        places = [child for child in children if not isinstance(child, int)]
        width = max(len(p.run) for p in places)
        ids = torch.tensor([[*p.run, *[pad_id] * (width - len(p.run))] for p in places], device=device)
        length = torch.tensor([len(p.run) for p in places], device=device)
        state = extend(hf.model, state, ids, (torch.arange(width, device=device) < length[:, None]).long())
        logits_BV = hf.lm_head(at(state.hidden_BTD, length[:, None] - 1)[:, 0])


def _choose(logits_BV: Tensor, places: list[Branch]) -> list[Branch | int]:
    """The child with the greatest logit at each row's branch (the first one on a tie)."""
    width = max(len(p.tokens) for p in places)
    options = torch.tensor([[*p.tokens, *[-1] * (width - len(p.tokens))] for p in places], device=logits_BV.device)
    scores = logits_BV.gather(1, options.clamp(min=0)).masked_fill(options < 0, -torch.inf)
    return [p.children[i] for p, i in zip(places, scores.argmax(1).tolist(), strict=True)]


def score_tree(hf: Any, state: Prefill, hidden_BD: Tensor, tree: PackedTree) -> Tensor:
    """(B, A) log-probability of each whole answer, closing token included; not normalised over A.

    `hidden_BD`: the last prompt token, which predicts every answer's first one. One pass over the packed tree
    replaces A whole sequences and gives the same numbers. Consumes `state`.
    """
    device = hidden_BD.device
    token_N, depth_N = (torch.as_tensor(x, device=device) for x in (tree.token_N, tree.depth_N))
    nodes_BND = extend_tree(hf.model, state, token_N, depth_N, torch.as_tensor(tree.sees_NN, device=device))
    hidden = torch.cat([hidden_BD[:, None], nodes_BND], 1)  # source -1 becomes 0
    logp_BSV = hf.lm_head(hidden).float().log_softmax(-1)
    source_E, to_E, answer_E = (
        torch.as_tensor(x, device=device) for x in (tree.edge_from_E + 1, tree.edge_to_E, tree.answer_E)
    )
    total = logp_BSV.new_zeros(len(hidden_BD), int(tree.answer_E.max()) + 1)
    return total.index_add(1, answer_E, logp_BSV[:, source_E, to_E])
