"""Comfort by NAVSIM's limits, from speed and yaw, through nuPlan's Savitzky–Golay filters."""

from __future__ import annotations

import numpy as np
from scipy.signal import savgol_filter

from senna2.types import Array

# NAVSIM / nuPlan: high_comfort thresholds, SI.
LON_ACCELERATION = (-4.05, 2.40)
LAT_ACCELERATION = 4.89
JERK = 8.37
LON_JERK = 4.13
YAW_RATE = 0.95
YAW_ACCELERATION = 1.93

ACCELERATION_WINDOW, JERK_WINDOW, YAW_WINDOW = 8, 15, 15  # frames
SHORTEST = 4  # frames: a cubic needs as many


def smooth_acceleration(a_F: Array) -> Array:
    """(F,) acceleration, smoothed: window 8, order 2."""
    return savgol_filter(a_F, min(ACCELERATION_WINDOW, len(a_F)), 2)


def jerk(a_F: Array, dt: float) -> Array:
    """(F,) acceleration → its smoothed derivative, m/s³: of the smoothed series, window 15, order 2."""
    return savgol_filter(smooth_acceleration(a_F), min(JERK_WINDOW, len(a_F)), 2, deriv=1, delta=dt)


def yaw_rate(yaw_F: Array, dt: float) -> Array:
    """(F,) yaw → rad/s: window 15, order 2, over the unwrapped angle."""
    return savgol_filter(np.unwrap(yaw_F), min(YAW_WINDOW, len(yaw_F)), 2, deriv=1, delta=dt)


def yaw_acceleration(yaw_F: Array, dt: float) -> Array:
    """(F,) yaw → rad/s²: window 15, order 3, second derivative."""
    return savgol_filter(np.unwrap(yaw_F), min(YAW_WINDOW, len(yaw_F)), 3, deriv=2, delta=dt)


def is_comfortable(v_F: Array, yaw_F: Array, dt: float) -> bool | None:
    """Within every limit in every frame; None for drives of fewer than 4 frames.

    Longitudinal acceleration is the derivative of speed and the lateral one v · yaw rate [ours: devkits read
    both from the vehicle's state, which a pose-driven ego has not].
    """
    v_F, yaw_F = np.asarray(v_F, np.float64), np.asarray(yaw_F, np.float64)
    if len(v_F) < SHORTEST:
        return None
    raw_lon = np.gradient(v_F, dt)
    rate = yaw_rate(yaw_F, dt)
    raw_lat = v_F * rate
    lon = smooth_acceleration(raw_lon)
    checks = (
        (lon > LON_ACCELERATION[0]) & (lon < LON_ACCELERATION[1]),
        np.abs(smooth_acceleration(raw_lat)) < LAT_ACCELERATION,
        np.abs(jerk(np.hypot(raw_lon, raw_lat), dt)) < JERK,
        np.abs(jerk(raw_lon, dt)) < LON_JERK,
        np.abs(rate) < YAW_RATE,
        np.abs(yaw_acceleration(yaw_F, dt)) < YAW_ACCELERATION,
    )
    return bool(all(c.all() for c in checks))
