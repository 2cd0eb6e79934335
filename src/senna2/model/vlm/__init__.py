"""The vision-language model that decides: prompts, tokenizer, Qwen wrapper, decoding, LoRA."""

from senna2.model.vlm.qwen import DrivingVLM, VLMConfig, VLMOutput, answered

__all__ = ["DrivingVLM", "VLMConfig", "VLMOutput", "answered"]
