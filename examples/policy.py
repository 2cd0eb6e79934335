"""A policy of your own: any object with `reset` and `act`. Drives four generated clips and prints what happened.

    python examples/policy.py

To drive it by name (`senna2 eval closed --policy crawler …`), declare it in your package's pyproject.toml:

    [project.entry-points."senna2.policies"]
    crawler = "my_package.crawler:Crawler"
"""

from __future__ import annotations

import functools

import numpy as np

from senna2.evaluate.closed_loop import clip_row
from senna2.rollouts import drive_many
from senna2.types import PLAN_DT, PLAN_STEPS, ClipMeta, Observation, Plan, Trajectory
from senna2.world.town.families import make_scene, split_scenes

CAREFUL_M, COMFORT = 12.0, 2.0  # m kept to whoever is ahead; m/s² of braking


class Crawler:
    """Straight on; brakes so as to stand `CAREFUL_M` before the nearest box in its own corridor."""

    needs_images = False  # it reads boxes, so nothing has to be rendered

    def reset(self, meta: ClipMeta, seed: int) -> None:
        """A new clip begins. Nothing to remember."""

    def act(self, observation: Observation) -> Plan:
        state = observation.state
        assert state is not None
        boxes = state.boxes_A6[state.classes_A >= 0].astype(float)  # x, y, yaw, length, width, speed; ego frame
        ahead = boxes[(boxes[:, 0] > 3.0) & (np.abs(boxes[:, 1]) < 1.8)]
        free_m = float(ahead[:, 0].min()) - CAREFUL_M if len(ahead) else np.inf
        v_end = min(observation.v, np.sqrt(2 * COMFORT * max(free_m, 0.0)))
        t = PLAN_DT * np.arange(1, PLAN_STEPS + 1)
        v = np.maximum(observation.v - COMFORT * t, v_end)
        x = np.cumsum(v) * PLAN_DT
        return Plan(Trajectory(np.stack([x, np.zeros_like(x)], 1), PLAN_DT))


def main() -> None:
    scenes = [functools.partial(make_scene, family, seed, "test") for family, seed in split_scenes("test", 4)]
    for rollout in drive_many(Crawler, scenes, workers=0):
        row = clip_row(rollout)
        print(f"{row['clip']:36s} collided {row['collided']!s:5s}  progress {row['progress_m']:5.1f} m")


if __name__ == "__main__":
    main()
