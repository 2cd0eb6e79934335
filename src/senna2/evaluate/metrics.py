"""What a metric is: its names, its meaning in words, and the value that carries interval, count and seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senna2.evaluate.stats import Units

EVALUATOR_VERSION = 1

CONSISTENCY = (
    "straight", "left", "right", "keep", "accelerate", "decelerate", "stop", "avg", "f1_strict", "coverage",
    "ceiling", "floor_majority", "floor_shuffled", "decision_accuracy", "left_without_lane_change",
    "right_without_lane_change",
)  # fmt: skip
OPEN_LOOP = ("fde_m", "ade_m", "cr", "dcr", "scr")
CLOSED_LOOP = (
    "cr", "af_cr", "safety_1", "safety_2", "safety_ahead_1", "safety_ahead_2", "straddling", "finished",
    "lateral_undecided", "progress_ratio", "parked", "off_road", "rear_ended", "route_completion", "comfort",
    "consistency_avg",
)  # fmt: skip
CONTROL = (
    "ratio_accelerate", "ratio_keep", "ratio_decelerate", "auroc_accelerate_keep", "auroc_keep_decelerate",
    "auroc_accelerate_decelerate", "instruction_followed",
)  # fmt: skip
SUITES = {"consistency": CONSISTENCY, "open_loop": OPEN_LOOP, "closed_loop": CLOSED_LOOP, "control": CONTROL}

# +1: higher is better; -1: lower is better; 0: neither (context, or a level that has an aim on neither side).
BETTER = {
    **{f"consistency.{n}": 1 for n in CONSISTENCY},
    **{f"consistency.{n}": 0 for n in ("coverage", "ceiling", "floor_majority", "floor_shuffled")},
    **{f"open_loop.{n}": -1 for n in OPEN_LOOP},
    **{f"closed_loop.{n}": -1 for n in ("cr", "af_cr", "straddling", "parked", "off_road", "rear_ended")},
    **{f"closed_loop.{n}": 1 for n in ("safety_1", "safety_2", "safety_ahead_1", "safety_ahead_2", "finished")},
    **{f"closed_loop.{n}": 1 for n in ("progress_ratio", "route_completion", "comfort", "consistency_avg")},
    "closed_loop.lateral_undecided": 0,
    **{f"control.{n}": 1 for n in CONTROL},
    **{f"control.{n}": 0 for n in ("ratio_accelerate", "ratio_keep", "ratio_decelerate")},
}

DEFINITIONS = {
    "f_K": (
        "The meta-action a trajectory expresses, from its 15 positions at 0, 0.1 … 1.4 s: speeds and "
        "accelerations smoothed by a centred mean of 5; STOP is tested before KEEP SPEED; a_1 is tested "
        "with a tolerance of 0.01 m/s². A trajectory that fits no speed class is UNKNOWN."
    ),
    "consistency": (
        "F1 between the VLM's decision and f_K of the plan, direction folded to straight, left and right. "
        "UNKNOWN plans are masked, and `coverage` is the judged share; `f1_strict` counts them as misses. "
        "`avg` is the plain mean of the seven classes; a class absent from both sides is left out and "
        "named. `ceiling`: the same mean between the expert's annotation and f_K of the expert's own "
        "trajectory. `floor_majority`: the decision is always the plans' commonest class, F1 = 2q/(1 + q); "
        "`floor_shuffled`: decisions in random order, F1 = 2pq/(p + q). `decision_accuracy`: share of "
        "samples on which speed and five-class direction of the VLM are both the expert's. "
        "`left/right_without_lane_change`: without the samples whose decision is CHANGE LANE, which f_K "
        "seldom sees."
    ),
    "open_loop": (
        "Points 1–30 of a plan at 0.1 s: ADE their mean error, FDE the error of point 30, in m. cr = dcr + "
        "scr in %: share of plans whose oriented box meets a recorded agent (dcr) or, those apart, a kerb "
        "or static box (scr). Samples with an incomplete future are left out of all, samples in which the "
        "recorded ego itself collides of the collision rates; both are counted. scr is null where no map "
        "knows kerbs."
    ),
    "closed_loop": (
        "Shares of clips, 10 Hz. cr: any contact; af_cr: a contact at the ego's fault (static contacts "
        "are). A contact without fault does not end the clip. safety_k: no contact, and the smallest time "
        "to collision above k s; safety_ahead_k: the same without contacts from behind. TTC: smallest τ = "
        "0.1·k s, k = 0…50, at which ego and agent, both at constant velocity, overlap; agents ahead "
        "(±30°), or all but those behind when the ego is in several lanes, off the lanes or in a junction. "
        "off_road: a corner over 0.3 m outside the drivable area in any frame. straddling: the box over a "
        "lane divider for more than 4 s at a stretch, or when the drive ends (a contact may end it). parked: the ego "
        "stands (≤ 0.05 "
        "m/s) for more than 5 s in which the expert moves. finished: the end reached with no contact and no "
        "straddling. rear_ended: struck from behind. lateral_undecided: a lateral contact without fault "
        "because the map has no complete lanes. What a map cannot tell is null, never 0."
    ),
    "progress": (
        "progress_ratio: distance along the route over the expert's over the full clip, mean over clips in "
        "which the expert goes at least 5 m; read it beside af_cr, since standing still is safe and "
        "useless. route_completion: share of the route ahead that was covered."
    ),
    "comfort": (
        "Share of clips within NAVSIM's limits in every frame (longitudinal acceleration −4.05…2.40, "
        "lateral 4.89 m/s², jerk 8.37, longitudinal jerk 4.13 m/s³, yaw rate 0.95 rad/s, yaw acceleration "
        "1.93 rad/s²), series by Savitzky–Golay filters."
    ),
    "control": (
        "On frames with v₀ ≥ 3 m/s, the planned speed at 3 s under forced decisions. ratio_*: median of "
        "that speed over v₀; auroc_a_b: share of frames on which the plan under a is faster than the one "
        "under b (same frame and noise; ties count half). instruction_followed: share of frames, each "
        "under every wish (faster, slower, left, right), on which the plan with the passenger's words differs "
        "from the one without in the asked direction (speed or lateral offset at 3 s; ties do not count). The "
        "note holds each wish's share. A planner that ignores the words has 0, one that changes at random 0.5."
    ),
    "statistics": (
        "Seeds are averaged per clip, clips are bootstrapped (95 %, 2000 draws, fixed generator); a share that fewer "
        "than 5 clips keep from 0 or 1 takes the Clopper–Pearson interval over clips. n counts what is measured "
        "(samples, frames or clips). Pairs of policies are compared on the same clips and training seeds: difference = "
        "a − b; an interval of the difference that holds 0 is a tie, and so are two shares that differ on fewer than 6 "
        "clips. Intervals are those of other clips for these "
        "trained weights; what another training would give is seen in per_seed alone. They are not corrected for "
        "how many comparisons there are."
    ),
}


@dataclass(frozen=True)
class MetricValue:
    """One number of a table. value and ci95 are None where they do not exist; n counts samples, frames or
    clips.

    `per_seed` holds each seed's own value in the order of the seeds. `units` is what the value was made of,
    clip by clip; comparisons of two policies need it, the file does not hold it.
    """

    value: float | None
    ci95: tuple[float, float] | None = None
    n: int = 0
    per_seed: list[float | None] = field(default_factory=list)
    note: str = ""
    units: Units | None = field(default=None, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """The object of results.json; NaN and infinity become null."""
        ci = None if self.ci95 is None else [finite(v) for v in self.ci95]
        out: dict[str, Any] = {
            "value": finite(self.value),
            "ci95": ci,
            "n": int(self.n),
            "per_seed": [finite(v) for v in self.per_seed],
        }
        return out | {"note": self.note} if self.note else out


def finite(value: float | None) -> float | None:
    """A float that JSON can hold, to six decimals: beyond them the numbers are the machine's rounding."""
    if value is None or not math.isfinite(value):
        return None
    return round(float(value), 6) + 0.0  # + 0.0: no minus zero
