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

from senna2.config import fingerprint
from senna2.progress import progress_bar
from senna2.train.checkpoint import Named, load_step, save_step
from senna2.train.distributed import Ranks, TermNorms, broadcast, sum_gradients, sum_values
from senna2.types import Array, InputError, require


class TrainingError(RuntimeError):
    """The job failed (loss not finite, a guard tripped): exit code 1."""


class GuardTripped(TrainingError):
    """A stage runs into a collapse that is known; the message says which, what was measured, the limit, what to try."""

    def __init__(self, guard: str, value: float, limit: float, what: str, advice: str) -> None:
        super().__init__(f"guard '{guard}': {what} is {value:.3g}, the limit {limit:.3g}; {advice}")
        self.guard, self.value, self.limit = guard, value, limit

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker process hands it on; by default only the message would be."""
        return _remade, (self.args[0], self.guard, self.value, self.limit)


def _remade(message: str, guard: str, value: float, limit: float) -> GuardTripped:
    trip = GuardTripped(guard, value, limit, "", "")
    trip.args = (message,)
    return trip


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


Loss = torch.Tensor | dict[str, torch.Tensor] | None


class Stage(Protocol):
    """What a stage gives the loop. `loss` returns the SUM over the given samples divided by `batch` (the global
    batch), so that parts of any size, on any rank, add up to the same gradient; the diagnostics add up likewise. A
    loss may come as its named terms, of which the gradient norms are then logged. None: nothing to learn here.

    A stage may also have
      terms: tuple of str              the names of its terms, the same on every rank
      measure(step) → dict             what no sum over samples gives; asked of the first rank for each row of the log
      derive(row) → row                shares and scores from the sums of a row
      guard(row, step)                 raises `GuardTripped` for a row that shows a collapse
    """

    name: str

    def named_parameters(self) -> Named: ...

    def draw(self, step: int, batch: int) -> Array: ...

    def load(self, index: Array) -> Any: ...

    def loss(self, data: Any, step: int, batch: int) -> tuple[Loss, dict[str, float]]: ...


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
    """Run a stage to its last step. Returns this call's log, also in `out/log.jsonl`: one row for the first step, every
    `log_every` steps and each checkpoint; losses and diagnostics are means over the steps since the row before.

    `resume` goes on from the newest checkpoint in `out`, if there is one; without it, what an older run left there is
    dropped. `lr_scale(name)`: factor on the learning rate of a parameter (LoRA of a tiny VLM needs more than the
    planner). `on_step(step)` is called after each step (tests interrupt there); `bar_row`: line of the progress bar.
    A step in which no rank had anything to learn leaves weights and moments as they are. A state is saved only when the
    stage's guards have let its row pass.
    Raises `TrainingError` if loss or gradient is not finite, `GuardTripped` (the weights are then those of the newest
    state) if a guard stops the stage, `InputError` for fewer samples a step than ranks.
    """
    ranks = ranks or Ranks()
    for name in ("batch", "accumulate", "log_every", "checkpoint_every"):
        require(getattr(optim, name) >= 1, f"stage {stage.name}: optim.{name}", "must be at least 1")
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
    terms: tuple[str, ...] = getattr(stage, "terms", ())
    clock, window = _Clock(), _Window()
    with ThreadPoolExecutor(1) as pool:
        parts = _parts(stage, optim, ranks, start)
        ahead = pool.submit(stage.load, parts[0]) if start < optim.steps else None
        bar = progress_bar(range(start, optim.steps), initial=start, total=optim.steps, desc=f"stage {stage.name}",
                   unit="step", disable=not ranks.is_main, position=bar_row)  # fmt: skip
        for step in bar:
            last = step + 1 == optim.steps
            saves = last or (step + 1) % optim.checkpoint_every == 0
            logs = saves or step == 0 or (step + 1) % optim.log_every == 0
            clock.start_step()
            total, sums, learns = 0.0, dict[str, float](), False
            norms = TermNorms(terms, parameters) if logs and terms else None
            for p in parameters:
                p.grad = None
            for i in range(optim.accumulate):
                assert ahead is not None
                with clock.waiting():
                    data = ahead.result()
                following = parts[i + 1] if i + 1 < optim.accumulate else None
                if following is None and not last:
                    parts_next = _parts(stage, optim, ranks, step + 1)
                    following = parts_next[0]
                ahead = pool.submit(stage.load, following) if following is not None else None
                given, values = stage.loss(data, step, optim.batch)
                if norms is not None and isinstance(given, dict):
                    norms.add(given)
                loss = sum(given.values()) if isinstance(given, dict) else given
                if isinstance(loss, torch.Tensor):
                    total += float(loss.detach())
                    if not math.isfinite(total):
                        raise TrainingError(
                            f"stage {stage.name}, step {step}: loss is {total}; lower lr, or check the samples"
                        )
                    if loss.requires_grad:
                        learns = True
                        loss.backward()
                for k, v in values.items():
                    sums[k] = sums.get(k, 0.0) + v
            norm = 0.0
            if sum_gradients(parameters, ranks, learns):
                norm = _clip(parameters, optim.clip)
                if not math.isfinite(norm):  # before the optimiser puts it into the weights, and these on disk
                    raise TrainingError(
                        f"stage {stage.name}, step {step}: gradient norm is {norm}; lower lr or set clip"
                    )
                for group in optimiser.param_groups:
                    group["lr"] = optim.lr_at(step) * group["scale"]
                optimiser.step()
            window.add({"loss": total, **sums})
            if not last:
                parts = parts_next
            if logs:
                row = sum_values(window.means(), ranks)
                row |= {"step": step, "lr": optim.lr_at(step), "grad_norm": norm}
                row |= norms.over(ranks) if norms is not None else {}
                row = _finished(stage, row, step, ranks) | clock.report(optim.batch)
                log.append(row)
                if ranks.is_main:
                    append_row(out / "log.jsonl", row)
                    bar.set_postfix_str(_postfix(row), refresh=last)
                try:
                    if hasattr(stage, "guard"):
                        stage.guard(row, step)
                except GuardTripped as trip:
                    kept = load_step(out / "checkpoints", named, None, identity)
                    where = (
                        f"the state after step {kept} is kept in {out / 'checkpoints'}" if kept else "nothing is saved"
                    )
                    trip.args = (f"stage {stage.name}, step {step}: {trip}; {where}",)
                    raise
            if ranks.is_main and saves:
                save_step(out / "checkpoints", step + 1, named, optimiser, identity)
            if on_step is not None:
                on_step(step)
    ranks.barrier()
    return log


def _finished(stage: Stage, row: dict[str, float], step: int, ranks: Ranks) -> dict[str, float]:
    """The row with what the stage derives from its sums, and what it measures on the first rank."""
    if hasattr(stage, "derive"):
        row = stage.derive(row)
    if hasattr(stage, "measure"):
        row = {**row, **broadcast(stage.measure(step) if ranks.is_main else None, ranks)}
    return row


def _postfix(row: dict[str, float]) -> str:
    return f"loss={row['loss']:.3f}, {row['samples_per_s']:.1f} samples/s, {row['waiting_share']:.1%} waiting for data"


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
        betas=(optim.beta1, optim.beta2), eps=optim.eps, fused=True,
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
    else:
        keep_rows(path, "step", start)


def keep_rows(path: Path, name: str, below: int) -> None:
    """Drop the rows of a log whose `name` is not below this: they will be made again. A line cut off by a kill goes,
    too."""

    def number(line: str) -> float:
        try:
            return float(json.loads(line)[name])
        except (ValueError, KeyError, TypeError):
            return math.inf

    if path.is_file():
        kept = [line for line in path.read_text().splitlines() if number(line) < below]
        path.write_text("".join(f"{line}\n" for line in kept))


def append_row(path: Path, row: dict[str, float]) -> None:
    """One more line of a log of JSON objects; numbers that do not exist are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) + "\n")


class _Window:
    """Sums since the last row of the log."""

    def __init__(self) -> None:
        self.sums, self.steps = dict[str, float](), 0

    def add(self, values: dict[str, float]) -> None:
        self.steps += 1
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def means(self) -> dict[str, float]:
        """Means a step; the window begins anew."""
        means = {name: value / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


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
