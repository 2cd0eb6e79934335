"""Demonstrations: the privileged expert drives generated clips, and what it saw and did becomes samples.

Per clip: its natural drive, drives from a perturbed start (moved sideways, turned a little, faster or slower: how to
recover), branches in which the expert is forced to accelerate, brake or keep from some instant (counterfactual
labels: a decision that was always right is not obeyed when it is forced), recoveries from displaced states all along
the drive (a policy that plans ten times a second ends up where no expert has been), and drives in which a passenger
says something and the expert obeys.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from senna2.data.samples import samples_from_drive
from senna2.data.store import write_part
from senna2.decisions import f_k_plan
from senna2.displaced import Displacement, displaced
from senna2.drivers import Expert
from senna2.rollouts import Record, drive
from senna2.types import PLAN_STEPS, Array, Direction, EgoState, InputError, Observation, Samples, Speed
from senna2.workers import run_jobs
from senna2.world.clip import load_clip
from senna2.world.scene import Scene
from senna2.world.sim import SimState, Simulator
from senna2.world.town.expert import ExpertDriver
from senna2.world.town.instructions import INSTRUCTIONS

CONTACT = "drives with a contact, dropped"
LANE_CHANGES = (Direction.CHANGE_LEFT, Direction.CHANGE_RIGHT)
WISH_FRAMES = 50  # observed after a passenger spoke: within 5 s the car drives as asked, and nothing new is shown
LEAST_BRANCH_TTC_S = 1.5  # a forced drive that comes closer is no demonstration: dropped and counted


@dataclass(frozen=True)
class Drives:
    """How demonstrations are taken from a clip; see `recipes.config.Clips` for the fields."""

    drives: int = 2
    every: int = 2
    branch_every: int = 10
    instructed: int = 1
    recover_every: int = 0
    images: bool = True
    seed: int = 0
    offset_m: float = 0.35  # standard deviation of the sideways start offset
    yaw_rad: float = 0.03
    speed_share: tuple[float, float] = (0.8, 1.2)
    displaced: Displacement = field(default_factory=Displacement)  # of the recoveries


@dataclass(frozen=True)
class Replay:
    """Samples of the recorded drive itself, every `every` frames: what open-loop evaluation runs on."""

    every: int = 4
    images: bool = True


def collect(
    clip_folders: Sequence[Path], out: Path, drives: Drives | Replay, *, workers: int, label: str
) -> Counter[str]:
    """Samples of many clips, a part each, in worker processes; parts that exist are kept. Returns what was counted
    (samples, branches kept, dropped for collision, TTC or an unreached label)."""
    todo = [c for c in clip_folders if not (out / c.name / "part.json").is_file()]
    jobs = [(folder, out, drives) for folder in todo]
    counts: Counter[str] = Counter(kept_from_before=len(clip_folders) - len(todo))
    for more in run_jobs(_collect_clip, jobs, workers=workers, label=f"samples {label}"):
        counts += more
    return counts


def _collect_clip(folder: Path, out: Path, drives: Drives | Replay) -> Counter[str]:
    scene = load_clip(folder)
    samples, counts = replay(scene, drives) if isinstance(drives, Replay) else demonstrate(scene, drives)
    if samples is not None:
        write_part(out, folder.name, samples)
    elif counts[CONTACT]:
        counts["clips without samples"] += 1
    else:
        raise InputError(f"{folder}: is shorter than the {PLAN_STEPS / 10:.0f} s a plan covers; make longer clips")
    return counts


def replay(scene: Scene, how: Replay) -> tuple[Samples | None, Counter[str]]:
    """Samples along the clip's own expert log, exactly as it was driven."""
    record: Record = "images" if how.images else "state"
    rollout = drive(Expert(), scene, policy_name="expert", record=record, record_every=how.every)
    frames = len(rollout)
    samples = samples_from_drive(
        clip=scene.meta.name,
        family=scene.meta.family,
        observations=rollout.observations,
        pose_F3=rollout.ego_F6[:, :3],
        boxes_FA6=rollout.boxes_FA6,
        direction_F=_annotation(scene, rollout.t_F),
        kerbs=scene.map.kerbs if scene.map.drivable_known else None,
    )
    counts = Counter(samples=0 if samples is None else len(samples), frames=frames)
    if rollout.contacts and samples is None:  # a recording may brush something; nothing is planned after it
        counts[CONTACT] += 1
    return samples, counts


def _annotation(scene: Scene, t_F: Array) -> Array:
    """The expert's annotated direction at these times."""
    nearest = np.clip(np.searchsorted(scene.expert.t_E, t_F - 1e-6), 0, len(scene.expert.t_E) - 1)
    return scene.expert.direction_E[nearest]


class Experts:
    """The expert of one clip, by what the passenger says: made once, since it looks at all futures before it drives."""

    def __init__(self, scene: Scene) -> None:
        self.scene, self.made = scene, dict[str, ExpertDriver]()

    def fresh(self, said: str = "", force: Speed | None = None) -> ExpertDriver:
        """With nothing under way; `force` as `ExpertDriver.force`."""
        if said not in self.made:
            self.made[said] = ExpertDriver(self.scene, said)
        driver = self.made[said]
        driver.reset()
        driver.force = force
        return driver


def demonstrate(scene: Scene, drives: Drives) -> tuple[Samples | None, Counter[str]]:
    """All samples of one clip and the counts. Deterministic in (scene, drives).

    Raises `InputError` if a branch would begin at a frame that is not observed.
    """
    if drives.branch_every % drives.every:
        raise InputError(
            f"clips.branch_every {drives.branch_every}: must be a multiple of clips.every ({drives.every}), "
            "for a branch begins at a sample"
        )
    simulator, experts = Simulator(scene), Experts(scene)
    rng = np.random.default_rng([drives.seed, scene.meta.seed & 0x7FFFFFFF])
    counts: Counter[str] = Counter()
    parts: list[Samples] = []
    turns: list[SimState] = []  # instants of the natural drive at which a passenger may speak
    natural: list[SimState] = []
    for number in range(drives.drives):
        start = scene.expert.start() if number == 0 else _perturbed(scene.expert.start(), drives, rng)
        states, observations, directions = _drive(simulator, experts.fresh(), simulator.reset(start), drives)
        if states[-1].contacts:
            counts[CONTACT] += 1
            continue
        part = _samples(simulator, states, observations, directions)
        if part is not None:
            parts.append(part)
        if number == 0:
            natural = states
            turns = [s for s, o, d in zip(states, observations, directions, strict=True) if o and d not in LANE_CHANGES]
        if number == 0 and drives.branch_every:
            parts += _branches(simulator, experts, states, observations, directions, drives, counts)
    later = _instructed(simulator, experts, turns, drives, counts)
    later += _recoveries(simulator, experts, natural, drives, counts)
    # Where the frames stop growing another drive begins (`train.staleness.drives`): what began later comes first.
    parts += sorted(later, key=lambda part: -int(part.frame_N[0]))
    counts["samples"] = sum(len(p) for p in parts)
    return (Samples.concatenate(parts) if parts else None), counts


def _perturbed(start: EgoState, drives: Drives, rng: np.random.Generator) -> EgoState:
    offset = rng.normal(0, drives.offset_m)
    yaw = start.yaw + rng.normal(0, drives.yaw_rad)
    return replace(
        start,
        x=start.x - offset * np.sin(start.yaw),
        y=start.y + offset * np.cos(start.yaw),
        yaw=float(yaw),
        v=float(start.v * rng.uniform(*drives.speed_share)),
    )


def _drive(
    simulator: Simulator,
    driver: ExpertDriver,
    state: SimState,
    drives: Drives,
    *,
    said: str = "",
    frames: int | None = None,
) -> tuple[list[SimState], list[Observation | None], list[int]]:
    """The expert from `state` to the clip's end, observed every `drives.every` frames; `said`: what it obeys.

    `frames`: observe only so many, and end a plan's length after them.
    """
    last = simulator.last_step if frames is None else min(simulator.last_step, state.step + frames + PLAN_STEPS)
    states: list[SimState] = []
    observations: list[Observation | None] = []
    directions: list[int] = []
    while True:
        plan = driver.plan(state)
        observe = state.step % drives.every == 0 and state.step <= last - PLAN_STEPS
        states.append(state)
        seen = simulator.observe(state, images=drives.images) if observe else None
        observations.append(replace(seen, instruction=said) if seen is not None else None)
        directions.append(int(driver.direction))
        if state.done or state.step >= last:
            return states, observations, directions
        state = simulator.step(state, plan)


def _samples(
    simulator: Simulator, states: Sequence[SimState], observations: Sequence[Observation | None],
    directions: Sequence[int], *, counterfactual: bool = False,
) -> Samples | None:  # fmt: skip
    scene = simulator.scene
    part = samples_from_drive(
        clip=scene.meta.name,
        family=scene.meta.family,
        observations=observations,
        pose_F3=np.array([(s.ego.x, s.ego.y, s.ego.yaw) for s in states]),
        boxes_FA6=np.array([s.agents.boxes_A6 for s in states]),
        direction_F=np.array(directions),
        kerbs=scene.map.kerbs if scene.map.drivable_known else None,
        counterfactual=counterfactual,
    )
    # frames are counted in the clip, for a branch too
    return None if part is None else replace(part, frame_N=part.frame_N + np.int32(states[0].step))


def _branches(
    simulator: Simulator, experts: Experts, states: Sequence[SimState], observations: Sequence[Observation | None],
    directions: Sequence[int], drives: Drives, counts: Counter[str],
) -> list[Samples]:  # fmt: skip
    """From every `branch_every`-th frame: the expert forced each way for a plan's length."""
    parts = []
    for i in range(0, len(states) - PLAN_STEPS, drives.branch_every):
        if observations[i] is None:
            continue
        for forced in (Speed.ACCELERATE, Speed.DECELERATE, Speed.KEEP):
            driver = experts.fresh(force=forced)
            branch = [states[i]]
            while len(branch) <= PLAN_STEPS and not branch[-1].done:
                branch.append(simulator.step(branch[-1], driver.plan(branch[-1])))
            if len(branch) <= PLAN_STEPS or len(branch[-1].contacts) > len(states[i].contacts):
                counts["branches dropped: contact"] += 1
                continue
            if min(s.ttc_s for s in branch) < LEAST_BRANCH_TTC_S:
                counts["branches dropped: TTC"] += 1
                continue
            seen = [observations[i], *[None] * (len(branch) - 1)]
            part = _samples(simulator, branch, seen, [directions[i]] * len(branch), counterfactual=True)
            if part is None or int(f_k_plan(part.future_NT3[:, :, :2])[0][0]) != forced:
                counts["branches dropped: did not reach the label"] += 1
                continue
            counts["branches kept"] += 1
            parts.append(part)
    return parts


def _instructed(
    simulator: Simulator, experts: Experts, turns: Sequence[SimState], drives: Drives, counts: Counter[str]
) -> list[Samples]:
    """Drives under a random wish in random words: from an instant of the natural drive (`turns`), where the obeying
    drive parts from the one that the same frame had without it, or from a perturbed start. Contact-free ones only."""
    rng = np.random.default_rng([drives.seed, simulator.scene.meta.seed & 0x7FFFFFFF, 1])  # others stay as they were
    parts = []
    for _ in range(drives.instructed):
        wish = INSTRUCTIONS[rng.integers(len(INSTRUCTIONS))]
        said = wish.texts[rng.integers(len(wish.texts))]
        start = simulator.reset(_perturbed(simulator.scene.expert.start(), drives, rng))
        turn, from_natural = rng.random(), rng.random() < 0.5
        if from_natural and turns:
            start = turns[int(turn * len(turns))]
        states, observations, directions = _drive(
            simulator, experts.fresh(said), start, drives, said=said, frames=WISH_FRAMES
        )
        if len(states[-1].contacts) > 0:
            counts["instructed drives dropped: contact"] += 1
            continue
        part = _samples(simulator, states, observations, directions)
        if part is not None:
            counts["instructed drives kept"] += 1
            counts["samples with an instruction"] += len(part)
            parts.append(part)
    return parts


def _recoveries(
    simulator: Simulator, experts: Experts, natural: Sequence[SimState], drives: Drives, counts: Counter[str]
) -> list[Samples]:
    """From every `recover_every`-th frame of the natural drive, displaced: the expert's way back, in its first two
    observed frames. Contact-free ones only."""
    rng = np.random.default_rng([drives.seed, simulator.scene.meta.seed & 0x7FFFFFFF, 2])  # others stay as they were
    parts = []
    for state in natural[: len(natural) - PLAN_STEPS : drives.recover_every] if drives.recover_every else ():
        start = displaced(simulator, state, drives.displaced, rng)
        if start is None:
            counts["recoveries dropped: contact"] += 1
            continue
        states, observations, directions = _drive(simulator, experts.fresh(), start, drives, frames=drives.every)
        part = None if states[-1].contacts else _samples(simulator, states, observations, directions)
        if part is None:
            counts["recoveries dropped: contact"] += 1
            continue
        counts["recoveries kept"] += 1
        parts.append(part)
    return parts
