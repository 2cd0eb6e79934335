"""Traffic lights of a junction: programs of the ego's street and, complementary, of the one across."""

from __future__ import annotations

import numpy as np

from senna2.world.scene import Light, Signal
from senna2.world.town.network import Roads

AMBER_S, CLEAR_S = 3.0, 1.5  # s of amber, and of red for all between two greens
MAIN_ARMS = ("main", "beyond")


def signals(roads: Roads, green_from: float | None, green_until: float, last_s: float) -> list[Signal]:
    """The lights of all arms. The ego's street is green from `green_from` (None: red throughout, −1: from before the
    start) until `green_until`; the other one is green while that is safe."""
    if green_from is None:
        main, side = [(-1.0, Light.RED)], [(-1.0, Light.GREEN)]
    else:
        main = [(green_from, Light.GREEN)]
        if green_from > 0:
            main.insert(0, (-1.0, Light.RED))
        side = [(-1.0, Light.RED)]
        if green_from > 0:
            stops = green_from - CLEAR_S
            side = [(-1.0, Light.GREEN), (stops - AMBER_S, Light.AMBER), (stops, Light.RED)]
        if green_until < last_s:
            main += [(green_until, Light.AMBER), (green_until + AMBER_S, Light.RED)]
            side += [(green_until + AMBER_S + CLEAR_S, Light.GREEN)]
    out = []
    for name, pose_3, stop_line_22, lanes in roads.signal_heads():
        program = main if any(lane.split("_")[0] in MAIN_ARMS for lane in lanes) else side
        t_T = np.array([t for t, _ in program])
        state_T = np.array([s for _, s in program], np.int8)
        out.append(Signal(name, "signal", np.asarray(pose_3), np.asarray(stop_line_22), tuple(lanes), t_T, state_T))
    return out
