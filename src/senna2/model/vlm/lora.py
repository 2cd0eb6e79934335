"""Low-rank adapters on the language model (paper, stages 2 and 3: r 8, α 16), through `peft`."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict
from torch import Tensor, nn

from senna2.types import InputError

# Not the vision tower nor its merger; `linear_attn` are layers of the newer Qwen families.
TARGETS = (
    r".*language_model\.layers\.\d+\.(self_attn|mlp|linear_attn)\."
    r"(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|in_proj_qkv|in_proj_z|out_proj)"
)


def attach(hf: Any, r: int, alpha: int, seed: int) -> PeftModel:
    """Put adapters into `hf` in place and freeze everything else.

    B starts at 0: the model's output is unchanged.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, target_modules=TARGETS, lora_dropout=0.0, bias="none")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with warnings.catch_warnings():  # peft asks transformers by a name that is on its way out
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
            return get_peft_model(hf, config)


def save(peft: PeftModel, folder: Path, base: str) -> None:
    """adapter_config.json and adapter_model.safetensors (low-rank tensors only); `base` names the model."""
    for config in peft.peft_config.values():
        config.base_model_name_or_path = base  # null for a model built from a config: nothing could find its base
    # "auto" would ask the hub whether the base has other embeddings: no network, and they never train here.
    peft.save_pretrained(str(folder), save_embedding_layers=False)


def load(hf: Any, folder: Path) -> PeftModel:
    """Adapters of a folder on top of `hf`. Raises InputError naming the folder when they do not fit."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: missing; it is written by save_lora")
    try:
        config = LoraConfig.from_pretrained(str(folder))
        config.inference_mode = False
        config.base_model_name_or_path = None  # peft fills it in, and warns where it has to rename it
        peft = get_peft_model(hf, config)
        wrong: Any = set_peft_model_state_dict(peft, load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # peft and safetensors raise their own kinds
        raise InputError(f"{folder}: cannot load the adapter: {error}") from error
    if wrong.unexpected_keys or [k for k in wrong.missing_keys if "lora_" in k]:
        raise InputError(f"{folder}/adapter_model.safetensors: does not fit this model")
    return peft


@torch.no_grad()
def merged_state(hf: nn.Module) -> dict[str, Tensor]:
    """The state dict of `hf` as a plain model would have it, adapters added to the weights they sit on."""
    state = {k.replace(".base_layer.", "."): v for k, v in hf.state_dict().items() if ".lora_" not in k}
    for name, module in hf.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module  # every kind of LoRA layer has the method, their common base does not declare it
            weight = state[f"{name}.weight"]
            for adapter in layer.active_adapters:
                weight = weight + layer.get_delta_weight(adapter).to(weight.dtype)
            state[f"{name}.weight"] = weight
    return state
