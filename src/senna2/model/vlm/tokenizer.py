"""A Qwen tokenizer trained offline on our prompts: byte-level BPE, so that any other text still encodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from senna2.model.vlm.prompts import corpus

PAD, IMAGE, VIDEO = "<|endoftext|>", "<|image_pad|>", "<|video_pad|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
# In Qwen's order; their numbers follow the vocabulary and are always looked up, never written down.
SPECIAL = (
    PAD, TURN_START, TURN_END, "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>",
    "<|quad_start|>", "<|quad_end|>", VISION_START, VISION_END, "<|vision_pad|>", IMAGE, VIDEO,
)  # fmt: skip

# The layout of Qwen2.5-VL's own template, for the turns that we use.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@lru_cache(maxsize=2)
def _trained(texts: tuple[str, ...] = ()) -> str:
    """The BPE vocabulary and merges as JSON, from nothing but the prompts and `texts`: the same everywhere."""
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # never reached: merges run out when every word of the corpus is one token
        min_frequency=1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator([*corpus(), *texts], trainer)
    return json.dumps(json.loads(bpe.to_str())["model"])


def train_tokenizer(texts: tuple[str, ...] = ()) -> PreTrainedTokenizerBase:
    """A fresh Qwen tokenizer of some hundred tokens: every word of our prompts (and of `texts`) is one."""
    model = json.loads(_trained(texts))
    tokenizer = Qwen2Tokenizer(  # its annotations admit neither pairs as merges nor "no unknown token"
        vocab=model["vocab"],
        merges=[tuple(m) for m in model["merges"]],  # type: ignore[misc]
        unk_token=None,  # type: ignore[arg-type]
        pad_token=PAD,
        eos_token=TURN_END,
        extra_special_tokens=list(SPECIAL),
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def answer_ids(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]) -> list[tuple[int, ...]]:
    """The token ids of each answer, closed by the end-of-turn token."""
    end = tokenizer.eos_token_id
    return [(*tokenizer.encode(a, add_special_tokens=False), end) for a in answers]
