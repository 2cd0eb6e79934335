"""Decisions by the stock `generate`, token by token: the reference for the token trie, and free speech.

Legend: B samples, L tokens of the padded prompt, D hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from senna2.decisions import parse_decision
from senna2.types import InputError

FREE_TOKENS = 24  # of a free answer, three times the longest that was asked for; what runs on is no decision


def left_padded(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Right-padded inputs with the padding in front, so that every prompt ends at the last column."""
    mask = inputs["attention_mask"]
    b, length = mask.shape
    shift = length - mask.sum(1, keepdim=True)
    source = (torch.arange(length, device=mask.device).expand(b, -1) - shift) % length
    moved = ("input_ids", "attention_mask", "mm_token_type_ids")
    return {k: v.gather(1, source) if k in moved else v for k, v in inputs.items()}


def say(
    hf: Any, tokenizer: PreTrainedTokenizerBase, inputs: dict[str, Tensor], allowed: Sequence[tuple[int, ...]] = (),
    most: int = FREE_TOKENS,
) -> tuple[list[tuple[int, ...]], Tensor]:  # fmt: skip
    """Greedy answers: token ids up to the closing one, and (B, D) hidden states of the last prompt token.

    `inputs`: of `DrivingVLM.prepare`. `allowed`: the only answers there are (constrained generation); else free, of at
    most so many tokens.
    """
    inputs = left_padded(inputs)
    start = inputs["input_ids"].shape[1]
    end, pad = int(tokenizer.eos_token_id), int(tokenizer.pad_token_id)

    def may_follow(_: int, ids: Tensor) -> list[int]:
        said = tuple(ids[start:].tolist())
        return sorted({a[len(said)] for a in allowed if len(a) > len(said) and a[: len(said)] == said}) or [pad]

    how = GenerationConfig(
        max_new_tokens=max(map(len, allowed)) if allowed else most,
        do_sample=False, eos_token_id=end, pad_token_id=pad, output_hidden_states=True, return_dict_in_generate=True,
    )  # fmt: skip
    kept = hf.generation_config
    try:
        # A published checkpoint brings a repetition penalty, a temperature …: they would change the answer.
        hf.generation_config = how
        out = hf.generate(**inputs, generation_config=how, prefix_allowed_tokens_fn=may_follow if allowed else None)
    finally:
        hf.generation_config = kept
    answers = []
    for row in out.sequences[:, start:].tolist():
        answers.append(tuple(row[: row.index(end) + 1] if end in row else row))
    return answers, out.hidden_states[0][-1][:, -1]


def parsed(tokenizer: PreTrainedTokenizerBase, answers: Sequence[tuple[int, ...]]) -> list[tuple[int, int]]:
    """(speed, direction) of each answer; (-1, -1) where it is none of the decisions."""
    decisions = []
    for ids in answers:
        try:
            told = parse_decision(str(tokenizer.decode(list(ids), skip_special_tokens=True)))
        except InputError:
            decisions.append((-1, -1))
        else:
            decisions.append((int(told.speed), int(told.direction)))
    return decisions
