"""What the VLM says of a batch: decisions and how sure it is of them.

Legend: B samples, D hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from senna2.decisions import DIRECTION_TEXT, SPEED_TEXT
from senna2.types import InputError

N_SPEED, N_DIRECTION = len(SPEED_TEXT), len(DIRECTION_TEXT)


@dataclass(frozen=True, eq=False)
class VLMOutput:
    """Decisions of a batch; -1 in both halves where a free answer was no decision (UNKNOWN).

    hidden_BD: last prompt token, final-normed. Probabilities are those of constrained generation (a softmax over the
    tokens allowed at each open place): speed_logp_B4 over the four speeds, by every method; direction_logp_B5 over
    the directions given the decided speed, by trie and score; joint_logp_B20 over `ALL_DECISIONS`, by score alone.
    """

    hidden_BD: Tensor
    speed_B: Tensor
    direction_B: Tensor
    speed_logp_B4: Tensor
    direction_logp_B5: Tensor | None = None
    joint_logp_B20: Tensor | None = None

    @property
    def unknown_B(self) -> Tensor:
        """(B,) bool: answers that could not be read as a decision."""
        return (self.speed_B < 0) | (self.direction_B < 0)

    @property
    def unparsed(self) -> int:
        """How many of them there are."""
        return int(self.unknown_B.sum())

    @property
    def speed_entropy_B(self) -> Tensor:
        """(B,) entropy of the speed, nat; at most ln 4."""
        return entropy(self.speed_logp_B4)

    def _joint(self) -> Tensor:
        if self.joint_logp_B20 is None:
            raise InputError('decide: joint probabilities need method="score"')
        return self.joint_logp_B20

    @property
    def entropy_B(self) -> Tensor:
        """(B,) entropy over all twenty decisions, nat. Raises InputError unless they were scored."""
        return entropy(self._joint())

    @property
    def direction_marginal_logp_B5(self) -> Tensor:
        """(B, 5) over the directions, whatever the speed. Raises InputError unless all were scored."""
        return self._joint().unflatten(1, (N_SPEED, N_DIRECTION)).logsumexp(1)

    def take(self, rows: Any) -> VLMOutput:
        """The samples at `rows` (indices)."""
        index = torch.as_tensor(rows, device=self.speed_B.device)
        there = {f.name: x for f in fields(self) if (x := getattr(self, f.name)) is not None}
        return VLMOutput(**{name: x[index] for name, x in there.items()})

    @classmethod
    def concatenate(cls, parts: list[VLMOutput]) -> VLMOutput:
        """Batches in a row, all by one method."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(cls)}
        return cls(**{name: torch.cat(column) for name, column in columns.items() if column[0] is not None})


def entropy(logp_BC: Tensor) -> Tensor:
    """(B,) of log-probabilities over C classes, nat; a class of probability 0 adds nothing."""
    return torch.special.entr(logp_BC.exp()).sum(1)
