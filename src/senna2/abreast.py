"""Several clips driven abreast by one policy, in one process: every frame the policy plans once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from senna2.rollouts import ClipSource, Course, Record, begin_course, clip_seed, drive, load_source
from senna2.types import ClipMeta, InputError, Observation, Plan, Rollout
from senna2.world.sim import DEFAULT_CONFIG, SimConfig, with_vehicle

LANES = 8  # more gain little, and hold as many clips in memory


class Crew(Protocol):
    """What `policy.lockstep()` returns: rollouts are told apart by a key."""

    def reset(self, key: int, meta: ClipMeta, seed: int) -> None: ...

    def act(self, observations: Mapping[int, Observation]) -> dict[int, Plan]: ...

    def drop(self, key: int) -> None: ...


def drive_abreast(
    policy: Any, sources: Sequence[ClipSource], *, policy_name: str, seed: int = 0, lanes: int = LANES,
    config: SimConfig = DEFAULT_CONFIG, record: Record = "none", record_every: int = 1,
    plan_every: int = 1, done: Callable[[], object] = lambda: None,
) -> list[Rollout]:  # fmt: skip
    """Drive clips `lanes` at a time; a clip that ends makes room for the next. Rollouts come in the order of `sources`.
    `plan_every`, `record`, `record_every` as in `drive`.

    A policy without `lockstep` drives them one after the other. Batches are the same whenever the clips are, but their
    sums are rounded otherwise than alone: a drive may differ from `drive`'s in the last digits. `done()` is called
    after each clip. Raises `InputError` as `drive` does.
    """
    if lanes < 1:
        raise InputError(f"drive_abreast: lanes is {lanes}; at least 1")
    if not hasattr(policy, "lockstep"):
        rollouts = []
        for source in sources:
            rollouts.append(drive(policy, load_source(source), policy_name=policy_name, seed=seed, config=config,
                                  plan_every=plan_every, record=record, record_every=record_every))  # fmt: skip
            done()
        return rollouts
    crew: Crew = policy.lockstep()
    config = with_vehicle(config, getattr(policy, "vehicle", None) or config.vehicle)
    courses: dict[int, Course] = {}
    seen: dict[int, Observation] = {}
    found: dict[int, Rollout] = {}
    waiting = list(range(len(sources)))[::-1]
    while waiting or courses:
        while waiting and len(courses) < lanes:
            key = waiting.pop()
            scene = load_source(sources[key])
            courses[key], meta = begin_course(
                scene, policy_name=policy_name, seed=seed, config=config, record=record, record_every=record_every,
                plan_every=plan_every,
                needs_images=bool(getattr(policy, "needs_images", True)),
            )  # fmt: skip
            crew.reset(key, meta, clip_seed(seed, scene.meta.name))
            seen[key] = next(courses[key])
        for key, plan in crew.act(seen).items():
            try:
                seen[key] = courses[key].send(plan)
            except StopIteration as end:
                found[key] = cast(Rollout, end.value)
                del courses[key], seen[key]
                crew.drop(key)
                done()
    return [found[i] for i in range(len(sources))]
