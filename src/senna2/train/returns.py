"""How well a whole drive went, as one number: what group-relative training compares (RAD-2, arXiv 2604.15308, 3.4).

    R = (min_t TTC_t − T_max) / T_max + min(progress / expert's, 1)

The first term is 0 if nobody came near and −1 after a contact; RAD-2 measures it with the plan's occupancy, we with the
drive's time to collision [ours]. Leaving the road counts as a contact [ours]. RAD-2 asks for a progress between 1.05
and 1.10 of the log's, we for the expert's [ours].
"""

from __future__ import annotations

import numpy as np

from senna2.types import Rollout

LEAST_EXPERT_M = 1.0  # an expert that stands asks for no progress


def drive_return(rollout: Rollout, most_ttc_s: float = 3.0) -> float:
    """In [−1, 1]."""
    failed = bool(rollout.contacts) or bool(rollout.off_road_F is not None and rollout.off_road_F.any())
    safety = -1.0 if failed else min(float(np.min(rollout.ttc_F)), most_ttc_s) / most_ttc_s - 1.0
    wanted = float(rollout.expert_E4[-1, 2])
    progress = 1.0 if wanted < LEAST_EXPERT_M else min(max(float(rollout.progress_F[-1]) / wanted, 0.0), 1.0)
    return safety + progress
