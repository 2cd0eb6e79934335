"""The training loop on a problem whose answer is known."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from senna2.train.distributed import Ranks
from senna2.train.loop import Optim, TrainingError, train
from senna2.train.sampling import draw_indices
from senna2.types import InputError

NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Line:
    """Fit y = w·x + b; the stage protocol with nothing around it."""

    name = "line"

    def __init__(self, seed: int = 0, n: int = 40, device: str = "cpu") -> None:
        rng = torch.Generator().manual_seed(seed)
        x = torch.randn(n, 3, generator=rng)
        self.x, self.y = x.to(device), (x @ torch.tensor([1.0, -2.0, 0.5]) + 0.3).to(device)
        self.w = torch.nn.Parameter(torch.zeros(3, 1, device=device))
        self.b = torch.nn.Parameter(torch.zeros(1, device=device))
        self.loaded: list[list[int]] = []

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        return {"w": self.w, "b": self.b}

    def draw(self, step: int, batch: int) -> np.ndarray:
        return draw_indices(len(self.x), batch, step, 7)

    def load(self, index: np.ndarray) -> torch.Tensor:
        self.loaded.append(index.tolist())
        return torch.as_tensor(index)

    def loss(self, data: torch.Tensor, step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        error = ((self.x[data] @ self.w)[:, 0] + self.b - self.y[data]) ** 2
        return error.sum() / batch, {"share": len(data) / batch}


OPTIM = Optim(steps=12, batch=8, lr=0.1, warmup=3, checkpoint_every=4, log_every=1)


def _weights(stage: Line) -> torch.Tensor:
    return torch.cat([stage.w.detach()[:, 0], stage.b.detach()])


def test_learning_rate_is_the_closed_form(tmp_path):
    log = train(Line(), OPTIM, tmp_path)
    for row in log:
        step = row["step"]
        cosine = 0.1 * 0.5 * (1 + math.cos(math.pi * (step - 3) / 9))
        assert row["lr"] == pytest.approx(0.1 * (step + 1) / 3 if step < 3 else cosine)
    constant = dataclasses.replace(OPTIM, schedule="constant", warmup=0)
    assert {constant.lr_at(s) for s in range(12)} == {0.1}
    assert dataclasses.replace(OPTIM, warmup=0).lr_at(12) == pytest.approx(0.0)


def test_one_step_is_adamw_by_hand(tmp_path):
    """lr, weight decay on matrices only, clipping and per-parameter scale."""
    stage, plain = Line(), Line()
    torch.nn.init.constant_(stage.w, 0.5)
    torch.nn.init.constant_(plain.w, 0.5)
    optim = dataclasses.replace(OPTIM, steps=1, warmup=0, weight_decay=0.1, clip=0.5)
    train(stage, optim, tmp_path, lr_scale=lambda name: 2.0 if name == "b" else 1.0)
    loss, _ = plain.loss(torch.as_tensor(plain.draw(0, 8)), 0, 8)
    assert loss is not None
    loss.backward()
    norm = math.hypot(float(plain.w.grad.norm()), float(plain.b.grad.norm()))
    assert norm > 0.5

    def by_hand(p: torch.Tensor, lr: float, decay: float) -> torch.Tensor:
        g = p.grad * 0.5 / (norm + 1e-6)
        return p.detach() * (1 - lr * decay) - lr * g / (g.abs() + 1e-8)

    torch.testing.assert_close(stage.w.detach(), by_hand(plain.w, 0.1, 0.1))
    torch.testing.assert_close(stage.b.detach(), by_hand(plain.b, 0.2, 0.0))


def test_it_learns_the_line(tmp_path):
    stage = Line()
    train(stage, Optim(steps=300, batch=40, lr=0.05, log_every=100, checkpoint_every=1000), tmp_path)
    torch.testing.assert_close(_weights(stage), torch.tensor([1.0, -2.0, 0.5, 0.3]), atol=0.02, rtol=0)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulated_parts_are_one_batch(parts, tmp_path):
    whole, split = Line(), Line()
    first = train(whole, OPTIM, tmp_path / "whole")
    second = train(split, dataclasses.replace(OPTIM, accumulate=parts), tmp_path / "split")
    torch.testing.assert_close(_weights(split), _weights(whole), rtol=1e-5, atol=1e-6)
    for a, b in zip(first, second, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["share"] == pytest.approx(1.0)
    assert len(split.loaded) == parts * len(whole.loaded)


def test_every_sample_is_seen_once_an_epoch(tmp_path):
    stage = Line()
    train(stage, dataclasses.replace(OPTIM, steps=10), tmp_path)
    seen = np.concatenate([np.array(part) for part in stage.loaded])
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert list(seen[:40]) != list(seen[40:])


def test_weighted_draws_follow_the_weights():
    weights = np.array([1.0, 3.0, 0.0, 4.0])
    drawn = np.concatenate([draw_indices(4, 100, step, 0, weights) for step in range(80)])
    np.testing.assert_allclose(np.bincount(drawn, minlength=4) / len(drawn), weights / 8, atol=0.02)
    np.testing.assert_array_equal(draw_indices(4, 9, 5, 1, weights), draw_indices(4, 9, 5, 1, weights))
    with pytest.raises(InputError, match="none can be drawn"):
        draw_indices(0, 4, 0, 0)


class Broken(Line):
    def __init__(self, at: int, what: str) -> None:
        super().__init__()
        self.at, self.what = at, what

    def loss(self, data: torch.Tensor, step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        loss, values = super().loss(data, step, batch)
        assert loss is not None
        if step == self.at and self.what == "loss":
            loss = loss * float("nan")
        if step == self.at and self.what == "gradient":
            loss = loss + torch.sqrt(0 * self.b).sum()  # 0, with an infinite slope
        return loss, values


@pytest.mark.parametrize(("what", "says"), [("loss", "loss is nan"), ("gradient", "gradient norm is")])
def test_what_is_not_finite_stops_the_stage_before_it_reaches_the_weights(what, says, tmp_path):
    stage = Broken(5, what)
    with pytest.raises(TrainingError, match=f"stage line, step 5: {says}"):
        train(stage, OPTIM, tmp_path)
    assert torch.isfinite(_weights(stage)).all()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000004"]


class Silent(Line):
    """No sample asks for anything, as when all are consistent in stage 2."""

    def loss(self, data: torch.Tensor, step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]:
        return None, {}


def test_a_batch_without_loss_changes_nothing(tmp_path):
    stage = Silent()
    log = train(stage, OPTIM, tmp_path)
    assert not _weights(stage).any()
    assert {row["loss"] for row in log} == {0.0}


def test_nothing_to_train_and_too_small_a_batch_are_refused(tmp_path):
    stage = Line()
    stage.named_parameters = dict  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="nothing to train"):
        train(stage, OPTIM, tmp_path)
    with pytest.raises(InputError, match="a batch of 1 cannot be shared by 2 ranks"):
        train(Line(), dataclasses.replace(OPTIM, batch=1), tmp_path, ranks=Ranks(0, 2))
    for name in ("batch", "accumulate", "log_every", "checkpoint_every"):
        with pytest.raises(InputError, match=rf"stage line: optim\.{name}: must be at least 1"):
            train(Line(), dataclasses.replace(OPTIM, **{name: 0}), tmp_path)


def test_shares_of_ranks_are_the_batch():
    batch = np.arange(11)
    shares = [Ranks(r, 3).share(batch) for r in range(3)]
    assert sorted(np.concatenate(shares)) == batch.tolist()
    assert {len(s) for s in shares} == {3, 4}


class _Stop(Exception):
    pass


def _rows(path: Path) -> list[tuple[int, float]]:
    return [(r["step"], r["loss"]) for r in map(json.loads, (path / "log.jsonl").read_text().splitlines())]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NEEDS_CUDA)])
def test_the_log_of_a_resumed_run_is_that_of_an_unbroken_one(device, tmp_path):
    def interrupt(step: int) -> None:
        if step == 6:
            raise _Stop

    whole, broken, resumed = (Line(device=device) for _ in range(3))
    train(whole, OPTIM, tmp_path / "whole")
    with pytest.raises(_Stop):
        train(broken, OPTIM, tmp_path / "broken", on_step=interrupt)
    with (tmp_path / "broken" / "log.jsonl").open("a") as file:
        file.write('{"loss": 0.')  # cut off by a kill
    train(resumed, OPTIM, tmp_path / "broken", resume=True)
    assert torch.equal(_weights(resumed), _weights(whole))
    assert _rows(tmp_path / "broken") == _rows(tmp_path / "whole")


def test_a_run_from_the_start_forgets_an_older_one(tmp_path):
    train(Line(), dataclasses.replace(OPTIM, steps=20), tmp_path)
    train(Line(), OPTIM, tmp_path)
    assert [step for step, _ in _rows(tmp_path)] == list(range(12))
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-0000012"]


def test_resuming_a_finished_run_does_nothing(tmp_path):
    first, second = Line(), Line()
    train(first, OPTIM, tmp_path)
    assert train(second, OPTIM, tmp_path, resume=True) == []
    assert torch.equal(_weights(first), _weights(second))
