"""How things move: time stamps, sizes, angles, speeds that fit the poses, and nobody who jumps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from senna2.frames import wrap
from senna2.types import AgentClass, Array, Direction
from senna2.world.check.findings import Finding, error, real_or_wrong, warning
from senna2.world.scene import BRAKE, INDICATOR_LEFT, INDICATOR_RIGHT, Scene, Track

FASTEST = 70.0  # m/s
MOVING = 1.5  # m/s; slower motion says nothing about heading or speed
JUMP_M = 1.0  # beyond twice what the speed allows in a step
TREMBLE_M = 3.0  # what stays within it stands
STEP_SLACK_S = 1e-3
# Length, width, height by class, m; twice out of them is an error, out of them a warning [ours].
SIZES = {
    AgentClass.PEDESTRIAN: ((0.15, 1.5), (0.15, 1.5), (0.4, 2.5)),
    AgentClass.CYCLIST: ((0.8, 3.0), (0.2, 1.4), (0.8, 2.6)),
    AgentClass.MOTORCYCLE: ((1.0, 4.0), (0.3, 1.8), (0.7, 2.6)),
    AgentClass.CAR: ((2.2, 7.5), (1.2, 2.8), (0.9, 3.2)),
    AgentClass.VAN: ((3.0, 9.0), (1.4, 3.2), (1.3, 4.2)),
    AgentClass.TRUCK: ((3.5, 30.0), (1.5, 4.5), (1.3, 5.5)),
    AgentClass.BUS: ((5.0, 30.0), (1.8, 4.5), (2.0, 5.5)),
    AgentClass.STATIC: ((0.05, 40.0), (0.05, 40.0), (0.05, 12.0)),
}


def check_columns(scene: Scene) -> Iterator[Finding]:
    """Rows that belong together, and a clock that runs: what every later check rests on."""
    for track in scene.tracks:
        at = f"track {track.id}"
        yield from _rows(at, (track.t_T, track.pose_T3, track.v_T, track.lights_T), 1)
        yield from _stamps(at, track.t_T, scene.meta.dt)
    e = scene.expert
    yield from _rows("expert", (e.t_E, e.pose_E3, e.v_E, e.direction_E, e.navigation_E), 2)
    yield from _stamps("expert", e.t_E, scene.meta.dt)
    if abs(float(e.t_E[0])) > 1e-6:
        yield error("expert: t", f"starts at {e.t_E[0]:g} s", "count the time of all files from the clip's start")
    if not np.isfinite(e.v_E).all():
        yield error("expert: v", "holds NaN", "give a speed at every pose")
    for name in ("direction", "navigation"):
        values = getattr(e, f"{name}_E")
        bad = np.flatnonzero(~np.isin(values, [int(d) for d in Direction if d >= 0]))  # UNKNOWN is no command
        if len(bad):
            yield error(f"expert: {name}", f"holds {values[bad[0]]} at row {bad[0]}", "use the five directions")


def check_motions(scene: Scene) -> Iterator[Finding]:
    """Sizes, speeds, angles, lights of everybody."""
    for track in scene.tracks:
        at = f"track {track.id}"
        yield from _sizes(at, AgentClass(track.agent_class), (track.length, track.width, track.height))
        yield from check_motion(scene, at, track.t_T, track.pose_T3, track.v_T)
        yield from _lights_and_trigger(at, track)
    e, shape = scene.expert, scene.meta.ego_shape
    yield from check_motion(scene, "expert", e.t_E, e.pose_E3, e.v_E)
    kind = AgentClass.TRUCK if shape.length > SIZES[AgentClass.CAR][0][1] else AgentClass.CAR
    yield from _sizes("ego_shape", kind, (shape.length, shape.width, shape.height))


def check_motion(scene: Scene, at: str, t_T: Array, pose_T3: Array, v_T: Array) -> Iterator[Finding]:
    """Angles in radians, speeds in m/s that fit the poses, headings along the motion, no jumps."""
    turned = float(np.abs(pose_T3[:, 2]).max())
    if turned > 3 * np.pi:
        yield error(f"{at}: yaw", f"reaches {turned:.0f}", "angles are radians; these look like degrees")
        return
    if float(v_T.min()) < 0:
        yield error(f"{at}: v", f"is negative ({v_T.min():.1f})", "give the speed along the heading, 0 or more")
    if float(v_T.max()) > FASTEST:
        yield error(f"{at}: v", f"reaches {v_T.max():.0f} m/s", "speeds are m/s; these look like km/h")
    if len(t_T) < 2:
        return
    step_m = np.hypot(*np.diff(pose_T3[:, :2], axis=0).T)
    dt = np.diff(t_T)
    if float(np.hypot(*np.ptp(pose_T3[:, :2], axis=0))) < TREMBLE_M:  # it stands: annotated boxes tremble
        way = float((0.5 * (v_T[1:] + v_T[:-1]) * dt).sum())
        if way > 2 * TREMBLE_M:
            yield error(f"{at}: v", f"would move it {way:.0f} m, but it stands", "give m/s that fit the poses")
        return
    path_v, told_v = step_m / dt, 0.5 * (v_T[1:] + v_T[:-1])
    jump = np.flatnonzero(step_m > 2 * np.maximum(v_T[1:], v_T[:-1]) * dt + JUMP_M)
    moving = np.maximum(path_v, told_v) > MOVING
    moving[jump] = False
    if len(jump) > len(step_m) // 2:  # not a jump but a wrong unit, of all of it
        moving, jump = path_v > MOVING, jump[:0]
    if len(jump):
        k = int(jump[0])
        more = f" and {len(jump) - 1} times more" if len(jump) > 1 else ""
        yield real_or_wrong(scene, at, f"jumps {step_m[k]:.1f} m at {t_T[k]:.1f} s{more}",
                            "split it into two tracks, or mend the poses")  # fmt: skip
    if moving.sum() < 5:
        return
    ratio = float(told_v[moving].sum() / path_v[moving].sum()) if path_v[moving].sum() > 0 else np.inf
    if not 1 / 1.4 < ratio < 1.4:
        unit = "; it looks like km/h" if 3.2 < ratio < 4.0 else ""
        yield error(f"{at}: v", f"is {ratio:.2f} times what the poses move{unit}", "give m/s that fit the poses")
    heading = np.arctan2(np.diff(pose_T3[:, 1]), np.diff(pose_T3[:, 0]))
    runs = moving & (path_v > MOVING)
    if runs.sum() >= 5:
        off = float(np.median(np.abs(wrap(heading - pose_T3[:-1, 2]))[runs]))
        if off > 0.8:
            yield real_or_wrong(scene, f"{at}: yaw", f"is {np.degrees(off):.0f}° off the way it moves",
                                "yaw is the heading, in radians, counter-clockwise from x")  # fmt: skip


def _rows(at: str, columns: tuple[Array, ...], least: int) -> Iterator[Finding]:
    counts = sorted({len(c) for c in columns})
    if len(counts) > 1 or counts[0] < least:
        yield error(at, f"its columns have {counts} rows", f"give each the same number, at least {least}")


def _stamps(at: str, t_T: Array, dt: float) -> Iterator[Finding]:
    if not np.isfinite(t_T).all():
        yield error(f"{at}: t", "holds NaN", "give every row its time")
        return
    step = np.diff(t_T)
    back = np.flatnonzero(step <= 0)
    if len(back):
        yield error(f"{at}: t", f"does not increase at {t_T[back[0]]:g} s", "sort the rows by time, each time once")
        return
    odd = np.flatnonzero(np.abs(step - dt) > STEP_SLACK_S)
    if len(odd):
        yield warning(f"{at}: t", f"steps {step[odd[0]]:g} s at {t_T[odd[0]]:g} s, the clip's dt is {dt:g}",
                      "sample it at dt; between time stamps motion is interpolated")  # fmt: skip


def _sizes(at: str, kind: AgentClass, size: tuple[float, float, float]) -> Iterator[Finding]:
    for name, value, (low, high) in zip(("length", "width", "height"), size, SIZES[kind], strict=True):
        if not low / 2 <= value <= high * 2:
            yield error(f"{at}: {name}", f"of {value:g} m is absurd for {kind.name.lower()}", "sizes are metres")
        elif not low <= value <= high:
            yield warning(f"{at}: {name}", f"of {value:g} m is odd for {kind.name.lower()}", "check size and class")


def _lights_and_trigger(at: str, track: Track) -> Iterator[Finding]:
    known = BRAKE | INDICATOR_LEFT | INDICATOR_RIGHT
    if ((track.lights_T < 0) | (track.lights_T & ~known != 0)).any():
        yield error(f"{at}: lights", "holds bits without a meaning", f"use sums of {BRAKE}, {INDICATOR_LEFT}, "
                    f"{INDICATOR_RIGHT}")  # fmt: skip
    if track.trigger is not None and not np.isfinite([track.trigger.x, track.trigger.y, track.trigger.arrives_s]).all():
        yield error(f"{at}: trigger", "holds NaN", "give x, y and s, or none of them")
