"""A source of your own: any recording, read into a `RecordedLog`, becomes a drivable 3DGS clip.

    python examples/source.py [FOLDER]       # then: senna2 scene check FOLDER

Here the "recording" is a formula. A real reader fills the same fields from files; `senna2.world.importers` has two.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from senna2.drivers import Expert
from senna2.rollouts import drive
from senna2.types import AgentClass, VehicleShape
from senna2.world.clip import save_clip
from senna2.world.dress import dress
from senna2.world.importers.log import LoggedLane, LoggedTrack, RecordedLog

FRAMES, DT = 81, 0.1


def read_my_log() -> RecordedLog:
    """The ego at 9 m/s behind a van; the map says what is drivable, so kerbs and off-road can be judged."""
    t = DT * np.arange(FRAMES)

    def poses(x0: float, y: float, v: float) -> np.ndarray:
        return np.stack([x0 + v * t, np.full(FRAMES, y), np.zeros(FRAMES)], 1)

    def lane(name: str, y: float, sense: int) -> LoggedLane:
        x = np.linspace(-60.0, 160.0, 45)[::sense]
        ring = np.array([(-60.0, y - 1.75), (160.0, y - 1.75), (160.0, y + 1.75), (-60.0, y + 1.75)])
        return LoggedLane(name, np.stack([x, np.full_like(x, y)], 1), ring)

    seen = np.ones(FRAMES, bool)
    van = LoggedTrack("van", AgentClass.VAN, "delivery van", 5.6, 2.0, 2.4, seen, poses(25.0, 0.0, 9.0))
    parked = LoggedTrack("parked", AgentClass.CAR, "car", 4.4, 1.8, 1.5, seen, poses(40.0, -2.9, 0.0))
    return RecordedLog(
        name="my-log-1", source="my recorder", dt=DT, ego_shape=VehicleShape(), ego_pose_F3=poses(0.0, 0.0, 9.0),
        tracks=(van, parked), lanes=(lane("ours", 0.0, 1), lane("theirs", 3.5, -1)),
        centre_lines=(np.array([(-60.0, 1.75), (160.0, 1.75)]),),
        drivable=(np.array([(-60.0, -4.2), (160.0, -4.2), (160.0, 5.25), (-60.0, 5.25)]),),
    )  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example-source")
    scene = dress(read_my_log())
    save_clip(scene, folder)
    rollout = drive(Expert(), scene, policy_name="expert")
    print(f"{folder}: {len(scene.tracks)} agents, {len(scene.background)} gaussians, {len(scene.map.kerbs)} kerbs")
    print(f"the recorded ego drives {rollout.progress_F[-1]:.1f} m with {len(rollout.contacts)} contacts")


if __name__ == "__main__":
    main()
