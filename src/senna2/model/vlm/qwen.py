"""The vision-language model that decides: a Qwen-VL of any size behind five calls.

Legend: B samples, T tokens, D hidden size, K tokens of an answer, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText

from senna2.model.vlm import folder as on_disk
from senna2.model.vlm import lora
from senna2.model.vlm.config import VLMConfig
from senna2.model.vlm.decode import Feed, open_edges, score_tree
from senna2.model.vlm.forward import Prefill, at, extend_tree, prefill, tree_paths
from senna2.model.vlm.generate import parsed, say
from senna2.model.vlm.images import Patchifier, image_processor, quick_vision
from senna2.model.vlm.inputs import PromptEncoder
from senna2.model.vlm.output import N_DIRECTION, N_SPEED, VLMOutput
from senna2.model.vlm.prompts import ANSWERS
from senna2.model.vlm.tokenizer import answer_ids, train_tokenizer
from senna2.model.vlm.trie import TokenTrie
from senna2.types import Samples, require

Method = Literal["trie", "score", "generate", "constrained"]
METHODS: tuple[Method, ...] = ("trie", "score", "generate", "constrained")


class DrivingVLM(nn.Module):
    """A `transformers` Qwen-VL, its tokenizer and image processor, and the twenty answers as a token trie.

    `hf` is the plain model. Hidden states are those of the last prompt token, before any answer: they see
    image and text, and do not depend on decoding ([ours]: the paper does not say which states feed the
    adapter).
    """

    hf: Any
    _peft: Any

    def __init__(self, hf: Any, tokenizer: Any, processor: Any, extras: Mapping[str, str] | None = None) -> None:
        """`extras`: further files of the checkpoint folder, by name, kept as they are when it is saved again."""
        super().__init__()
        self.hf = hf
        self.tokenizer, self.processor, self.extras = tokenizer, processor, dict(extras or {})
        quick_vision(hf)
        self.encoder = PromptEncoder(tokenizer, Patchifier.of(processor), hf.config.image_token_id)
        self.answer_ids = answer_ids(tokenizer, ANSWERS)
        self.trie = TokenTrie.build(self.answer_ids, N_DIRECTION)
        text = hf.config.get_text_config()
        # Layers of linear attention keep a state, not keys: it can neither be repeated over a batch nor branch.
        self._keeps_keys = "linear_attention" not in (getattr(text, "layer_types", None) or [])
        self._set_peft(None)

    @classmethod
    def tiny(cls, config: VLMConfig | None = None, seed: int = 0, *, texts: Sequence[str] = ()) -> DrivingVLM:
        """The real Qwen-VL class, random weights of this seed, a tokenizer trained on the prompts (and `texts`)."""
        config = (config or VLMConfig()).validate()
        tokenizer = train_tokenizer(tuple(texts))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            hf = AutoModelForImageTextToText.from_config(config.build(tokenizer), attn_implementation="sdpa")
        hf.generation_config.eos_token_id = tokenizer.eos_token_id
        hf.generation_config.pad_token_id = tokenizer.pad_token_id
        return cls(hf, tokenizer, image_processor(config.patch, config.merge, 2, config.max_pixels))

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: Any = "auto", *, max_pixels: int | None = None) -> DrivingVLM:
        """A checkpoint folder in hub layout, ours or Qwen's own, or the name of one on the hub ("Qwen/…").

        `max_pixels` caps what a frame may cost, and stays with the checkpoint when it is saved (published ones allow
        thousands of visual tokens). Raises InputError naming a bad file.
        """
        return cls(*on_disk.load(on_disk.resolve(folder), dtype, max_pixels))

    @classmethod
    def make(cls, config: VLMConfig, seed: int = 0, *, texts: Sequence[str] = ()) -> DrivingVLM:
        """What the configuration names: `from_pretrained` where it has a checkpoint, else `tiny`."""
        config.validate()
        if config.checkpoint:
            return cls.from_pretrained(config.checkpoint, config.dtype, max_pixels=config.max_pixels)
        return cls.tiny(config, seed, texts=texts)

    def save_pretrained(self, folder: str | Path) -> None:
        """A plain folder that `transformers` loads without us; a LoRA is merged into what is written."""
        state = lora.merged_state(self.hf) if self._peft is not None else None
        on_disk.save(Path(folder), self.hf, self.tokenizer, self.processor, state, self.extras)

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
        state = prefill(self.hf.model, batch, cache=cache, share_prefix=self._keeps_keys)
        last_B = batch.prompt_B - 1
        both = at(state.hidden_BTD, torch.stack([last_B, last_B + len(run)], 1))
        return both[:, 0], both[:, 1], state

    def prompt_hidden(self, samples: Samples) -> Tensor:
        """(B, D) final hidden state of the last prompt token, with gradient."""
        return self._prompt(samples, cache=False)[0].float()

    @torch.no_grad()
    def decide(self, samples: Samples, batch: int = 64, *, method: Method = "trie") -> VLMOutput:
        """The VLM's own decisions.

        "trie": what constrained greedy generation says, in two passes a batch: the prompt decides the speed, and one
        more pass over the few tokens behind it that are open decides the direction. "constrained": the same by the
        stock `generate`, token by token. "score": the most probable of all twenty, with their probabilities (it can
        differ from the greedy one). "generate": whatever the model says; what is no decision is UNKNOWN and counted
        (`VLMOutput.unparsed`). Raises InputError for no samples or another method.
        """
        require(len(samples) > 0, "samples", "there are none to decide on")
        require(method in METHODS, "decide", f"method '{method}' is none of {METHODS}")
        how = {"trie": self._by_trie, "score": self._by_score}.get(method)
        parts = []
        for i in range(0, len(samples), batch):
            some = samples.take(slice(i, i + batch))
            parts.append(self._by_generation(some, method == "constrained") if how is None else how(some))
        return VLMOutput.concatenate(parts)

    def _by_trie(self, samples: Samples) -> VLMOutput:
        run = self.trie.root.run
        hidden_BD, open_BD, state = self._prompt(samples, cache=True, run=run)
        speed_logp_B4 = self._speed_logp(open_BD)
        speed_B = speed_logp_B4.argmax(1)
        choice_B = torch.tensor(self.trie.speed_of_choice, device=speed_B.device).argsort()[speed_B]
        feed = self._feed(samples, state, run)
        direction_B, direction_logp_B5 = open_edges(self.hf, feed, self.trie.below, choice_B, open_BD)
        return VLMOutput(hidden_BD.float(), speed_B, direction_B, speed_logp_B4, direction_logp_B5)

    def _by_score(self, samples: Samples) -> VLMOutput:
        hidden_BD, _, state = self._prompt(samples, cache=True)
        whole = torch.zeros(len(hidden_BD), dtype=torch.long, device=hidden_BD.device)
        _, joint_BA = open_edges(self.hf, self._feed(samples, state), self.trie.whole, whole, hidden_BD)
        best_B, joint_B45 = joint_BA.argmax(1), joint_BA.unflatten(1, (N_SPEED, N_DIRECTION))
        speed_logp_B4, speed_B = joint_B45.logsumexp(2), best_B // N_DIRECTION
        given_B5 = joint_B45[torch.arange(len(speed_B)), speed_B].log_softmax(1)
        return VLMOutput(hidden_BD.float(), speed_B, best_B % N_DIRECTION, speed_logp_B4, given_B5, joint_BA)

    def _by_generation(self, samples: Samples, constrained: bool) -> VLMOutput:
        allowed = self.answer_ids if constrained else ()
        answers, hidden_BD = say(self.hf, self.tokenizer, self.prepare(samples), allowed)
        # Where all answers begin alike the speed is decided behind the prompt, not at its end.
        logp_B4 = self.speed_logp(samples) if self.trie.root.run else self._speed_logp(hidden_BD)
        speed_B, direction_B = torch.tensor(parsed(self.tokenizer, answers), device=hidden_BD.device).unbind(1)
        return VLMOutput(hidden_BD.float(), speed_B, direction_B, logp_B4)

    def _feed(self, samples: Samples, state: Prefill, run: tuple[int, ...] = ()) -> Feed:
        """Hidden states of trees behind the prompt (and `run`): over its cache, or as whole sequences without one."""

        def by_cache(token_BN: Tensor, depth_BN: Tensor, sees_BNN: Tensor) -> Tensor:
            return extend_tree(self.hf.model, state, token_BN, depth_BN, sees_BNN)

        def by_sequences(token_BN: Tensor, depth_BN: Tensor, sees_BNN: Tensor) -> Tensor:
            trees = [
                tree_paths(*(x.cpu().numpy() for x in row)) for row in zip(token_BN, depth_BN, sees_BNN, strict=True)
            ]
            count = np.array([len(paths) for paths, _ in trees])
            sequences = [(*run, *path) for paths, _ in trees for path in paths]
            batch = self.encoder(samples.take(np.repeat(np.arange(len(trees)), count)), sequences, self.device)
            hidden_RTD = prefill(self.hf.model, batch, cache=False, share_prefix=False).hidden_BTD
            first = np.cumsum(count) - count
            row_BN = torch.tensor(
                np.stack([f + by for f, (_, by) in zip(first, trees, strict=True)]), device=self.device
            )
            return hidden_RTD[row_BN, batch.prompt_B[row_BN] + len(run) + depth_BN]

        return by_cache if self._keeps_keys else by_sequences

    def _speed_logp(self, hidden_BD: Tensor) -> Tensor:
        """(B, 4) from the hidden states behind which the speed is said."""
        order = [self.trie.root.tokens[self.trie.speed_of_choice.index(s)] for s in range(N_SPEED)]
        # Four rows of the head: a real vocabulary has 150 000.
        return nn.functional.linear(hidden_BD, self.hf.lm_head.weight[order]).float().log_softmax(-1)

    def speed_logp(self, samples: Samples) -> Tensor:
        """(B, 4) log-probabilities of the speeds, normalised over the four, with gradient; one pass."""
        return self._speed_logp(self._prompt(samples, cache=False, run=self.trie.root.run)[1])

    def score_all(self, samples: Samples) -> Tensor:
        """(B, 20) log-probabilities of the whole answers as the model would write them, every token counted, then
        normalised over the twenty; ALL_DECISIONS order, with gradient."""
        return self.hidden_and_scores(samples)[1]

    def hidden_and_scores(self, samples: Samples) -> tuple[Tensor, Tensor]:
        """(`prompt_hidden`, `score_all`) of one pass."""
        hidden_BD, _, state = self._prompt(samples, cache=True)
        scores = score_tree(self.hf, self._feed(samples, state), hidden_BD, self.trie.packed)
        return hidden_BD.float(), scores.log_softmax(-1)

    def answer_nll(self, samples: Samples, speed_B: Any, direction_B: Any) -> Tensor:
        """(B,) −log P(answer | prompt), teacher-forced, summed over the answer's tokens and its closing one.

        A row whose speed or direction is -1 has no answer to learn: its loss is 0 without a gradient
        (`answered` tells which rows count; divide by their number for a mean).
        """
        return self.hidden_and_nll(samples, speed_B, direction_B)[1]

    def hidden_and_nll(self, samples: Samples, speed_B: Any, direction_B: Any) -> tuple[Tensor, Tensor]:
        """(`prompt_hidden`, `answer_nll`) of one pass."""
        speed, direction = (torch.as_tensor(x, device=self.device).long() for x in (speed_B, direction_B))
        number = (speed.clamp(min=0) * N_DIRECTION + direction.clamp(min=0)).tolist()
        hidden_BD, nll_BK, _ = self._teach(samples, [self.answer_ids[i] for i in number])
        return hidden_BD.float(), nll_BK.where(answered(speed, direction)[:, None], 0.0).sum(1)

    def text_nll(self, samples: Samples, questions: Sequence[str], answers: Sequence[str]) -> Tensor:
        """(B,) −log P a token of any answers to any questions, teacher-forced, the closing token included."""
        _, nll_BK, length_B = self._teach(samples, answer_ids(self.tokenizer, answers), questions)
        return nll_BK.sum(1) / length_B

    def _teach(
        self, samples: Samples, targets: Sequence[tuple[int, ...]], questions: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D) at the last prompt token, (B, K) loss of each target token (0 behind its end), (B,) their numbers."""
        batch = self.encoder(samples, [t[:-1] for t in targets], self.device, questions)
        state = prefill(self.hf.model, batch, cache=False, share_prefix=self._keeps_keys)
        count = torch.arange(max(map(len, targets)), device=self.device)
        length = torch.tensor([len(t) for t in targets], device=self.device)
        target_BK = torch.tensor([[*t, *[0] * (len(count) - len(t))] for t in targets], device=self.device)
        source_BK = batch.prompt_B[:, None] - 1 + torch.minimum(count, length[:, None] - 1)
        hidden_BKD = at(state.hidden_BTD, source_BK)
        logits = self.hf.lm_head(hidden_BKD).float()
        nll_BK = nn.functional.cross_entropy(logits.flatten(0, 1), target_BK.flatten(), reduction="none")
        return hidden_BKD[:, 0], nll_BK.view_as(target_BK).where(count < length[:, None], 0.0), length

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
