"""What every planner reads of a scene, and in which order.

Legend: B batch, S scene tokens, Q queries, C width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, eq=False)
class SceneTokens:
    """The E2E condition: first `agents` tokens of other road users, then `lines` of the map, then the rest (navigation,
    images). `valid_BS`: False hides a token; None: all are there. `queries_BQC`: agent, map and navigation tokens for
    the perception heads (None with obs="state": truth is the input)."""

    tokens_BSC: Tensor
    valid_BS: Tensor | None
    queries_BQC: Tensor | None
    agents: int
    lines: int

    def take(self, rows: Tensor) -> Self:
        mask, queries = (None if x is None else x[rows] for x in (self.valid_BS, self.queries_BQC))
        return type(self)(self.tokens_BSC[rows], mask, queries, self.agents, self.lines)

    def part(self, name: str) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, S', C) and mask (B, S') of "agents", "lines" or "rest"; a mask may be False throughout."""
        ends = {"agents": (0, self.agents), "lines": (self.agents, self.agents + self.lines),
                "rest": (self.agents + self.lines, self.tokens_BSC.shape[1])}  # fmt: skip
        a, b = ends[name]
        return self.tokens_BSC[:, a:b], None if self.valid_BS is None else self.valid_BS[:, a:b]
