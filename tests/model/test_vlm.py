"""The VLM wrapper against the stock model without cache, trie, shared prefix or batch: the slow way is the oracle."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed, Qwen2_5_VLVisionAttention

from senna2.model.vlm import DrivingVLM, VLMConfig, answered
from senna2.model.vlm.images import LinearPatchEmbed, Patchifier, SameSizeAttention, image_processor
from senna2.model.vlm.prompts import ANSWERS
from senna2.model.vlm.tokenizer import CHAT_TEMPLATE, PAD, SPECIAL, TURN_END
from senna2.types import InputError, Rig, Samples

# Large random weights: decisions differ from row to row, and errors are not hidden by flat probabilities.
LOUD = VLMConfig(layers=2, vision_layers=2, initializer_range=0.15)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def mixed(n: int = 6, seed: int = 0) -> Samples:
    """Samples whose prompts differ in length: speeds, commands, unknown limits, instructions."""
    rng = np.random.default_rng(seed)
    base = Samples.fake(n, Rig.default(), seed)
    motion = base.motion_N4.copy()
    motion[:, 0] = rng.uniform(0, 30, n)
    limit = np.where(np.arange(n) % 3 == 1, np.nan, 13.9).astype(np.float32)
    said = tuple("Please turn left." if i % 4 == 2 else "" for i in range(n))
    navigation = (np.arange(n) % 5).astype(np.int8)
    return replace(base, motion_N4=motion, navigation_N=navigation, speed_limit_N=limit, instruction_N=said)


@pytest.fixture(scope="module")
def loud() -> DrivingVLM:
    return DrivingVLM.tiny(LOUD, seed=3).eval()


def stock_logits(vlm: DrivingVLM, row: Samples, tail: list[int]) -> Tensor:
    """(T, V) logits of one unpadded row by the stock forward pass without a cache; `tail` are answer tokens."""
    x = vlm.prepare(row)
    more = torch.tensor([tail], dtype=torch.long)
    x["input_ids"] = torch.cat([x["input_ids"], more], 1)
    x["attention_mask"] = torch.ones_like(x["input_ids"])
    x["mm_token_type_ids"] = torch.cat([x["mm_token_type_ids"], torch.zeros_like(more, dtype=torch.int32)], 1)
    with torch.no_grad():
        return vlm(**x, use_cache=False).logits[0]


def brute_greedy(vlm: DrivingVLM, row: Samples) -> int:
    """Constrained greedy decoding, one token and one whole forward pass at a time."""
    said: list[int] = []
    while True:
        allowed = sorted({a[len(said)] for a in vlm.answer_ids if a[: len(said)] == tuple(said)})
        logits = stock_logits(vlm, row, said)[-1]
        said.append(max(allowed, key=lambda t: float(logits[t])))
        if tuple(said) in vlm.answer_ids:
            return vlm.answer_ids.index(tuple(said))


def brute_scores(vlm: DrivingVLM, row: Samples) -> Tensor:
    """(20,) log-probabilities of whole answers, each in a pass of its own."""
    scores = []
    for answer in vlm.answer_ids:
        logp = stock_logits(vlm, row, list(answer)).log_softmax(-1)
        scores.append(logp[-len(answer) - 1 : -1].gather(1, torch.tensor(answer)[:, None]).sum())
    return torch.stack(scores)


def rows(samples: Samples) -> list[Samples]:
    return [samples.take(slice(i, i + 1)) for i in range(len(samples))]


# ---- decisions and scores ----


def test_decide_equals_constrained_greedy(loud: DrivingVLM) -> None:
    samples = mixed(10)
    out = loud.decide(samples, batch=7)
    assert (out.speed_B * 5 + out.direction_B).tolist() == [brute_greedy(loud, r) for r in rows(samples)]
    assert len(set((out.speed_B * 5 + out.direction_B).tolist())) > 2  # else the test shows nothing
    assert torch.equal(out.speed_logp_B4.argmax(1), out.speed_B)
    torch.testing.assert_close(out.speed_logp_B4.exp().sum(1), torch.ones(10))
    torch.testing.assert_close(out.speed_logp_B4, loud.speed_logp(samples).detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.hidden_BD, loud.prompt_hidden(samples).detach(), atol=1e-5, rtol=0)
    assert out.hidden_BD.shape == (10, loud.hidden_size)


def test_decide_runs_three_passes_a_batch(loud: DrivingVLM) -> None:
    calls = []
    hook = loud.hf.model.visual.register_forward_hook(lambda *_: calls.append("image"))
    text = loud.hf.model.language_model.register_forward_hook(lambda *_: calls.append("text"))
    loud.decide(mixed(8))
    hook.remove()
    text.remove()
    assert calls.count("image") == 1
    assert 3 <= calls.count("text") <= 4  # the shared prefix, the prompts, one or two choices


def test_score_all_equals_twenty_passes(loud: DrivingVLM) -> None:
    samples = mixed(4)
    logp = loud.score_all(samples)
    wanted = torch.stack([brute_scores(loud, r) for r in rows(samples)]).log_softmax(-1)
    torch.testing.assert_close(logp.detach(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logp.exp().sum(1), torch.ones(4))
    assert logp.requires_grad


def test_answer_nll_equals_scores_and_stock_loss(loud: DrivingVLM) -> None:
    samples = mixed(5)
    speed, direction = torch.tensor([0, 1, 2, 3, 2]), torch.tensor([0, 1, 2, 3, 4])
    nll = loud.answer_nll(samples, speed, direction).detach()
    wanted = [-brute_scores(loud, r)[s * 5 + d] for r, s, d in zip(rows(samples), speed, direction, strict=True)]
    torch.testing.assert_close(nll, torch.stack(wanted), atol=1e-4, rtol=1e-5)
    inputs = loud.prepare(samples, [ANSWERS[s * 5 + d] for s, d in zip(speed, direction, strict=True)])
    with torch.no_grad():
        stock = loud(**inputs).loss
    torch.testing.assert_close(stock, nll.sum() / (inputs["labels"] >= 0).sum(), atol=1e-5, rtol=1e-5)


def test_rows_without_a_decision_are_masked(loud: DrivingVLM) -> None:
    samples = mixed(4)
    speed, direction = np.array([-1, 1, 2, 0], np.int8), np.array([0, -1, 2, 0], np.int8)
    nll = loud.answer_nll(samples, speed, direction)
    assert answered(torch.as_tensor(speed), torch.as_tensor(direction)).tolist() == [False, False, True, True]
    assert (nll[:2] == 0).all()
    assert (nll[2:] > 0).all()
    nll[:2].sum().backward()  # a rank whose rows are all masked must still be able to call backward
    assert all(p.grad is None or not p.grad.any() for p in loud.parameters())
    loud.zero_grad(set_to_none=True)


def test_neither_padding_nor_neighbours_matter(loud: DrivingVLM) -> None:
    samples = mixed(6)
    together, speed, direction = loud.prompt_hidden(samples), samples.speed_N, samples.direction_N
    alone = torch.cat([loud.prompt_hidden(r) for r in rows(samples)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    nll = torch.cat([loud.answer_nll(r, speed[i : i + 1], direction[i : i + 1]) for i, r in enumerate(rows(samples))])
    torch.testing.assert_close(loud.answer_nll(samples, speed, direction), nll, atol=1e-4, rtol=1e-5)


def test_answers_of_many_tokens_and_stock_generation() -> None:
    # A tokenizer without a single merge: answers of up to 31 tokens; the reference is constrained `generate`.
    byte_tokens = {c: i for i, c in enumerate(sorted(set(_byte_alphabet())))}
    plain = Qwen2Tokenizer(
        vocab=byte_tokens,
        merges=[],
        unk_token=None,
        pad_token=PAD,
        eos_token=TURN_END,
        extra_special_tokens=list(SPECIAL),
    )
    plain.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    hf = Qwen2_5_VLForConditionalGeneration._from_config(LOUD.build(plain), attn_implementation="sdpa")
    vlm = DrivingVLM(hf.eval(), plain, image_processor(14, 2, 2, LOUD.max_pixels))
    samples = mixed(3)
    out = vlm.decide(samples)
    for i, row in enumerate(rows(samples)):
        x = vlm.prepare(row)
        length = x["input_ids"].shape[1]

        def allowed(_: int, ids: Tensor, length: int = length) -> list[int]:
            said = tuple(ids[length:].tolist())
            return sorted({a[len(said)] for a in vlm.answer_ids if a[: len(said)] == said and len(a) > len(said)})

        hf.generation_config.pad_token_id = plain.pad_token_id
        told = hf.generate(
            **x, max_new_tokens=40, do_sample=False, prefix_allowed_tokens_fn=allowed, eos_token_id=plain.eos_token_id
        )
        number = vlm.answer_ids.index(tuple(told[0, length:].tolist()))
        assert int(out.speed_B[i] * 5 + out.direction_B[i]) == number


def _byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return list(ByteLevel.alphabet())


# ---- inputs ----


@pytest.mark.parametrize("size", [(56, 168), (16, 32), (37, 100), (360, 640)])
def test_patches_equal_the_image_processor(size: tuple[int, int]) -> None:
    processor = image_processor(14, 2, 2, 64 * 28 * 28)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    values, grid = Patchifier.of(processor)(images)
    wanted = processor(list(images), return_tensors="pt", input_data_format="channels_last")
    assert torch.equal(grid, wanted["image_grid_thw"])
    assert torch.equal(values, wanted["pixel_values"])
    assert grid[0].prod() <= 64 * 4
    assert Patchifier.of(processor).tokens(*size) == int(grid[0].prod()) // 4


def test_default_rig_costs_twelve_visual_tokens(loud: DrivingVLM) -> None:
    x = loud.prepare(mixed(2))
    assert x["mm_token_type_ids"].sum(1).tolist() == [12, 12]
    assert torch.equal(x["mm_token_type_ids"].bool(), x["input_ids"] == loud.hf.config.image_token_id)
    assert x["attention_mask"].shape == x["input_ids"].shape


def test_image_positions_reach_the_model(loud: DrivingVLM) -> None:
    row = mixed(1)
    x = loud.prepare(row)
    with torch.no_grad():
        right = loud(**x).logits[:, -1]
        ours = loud.hf.lm_head(loud.prompt_hidden(row))
        loud.hf.model.rope_deltas = None
        flat = loud(**{k: v for k, v in x.items() if k != "mm_token_type_ids"}).logits[:, -1]
    torch.testing.assert_close(ours, right, atol=1e-5, rtol=1e-5)
    assert (flat - right).abs().max() > 1e-3  # the stock model is silently wrong without them


def test_quick_vision_equals_stock(loud: DrivingVLM) -> None:
    x = loud.prepare(mixed(3))
    quick = copy.deepcopy(loud.hf.model.visual).double()  # a product sums in another order than a convolution
    stock = copy.deepcopy(quick)
    swapped = [m for m in stock.modules() if type(m) is SameSizeAttention]
    assert len(swapped) == LOUD.vision_layers
    assert type(stock.patch_embed) is LinearPatchEmbed
    for module in swapped:
        module.__class__ = Qwen2_5_VLVisionAttention
    stock.patch_embed.__class__ = Qwen2_5_VisionPatchEmbed
    with torch.no_grad():
        ours = quick(x["pixel_values"].double(), grid_thw=x["image_grid_thw"]).pooler_output
        wanted = stock(x["pixel_values"].double(), grid_thw=x["image_grid_thw"]).pooler_output
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("field", ["front", "dtype", "empty"])
def test_bad_samples_are_named(loud: DrivingVLM, field: str) -> None:
    samples = mixed(2)
    front = samples.images["front"]
    bad = {
        "front": replace(samples, images={"left": front}),
        "dtype": replace(samples, images={"front": front.astype(np.float32)}),
        "empty": samples.take(slice(0, 0)),
    }[field]
    with pytest.raises(InputError, match=r"front|samples"):
        loud.decide(bad)


# ---- training ----


def test_every_parameter_gets_a_gradient() -> None:
    vlm = DrivingVLM.tiny()
    assert 1.2e6 < sum(p.numel() for p in vlm.parameters()) < 1.6e6
    samples = mixed(4)
    vlm.answer_nll(samples, samples.speed_N, samples.direction_N).mean().backward()
    assert [n for n, p in vlm.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradients_pass_through_the_shared_prefix(loud: DrivingVLM) -> None:
    # One row alone runs without sharing: the sum over rows is the oracle of the batch.
    samples = mixed(3)
    loud.zero_grad(set_to_none=True)
    loud.answer_nll(samples, samples.speed_N, samples.direction_N).sum().backward()
    together = {n: p.grad.clone() for n, p in loud.named_parameters() if p.grad is not None}
    loud.zero_grad(set_to_none=True)
    for i, row in enumerate(rows(samples)):
        loud.answer_nll(row, samples.speed_N[i : i + 1], samples.direction_N[i : i + 1]).sum().backward()
    for name, p in loud.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(together[name], p.grad, atol=1e-3 * float(p.grad.abs().max()) + 1e-6, rtol=1e-3)
    loud.zero_grad(set_to_none=True)


def test_one_seed_one_model() -> None:
    a, b, c = DrivingVLM.tiny(seed=1), DrivingVLM.tiny(seed=1), DrivingVLM.tiny(seed=2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters()))
    samples = mixed(3)
    assert torch.equal(a.score_all(samples), b.score_all(samples))


def test_overfits_sixteen_frames() -> None:
    # Only the image tells the speed, only the text the direction.
    base = Samples.fake(16, Rig.default())
    speed, direction = np.arange(16) % 4, np.arange(16) // 4
    images = np.zeros_like(base.images["front"])
    for i, s in enumerate(speed):
        images[i, ..., 20:, 40 * s : 40 * s + 40, :] = 200  # a bright box in one of four places
    motion = base.motion_N4.copy()
    motion[:, 0] = 8.0
    samples = replace(base, images={"front": images}, motion_N4=motion, navigation_N=direction.astype(np.int8))
    vlm = DrivingVLM.tiny(seed=0)
    optimizer = torch.optim.AdamW(vlm.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for step in range(150):
        optimizer.zero_grad()
        nll = vlm.answer_nll(samples, speed, direction)
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(vlm.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 9 and float(nll.detach().max()) < 0.1:
            break
    out = vlm.decide(samples)
    right = (out.speed_B.numpy() == speed) & (out.direction_B.numpy() == direction)
    assert right.mean() >= 0.9


# ---- LoRA ----


def trained_lora(vlm: DrivingVLM, samples: Samples) -> None:
    """One visible step on the adapters."""
    optimizer = torch.optim.SGD(vlm.lora_parameters(), lr=0.3)
    for _ in range(2):  # B starts at 0, so A gets its first gradient in the second step
        optimizer.zero_grad()
        vlm.answer_nll(samples, samples.speed_N, samples.direction_N).mean().backward()
        optimizer.step()


@pytest.fixture
def tuned() -> tuple[DrivingVLM, Samples, Tensor]:
    """A model with a trained LoRA, samples, and its scores before the LoRA."""
    vlm, samples = DrivingVLM.tiny(LOUD, seed=3), mixed(4)
    before = vlm.score_all(samples).detach()
    vlm.add_lora()
    assert torch.equal(vlm.score_all(samples).detach(), before)
    trained_lora(vlm, samples)
    return vlm, samples, before


def test_lora_trains_alone_and_base_stays(tuned: tuple[DrivingVLM, Samples, Tensor]) -> None:
    vlm, samples, before = tuned
    fresh = DrivingVLM.tiny(LOUD, seed=3)
    base = {n.replace(".base_layer.", "."): p for n, p in vlm.hf.named_parameters() if ".lora_" not in n}
    for name, p in fresh.hf.named_parameters():
        assert torch.equal(base[name], p), name
        assert base[name].grad is None
    assert len(vlm.lora_parameters()) == 2 * 7 * LOUD.layers
    assert {id(p) for p in vlm.parameters() if p.requires_grad} == {id(p) for p in vlm.lora_parameters()}
    assert all(p.grad is not None and p.grad.any() for p in vlm.lora_parameters())
    assert not any(".lora_" in n for n, _ in vlm.hf.model.visual.named_parameters())
    after = vlm.score_all(samples).detach()
    assert (after - before).abs().max() > 1e-2
    with vlm.without_lora():
        assert torch.equal(vlm.score_all(samples).detach(), before)
    assert torch.equal(vlm.score_all(samples).detach(), after)


def test_lora_gradient_reaches_through_hidden_states(tuned: tuple[DrivingVLM, Samples, Tensor]) -> None:
    vlm, samples, _ = tuned
    vlm.zero_grad(set_to_none=True)
    vlm.prompt_hidden(samples).square().sum().backward()
    assert all(p.grad is not None for p in vlm.lora_parameters())


def test_merge_is_exact(tmp_path: Path) -> None:
    vlm, samples = DrivingVLM.tiny(), mixed(4)  # of ordinary loudness: float32 itself is exact to 1e-5 there
    before = vlm.score_all(samples).detach()
    vlm.add_lora()
    trained_lora(vlm, samples)
    wanted = vlm.score_all(samples).detach()
    assert (wanted - before).abs().max() > 1e-2
    vlm.save_pretrained(tmp_path / "merged")  # saving leaves the LoRA in place
    assert torch.equal(vlm.score_all(samples).detach(), wanted)
    loaded = DrivingVLM.from_pretrained(tmp_path / "merged").score_all(samples).detach()
    torch.testing.assert_close(loaded, wanted, atol=1e-5, rtol=1e-5)
    vlm.merge_lora()
    assert not vlm.lora_parameters()
    assert type(vlm.hf) is Qwen2_5_VLForConditionalGeneration
    torch.testing.assert_close(vlm.score_all(samples).detach(), wanted, atol=1e-5, rtol=1e-5)
    assert all(p.requires_grad for p in vlm.parameters())


def test_adapters_alone_come_back(tuned: tuple[DrivingVLM, Samples, Tensor], tmp_path: Path) -> None:
    vlm, samples, _ = tuned
    vlm.save_lora(tmp_path / "lora", base="base-folder")
    assert (
        json.loads((tmp_path / "lora" / "adapter_config.json").read_text())["base_model_name_or_path"] == "base-folder"
    )
    fresh = DrivingVLM.tiny(LOUD, seed=3)
    fresh.load_lora(tmp_path / "lora")
    assert torch.equal(fresh.score_all(samples), vlm.score_all(samples))
    assert {id(p) for p in fresh.parameters() if p.requires_grad} == {id(p) for p in fresh.lora_parameters()}
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match="lora"):
        DrivingVLM.tiny(LOUD).load_lora(tmp_path / "lora")


# ---- on disk ----


@pytest.fixture(scope="module")
def written(loud: DrivingVLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vlm") / "checkpoint"
    loud.save_pretrained(folder)
    loud.save_pretrained(folder)  # over an older one
    assert list(folder.parent.iterdir()) == [folder]  # no temporary left behind
    return folder


def test_save_and_load_are_identical(loud: DrivingVLM, written: Path) -> None:
    samples = mixed(3)
    loaded = DrivingVLM.from_pretrained(written)
    x, y = loud.prepare(samples), loaded.prepare(samples)
    assert all(torch.equal(x[k], y[k]) for k in x)
    assert torch.equal(loaded.score_all(samples), loud.score_all(samples))


def test_transformers_loads_it_without_us(loud: DrivingVLM, written: Path) -> None:
    names = {p.name for p in written.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "preprocessor_config.json"} <= names
    x = loud.prepare(mixed(2))
    stock = AutoModelForImageTextToText.from_pretrained(written, local_files_only=True)
    ours, x["pixel_values"] = copy.deepcopy(loud.hf).double(), x["pixel_values"].double()
    with torch.no_grad():
        torch.testing.assert_close(stock.double()(**x).logits, ours(**x).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize("how", ["missing", "truncated"])
def test_a_bad_file_is_named(written: Path, tmp_path: Path, name: str, how: str) -> None:
    for path in written.iterdir():
        data = path.read_bytes()
        if path.name != name:
            (tmp_path / path.name).write_bytes(data)
        elif how == "truncated":
            (tmp_path / path.name).write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=name):
        DrivingVLM.from_pretrained(tmp_path)


def test_weights_of_another_model_are_refused(written: Path, tmp_path: Path) -> None:
    for path in written.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"]["layer_types"] = ["full_attention"] * 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"model\.safetensors.*missing_keys"):
        DrivingVLM.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        DrivingVLM.from_pretrained(tmp_path / "nowhere")


def test_loads_the_hubs_own_layout(loud: DrivingVLM, written: Path, tmp_path: Path) -> None:
    # Qwen's published folders: flat config with `rope_scaling`, older weight names, no head when it is tied.
    ours = json.loads((written / "config.json").read_text())
    text, vision = ours["text_config"], ours["vision_config"]
    rope = text.pop("rope_parameters")
    drop = ("model_type", "dtype", "layer_types")
    hub = {k: v for k, v in {**text, **ours}.items() if k not in ("text_config", *drop)}
    hub |= {
        "model_type": "qwen2_5_vl",
        "torch_dtype": "float32",
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "vision_config": {
            **{k: v for k, v in vision.items() if k not in drop},
            "model_type": "qwen2_5_vl",
            "in_chans": 3,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(hub))
    weights = {}
    for name, value in loud.hf.state_dict().items():
        if name != "lm_head.weight":
            new = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
            weights[new] = value.clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for path in written.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    samples = mixed(2)
    loaded = DrivingVLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.score_all(samples), loud.score_all(samples), atol=1e-5, rtol=1e-5)
