"""Oriented boxes, time to collision, fault of a contact, lanes and drivable areas.

A box is (…, 5): x, y of its CENTRE, yaw, length, width, in metres and radians. An ego pose (…, 3) is the rear
axle. Sets are closed: boxes that only touch overlap. A box with a NaN (an absent agent) touches nothing. The
loops are numba kernels over flat arrays; numpy broadcasts around them.
"""

from __future__ import annotations

from senna2.geometry.areas import DrivableArea, LaneAreas, Lines
from senna2.geometry.boxes import bearing, box_of, corners, hits_segments, overlap
from senna2.geometry.safety import (
    AHEAD,
    BEHIND,
    STAND_SPEED,
    ContactVerdict,
    judge_contact,
    least_ttc,
    pair_ttc,
    plan_ttc,
    ttc,
)

__all__ = [
    "AHEAD",
    "BEHIND",
    "STAND_SPEED",
    "ContactVerdict",
    "DrivableArea",
    "LaneAreas",
    "Lines",
    "bearing",
    "box_of",
    "corners",
    "hits_segments",
    "judge_contact",
    "least_ttc",
    "overlap",
    "pair_ttc",
    "plan_ttc",
    "ttc",
]
