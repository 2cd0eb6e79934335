"""The only training loop: draw, load, accumulate, clip, step, log, checkpoint, resume."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from tqdm import tqdm

from senna2.config import fingerprint
from senna2.train.checkpoint import Named, load_step, save_step
from senna2.train.distributed import Ranks, sum_gradients, sum_values
from senna2.types import Array, InputError


class TrainingError(RuntimeError):
    """The job failed (loss not finite, a guard tripped): exit code 1."""


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule (paper Table A1-A5: β = (0.9, 0.999), ε = 1e-8, cosine to zero).

    `batch` is the global batch over all ranks and accumulated parts. `clip` is the gradient norm [ours].
    """

    steps: int
    batch: int
    lr: float
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    warmup: int = 0
    schedule: Literal["cosine", "constant"] = "cosine"
    clip: float = 1.0
    accumulate: int = 1
    checkpoint_every: int = 200
    log_every: int = 20

    def lr_at(self, step: int) -> float:
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        if self.schedule == "constant":
            return self.lr
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


class Stage(Protocol):
    """What a stage gives the loop. `loss` returns the SUM over the given samples divided by `batch` (the global
    batch), so that parts of any size, on any rank, add up to the same gradient; the diagnostics add up likewise."""

    name: str

    def named_parameters(self) -> Named: ...

    def draw(self, step: int, batch: int) -> Array: ...

    def load(self, index: Array) -> Any: ...

    def loss(self, data: Any, step: int, batch: int) -> tuple[torch.Tensor | None, dict[str, float]]: ...


def train(
    stage: Stage,
    optim: Optim,
    out: Path,
    *,
    ranks: Ranks | None = None,
    resume: bool = False,
    lr_scale: Callable[[str], float] | None = None,
    on_step: Callable[[int], None] | None = None,
    bar_row: int = 0,
) -> list[dict[str, float]]:
    """Run a stage to its last step. Returns this call's log (one dict every `log_every` steps, also `out/log.jsonl`).

    `resume` goes on from the newest checkpoint in `out`, if there is one; without it, what an older run left there is
    dropped. `lr_scale(name)`: factor on the learning rate of a parameter (LoRA of a tiny VLM needs more than the
    planner). `on_step(step)` is called after each step (tests interrupt there); `bar_row`: line of the progress bar.
    Raises `TrainingError` if loss or gradient is not finite, `InputError` for fewer samples a step than ranks.
    """
    ranks = ranks or Ranks()
    if optim.batch < ranks.size:
        raise InputError(f"stage {stage.name}: a batch of {optim.batch} cannot be shared by {ranks.size} ranks")
    named = dict(stage.named_parameters())
    if not named:
        raise TrainingError(f"stage {stage.name}: nothing to train")
    optimiser = _optimiser(named, optim, lr_scale)
    identity = fingerprint({"stage": stage.name, "optim": optim.__dict__, "weights": sorted(named)})
    start = load_step(out / "checkpoints", named, optimiser, identity) if resume else 0
    if ranks.is_main:
        _begin_log(out, start, resume)
    log: list[dict[str, float]] = []
    parameters = list(named.values())
    clock = _Clock()
    with ThreadPoolExecutor(1) as pool:
        parts = _parts(stage, optim, ranks, start)
        ahead = pool.submit(stage.load, parts[0]) if start < optim.steps else None
        bar = tqdm(range(start, optim.steps), initial=start, total=optim.steps, desc=f"stage {stage.name}",
                   unit="step", disable=not ranks.is_main, mininterval=1.0, position=bar_row)  # fmt: skip
        for step in bar:
            clock.start_step()
            total, sums = 0.0, dict[str, float]()
            for p in parameters:
                p.grad = None
            for i in range(optim.accumulate):
                assert ahead is not None
                with clock.waiting():
                    data = ahead.result()
                following = parts[i + 1] if i + 1 < optim.accumulate else None
                if following is None and step + 1 < optim.steps:
                    parts_next = _parts(stage, optim, ranks, step + 1)
                    following = parts_next[0]
                ahead = pool.submit(stage.load, following) if following is not None else None
                loss, values = stage.loss(data, step, optim.batch)
                if loss is not None:
                    total += float(loss.detach())
                    if not math.isfinite(total):
                        raise TrainingError(
                            f"stage {stage.name}, step {step}: loss is {total}; lower lr, or check the samples"
                        )
                    if loss.requires_grad:
                        loss.backward()
                for k, v in values.items():
                    sums[k] = sums.get(k, 0.0) + v
            sum_gradients(parameters, ranks)
            norm = _clip(parameters, optim.clip)
            if not math.isfinite(norm):  # before the optimiser puts it into the weights, and these on disk
                raise TrainingError(f"stage {stage.name}, step {step}: gradient norm is {norm}; lower lr or set clip")
            for group in optimiser.param_groups:
                group["lr"] = optim.lr_at(step) * group["scale"]
            optimiser.step()
            if step + 1 < optim.steps:
                parts = parts_next
            if step % optim.log_every == 0 or step + 1 == optim.steps:
                row = sum_values({"loss": total, **sums}, ranks)
                row |= {"step": step, "lr": optim.lr_at(step), "grad_norm": norm, **clock.report(optim.batch)}
                log.append(row)
                if ranks.is_main:
                    _append(out / "log.jsonl", row)
                    bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
            if ranks.is_main and ((step + 1) % optim.checkpoint_every == 0 or step + 1 == optim.steps):
                save_step(out / "checkpoints", step + 1, named, optimiser, identity)
            if on_step is not None:
                on_step(step)
    ranks.barrier()
    return log


def _parts(stage: Stage, optim: Optim, ranks: Ranks, step: int) -> Sequence[Array]:
    """The indices of each accumulated part of this rank's share."""
    mine = ranks.share(stage.draw(step, optim.batch))
    return [mine[i :: optim.accumulate] for i in range(optim.accumulate)]


def _optimiser(named: Named, optim: Optim, lr_scale: Callable[[str], float] | None) -> torch.optim.AdamW:
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, p in named.items():
        # Norms, biases and embeddings' offsets are not decayed, as is usual [ours: the paper does not say].
        decay = optim.weight_decay if p.ndim > 1 else 0.0
        groups.setdefault((lr_scale(name) if lr_scale else 1.0, decay), []).append(p)
    return torch.optim.AdamW(
        [{"params": ps, "weight_decay": d, "scale": s, "lr": optim.lr * s} for (s, d), ps in groups.items()],
        betas=(optim.beta1, optim.beta2), eps=optim.eps, foreach=False,
    )  # fmt: skip


def _clip(parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
    with_grad = [p for p in parameters if p.grad is not None]
    if not with_grad:
        return 0.0
    return float(torch.nn.utils.clip_grad_norm_(with_grad, limit if limit > 0 else math.inf))


def _begin_log(out: Path, start: int, resume: bool) -> None:
    """Rows of steps that will be made again go; a run from the start finds an empty folder."""
    path = out / "log.jsonl"
    if not resume:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
        path.unlink(missing_ok=True)
    elif path.is_file():
        kept = [line for line in path.read_text().splitlines() if _step_of(line) < start]
        path.write_text("".join(f"{line}\n" for line in kept))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line cut off by a kill


def _append(path: Path, row: dict[str, float]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


class _Clock:
    """Throughput and the share of time spent waiting for data, since the last report."""

    def __init__(self) -> None:
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def start_step(self) -> None:
        self.steps += 1

    def waiting(self) -> _Clock:
        return self

    def __enter__(self) -> None:
        self._from = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.waited += time.perf_counter() - self._from

    def report(self, batch: int) -> dict[str, float]:
        spent = max(time.perf_counter() - self.begin, 1e-9)
        row = {"samples_per_s": self.steps * batch / spent, "waiting_share": self.waited / spent}
        self.begin, self.waited, self.steps = time.perf_counter(), 0.0, 0
        return row
