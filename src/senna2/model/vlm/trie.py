"""The answers as a tree of tokens: where the next token is forced there is nothing to compute.

Legend: N input nodes of a tree, E edges of all answers, U edges of open places, A answers, C choices.
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
class OpenTree:
    """Only what constrained generation leaves open, for C choices made before (padded to one size).

    An edge is one token that may follow at an open place; its probability is a softmax over the place's edges, and
    an answer's the product over its own. Tokens behind the last open place are never fed.

    token_CN, depth_CN, sees_CNN: input nodes as in `PackedTree`. edge_from_CU (-1: the prompt's last token) and
    edge_to_CU: source and token of an edge; place_CU: the open place it belongs to, 0 the first, -1 for padding;
    next_CU: the place behind it, or -1 - answer. uses_CAU: which edges each answer takes.
    """

    token_CN: Array
    depth_CN: Array
    sees_CNN: Array
    edge_from_CU: Array
    edge_to_CU: Array
    place_CU: Array
    next_CU: Array
    uses_CAU: Array


@dataclass(frozen=True, eq=False)
class TokenTrie:
    """Built from the tokenizer's ids of the answers (speed-major, `directions` a speed).

    `whole`: all that is open, a single choice. `below[c]`: what is open when the root's c-th token has been chosen
    (answers are numbered by direction there). `packed`: every token of every answer.
    """

    root: Branch
    packed: PackedTree
    whole: OpenTree
    below: OpenTree
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
        rest = [a[len(root.run) :] for a in ids]
        chosen = [rest[s * directions : (s + 1) * directions] for s in speeds]
        return cls(root, _pack(ids), _open([ids]), _open(chosen), tuple(speeds))


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


def _open(choices: Sequence[Sequence[tuple[int, ...]]]) -> OpenTree:
    """One tree for each list of answers."""
    trees = [_open_one(answers) for answers in choices]
    n = max(len(t["token"]) for t in trees)
    u = max(len(t["place"]) for t in trees)

    def stack(name: str, size: tuple[int, ...], fill: int) -> Array:
        out = np.full((len(trees), *size), fill)
        for row, tree in zip(out, trees, strict=True):
            row[tuple(slice(k) for k in tree[name].shape)] = tree[name]
        return out

    sees = stack("sees", (n, n), 0).astype(bool) | np.eye(n, dtype=bool)  # a padded node sees at least itself
    return OpenTree(
        token_CN=stack("token", (n,), 0),
        depth_CN=stack("depth", (n,), 0),
        sees_CNN=sees,
        edge_from_CU=stack("source", (u,), 0),
        edge_to_CU=stack("to", (u,), 0),
        place_CU=stack("place", (u,), -1),
        next_CU=stack("next", (u,), -1),
        uses_CAU=stack("uses", (len(choices[0]), u), 0).astype(bool),
    )


def _open_one(answers: Sequence[tuple[int, ...]]) -> dict[str, Array]:
    following: dict[tuple[int, ...], list[int]] = {}  # what was said → tokens that may come, in order of the answers
    for ids in answers:
        for k, token in enumerate(ids):
            tokens = following.setdefault(ids[:k], [])
            if token not in tokens:
                tokens.append(token)
    places = {path: i for i, path in enumerate(p for p, tokens in following.items() if len(tokens) > 1)}
    fed = sorted({p[:k] for p in places for k in range(1, len(p) + 1)}, key=lambda p: (len(p), p))
    node = {path: i for i, path in enumerate(fed)}
    edges = [(*path, token) for path in places for token in following[path]]
    sees = np.array([[path[: len(other)] == other for other in fed] for path in fed], bool).reshape(len(fed), len(fed))
    nexts = []
    for edge in edges:
        behind = [p for p in places if p[: len(edge)] == edge]
        final = next(i for i, ids in enumerate(answers) if ids[: len(edge)] == edge)
        nexts.append(places[min(behind, key=len)] if behind else -1 - final)
    return {
        "token": np.array([p[-1] for p in fed], int),
        "depth": np.array([len(p) - 1 for p in fed], int),
        "sees": sees,
        "source": np.array([node.get(e[:-1], -1) for e in edges], int),
        "to": np.array([e[-1] for e in edges], int),
        "place": np.array([places[e[:-1]] for e in edges], int),
        "next": np.array(nexts, int),
        "uses": np.array([[ids[: len(e)] == e for e in edges] for ids in answers], bool),
    }
