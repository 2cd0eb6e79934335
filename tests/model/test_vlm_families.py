"""Every family of Qwen-VL behind the same code: decisions, training, and folders as the hub publishes them."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText

from senna2.cli import main
from senna2.data.store import write_part
from senna2.model.config import PolicyConfig
from senna2.model.vlm import METHODS, DrivingVLM, VLMConfig, folder
from senna2.model.vlm.config import FAMILIES
from senna2.recipes import stages
from senna2.recipes.smoke import smoke
from senna2.train.loop import Optim
from senna2.train.stage1 import Stage1a
from senna2.types import InputError, Rig, Samples

# Loud random weights: decisions differ from row to row. Sizes that show a mix-up: no two of them are equal.
SMALL = VLMConfig(
    hidden_size=64, layers=2, heads=2, kv_heads=1, intermediate_size=96, vision_hidden_size=48, vision_layers=2,
    vision_heads=3, vision_intermediate_size=80, initializer_range=0.2,
)  # fmt: skip


def config(family: str) -> VLMConfig:
    more: dict[str, Any] = {} if family == "qwen2_5_vl" else {"patch": 16}
    return replace(SMALL, family=family, layers=4 if family == "qwen3_5" else 2, **more)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest) -> DrivingVLM:
    return DrivingVLM.tiny(config(request.param), seed=1).eval()


def mixed(n: int) -> Samples:
    """Prompts of several lengths."""
    base = Samples.fake(n, Rig.default(), 0)
    motion = base.motion_N4.copy()
    motion[:, 0] = np.linspace(0, 30, n)
    said = tuple("Please turn left." if i % 3 == 2 else "" for i in range(n))
    return replace(base, motion_N4=motion, navigation_N=(np.arange(n) % 5).astype(np.int8), instruction_N=said)


def stock(vlm: DrivingVLM, samples: Samples, answers: list[str]) -> torch.Tensor:
    """(B,) log-probability of each answer by the stock forward pass."""
    x = vlm.prepare(samples, answers)
    labels = x.pop("labels")
    with torch.no_grad():
        logp = vlm(**x, use_cache=False).logits[:, :-1].log_softmax(-1)
    target = labels[:, 1:]
    return logp.gather(2, target.clamp(min=0)[..., None])[..., 0].masked_fill(target < 0, 0).sum(1)


def test_it_is_the_class_of_the_family(vlm: DrivingVLM) -> None:
    module = type(vlm.hf).__module__
    assert module == f"transformers.models.{vlm.hf.config.model_type}.modeling_{vlm.hf.config.model_type}"
    vision, patchifier = vlm.hf.config.vision_config, vlm.encoder.patchifier
    assert (patchifier.patch, patchifier.merge) == (vision.patch_size, vision.spatial_merge_size)
    assert vlm.encoder.image_token_id == vlm.tokenizer.convert_tokens_to_ids("<|image_pad|>")


def test_every_method_decides_alike(vlm: DrivingVLM) -> None:
    samples = mixed(4)
    trie, word = vlm.decide(samples), vlm.decide(samples, method="constrained")
    assert torch.equal(trie.speed_B, word.speed_B)
    assert torch.equal(trie.direction_B, word.direction_B)
    torch.testing.assert_close(trie.hidden_BD, word.hidden_BD, atol=1e-4, rtol=1e-4)
    assert trie.direction_logp_B5 is not None
    score = vlm.decide(samples, method="score")
    assert score.joint_logp_B20 is not None
    chosen = score.joint_logp_B20.view(-1, 4, 5)[torch.arange(4), trie.speed_B]
    both = trie.speed_logp_B4.gather(1, trie.speed_B[:, None]) + trie.direction_logp_B5
    torch.testing.assert_close(both, chosen, atol=1e-4, rtol=0)


def test_scores_and_losses_equal_the_stock_model(vlm: DrivingVLM) -> None:
    samples = mixed(3)
    speed, direction = np.array([0, 2, 3]), np.array([4, 0, 1])
    answers = ["ACCELERATE, CHANGE LANE RIGHT", "KEEP SPEED, GO STRAIGHT", "STOP, TURN LEFT"]
    wanted = stock(vlm, samples, answers)
    with torch.no_grad():
        torch.testing.assert_close(-vlm.answer_nll(samples, speed, direction), wanted, atol=1e-4, rtol=1e-4)
        scores = vlm.score_all(samples)
    first = samples.take(slice(0, 1))
    pair = stock(vlm, Samples.concatenate([first, first]), answers[:2])
    torch.testing.assert_close(scores[0, 4] - scores[0, 10], pair[0] - pair[1], atol=1e-4, rtol=1e-4)


def test_lora_sits_on_the_language_model(vlm: DrivingVLM, tmp_path: Path) -> None:
    other = DrivingVLM.tiny(config(vlm.hf.config.model_type), seed=1)
    samples = mixed(2)
    other.add_lora()
    assert other.lora_parameters()
    assert not any("visual" in n for n, p in other.hf.named_parameters() if p.requires_grad)
    with torch.no_grad():
        for p in other.lora_parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        wanted = other.score_all(samples)
        x = other.prepare(samples)
        logits = other(**x).logits
    assert (wanted - vlm.score_all(samples)).abs().max() > 1e-3
    other.save_pretrained(tmp_path / "merged")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged", local_files_only=True)
    assert not any("lora" in n for n, _ in plain.named_parameters())
    with torch.no_grad():  # without any code of ours
        torch.testing.assert_close(plain(**x).logits, logits, atol=2e-3, rtol=1e-3)


def hub_folder(vlm: DrivingVLM, where: Path) -> Path:
    """The folder as Qwen publishes it: field names, weight names and side files of that family."""
    where.mkdir()
    vlm.tokenizer.save_pretrained(where)
    ours = vlm.hf.config.to_dict()
    family, text, vision = ours["model_type"], ours["text_config"], ours["vision_config"]
    weights = {k: v.clone() for k, v in vlm.hf.state_dict().items() if k != "lm_head.weight"}
    processor: dict[str, Any] = {
        "merge_size": 2, "patch_size": vision["patch_size"], "temporal_patch_size": 2,
        "image_mean": vlm.processor.image_mean, "image_std": vlm.processor.image_std,
        "processor_class": "Qwen2_5_VLProcessor" if family == "qwen2_5_vl" else "Qwen3VLProcessor",
    }  # fmt: skip
    template = vlm.tokenizer.chat_template
    (where / "chat_template.jinja").unlink()
    if family == "qwen2_5_vl":  # a flat config, weights without the common prefix, pixel limits by name
        rope = text.pop("rope_parameters")
        drop = ("model_type", "dtype", "layer_types")
        hub = {k: v for k, v in {**text, **ours}.items() if k not in ("text_config", *drop)}
        hub |= {"model_type": family, "torch_dtype": "bfloat16", "rope_theta": rope["rope_theta"]}
        hub["rope_scaling"] = {"type": "mrope", "mrope_section": rope["mrope_section"]}
        hub["vision_config"] = {k: v for k, v in vision.items() if k not in drop} | {"in_chans": 3}
        short = {"model.language_model.": "model.", "model.visual.": "visual."}
        for long, new in short.items():
            weights = {(new + k[len(long) :] if k.startswith(long) else k): v for k, v in weights.items()}
        processor |= {"min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "Qwen2VLImageProcessor"}
        (where / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    else:
        hub = ours
        if family == "qwen3_vl":
            rope = text.pop("rope_parameters")
            text["rope_theta"] = rope["rope_theta"]
            text["rope_scaling"] = {k: rope[k] for k in ("mrope_section", "mrope_interleaved", "rope_type")}
        else:  # heads that predict several tokens come along; the model does not use them
            weights["mtp.fc.weight"] = torch.zeros(4, 8)
        text["dtype"] = hub["dtype"] = "bfloat16"
        processor |= {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}
        processor |= {"image_processor_type": "Qwen2VLImageProcessorFast"}
        tokens = json.loads((where / "tokenizer_config.json").read_text())
        (where / "tokenizer_config.json").write_text(json.dumps({**tokens, "chat_template": template}))
    hub["architectures"] = [type(vlm.hf).__name__]
    (where / "config.json").write_text(json.dumps(hub))
    (where / "preprocessor_config.json").write_text(json.dumps(processor))
    (where / "video_preprocessor_config.json").write_text('{"patch_size": 16}')
    (where / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "repetition_penalty": 3.0, "temperature": 0.7, "eos_token_id": [1, 2]})
    )
    shards = sorted(weights)
    half = len(shards) // 2
    names = {k: f"model-0000{1 + (i >= half)}-of-00002.safetensors" for i, k in enumerate(shards)}
    for name in set(names.values()):
        save_file({k: weights[k] for k in shards if names[k] == name}, where / name, metadata={"format": "pt"})
    (where / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return where


def test_loads_the_hubs_own_layout(vlm: DrivingVLM, tmp_path: Path) -> None:
    where = hub_folder(vlm, tmp_path / "hub")
    asked = VLMConfig(checkpoint=str(where), max_pixels=64 * 28 * 28)
    loaded = DrivingVLM.make(asked)  # `load` refuses missing, unexpected and mismatched keys
    samples = mixed(3)
    assert loaded.hf.config.model_type == vlm.hf.config.model_type
    assert next(loaded.parameters()).dtype == torch.float32
    assert loaded.processor.size["longest_edge"] == 64 * 28 * 28
    x, y = loaded.prepare(samples), vlm.prepare(samples)
    if vlm.hf.config.model_type == "qwen2_5_vl":  # else its least size is larger than our frames
        assert all(torch.equal(x[k], y[k]) for k in y)  # the same pixels, too
        torch.testing.assert_close(loaded.score_all(samples), vlm.score_all(samples), atol=1e-5, rtol=1e-5)
    told = loaded.decide(samples)
    word = loaded.decide(samples, method="constrained")  # whatever generation_config.json says
    assert torch.equal(told.speed_B * 5 + told.direction_B, word.speed_B * 5 + word.direction_B)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "video_preprocessor_config.json").read_text() == '{"patch_size": 16}'
    again = DrivingVLM.from_pretrained(tmp_path / "again")
    assert torch.equal(again.score_all(samples), loaded.score_all(samples))
    assert again.processor.size["longest_edge"] == 64 * 28 * 28  # the cap stays with the checkpoint


def test_a_name_of_the_hub_is_fetched_once(vlm: DrivingVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = hub_folder(vlm, tmp_path / "hub")
    asked: list[str] = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        if name.startswith("nobody/"):
            raise OSError("no network")
        return str(where)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    assert folder.resolve("Qwen/Qwen2.5-VL-3B-Instruct") == where
    assert folder.resolve("hub") == Path("hub")
    with pytest.raises(InputError, match=r"nobody/nothing.*no network"):
        folder.resolve("nobody/nothing")
    assert asked == ["Qwen/Qwen2.5-VL-3B-Instruct", "nobody/nothing"]


def test_a_cap_under_one_token_is_refused(vlm: DrivingVLM, tmp_path: Path) -> None:
    vlm.save_pretrained(tmp_path / "v")
    with pytest.raises(InputError, match="max_pixels 100"):
        DrivingVLM.from_pretrained(tmp_path / "v", max_pixels=100)


def test_stage_1_trains_from_a_published_folder(
    vlm: DrivingVLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = hub_folder(vlm, tmp_path / "hub")
    base = smoke()
    small = replace(
        base,
        policy=PolicyConfig(dim=32, blocks=1, channels=(8, 8, 16, 16), agent_queries=4, map_queries=4),
        stage1a=Stage1a(Optim(steps=2, batch=2, lr=1e-3), qa_share=0.2, health_samples=4),
    )
    monkeypatch.setattr(stages, "load_recipe", lambda _: small)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    write_part(tmp_path / "samples", "a", mixed(12))
    line = ["train", "1a", "--recipe", "small", "--vlm", str(where), "--data", str(tmp_path / "samples")]
    assert main([*line, "--out", str(tmp_path / "1a"), "--json"]) == 0
    trained = DrivingVLM.from_pretrained(tmp_path / "1a" / "policy" / "vlm")
    assert trained.hf.config.model_type == vlm.hf.config.model_type
    assert trained.processor.size["longest_edge"] == small.vlm.max_pixels
    assert len(trained.tokenizer) == len(vlm.tokenizer)  # the folder's own
    before = dict(vlm.named_parameters())
    change = {n: float((p - before[n]).detach().abs().max()) for n, p in trained.named_parameters()}
    assert max(change.values()) > 1e-5  # it went on from there, and learned
    assert max(change.values()) < 0.02
    assert main([*line, "--from", str(tmp_path / "1a"), "--out", str(tmp_path / "x")]) == 2


def test_half_precision_runs(vlm: DrivingVLM, tmp_path: Path) -> None:
    vlm.save_pretrained(tmp_path / "v")
    half = DrivingVLM.make(VLMConfig(checkpoint=str(tmp_path / "v"), dtype="bfloat16", max_pixels=64 * 32 * 32))
    samples = mixed(2)
    assert next(half.parameters()).dtype == torch.bfloat16
    for method in METHODS:
        out = half.decide(samples, method=method)
        assert out.hidden_BD.dtype == out.speed_logp_B4.dtype == torch.float32  # what the policy goes on with
        assert torch.isfinite(out.speed_logp_B4).all()
    half.answer_nll(samples, samples.speed_N, samples.direction_N).sum().backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in half.parameters())
