"""The answers as a tree of tokens: where the next token is forced there is nothing to compute.

Legend: N input nodes of the packed tree, D depth of the deepest node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from senna2.types import Array, InputError


@dataclass(frozen=True)
class Branch:
    """A place where the answer is open. `run`: the tokens since the branch before, the chosen one first.

    `tokens[i]` is the token that leads to `children[i]`: another branch, or the number of a finished answer.
    """

    run: tuple[int, ...]
    tokens: tuple[int, ...]
    children: tuple[Branch | int, ...]

    def answers(self) -> list[int]:
        """Numbers of the answers below."""
        below = [[c] if isinstance(c, int) else c.answers() for c in self.children]
        return [n for part in below for n in part]


@dataclass(frozen=True, eq=False)
class PackedTree:
    """Every answer in one pass: each shared token is fed once and sees only its ancestors.

    token_N: inputs in order of depth first; depth_N: 0 for a first token; sees_NN: [i, j] when j is i or
    above it. edge_from_E, edge_to_E: each token of each answer is scored at a source (-1: the prompt's last
    token, else a node), given as (source, token); answer_E says whose it is. An edge shared by answers is
    listed for each.
    """

    token_N: Array
    depth_N: Array
    sees_NN: Array
    edge_from_E: Array
    edge_to_E: Array
    answer_E: Array


@dataclass(frozen=True, eq=False)
class TokenTrie:
    """Built from the tokenizer's ids of the answers (speed-major, `directions` a speed)."""

    root: Branch
    packed: PackedTree
    speed_of_choice: tuple[int, ...] = field(default=())

    @classmethod
    def build(cls, ids: Sequence[tuple[int, ...]], directions: int) -> TokenTrie:
        """Raises InputError when two answers read alike or the first open token does not decide the speed."""
        if len(set(ids)) != len(ids):
            raise InputError("tokenizer: two of the answers have the same tokens; it cannot tell decisions apart")
        root = _branch(list(enumerate(ids)), 0, ())
        if isinstance(root, int):
            raise InputError("tokenizer: there must be at least two answers")
        speeds = []
        for child in root.children:
            below = {n // directions for n in ([child] if isinstance(child, int) else child.answers())}
            if len(below) != 1:
                raise InputError("tokenizer: the words of two speeds start with the same token")
            speeds.append(below.pop())
        if sorted(speeds) != list(range(len(ids) // directions)):
            raise InputError("tokenizer: a speed can be said in two ways")
        return cls(root, _pack(ids), tuple(speeds))


def _branch(items: list[tuple[int, tuple[int, ...]]], start: int, run: tuple[int, ...]) -> Branch | int:
    """The tree below answers that agree up to `start`; `run` has been read since the branch before."""
    if len(items) == 1:
        return items[0][0]
    at = start
    while len({ids[at] for _, ids in items}) == 1:
        run, at = (*run, items[0][1][at]), at + 1
    groups: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for n, ids in items:
        groups.setdefault(ids[at], []).append((n, ids))
    children = tuple(_branch(group, at + 1, (token,)) for token, group in groups.items())
    return Branch(run, tuple(groups), children)


def _pack(answers: Sequence[tuple[int, ...]]) -> PackedTree:
    nodes: dict[tuple[int, ...], int] = {}  # path of tokens → node number
    edges: list[tuple[int, int, int]] = []
    for n, ids in enumerate(answers):
        for k, token in enumerate(ids):
            source = nodes[ids[:k]] if k else -1
            edges.append((source, token, n))
            if k + 1 < len(ids):  # the closing token is only ever predicted
                nodes.setdefault(ids[: k + 1], len(nodes))
    sees = np.zeros((len(nodes), len(nodes)), bool)
    for path, i in nodes.items():
        for k in range(1, len(path) + 1):
            sees[i, nodes[path[:k]]] = True
    source, token, answer = np.array(edges).T
    paths = list(nodes)
    depth = np.array([len(p) - 1 for p in paths])
    return PackedTree(np.array([p[-1] for p in paths]), depth, sees, source, token, answer)
