"""Ranks without ceremony: every rank holds the whole model, takes its share of the global batch, and gradients are
summed by hand after backward. A rank whose samples all have zero loss still takes part, so nothing can hang."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from senna2.types import Array

T = TypeVar("T")
PATIENCE = timedelta(hours=6)  # ranks wait while the first one drives, collects or judges


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; `device` is where its model lives."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, index: Array) -> Array:
        """This rank's part of a global batch. Interleaved, so that shares differ by at most one sample."""
        return index[self.rank :: self.size]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def start_ranks() -> Ranks:
    """Join the process group that `torchrun` announces; without it, one rank. NCCL on GPUs, else gloo."""
    cuda = torch.cuda.is_available()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = f"cuda:{local}" if cuda else "cpu"
    if cuda:
        torch.cuda.set_device(local)
    if size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    return Ranks(int(os.environ.get("RANK", "0")), size, device)


def stop_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(parameters: Sequence[torch.nn.Parameter], ranks: Ranks, learns: bool) -> bool:
    """Sum gradients over ranks in place; returns whether any rank had something to learn (`learns`).

    A missing gradient becomes zeros, on one rank as on many, so that the optimiser does the same whether a sample was
    consistent here or elsewhere. Where no rank learns, no step may follow: it would move the weights by momentum.
    """
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if ranks.size == 1:
        return learns
    flag = torch.tensor([float(learns)], device=parameters[0].device)
    flat = torch.cat([*(p.grad.reshape(-1) for p in parameters), flag])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    start = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()
    return bool(flat[-1] > 0)


class TermNorms:
    """Gradient norm of each term of a loss; over parts and ranks gradients add up before the norm is taken."""

    def __init__(self, terms: Sequence[str], parameters: Sequence[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.gradients = {
            t: torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device) for t in terms
        }

    def add(self, loss: dict[str, torch.Tensor]) -> None:
        """The terms of one part of the batch; their graph is left for the backward pass."""
        for name, term in loss.items():
            if term.requires_grad:
                found = torch.autograd.grad(term, self.parameters, retain_graph=True, allow_unused=True)
                whole = [torch.zeros_like(p) if g is None else g for g, p in zip(found, self.parameters, strict=True)]
                self.gradients[name] += torch.cat([g.reshape(-1) for g in whole])

    def over(self, ranks: Ranks) -> dict[str, float]:
        if ranks.size > 1:
            for flat in self.gradients.values():
                dist.all_reduce(flat)
        return {f"grad_norm_{name}": float(flat.norm()) for name, flat in self.gradients.items()}


def broadcast(value: T | None, ranks: Ranks) -> T:
    """The first rank's value on every rank: what is measured or judged once must not differ between ranks."""
    given = [value]
    if ranks.size > 1:
        dist.broadcast_object_list(given, src=0, device=torch.device(ranks.device))
    return given[0]  # type: ignore[return-value]


def gather(value: T, ranks: Ranks) -> list[T]:
    """Every rank's value, in the order of ranks, on every rank."""
    if ranks.size == 1:
        return [value]
    found: list[T | None] = [None] * ranks.size
    dist.all_gather_object(found, value)
    return found  # type: ignore[return-value]


def sum_values(values: dict[str, float], ranks: Ranks) -> dict[str, float]:
    """Sum diagnostics over ranks; every rank must hold the same names."""
    if ranks.size == 1 or not values:
        return values
    flat = torch.tensor(list(values.values()), dtype=torch.float64, device=ranks.device)
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))
