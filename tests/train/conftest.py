"""A dual system small enough to train in a second, and samples of three speed classes to train it on."""

import dataclasses
import functools
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.types import Rig, Samples


class MemoryStore:
    """The store protocol over samples in memory."""

    def __init__(self, samples: Samples) -> None:
        self.states = dataclasses.replace(samples, index_N=np.arange(len(samples), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.states)

    def take(self, index):
        return self.states.take(index)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def vlm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vlm")
    DrivingVLM.tiny(seed=0).save_pretrained(folder)
    return folder


def small_store() -> MemoryStore:
    return MemoryStore(Samples.fake(24, Rig.fake(), seed=3))


def small_policy(vlm_folder: Path, store: MemoryStore, **changes) -> DualSystem:
    """Identical weights at every call, in every process."""
    config = PolicyConfig(dim=32, blocks=2, channels=(8, 8, 16, 16), agent_queries=4, map_queries=4, **changes)
    policy = DualSystem(config, Rig.fake(), vlm=DrivingVLM.from_pretrained(vlm_folder), seed=0)
    policy.fit_planner(store.states)
    return policy.train()


@pytest.fixture
def store() -> MemoryStore:
    return small_store()


@pytest.fixture
def make_policy(vlm_folder, store):
    """A fresh system with identical weights at every call."""
    return functools.partial(small_policy, vlm_folder, store)


@pytest.fixture(scope="session")
def straight_driver():
    """A state planner whose basis knows curves and which has learned to drive straight on; and its samples."""
    torch.set_num_threads(1)
    samples = Samples.fake(24, Rig.fake(), seed=3)
    samples = dataclasses.replace(samples, index_N=np.arange(24, dtype=np.int64))
    bent = samples.future_NT3.copy()
    side = np.linspace(-1, 1, 24)[:, None]
    bent[..., 1] = side * np.linspace(0, 1.5, 30) ** 2  # so that the lateral modes have their real size
    policy = DualSystem(PolicyConfig(obs="state", adapter="none", dim=32, blocks=2), Rig.fake(), seed=0)
    policy.fit_planner(dataclasses.replace(samples, future_NT3=bent))
    optimiser = torch.optim.AdamW(policy.parameters(), 3e-3)
    batch = Batch.from_samples(samples)
    nobody_decides = policy.condition(None, torch.full((24,), -1), torch.full((24,), -1)).detach()
    for step in range(150):
        optimiser.param_groups[0]["lr"] = 1.5e-3 * (1 + math.cos(math.pi * step / 150))  # settled, so: truly straight
        tokens = policy.encode(batch)
        loss = policy.planning_loss(tokens, nobody_decides, batch, seed=0, step=step).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return policy, samples
