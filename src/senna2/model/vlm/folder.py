"""A VLM on disk, in the plain layout of the hub: `transformers` loads it without us; nothing is unpickled."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.utils import logging as hf_logging

from senna2.types import InputError

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TEMPLATES = ("chat_template.json", "chat_template.jinja")
# Not read here, but other tools (vLLM, stock processors where torchvision is) want them beside the weights.
EXTRAS = ("video_preprocessor_config.json",)
WANTED = ("*.json", "*.safetensors", "*.jinja", "merges.txt")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
Loaded = tuple[Any, PreTrainedTokenizerBase, Qwen2VLImageProcessorPil, dict[str, str]]


def resolve(where: str | Path) -> Path:
    """A folder as it is; the name of a checkpoint on the hub as the folder it is downloaded to (or lies cached in).

    Raises InputError when it is neither, or cannot be fetched.
    """
    folder = Path(where)
    if folder.exists() or not isinstance(where, str) or not HUB_NAME.fullmatch(where):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, allow_patterns=list(WANTED)))
    except Exception as error:  # no network, no such name, no rights: each has its own exception
        raise InputError(
            f"{where}: neither a folder nor a checkpoint that the hub gives us ({error}); download it, name its folder"
        ) from error


def load(folder: Path, dtype: Any = "auto", max_pixels: int | None = None) -> Loaded:
    """Model, tokenizer, image processor (capped at `max_pixels`) and files to keep beside them.

    Raises InputError naming the file that is missing or corrupt.
    """
    _check(folder)
    try:
        with _quiet():
            loaded: Any = AutoModelForImageTextToText.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False,
                output_loading_info=True, dtype=dtype, attn_implementation="sdpa",
            )  # fmt: skip
    except Exception as error:  # config.json can be wrong in many ways, each with its own exception
        raise InputError(f"{folder / 'config.json'}: cannot build the model it describes: {error}") from error
    hf, info = loaded
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[kind]:
            raise InputError(f"{folder / WEIGHTS}: does not fit config.json ({kind}: {sorted(info[kind])[:3]} …)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(f"{folder / 'tokenizer.json'}: cannot load the tokenizer: {error}") from error
    try:
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise InputError(f"{folder / 'preprocessor_config.json'}: cannot load it: {error}") from error
    if tokenizer.chat_template is None:
        tokenizer.chat_template = _template(folder)
    _cap(processor, max_pixels, folder)
    extras = {name: (folder / name).read_text(encoding="utf-8") for name in EXTRAS if (folder / name).is_file()}
    return hf, tokenizer, processor, extras


def _template(folder: Path) -> str | None:
    """Older folders keep the chat template with the processor instead of the tokenizer."""
    kept, plain = (folder / name for name in TEMPLATES)
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    template = _json(kept).get("chat_template") if kept.is_file() else None
    return template if isinstance(template, str) else None


def _cap(processor: Any, max_pixels: int | None, folder: Path) -> None:
    """Lower the most pixels a frame is scaled to. The size's "edges" are areas in these processors."""
    if max_pixels is None or processor.size["longest_edge"] <= max_pixels:
        return
    least = int(processor.size["shortest_edge"])
    side = int(processor.patch_size) * int(processor.merge_size)
    if max_pixels < side * side:
        raise InputError(f"{folder}: max_pixels {max_pixels} is less than one visual token of {side} × {side} pixels")
    processor.size = {"shortest_edge": min(least, max_pixels), "longest_edge": int(max_pixels)}


def save(
    folder: Path, hf: Any, tokenizer: Any, processor: Any, state: dict[str, Tensor] | None = None,
    extras: Mapping[str, str] | None = None,
) -> None:  # fmt: skip
    """Write to a temporary sibling, then move file by file: none is ever half-written."""
    folder = Path(folder)
    new = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        new.mkdir(parents=True)
        with _quiet():
            hf.save_pretrained(new, state_dict=state)
        tokenizer.save_pretrained(new)
        processor.save_pretrained(new)
        for name, text in (extras or {}).items():
            (new / name).write_text(text, encoding="utf-8")
        folder.mkdir(exist_ok=True)
        for stale in (WEIGHTS, INDEX, *(p.name for p in folder.glob("model-*-of-*.safetensors"))):
            if not (new / stale).exists():  # weights of another sharding would be read in place of the new ones
                (folder / stale).unlink(missing_ok=True)
        for path in sorted(new.iterdir()):
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _check(folder: Path) -> None:
    """Look at every file before `transformers` does: its own errors name neither file nor fix."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that save_pretrained (ours or transformers') has written")
    _json(folder / "config.json")
    _json(folder / "tokenizer_config.json")
    if not (folder / "vocab.json").is_file() or (folder / "tokenizer.json").exists():
        _json(folder / "tokenizer.json")
    processor = folder / "processor_config.json"
    _json(processor if processor.is_file() else folder / "preprocessor_config.json")
    weights = [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        shards = _json(folder / INDEX).get("weight_map")
        if not isinstance(shards, dict):
            raise InputError(f"{folder / INDEX}: field 'weight_map' is missing; copy the file again")
        weights = [folder / str(name) for name in sorted(set(shards.values()))]
    for path in weights:
        if not path.is_file():
            raise InputError(f"{path}: missing; weights must be in safetensors format (pickles are never read)")
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: corrupt or truncated ({error}); write or copy it again") from error


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: missing; a checkpoint folder needs it, copy it again")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); write or copy it again") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object")
    return value


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `transformers` for weights that load in a blink; the setting is put back."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
