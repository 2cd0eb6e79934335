"""A metric of your own: a function from rollouts to a `MetricValue`, with an interval over clips and a paired
comparison of two policies.

    python examples/metric.py
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from senna2.drivers import ConstantVelocity, Idm
from senna2.evaluate.metrics import MetricValue
from senna2.evaluate.stats import Sums, measure, paired_difference
from senna2.rollouts import drive_many
from senna2.types import InputError, Rollout
from senna2.world.town.families import make_scene, split_scenes


def hardest_braking(rollouts: Sequence[Rollout]) -> MetricValue:
    """Mean over clips of the strongest deceleration, m/s² (0 for a clip without braking). One seed."""
    if not rollouts:
        raise InputError("hardest_braking: no rollout; drive at least one clip")
    clips = tuple(r.clip for r in rollouts)
    worst = [max(-float(r.ego_F6[:, 4].min()), 0.0) for r in rollouts]  # columns: x, y, yaw, v, a, steer
    counts_SCK = np.array([[(value, 1.0) for value in worst]])  # seeds × clips × (sum, number)
    return measure(Sums(clips, (rollouts[0].seed,), counts_SCK, is_share=False), len(clips))


def interval(ci95: tuple[float, float] | None) -> str:
    return "no interval" if ci95 is None else f"95 % {ci95[0]:.2f} … {ci95[1]:.2f}"


def main() -> None:
    scenes = [functools.partial(make_scene, family, seed, "test") for family, seed in split_scenes("test", 6)]
    values = {}
    for policy in (ConstantVelocity, Idm):
        values[policy.__name__] = value = hardest_braking(drive_many(policy, scenes, workers=0))
        print(f"{policy.__name__:18s} {value.value:5.2f} m/s²  {interval(value.ci95)}  over {value.n} clips")
    pair = paired_difference(values["Idm"], values["ConstantVelocity"])
    print(f"{'difference':18s} {pair['difference']:5.2f} m/s²  {interval(pair['ci95'])}  paired")


if __name__ == "__main__":
    main()
