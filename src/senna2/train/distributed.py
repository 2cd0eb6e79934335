"""Ranks without ceremony: every rank holds the whole model, takes its share of the global batch, and gradients are
summed by hand after backward. A rank whose samples all have zero loss still takes part, so nothing can hang."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from senna2.types import Array


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
        dist.init_process_group("nccl" if cuda else "gloo")
    return Ranks(int(os.environ.get("RANK", "0")), size, device)


def stop_ranks() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def sum_gradients(parameters: Sequence[torch.nn.Parameter], ranks: Ranks) -> None:
    """Sum gradients over ranks in place. A missing gradient becomes zeros, on one rank as on many, so that the
    optimiser does the same whether a batch was all consistent here or everywhere."""
    for p in parameters:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    if ranks.size == 1:
        return
    flat = torch.cat([p.grad.reshape(-1) for p in parameters])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    start = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()


def sum_values(values: dict[str, float], ranks: Ranks) -> dict[str, float]:
    """Sum diagnostics over ranks; every rank must hold the same names."""
    if ranks.size == 1 or not values:
        return values
    flat = torch.tensor(list(values.values()), dtype=torch.float64, device=ranks.device)
    dist.all_reduce(flat)
    return dict(zip(values, flat.tolist(), strict=True))
