"""The vision-language model that decides: prompts, tokenizer, Qwen wrapper, decoding, LoRA."""

from senna2.model.vlm.output import VLMOutput
from senna2.model.vlm.qwen import METHODS, DrivingVLM, VLMConfig, answered

__all__ = ["METHODS", "DrivingVLM", "VLMConfig", "VLMOutput", "answered"]
