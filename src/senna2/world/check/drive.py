"""The start, and the expert's own drive replayed in the simulator: it must be fit to be imitated."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from senna2.frames import along_polyline, poses_to_ego, project_to_polyline, resample_poses
from senna2.geometry import box_of, overlap
from senna2.types import PLAN_STEPS, Array, Contact, InputError, Trajectory
from senna2.world.check.findings import Finding, error, real_or_wrong
from senna2.world.route import Route
from senna2.world.scene import Light, Scene
from senna2.world.sim import DEFAULT_CONFIG, Simulator
from senna2.world.traffic import ReplayTraffic

TOUCH_M = 0.05  # boxes that overlap by less merely stand close
OFF_ROUTE_M = 6.0  # a lane change may wait for its gap one lane beside the route [ours]
BACKWARD_M = 3.0


def check_start(scene: Scene) -> Iterator[Finding]:
    """Nobody stands in anybody at time 0."""
    boxes = ReplayTraffic(scene.tracks, scene.meta.dt, 1).boxes_KA6[0, :, :5]
    boxes = boxes - np.array([0, 0, 0, TOUCH_M, TOUCH_M])
    ego = box_of(scene.expert.pose_E3[0], scene.meta.ego_shape)
    names = [t.id for t in scene.tracks]
    for a in np.flatnonzero(overlap(ego[None], boxes)) if len(boxes) else ():
        yield real_or_wrong(scene, f"track {names[a]}", "overlaps the ego at the start; the judge will ignore it",
                            "move one of them, or let the track begin later")  # fmt: skip
    meets = overlap(boxes[:, None], boxes[None]) if len(boxes) else np.zeros((0, 0), bool)
    for a, b in np.argwhere(np.triu(meets, 1)):
        yield real_or_wrong(scene, f"track {names[a]}", f"overlaps {names[b]} at the start", "move one of them")


def check_drive(scene: Scene) -> Iterator[Finding]:
    """Drives the expert's log (vehicle mode `perfect`): contacts, the road's edge, its route, red lights."""
    yield from _beside_route(scene)
    yield from _red_lights(scene)
    config = dataclasses.replace(DEFAULT_CONFIG, vehicle="perfect", traffic="replay")
    try:
        sim = Simulator(scene, config)
    except InputError as bad:
        yield error("clip", str(bad), "record a longer drive")
        return
    poses = _poses(scene, config.dt, sim.last_step + 1 + PLAN_STEPS)
    state, off_road_s = sim.reset(), None
    while not state.done:
        e, k = state.ego, state.step
        ahead = poses_to_ego(poses[k + 1 : k + 1 + PLAN_STEPS], np.array([e.x, e.y, e.yaw]))
        state = sim.step(state, Trajectory(ahead[:, :2], config.dt, ahead[:, 2]))
        off_road_s = state.t_s if off_road_s is None and state.off_road else off_road_s
    for contact in state.contacts:
        yield _contact(scene, contact)
    if scene.map.drivable and scene.map.drivable_known and state.off_road is None:
        yield real_or_wrong(scene, "map: drivable", "does not hold the expert's drive, so that nothing is judged by it",
                            "complete it, or declare it unknown")  # fmt: skip
    if off_road_s is not None:
        yield real_or_wrong(scene, "expert", f"leaves the drivable area at {off_road_s:.1f} s",
                            "record another drive, or complete map.drivable")  # fmt: skip


def _contact(scene: Scene, contact: Contact) -> Finding:
    fault = "" if contact.at_fault else ", not at fault"
    return real_or_wrong(scene, "expert", f"collides with {contact.agent_id} at {contact.t_s:.1f} s ({contact.kind}"
                         f"{fault})", "record another drive, or mend the track")  # fmt: skip


def _poses(scene: Scene, dt: float, frames: int) -> Array:
    """(frames, 3) of the expert on the simulator's clock; after its end it stands."""
    e = scene.expert
    t = np.minimum(dt * np.arange(frames), float(e.t_E[-1]))
    return resample_poses(e.t_E, np.asarray(e.pose_E3, np.float64), t)


def _beside_route(scene: Scene) -> Iterator[Finding]:
    line = np.asarray(scene.route_P2, np.float64)
    s, offset = project_to_polyline(scene.expert.pose_E3[:, :2], line)
    beside = (s > 1e-6) & (s < float(along_polyline(line)[-1]) - 1e-6)  # beyond its ends a route goes straight on
    if not beside.any():
        yield error("expert", "never is beside its route", "give the route that it drives")
        return
    away = np.where(beside, np.abs(offset), 0.0)
    worst = int(np.argmax(away))
    if away[worst] > OFF_ROUTE_M:
        what = f"is {away[worst]:.1f} m beside its route at {scene.expert.t_E[worst]:.1f} s"
        yield real_or_wrong(scene, "expert", what, "give the route that it drives")
    gone = Route(line, scene.expert.pose_E3[0, :2]).track(scene.expert.pose_E3)
    back = float((np.maximum.accumulate(gone) - gone).max())
    if back > BACKWARD_M:
        yield real_or_wrong(scene, "expert", f"goes back {back:.1f} m along its route", "turn the route round")


def _red_lights(scene: Scene) -> Iterator[Finding]:
    """The front bumper crosses a stop line that speaks to it while the light is red."""
    e, shape = scene.expert, scene.meta.ego_shape
    heading = np.stack([np.cos(e.pose_E3[:, 2]), np.sin(e.pose_E3[:, 2])], 1)
    front = e.pose_E3[:, :2] + shape.front * heading
    for signal in scene.signals:
        a, b = np.asarray(signal.stop_line_22, np.float64)
        along = np.array([np.cos(signal.pose_3[2]), np.sin(signal.pose_3[2])])
        share = (front - a) @ (b - a) / max(float((b - a) @ (b - a)), 1e-9)
        depth = (front - a) @ along  # beyond the line, in the sense of its traffic
        passes = (depth[:-1] < 0) & (depth[1:] >= 0) & (share[1:] > 0) & (share[1:] < 1)
        for k in np.flatnonzero(passes):
            if signal.at(float(e.t_E[k + 1])) == Light.RED:
                yield real_or_wrong(scene, "expert", f"passes signal {signal.id} on red at {e.t_E[k + 1]:.1f} s",
                                    "record another drive, or mend the light's times")  # fmt: skip
