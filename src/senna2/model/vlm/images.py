"""Frames to patches, as Qwen's image processor does it, without torchvision.

Legend: B images, H and W pixels, P patches of all images, F values of a patch (3 · temporal · patch · patch).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionPatchEmbed,
    Qwen2_5_VLVisionAttention,
    apply_rotary_pos_emb_vision,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from senna2.types import Array, InputError


@dataclass(frozen=True, eq=False)
class Patchifier:
    """The numbers of an image processor, and the fast path for frames of one size.

    levels_C256: the normalised value of every byte, per channel, computed once in the processor's own
    precision.
    """

    patch: int
    merge: int
    temporal: int
    min_pixels: int
    max_pixels: int
    resample: int
    levels_C256: Array

    @classmethod
    def of(cls, processor: Any) -> Patchifier:
        """From a (loaded) `Qwen2VLImageProcessorPil`."""
        byte = np.arange(256, dtype=np.float64)
        # The processor rescales in float64, rounds to float32, normalises: identical in this order only.
        scaled = (byte * processor.rescale_factor).astype(np.float32)
        mean, std = (np.asarray(x, np.float32) for x in (processor.image_mean, processor.image_std))
        levels = (scaled[None] - mean[:, None]) / std[:, None]
        return cls(
            int(processor.patch_size), int(processor.merge_size), int(processor.temporal_patch_size),
            int(processor.size["shortest_edge"]), int(processor.size["longest_edge"]),
            int(processor.resample), levels.astype(np.float32),
        )  # fmt: skip

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) a frame is brought to: multiples of patch · merge within the pixel limits."""
        try:
            return smart_resize(height, width, self.patch * self.merge, self.min_pixels, self.max_pixels)
        except ValueError as error:
            raise InputError(f"images[front]: {height} × {width} pixels: {error}") from None

    def __call__(self, images_BHW3: Array) -> tuple[Tensor, Tensor]:
        """uint8 frames of one size → pixel_values (P, F) float32 and image_grid_thw (B, 3) int64.

        Bit-identical to the processor. Raises InputError on another dtype or shape.
        """
        if images_BHW3.ndim != 4 or images_BHW3.shape[-1] != 3 or images_BHW3.dtype != np.uint8:
            raise InputError(
                f"images[front]: shape {images_BHW3.shape} of {images_BHW3.dtype}; give (B, H, W, 3) of uint8"
            )
        b, h, w, _ = images_BHW3.shape
        to_h, to_w = self.size_of(h, w)
        if (to_h, to_w) != (h, w):
            resample = Image.Resampling(self.resample)
            frames = [Image.fromarray(f).resize((to_w, to_h), resample) for f in images_BHW3]
            images_BHW3 = np.stack([np.asarray(f) for f in frames])
        p, m = self.patch, self.merge
        rows, columns = to_h // p, to_w // p
        # Patches of one merged token lie together: (token row, token column, row in it, column in it).
        blocks = images_BHW3.reshape(b, rows // m, m, p, columns // m, m, p, 3)
        blocks = blocks.transpose(0, 1, 4, 2, 5, 7, 3, 6)
        values = np.empty((b, rows // m, columns // m, m, m, 3, self.temporal, p, p), np.float32)
        for channel, levels in enumerate(self.levels_C256):
            # A still is a frame twice.
            values[..., channel, :, :, :] = levels[blocks[..., channel, :, :]][..., None, :, :]
        grid = torch.tensor([[1, rows, columns]]).repeat(b, 1)
        return torch.from_numpy(values.reshape(b * rows * columns, -1)), grid

    def tokens(self, height: int, width: int) -> int:
        """Visual tokens of a frame of this size."""
        h, w = self.size_of(height, width)
        return h * w // (self.patch * self.merge) ** 2


def image_processor(patch: int, merge: int, temporal: int, max_pixels: int) -> Qwen2VLImageProcessorPil:
    """Qwen's own processor; the stock pixel limit would let a full-HD frame cost over a thousand tokens."""
    side = patch * merge
    return Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=temporal,
        size={"shortest_edge": 4 * side * side, "longest_edge": max_pixels},
    )


class SameSizeAttention(Qwen2_5_VLVisionAttention):
    """The stock vision attention, one call for all images of one size instead of one each (1.2 ×)."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        lengths = cu_seqlens[1:] - cu_seqlens[:-1]
        same = len(lengths) > 0 and bool((lengths == lengths[0]).all())
        if not same or position_embeddings is None or self.config._attn_implementation != "sdpa":
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        total, each = len(hidden_states), int(lengths[0])
        qkv = self.qkv(hidden_states).reshape(total, 3, self.num_heads, -1)
        q, k, v = qkv.permute(1, 0, 2, 3).unbind(0)
        q, k = apply_rotary_pos_emb_vision(q, k, *position_embeddings)
        q, k, v = (x.reshape(total // each, each, self.num_heads, -1).transpose(1, 2) for x in (q, k, v))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, scale=self.scaling)
        return self.proj(mixed.transpose(1, 2).reshape(total, -1))


class LinearPatchEmbed(Qwen2_5_VisionPatchEmbed):
    """The stock patch embedding as the matrix product it is, since its windows do not overlap (2.8 × on a CPU)."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight.flatten(1)
        return nn.functional.linear(hidden_states.reshape(-1, weight.shape[1]).to(weight.dtype), weight)


def quick_vision(model: nn.Module) -> None:
    """Swap the classes of a Qwen2.5-VL's vision attention and patch embedding in place; weights and names stay."""
    quicker = {Qwen2_5_VLVisionAttention: SameSizeAttention, Qwen2_5_VisionPatchEmbed: LinearPatchEmbed}
    for module in model.modules():
        if type(module) in quicker:
            module.__class__ = quicker[type(module)]
