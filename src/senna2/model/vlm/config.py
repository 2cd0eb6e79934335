"""Sizes of a VLM built from nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from transformers import AutoConfig

from senna2.model.vlm.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START
from senna2.types import require

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen3_5")  # `model_type` of their config.json
POSITIONS = 16  # learned positions a side in the newer families, interpolated to the frame's grid


@dataclass(frozen=True)
class VLMConfig:
    """Which VLM: a checkpoint, or a Qwen-VL built from nothing; the defaults are a tiny one, about 1.4 M parameters.

    `checkpoint`: a folder or the name of one on the hub; then only `dtype` and `max_pixels` count. `dtype`: "auto"
    keeps the checkpoint's own, which for bfloat16 weights loses small updates when all of them train.
    """

    checkpoint: str = ""
    dtype: Literal["float32", "bfloat16", "auto"] = "float32"
    family: Literal["qwen2_5_vl", "qwen3_vl", "qwen3_5"] = "qwen2_5_vl"
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
        require(self.family in FAMILIES, "VLMConfig.family", f"'{self.family}' is none of {FAMILIES}")
        require(self.dtype in ("float32", "bfloat16", "auto"), "VLMConfig.dtype", f"'{self.dtype}' is unknown")
        require(self.max_pixels >= 4 * (self.patch * self.merge) ** 2, "VLMConfig.max_pixels", "under four tokens")
        if self.checkpoint:
            return self
        require(
            self.hidden_size % (4 * self.heads) == 0,
            "VLMConfig.hidden_size",
            "must be a multiple of 4 · heads",
        )
        require(self.heads % self.kv_heads == 0, "VLMConfig.kv_heads", "must divide heads")
        even = self.vision_hidden_size % (4 * self.vision_heads) == 0
        require(even, "VLMConfig.vision_hidden_size", "must be a multiple of 4 · vision_heads")
        return self

    def build(self, tokenizer: Any) -> Any:
        """The `transformers` config. Every field given: the classes' defaults are those of their largest models.

        Special ids come from the tokenizer.
        """
        image, video, start, end = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO, VISION_START, VISION_END])
        return AutoConfig.for_model(
            self.family,
            text_config=self._text(tokenizer),
            vision_config=self._vision(),
            image_token_id=image,
            video_token_id=video,
            vision_start_token_id=start,
            vision_end_token_id=end,
            tie_word_embeddings=True,
        )

    def _text(self, tokenizer: Any) -> dict[str, Any]:
        head = self.hidden_size // self.heads
        hybrid = self.family == "qwen3_5"
        half = head // (8 if hybrid else 2)  # the hybrid family turns a quarter of each head
        side = 3 * half // 8  # rotary sections: time a quarter, height and width 3/8 each, as Qwen's 16, 24, 24
        rope: dict[str, Any] = {
            "rope_type": "default", "rope_theta": 1e4, "mrope_section": [half - 2 * side, side, side],
        }  # fmt: skip
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "max_position_embeddings": 4096,
            "rope_parameters": rope,
            "initializer_range": self.initializer_range,
            "bos_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": True,
        }
        if self.family != "qwen2_5_vl":
            rope["mrope_interleaved"] = True
            text["head_dim"] = head
        if hybrid:
            rope["partial_rotary_factor"] = 0.25
            # As published: every fourth layer attends, the others keep a state.
            text["layer_types"] = ["linear_attention" if (i + 1) % 4 else "full_attention" for i in range(self.layers)]
            text |= {
                "linear_key_head_dim": head, "linear_value_head_dim": head, "linear_num_key_heads": self.kv_heads,
                "linear_num_value_heads": self.heads,
            }  # fmt: skip
        return text

    def _vision(self) -> dict[str, Any]:
        vision: dict[str, Any] = {
            "depth": self.vision_layers,
            "hidden_size": self.vision_hidden_size,
            "intermediate_size": self.vision_intermediate_size,
            "num_heads": self.vision_heads,
            "in_channels": 3,
            "patch_size": self.patch,
            "spatial_merge_size": self.merge,
            "temporal_patch_size": 2,
            "out_hidden_size": self.hidden_size,
            "initializer_range": self.initializer_range,
        }
        if self.family == "qwen2_5_vl":
            # Small frames: every layer sees the whole image.
            return vision | {"fullatt_block_indexes": list(range(self.vision_layers))}
        vision["num_position_embeddings"] = POSITIONS * POSITIONS
        if self.family == "qwen3_vl":
            vision["deepstack_visual_indexes"] = list(range(min(2, self.vision_layers, self.layers)))
        return vision
