"""The vision-language model that decides: a Qwen-VL of any size behind five calls.

Legend: B samples, T tokens, D hidden size, K tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLForConditionalGeneration

from senna2.decisions import DIRECTION_TEXT, SPEED_TEXT
from senna2.model.vlm import folder as on_disk
from senna2.model.vlm import lora
from senna2.model.vlm.config import VLMConfig
from senna2.model.vlm.decode import greedy, score_tree
from senna2.model.vlm.forward import Prefill, at, prefill
from senna2.model.vlm.images import Patchifier, batch_vision_attention, image_processor
from senna2.model.vlm.inputs import PromptEncoder
from senna2.model.vlm.prompts import ANSWERS
from senna2.model.vlm.tokenizer import answer_ids, train_tokenizer
from senna2.model.vlm.trie import TokenTrie
from senna2.types import Samples, require

N_SPEED, N_DIRECTION = len(SPEED_TEXT), len(DIRECTION_TEXT)


@dataclass(frozen=True, eq=False)
class VLMOutput:
    """Decisions of a batch. hidden_BD: last prompt token, final-normed; speed_logp_B4: over four speeds."""

    hidden_BD: Tensor
    speed_B: Tensor
    direction_B: Tensor
    speed_logp_B4: Tensor


class DrivingVLM(nn.Module):
    """A `transformers` Qwen-VL, its tokenizer and image processor, and the twenty answers as a token trie.

    `hf` is the plain model. Hidden states are those of the last prompt token, before any answer: they see
    image and text, and do not depend on decoding ([ours]: the paper does not say which states feed the
    adapter).
    """

    hf: Any
    _peft: Any

    def __init__(self, hf: Any, tokenizer: Any, processor: Any) -> None:
        super().__init__()
        self.hf = hf
        self.tokenizer, self.processor = tokenizer, processor
        batch_vision_attention(hf)
        self.encoder = PromptEncoder(tokenizer, Patchifier.of(processor), hf.config.image_token_id)
        self.answer_ids = answer_ids(tokenizer, ANSWERS)
        self.trie = TokenTrie.build(self.answer_ids, N_DIRECTION)
        text = hf.config.get_text_config()
        # Layers of linear attention keep a state, not keys: their cache cannot be repeated over a batch.
        self._share_prefix = all(t == "full_attention" for t in getattr(text, "layer_types", None) or [])
        self._set_peft(None)

    @classmethod
    def tiny(cls, config: VLMConfig | None = None, seed: int = 0) -> DrivingVLM:
        """The real Qwen2.5-VL class, random weights of this seed, a tokenizer trained on the prompts."""
        config = (config or VLMConfig()).validate()
        tokenizer = train_tokenizer()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf = Qwen2_5_VLForConditionalGeneration._from_config(config.build(tokenizer), attn_implementation="sdpa")
        hf.generation_config.eos_token_id = tokenizer.eos_token_id
        hf.generation_config.pad_token_id = tokenizer.pad_token_id
        return cls(hf, tokenizer, image_processor(config.patch, config.merge, 2, config.max_pixels))

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: Any = "auto") -> DrivingVLM:
        """A checkpoint folder in hub layout, ours or Qwen's own. Raises InputError naming a bad file."""
        return cls(*on_disk.load(Path(folder), dtype))

    def save_pretrained(self, folder: str | Path) -> None:
        """A plain folder that `transformers` loads without us; a LoRA is merged into what is written."""
        state = lora.merged_state(self.hf) if self._peft is not None else None
        on_disk.save(Path(folder), self.hf, self.tokenizer, self.processor, state)

    def _set_peft(self, peft: Any) -> None:
        self.__dict__["_peft"] = peft  # past nn.Module: it must not be a submodule, its parameters are `hf`'s

    @property
    def hidden_size(self) -> int:
        return int(self.hf.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        return next(self.hf.parameters()).device

    def forward(self, **inputs: Any) -> Any:
        """The stock forward pass, for what `prepare` returns."""
        return self.hf(**inputs)

    def prepare(self, samples: Samples, answers: Sequence[str] | None = None, device: Any = None) -> dict[str, Tensor]:
        """Inputs of the stock model, right-padded; with `answers` (any text) also labels, −100 elsewhere."""
        if answers is None:
            return self.encoder(samples, None, device or self.device).full()
        batch = self.encoder(samples, answer_ids(self.tokenizer, answers), device or self.device)
        inputs = batch.full()
        column = torch.arange(batch.rest_BT.shape[1], device=batch.rest_BT.device)
        answer = (column >= batch.prompt_B[:, None]) & batch.rest_mask_BT.bool()
        labels = torch.full_like(inputs["input_ids"], -100)
        labels[:, len(batch.prefix_S) :] = batch.rest_BT.masked_fill(~answer, -100)
        return {**inputs, "labels": labels}

    def _prompt(self, samples: Samples, *, cache: bool, run: tuple[int, ...] = ()) -> tuple[Tensor, Tensor, Prefill]:
        """(B, D) at the last prompt token, (B, D) behind `run` (what all answers start with), the state."""
        batch = self.encoder(samples, [run] * len(samples), self.device)
        state = prefill(self.hf.model, batch, cache=cache, share_prefix=self._share_prefix)
        last_B = batch.prompt_B - 1
        both = at(state.hidden_BTD, torch.stack([last_B, last_B + len(run)], 1))
        return both[:, 0], both[:, 1], state

    def prompt_hidden(self, samples: Samples) -> Tensor:
        """(B, D) final hidden state of the last prompt token, with gradient."""
        return self._prompt(samples, cache=False)[0]

    @torch.no_grad()
    def decide(self, samples: Samples, batch: int = 64) -> VLMOutput:
        """The VLM's own decisions: greedy over the token trie, the same as constrained generation.

        Speed, then direction given speed, in 2 to 3 passes a batch: where the trie forces tokens they are fed
        at once. This can differ from the most probable of the twenty (`score_all`).
        """
        require(len(samples) > 0, "samples", "there are none to decide on")
        parts = [self._decide(samples.take(slice(i, i + batch))) for i in range(0, len(samples), batch)]
        return VLMOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _decide(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        root = self.trie.root
        hidden_BD, open_BD, state = self._prompt(samples, cache=True, run=root.run)
        logits_BV = self.hf.lm_head(open_BD)
        answer_B = greedy(self.hf, state, logits_BV, root, self.encoder.pad_id)
        return hidden_BD, answer_B // N_DIRECTION, answer_B % N_DIRECTION, self._speed_logp(logits_BV)

    def _speed_logp(self, logits_BV: Tensor) -> Tensor:
        order = [self.trie.root.tokens[self.trie.speed_of_choice.index(s)] for s in range(N_SPEED)]
        return logits_BV[:, order].float().log_softmax(-1)

    def speed_logp(self, samples: Samples) -> Tensor:
        """(B, 4) log-probabilities of the speeds, normalised over the four, with gradient; one pass."""
        return self._speed_logp(self.hf.lm_head(self._prompt(samples, cache=False, run=self.trie.root.run)[1]))

    def score_all(self, samples: Samples) -> Tensor:
        """(B, 20) joint log-probabilities in ALL_DECISIONS order, normalised over them, with gradient."""
        return self.hidden_and_scores(samples)[1]

    def hidden_and_scores(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """(`prompt_hidden`, `score_all`) of one pass."""
        hidden_BD, _, state = self._prompt(samples, cache=True)
        return hidden_BD, score_tree(self.hf, state, hidden_BD, self.trie.packed).log_softmax(-1)

    def answer_nll(self, samples: Samples, speed_B: Any, direction_B: Any) -> Tensor:
        """(B,) −log P(answer | prompt), teacher-forced, summed over the answer's tokens and its closing one.

        A row whose speed or direction is -1 has no answer to learn: its loss is 0 without a gradient
        (`answered` tells which rows count; divide by their number for a mean).
        """
        return self.hidden_and_nll(samples, speed_B, direction_B)[1]

    def hidden_and_nll(self, samples: Samples, speed_B: Any, direction_B: Any) -> tuple[Tensor, Tensor]:
        """(`prompt_hidden`, `answer_nll`) of one pass."""
        speed, direction = (torch.as_tensor(x, device=self.device).long() for x in (speed_B, direction_B))
        known = answered(speed, direction)
        number = (speed.clamp(min=0) * N_DIRECTION + direction.clamp(min=0)).tolist()
        targets = [self.answer_ids[i] for i in number]
        batch = self.encoder(samples, [t[:-1] for t in targets], self.device)
        state = prefill(self.hf.model, batch, cache=False, share_prefix=self._share_prefix)
        count = torch.arange(max(map(len, targets)), device=self.device)
        length = torch.tensor([len(t) for t in targets], device=self.device)
        target_BK = torch.tensor([[*t, *[0] * (len(count) - len(t))] for t in targets], device=self.device)
        source_BK = batch.prompt_B[:, None] - 1 + torch.minimum(count, length[:, None] - 1)
        hidden_BKD = at(state.hidden_BTD, source_BK)
        logits = self.hf.lm_head(hidden_BKD).float()
        nll_BK = nn.functional.cross_entropy(logits.flatten(0, 1), target_BK.flatten(), reduction="none")
        wanted = (count < length[:, None]) & known[:, None]
        return hidden_BKD[:, 0], nll_BK.view_as(target_BK).where(wanted, 0.0).sum(1)

    def add_lora(self, r: int = 8, alpha: int = 16, seed: int = 0) -> None:
        """Low-rank adapters on the language model, all else frozen; changes no output until they train."""
        require(self._peft is None, "add_lora", "there is one already; merge_lora() first")
        self._set_peft(lora.attach(self.hf, r, alpha, seed))

    def lora_parameters(self) -> list[nn.Parameter]:
        """The adapters' parameters; empty without a LoRA."""
        return [p for name, p in self.hf.named_parameters() if ".lora_" in name]

    def merge_lora(self) -> None:
        """Add the adapters to the weights; from here on a plain model, every parameter trainable again."""
        require(self._peft is not None, "merge_lora", "there is no LoRA; add_lora() first")
        self.hf = self._peft.merge_and_unload()
        self._set_peft(None)
        self.hf.requires_grad_(True)

    def save_lora(self, folder: str | Path, base: str | Path) -> None:
        """The adapters alone (peft layout); `base` is the folder of the model they belong to."""
        require(self._peft is not None, "save_lora", "there is no LoRA; add_lora() first")
        lora.save(self._peft, Path(folder), str(base))

    def load_lora(self, folder: str | Path) -> None:
        """Put saved adapters on this (plain) model. Raises InputError naming a bad file."""
        require(self._peft is None, "load_lora", "there is one already; merge_lora() first")
        self._set_peft(lora.load(self.hf, Path(folder)))

    @contextmanager
    def without_lora(self) -> Iterator[None]:
        """Inside: the model as it was before `add_lora`, exactly."""
        with nullcontext() if self._peft is None else self._peft.disable_adapter():
            yield


def answered(speed_B: Tensor, direction_B: Tensor) -> Tensor:
    """(B,) bool: rows with a whole decision, the ones that `answer_nll` trains."""
    return (speed_B >= 0) & (direction_B >= 0)
