"""Samples to the tensors of one forward pass.

Legend: B samples, S tokens of the shared prefix, T tokens after it (padded on the right), P patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from senna2.model.vlm.images import Patchifier
from senna2.model.vlm.prompts import messages, user_prompt
from senna2.types import InputError, Samples


@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Prompts of one batch, cut where the samples begin to differ.

    prefix_S: system prompt up to the image, the same for all rows. rest_BT: the image's tokens, the user's
    text and, when training, the answer. prompt_B: length of the prompt within `rest` (its last token is at
    prompt_B − 1).
    """

    prefix_S: Tensor
    rest_BT: Tensor
    rest_mask_BT: Tensor
    prompt_B: Tensor
    pixel_values_PF: Tensor
    grid_B3: Tensor
    image_token_id: int

    def full(self) -> dict[str, Tensor]:
        """The keyword arguments of the stock `transformers` forward pass."""
        b = len(self.rest_BT)
        ids = torch.cat([self.prefix_S.expand(b, -1), self.rest_BT], 1)
        mask = torch.cat([torch.ones_like(ids[:, : len(self.prefix_S)]), self.rest_mask_BT], 1)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            # Without it Qwen2.5-VL silently falls back to one-dimensional positions.
            "mm_token_type_ids": (ids == self.image_token_id).int(),
            "pixel_values": self.pixel_values_PF,
            "image_grid_thw": self.grid_B3,
        }


class PromptEncoder:
    """Tokenises prompts once a text (they repeat: speeds have one decimal) and cuts frames into patches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, patchifier: Patchifier, image_token_id: int) -> None:
        if tokenizer.chat_template is None:
            raise InputError("tokenizer_config.json: no chat template; use an instruction-tuned Qwen-VL checkpoint")
        self.tokenizer, self.patchifier, self.image_token_id = tokenizer, patchifier, image_token_id
        self.pad_id = int(tokenizer.pad_token_id)
        self._cut: dict[str, list[int]] = {}
        self.prefix, _ = self._split(user_prompt(0.0, 0, 0.0))

    def _split(self, user_text: str) -> tuple[list[int], list[int]]:
        rendered = self.tokenizer.apply_chat_template(
            messages(user_text), add_generation_prompt=True, tokenize=False, enable_thinking=False
        )
        ids = self.tokenizer.encode(rendered, add_special_tokens=False)
        if ids.count(self.image_token_id) != 1:
            raise InputError("chat template: must place exactly one image token; use a Qwen-VL checkpoint")
        at = ids.index(self.image_token_id)
        return ids[:at], ids[at + 1 :]

    def tail(self, user_text: str) -> list[int]:
        """Token ids of a prompt from behind the image to where the answer begins."""
        if user_text not in self._cut:
            if len(self._cut) > 100_000:  # a long run with free instructions must not grow without bound
                self._cut.clear()
            prefix, tail = self._split(user_text)
            if prefix != self.prefix:
                raise InputError("chat template: what precedes the image depends on the text behind it")
            self._cut[user_text] = tail
        return self._cut[user_text]

    def __call__(
        self, samples: Samples, continuations: Sequence[tuple[int, ...]] | None = None, device: Any = None,
        questions: Sequence[str] | None = None,
    ) -> PromptBatch:  # fmt: skip
        """Prompts of `samples`, each followed by its continuation (token ids of an answer) when given.

        `questions`: one a sample, other than for the decision.

        Uses images["front"][:, -1], speed, navigation, limit and instruction. Raises InputError on a missing
        front camera, an empty batch, or a continuation too many or few.
        """
        if "front" not in samples.images:
            raise InputError(f"samples: no camera 'front' for the VLM; there are {sorted(samples.images)}")
        n = len(samples)
        if n == 0 or (continuations is not None and len(continuations) != n):
            raise InputError(f"samples: {n} of them, and {n if continuations is None else len(continuations)} answers")
        frames_BHW3 = samples.images["front"][:, -1]
        values, grid = self.patchifier(frames_BHW3)
        visual = [self.image_token_id] * self.patchifier.tokens(*frames_BHW3.shape[1:3])
        rows: list[list[int]] = []
        prompt: list[int] = []
        for i in range(n):
            text = user_prompt(
                float(samples.motion_N4[i, 0]),
                int(samples.navigation_N[i]),
                float(samples.speed_limit_N[i]),
                samples.instruction_N[i],
                "" if questions is None else questions[i],
            )
            tail = self.tail(text)
            rows.append([*visual, *tail, *(continuations[i] if continuations is not None else ())])
            prompt.append(len(visual) + len(tail))
        length = max(map(len, rows))
        rest = torch.tensor([r + [self.pad_id] * (length - len(r)) for r in rows])
        mask = torch.tensor([[1] * len(r) + [0] * (length - len(r)) for r in rows])
        move = (lambda x: x) if device is None else (lambda x: x.to(device, non_blocking=True))
        return PromptBatch(
            move(torch.tensor(self.prefix)), move(rest), move(mask), move(torch.tensor(prompt)),
            move(values), move(grid), self.image_token_id,
        )  # fmt: skip
