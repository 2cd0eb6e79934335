"""Policy × clip → `Rollout`, in this process or in worker processes. Knows no model: a policy is any object with
`reset` and `act`."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import sys
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np

from senna2.frames import resample_plan
from senna2.progress import progress_bar
from senna2.types import (
    PLAN_DT,
    PLAN_STEPS,
    Array,
    ClipMeta,
    EgoState,
    InputError,
    Observation,
    Plan,
    Rollout,
    Trajectory,
    require,
)
from senna2.workers import map_in_workers
from senna2.world.render.base import Renderer
from senna2.world.scene import Scene
from senna2.world.sim import DEFAULT_CONFIG, SimConfig, SimState, Simulator, with_vehicle
from senna2.world.vehicle import shift_plan

Record = Literal["none", "state", "images"]
ClipSource = Scene | Path | str | Callable[[], Scene]  # a callable makes the clip where it is driven


class Policy(Protocol):
    """What drives. Optional attributes: `needs_images` (default True), `vehicle` ("perfect" for replayed recordings;
    default the configuration's), and `plan_batch(samples, decision, seed) -> Plans` for open-loop work."""

    def reset(self, meta: ClipMeta, seed: int) -> None: ...

    def act(self, observation: Observation) -> Plan: ...


PolicySpec = str | Callable[[], Policy]


def clip_seed(seed: int, clip: str) -> int:
    """A policy's seed in one clip: the same whatever else is driven, by whom and in which order."""
    return int(np.random.SeedSequence([seed, zlib.crc32(clip.encode())]).generate_state(1)[0])


# --- one clip -----------------------------------------------------------------------------------------


def drive(
    policy: Policy,
    scene: Scene,
    *,
    policy_name: str,
    seed: int = 0,
    config: SimConfig = DEFAULT_CONFIG,
    renderer: Renderer | None = None,
    plan_every: int = 1,
    record: Record = "none",
    record_every: int = 1,
    start: EgoState | None = None,
) -> Rollout:
    """Drive one clip to its end, or to the contact that ends it.

    plan_every: frames between two plans (the rest of the last one is followed between). record: keep the
    observations of every `record_every`-th frame, with state or with images and state. start: the ego's first
    state, by default the expert's. Raises `InputError` for a plan that is not finite or shorter than 3 s.
    """
    course, meta = begin_course(
        scene, policy_name=policy_name, seed=seed, renderer=renderer, plan_every=plan_every, record=record,
        config=with_vehicle(config, getattr(policy, "vehicle", None) or config.vehicle), record_every=record_every,
        start=start, needs_images=bool(getattr(policy, "needs_images", True)),
    )  # fmt: skip
    policy.reset(meta, clip_seed(seed, scene.meta.name))
    plan: Plan | None = None
    while True:
        try:
            observation = next(course) if plan is None else course.send(plan)
        except StopIteration as end:
            return cast(Rollout, end.value)
        plan = policy.act(observation)


Course = Generator[Observation, Plan, Rollout]


def begin_course(
    scene: Scene, *, policy_name: str, seed: int, config: SimConfig, needs_images: bool,
    renderer: Renderer | None = None, plan_every: int = 1, record: Record = "none", record_every: int = 1,
    start: EgoState | None = None,
) -> tuple[Course, ClipMeta]:  # fmt: skip
    """A clip under way (a generator that yields what is seen, is sent the plan made from it, and returns the rollout),
    and what the policy is told beforehand. Arguments as in `drive`."""
    if plan_every < 1 or record_every < 1:
        raise InputError("drive: plan_every and record_every must be at least 1")
    sim = Simulator(scene, config, renderer)
    state = sim.reset(start)
    course = _course(sim, state, policy_name, seed, needs_images, plan_every, record, record_every)
    return course, sim.meta(state.ego)


def _course(
    sim: Simulator, state: SimState, policy_name: str, seed: int, needs_images: bool, plan_every: int, record: Record,
    record_every: int,
) -> Course:  # fmt: skip
    log = _Log()
    plan: Plan | None = None
    made_at = state
    while True:
        keeps = record != "none" and state.step % record_every == 0
        plans_now = not state.done and state.step % plan_every == 0
        observation = None
        if keeps or plans_now:
            images = (plans_now and needs_images) or (keeps and record == "images")
            observation = sim.observe(state, images=images)
        if plans_now and observation is not None:
            made = yield observation
            where = f"policy {policy_name}, clip {sim.scene.meta.name}, {state.t_s:.1f} s"
            plan, made_at = checked_plan(made, observation.v, where), state
        kept = observation if keeps else None
        if kept is not None and record == "state":
            kept = dataclasses.replace(kept, images={})
        log.add(state, plan, made_at, plans_now, sim, kept)
        if state.done:
            break
        if plan is None:
            raise InputError(f"drive: no plan at the first frame of clip {sim.scene.meta.name}")
        rest = shift_plan(plan.trajectory, made_at.ego, state.ego, state.t_s - made_at.t_s)
        state = sim.step(state, rest)
    return log.rollout(sim, policy_name, seed, record != "none")


def checked_plan(plan: Plan, v: float, where: str) -> Plan:
    """The plan with 30 points or more at 0.1 s; coarser ones by the clamped spline."""
    require(isinstance(plan, Plan), where, f"act returned {type(plan).__name__}; it must return a senna2.types.Plan")
    try:
        trajectory = plan.trajectory.validate()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if trajectory.dt != PLAN_DT:
        trajectory = Trajectory(resample_plan(trajectory.points_T2, trajectory.dt, PLAN_DT, v), PLAN_DT)
    if len(trajectory.points_T2) < PLAN_STEPS:
        raise InputError(f"{where}: plan of {len(trajectory.points_T2)} points at 0.1 s; {PLAN_STEPS} are needed")
    return dataclasses.replace(plan, trajectory=trajectory)


class _Log:
    """Columns of a rollout while it is driven."""

    def __init__(self) -> None:
        self.states: list[SimState] = []
        self.plans: list[Array] = []
        self.decisions: list[tuple[int, int, int, int]] = []
        self.ages: list[float] = []
        self.limits: list[float] = []
        self.observations: list[Observation | None] = []

    def add(
        self, state: SimState, plan: Plan | None, made_at: SimState, planned: bool, sim: Simulator,
        observation: Observation | None,
    ) -> None:  # fmt: skip
        self.states.append(state)
        new = planned and plan is not None
        self.plans.append(plan.trajectory.points_T2[:PLAN_STEPS] if new and plan else np.full((PLAN_STEPS, 2), np.nan))
        given = (plan.decision, plan.vlm_decision) if plan else (None, None)
        speed, direction = ((-1, -1) if d is None else (int(d.speed), int(d.direction)) for d in given)
        self.decisions.append((*speed, *direction))
        self.ages.append(plan.decision_age_s + state.t_s - made_at.t_s if plan else 0.0)
        self.limits.append(sim.speed_limit(state.progress_m))
        self.observations.append(observation)

    def rollout(self, sim: Simulator, policy: str, seed: int, recorded: bool) -> Rollout:
        scene, states = sim.scene, self.states
        decisions = np.array(self.decisions, np.int8)
        off_road = [s.off_road for s in states]
        straddle = [s.straddling for s in states]
        expert = scene.expert
        moved = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(expert.pose_E3[:, :2], axis=0).T))])
        return Rollout(
            clip=scene.meta.name,
            family=scene.meta.family,
            scene_seed=scene.meta.seed,
            policy=policy,
            seed=seed,
            dt=sim.config.dt,
            vehicle=sim.config.vehicle,
            traffic=sim.config.traffic,
            ego_shape=sim.shape,
            t_F=np.array([s.t_s for s in states]),
            ego_F6=np.array([s.ego.as_array() for s in states]),
            plans_FT2=np.array(self.plans, np.float64),
            decision_F2=decisions[:, :2],
            vlm_decision_F2=decisions[:, 2:],
            decision_age_F=np.array(self.ages),
            speed_limit_F=np.array(self.limits),
            ttc_F=np.array([s.ttc_s for s in states]),
            progress_F=np.array([s.progress_m for s in states]),
            off_road_F=None if off_road[0] is None else np.array(off_road, bool),
            straddle_F=None if straddle[0] is None else np.array(straddle, bool),
            boxes_FA6=np.array([s.agents.boxes_A6 for s in states]),
            agent_ids=sim.traffic.ids,
            agent_classes_A=sim.traffic.classes_A,
            contacts=states[-1].contacts,
            ignored_at_start=len(states[0].ignored_ids),
            has_kerbs=sim.judge.has_kerbs,
            route_length_m=sim.route.length_m,
            expert_E4=np.stack([expert.t_E, expert.v_E, sim.expert_progress_E, moved], 1),
            observations=tuple(self.observations) if recorded else (),
        )


# --- many clips ---------------------------------------------------------------------------------------


def drive_many(
    policy_spec: PolicySpec,
    scenes: Sequence[ClipSource],
    *,
    workers: int,
    seed: int = 0,
    policy_name: str | None = None,
    config: SimConfig = DEFAULT_CONFIG,
    plan_every: int = 1,
    record: Record = "none",
    record_every: int = 1,
    progress: bool = False,
) -> list[Rollout]:
    """Drive every clip with one policy; rollouts come in the order of `scenes`, whatever the number of workers.

    policy_spec: a registered name, a checkpoint folder, or a picklable callable without arguments that returns a
    policy. scenes: clips, clip folders, or picklable callables that return a clip. workers: spawned processes of one
    thread each; 0 drives here. An error names its clip. Ctrl-C ends the workers.
    """
    given = policy_spec if isinstance(policy_spec, str) else getattr(policy_spec, "__name__", "policy")
    name = policy_name or str(given)
    return drive_several(
        {name: policy_spec}, [(name, scene) for scene in scenes], workers=workers, seed=seed, config=config,
        plan_every=plan_every, record=record, record_every=record_every, label=f"drive {name}", progress=progress,
    )  # fmt: skip


def drive_several(
    policies: Mapping[str, PolicySpec],
    drives: Sequence[tuple[str, ClipSource]],
    *,
    workers: int,
    seed: int = 0,
    config: SimConfig = DEFAULT_CONFIG,
    plan_every: int = 1,
    record: Record = "none",
    record_every: int = 1,
    label: str = "drive",
    progress: bool = False,
) -> list[Rollout]:
    """Drive pairs of (policy name, clip) with one set of workers; `policies` says how each name is made. Else as
    `drive_many`."""
    work = _Work(dict(policies), seed, config, plan_every, record, record_every)
    with progress_bar(total=len(drives), desc=label, unit="clip", disable=not progress) as bar:
        return map_in_workers(functools.partial(_Driver, work), drives, workers, bar.update)


@dataclasses.dataclass(frozen=True)
class _Work:
    """Everything a worker needs besides its drives."""

    specs: dict[str, PolicySpec]
    seed: int
    config: SimConfig
    plan_every: int
    record: Record
    record_every: int


class _Driver:
    """Drives one (policy name, clip) after the other; each policy is made once a process, when it is first needed."""

    def __init__(self, work: _Work) -> None:
        self.work = work
        self.made: dict[str, Policy] = {}

    def __call__(self, item: tuple[str, ClipSource]) -> Rollout:
        name, source = item
        if name not in self.made:
            self.made[name] = self._make(self.work.specs[name])
        return self.drive(name, self.made[name], source)

    def _make(self, spec: PolicySpec) -> Policy:
        if not isinstance(spec, str):
            policy = spec()
        else:
            from senna2.registry import make_policy

            policy = make_policy(spec)
        if multiprocessing.parent_process() is not None and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # only a policy that needs torch has imported it
        return policy

    def drive(self, name: str, policy: Policy, source: ClipSource) -> Rollout:
        clip = source.meta.name if isinstance(source, Scene) else str(source)
        work = self.work
        try:
            scene = load_source(source)
            clip = scene.meta.name
            return drive(
                policy, scene, policy_name=name, seed=work.seed, config=work.config, plan_every=work.plan_every,
                record=work.record, record_every=work.record_every,
            )  # fmt: skip
        except InputError as error:
            if clip in str(error):
                raise
            raise InputError(f"clip {clip}: {error}") from error
        except Exception as error:
            raise RuntimeError(f"clip {clip}: {type(error).__name__}: {error}") from error


def load_source(source: ClipSource) -> Scene:
    if isinstance(source, Scene):
        return source
    if isinstance(source, str | Path):
        from senna2.world.clip import load_clip

        return load_clip(Path(source))
    return source()
