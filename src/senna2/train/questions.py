"""A small share of stage 1a's samples answers another question about the frame than the decision (Senna's other QA)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from senna2.data.qa import QA, qa_of
from senna2.model.diffusion import ASKED, keyed_uniform
from senna2.model.vlm import DrivingVLM
from senna2.types import InputError, Samples

MOST_SHARE = 0.2  # the decision stays what the VLM is for


@dataclass(frozen=True)
class Asked:
    """rows: positions in the batch; one question each."""

    rows: list[int] = field(default_factory=list)
    qas: list[QA] = field(default_factory=list)


def draw_questions(data: Samples, share: float, seed: int, step: int) -> Asked:
    """Which samples of a batch are asked what, by (seed, step, sample) alone: ranks and batches do not matter.

    A sample of which the truth answers nothing keeps its decision. Raises InputError for a share over `MOST_SHARE`.
    """
    if not 0.0 <= share <= MOST_SHARE:
        raise InputError(f"stage1a.qa_share: {share} is not between 0 and {MOST_SHARE}")
    if share == 0.0 or len(data) == 0:
        return Asked()
    u_B2 = keyed_uniform(data.index_N, seed, step, (2,), ASKED)
    asked = Asked()
    for row in torch.nonzero(u_B2[:, 0] < share).flatten().tolist():
        qas = qa_of(data, row, seed=seed + step)
        if qas:
            asked.rows.append(row)
            asked.qas.append(qas[int(float(u_B2[row, 1]) * len(qas))])
    return asked


def question_nll(vlm: DrivingVLM, data: Samples, asked: Asked) -> torch.Tensor:
    """(rows,) mean loss over an answer's tokens: a long answer must not outweigh the decisions [ours]."""
    some = data.take(torch.tensor(asked.rows).numpy())
    return vlm.text_nll(some, [qa.question for qa in asked.qas], [qa.answer for qa in asked.qas])
