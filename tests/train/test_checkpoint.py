"""Training state on disk: exact, strict, and never half of anything."""

from __future__ import annotations

import errno
import json
import os

import pytest
import torch

from senna2.train import checkpoint
from senna2.train.checkpoint import load_step, save_step
from senna2.types import InputError


def _model(seed: int = 0, width: int = 4) -> tuple[dict[str, torch.nn.Parameter], torch.optim.AdamW]:
    torch.manual_seed(seed)
    named = {"a.w": torch.nn.Parameter(torch.randn(width, 3)), "a": torch.nn.Parameter(torch.randn(width))}
    return named, torch.optim.AdamW(named.values(), lr=0.1)


def _step(named, optimiser, times: int = 1) -> None:
    for _ in range(times):
        optimiser.zero_grad()
        sum((p**2).sum() for p in named.values()).backward()
        optimiser.step()


@pytest.fixture
def saved(tmp_path):
    named, optimiser = _model()
    _step(named, optimiser, 3)
    save_step(tmp_path, 3, named, optimiser, "me")
    return tmp_path, named, optimiser


def test_weights_and_moments_return_bit_by_bit(saved):
    folder, named, optimiser = saved
    again, optimiser_again = _model(1)
    assert load_step(folder, again, optimiser_again, "me") == 3
    _step(named, optimiser, 4)
    _step(again, optimiser_again, 4)
    for name in named:
        assert torch.equal(named[name], again[name])


def test_without_a_checkpoint_it_starts_at_zero(tmp_path):
    named, optimiser = _model()
    assert load_step(tmp_path / "none", named, optimiser, "me") == 0


def test_only_the_newest_is_kept_and_leftovers_go(saved):
    folder, named, optimiser = saved
    (folder / ".step-0000009.77").mkdir()
    save_step(folder, 5, named, optimiser, "me")
    save_step(folder, 5, named, optimiser, "me")
    assert [p.name for p in folder.iterdir()] == ["step-0000005"]


def test_another_configuration_is_refused(saved):
    folder, named, optimiser = saved
    with pytest.raises(InputError, match="another configuration; drop --resume"):
        load_step(folder, named, optimiser, "you")


@pytest.mark.parametrize("cut", [0, 4, 200])
def test_a_damaged_file_is_named(saved, cut):
    folder, named, optimiser = saved
    path = folder / "step-0000003" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    before = {n: p.detach().clone() for n, p in named.items()}
    with pytest.raises(InputError, match=r"state\.safetensors: damaged.*delete .*resume again"):
        load_step(folder, named, optimiser, "me")
    assert all(torch.equal(p, before[n]) for n, p in named.items())


@pytest.mark.parametrize(("text", "what"), [("{", "not valid JSON"), ("{}", "lacks step"), ("[]", "lacks step")])
def test_a_damaged_description_is_named(saved, text, what):
    folder, named, optimiser = saved
    (folder / "step-0000003" / "state.json").write_text(text)
    with pytest.raises(InputError, match=rf"state\.json: {what}"):
        load_step(folder, named, optimiser, "me")


def test_a_missing_file_is_named(saved):
    folder, named, optimiser = saved
    (folder / "step-0000003" / "state.safetensors").unlink()
    with pytest.raises(InputError, match=r"state\.safetensors: damaged"):
        load_step(folder, named, optimiser, "me")
    (folder / "step-0000003" / "state.json").unlink()
    with pytest.raises(InputError, match=r"state\.json: file is missing"):
        load_step(folder, named, optimiser, "me")


def test_another_model_is_refused(saved):
    folder, named, optimiser = saved
    wider, wide_optimiser = _model(width=5)
    with pytest.raises(InputError, match=r"a\.w has shape \(4, 3\), the model \(5, 3\)"):
        load_step(folder, wider, wide_optimiser, "me")
    with pytest.raises(InputError, match="lacks weights"):
        load_step(folder, {**named, "b": torch.nn.Parameter(torch.zeros(1))}, optimiser, "me")


@pytest.mark.parametrize("step", [3, 6], ids=["same step", "later step"])
def test_a_full_disk_leaves_the_old_checkpoint_whole(saved, monkeypatch, step):
    folder, named, optimiser = saved
    kept = {n: p.detach().clone() for n, p in named.items()}
    real = checkpoint.save_file

    def full(tensors, path) -> None:
        real(tensors, path)
        path.write_bytes(path.read_bytes()[:50])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _step(named, optimiser)
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(InputError, match=rf"step-000000{step}: cannot be written .*No space left.*free disk space"):
        save_step(folder, step, named, optimiser, "me")
    assert [p.name for p in folder.iterdir()] == ["step-0000003"]
    assert json.loads((folder / "step-0000003" / "state.json").read_text()) == {"step": 3, "identity": "me"}
    assert load_step(folder, named, optimiser, "me") == 3
    assert all(torch.equal(p, kept[n]) for n, p in named.items())


def test_a_place_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    named, optimiser = _model()
    with pytest.raises(InputError, match="cannot be written"):
        save_step(tmp_path / "file" / "checkpoints", 1, named, optimiser, "me")
