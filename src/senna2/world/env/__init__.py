"""The simulator as Gymnasium environments: one (`DrivingEnv`, "senna2/Clip-v0") or many at once (`make_vector`).

`import senna2.world.env` registers the id. Gymnasium 1.0 dropped plug-ins found by entry point, so an import there
must be; `gymnasium.make("senna2.world.env:senna2/Clip-v0", …)` does both in one line.
"""

from __future__ import annotations

import gymnasium

from senna2.world.env.actions import AccelSteerAction
from senna2.world.env.driving import ENV_ID, REWARD_WEIGHTS, DrivingEnv, EnvState
from senna2.world.env.library import ClipLibrary
from senna2.world.env.observations import flat_observation
from senna2.world.env.vector import WorkerDied, make_vector

__all__ = [
    "ENV_ID", "REWARD_WEIGHTS", "AccelSteerAction", "ClipLibrary", "DrivingEnv", "EnvState", "WorkerDied",
    "flat_observation", "make_vector",
]  # fmt: skip

if ENV_ID not in gymnasium.registry:  # a module that is loaded again must not warn
    gymnasium.register(id=ENV_ID, entry_point="senna2.world.env.driving:DrivingEnv")
