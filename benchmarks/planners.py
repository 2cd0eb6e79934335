"""What each planner costs on the shared backbone: CPU time of a training step and of a plan, and parameters.

    python benchmarks/planners.py [--json] [--repeats N]

One thread of torch. A training step is what the loop does with a batch of 16 samples of the default rig: encode, the
planner's loss, perception losses, backward, AdamW. Samples are noise and weights random; neither changes what a pass
costs, but for the road users and kerbs that some losses look at, which are those of `Samples.fake`. Ratios to `dit`,
the planners taking turns in one run, are what equal CPU-minutes of training are set from.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import SCHEMA, command_line, least_ms, machine, report

from senna2.model.batch import Batch
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.registry import BUILT_IN
from senna2.types import Rig, Samples

BATCH, FITTED_ON = 16, 8192
PERCEPTION_WEIGHT = 0.1


def bent(samples: Samples) -> Samples:
    """Futures of several bends, so that a vocabulary has something to choose from."""
    rng = np.random.default_rng(0)
    samples.future_NT3[..., 0] *= rng.uniform(0, 1.5, (len(samples), 1))
    samples.future_NT3[..., 1] = rng.uniform(-4, 4, (len(samples), 1)) * np.linspace(0, 1, 30) ** 2
    return samples


def system(planner: str) -> DualSystem:
    policy = DualSystem(PolicyConfig(planner=planner, adapter="decision"), Rig.default(), seed=0)
    policy.fit_planner(bent(Samples.fake(FITTED_ON, Rig.fake())))
    return policy


def training_step(policy: DualSystem, batch: Batch) -> Callable[[], Any]:
    optimiser = torch.optim.AdamW(policy.parameters(), 1e-4, fused=True)
    said = torch.zeros(len(batch), dtype=torch.long)

    def job() -> None:
        tokens = policy.encode(batch, augment=(0, 0))
        loss = policy.planning_loss(tokens, policy.condition(None, said, said), batch, seed=0, step=0)
        for value in policy.perception_losses(tokens, batch).values():
            loss = loss + PERCEPTION_WEIGHT * value
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()

    return job


def planning(policy: DualSystem, batch: Batch) -> Callable[[], Any]:
    """A plan, the encoder's pass included."""
    noise = policy.sample_noise(batch.index_B, 0)
    said = torch.zeros(len(batch), dtype=torch.long)

    def job() -> None:
        with torch.inference_mode():
            policy.sample_plan(policy.encode(batch), policy.condition(None, said, said), batch, noise=noise)

    return job


def measure(repeats: int = 7) -> dict[str, Any]:
    torch.set_num_threads(1)
    before = machine(torch)
    names = list(BUILT_IN["planners"])
    batch = Batch.from_samples(bent(Samples.fake(BATCH, Rig.default())))
    one = batch.take(torch.tensor([0]))
    policies = {name: system(name) for name in names}
    steps = least_ms([training_step(policies[n].train(), batch) for n in names], repeats)
    alone = least_ms([planning(policies[n].eval(), one) for n in names], repeats)
    abreast = least_ms([planning(policies[n].eval(), batch) for n in names], repeats)
    first = names.index("dit")
    rows = [
        {
            "planner": name, "parameters": sum(p.numel() for p in policies[name].planner.parameters()),
            "step_ms": round(steps[i], 1), "step_over_dit": round(steps[i] / steps[first], 3),
            "plan_ms": round(alone[i], 2), "plan_in_batch_ms": round(abreast[i] / BATCH, 2),
        }
        for i, name in enumerate(names)
    ]  # fmt: skip
    most = steps.index(max(steps))
    return {
        "schema": SCHEMA,
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "settings": {"repeats": repeats, "batch": BATCH, "rig": "default", "torch_threads": 1},
        "rows": rows,
        "headline": {
            "most_step_over_dit": {
                "value": rows[most]["step_over_dit"], "aim": 2.0, "better": "lower",
                "what": f"CPU time of a training step, over that of dit, of the planner that costs most "
                        f"({names[most]}): encoder and perception, which all share, are most of a step",
            },
        },
    }  # fmt: skip


def row_text(row: dict[str, Any]) -> str:
    return (
        f"{row['planner']:15s} {row['parameters']:8d} parameters  step {row['step_ms']:7.1f} ms "
        f"({row['step_over_dit']:.2f} of dit)  plan {row['plan_ms']:6.2f} ms, {row['plan_in_batch_ms']:6.2f} in a batch"
    )


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    report(measure(args.repeats), args.json, row_text)


if __name__ == "__main__":
    main()
