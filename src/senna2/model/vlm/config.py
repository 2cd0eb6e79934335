"""Sizes of a VLM built from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import Qwen2_5_VLConfig

from senna2.model.vlm.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START
from senna2.types import require


@dataclass(frozen=True)
class VLMConfig:
    """Sizes of a Qwen2.5-VL built from nothing; the defaults are the tiny one, about 1.4 M parameters."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate_size: int = 384
    vision_hidden_size: int = 96
    vision_layers: int = 3
    vision_heads: int = 3
    vision_intermediate_size: int = 192
    patch: int = 14
    merge: int = 2
    max_pixels: int = 64 * 28 * 28  # 64 visual tokens at most, whatever the camera
    # About 1/√hidden. Qwen's 0.02 is for widths in the thousands: at this width it needs two to three times the
    # steps to fit, and stays longer on the plateau where the image is ignored.
    initializer_range: float = 0.08

    def validate(self) -> VLMConfig:
        require(
            self.hidden_size % (4 * self.heads) == 0,
            "VLMConfig.hidden_size",
            "must be a multiple of 4 · heads",
        )
        require(self.heads % self.kv_heads == 0, "VLMConfig.kv_heads", "must divide heads")
        even = self.vision_hidden_size % (4 * self.vision_heads) == 0
        require(even, "VLMConfig.vision_hidden_size", "must be a multiple of 4 · vision_heads")
        require(self.max_pixels >= 4 * (self.patch * self.merge) ** 2, "VLMConfig.max_pixels", "under four tokens")
        return self

    def build(self, tokenizer: Any) -> Qwen2_5_VLConfig:
        """Every field given: the class's defaults are those of the 72 B model.

        Special ids come from the tokenizer.
        """
        half = self.hidden_size // self.heads // 2
        side = 3 * half // 8  # rotary sections: time a quarter, height and width 3/8 each, as Qwen's 16, 24, 24
        image, video, start, end = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO, VISION_START, VISION_END])
        return Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e4, "mrope_section": [half - 2 * side, side, side],
                },
                "initializer_range": self.initializer_range,
                "bos_token_id": tokenizer.pad_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "pad_token_id": tokenizer.pad_token_id,
                "tie_word_embeddings": True,
            },
            vision_config={
                "depth": self.vision_layers,
                "hidden_size": self.vision_hidden_size,
                "intermediate_size": self.vision_intermediate_size,
                "num_heads": self.vision_heads,
                "in_channels": 3,
                "patch_size": self.patch,
                "spatial_merge_size": self.merge,
                "temporal_patch_size": 2,
                "out_hidden_size": self.hidden_size,
                # Small frames: every layer sees the whole image.
                "fullatt_block_indexes": list(range(self.vision_layers)),
                "initializer_range": self.initializer_range,
            },
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )  # fmt: skip
