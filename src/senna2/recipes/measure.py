"""Measure policies on clips: all four suites, into one `results.json`. Shared by `senna2 eval` and the whole story."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from senna2.data.store import SampleStore
from senna2.demonstrations import Replay, collect
from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import consistency
from senna2.evaluate.control import control
from senna2.evaluate.open_loop import open_loop
from senna2.evaluate.results import Suites, assemble, compare, write_results
from senna2.provenance import provenance
from senna2.recipes.clips import make_clips
from senna2.registry import listing, make_policy
from senna2.rollouts import PolicySpec, drive_many, plan_samples
from senna2.types import Decision, Direction, InputError, Plans, Rollout, Samples, Speed, VehicleShape
from senna2.world.clip import find_clips, load_clip

DEFAULT_CLIPS = 60
FORCED = (Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE)


@dataclass
class Measured:
    """What one policy did: its suites, and what the report draws from."""

    suites: dict[str, Any] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)
    plans: Plans | None = None
    forced_plans: dict[Speed, Plans] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def open_loop_samples(clips: Sequence[Path], folder: Path, *, every: int, most: int, workers: int) -> Samples:
    """Samples of the clips' recorded drives; at most `most`, spread evenly."""
    collect(clips, folder, Replay(every), workers=workers, label="evaluation")
    store = SampleStore(folder, parts=[c.name for c in clips])
    chosen = np.unique(np.linspace(0, len(store) - 1, min(most, len(store))).round().astype(int))
    return store.take(chosen)


def measure(
    spec: PolicySpec,
    name: str,
    *,
    suites: Sequence[str],
    clips: Sequence[Path],
    samples: Samples | None,
    shape: VehicleShape,
    control_samples: int,
    seed: int,
    workers: int,
    vlm_period_s: float | None = None,
) -> Measured:
    """Run the suites (`consistency`, `open`, `closed`, `control`) for one policy."""
    done = Measured()
    policy = make_policy(spec, seed=seed) if isinstance(spec, str) else spec()
    decides = getattr(policy, "vlm", None) is not None
    if samples is not None and {"open", "consistency"} & set(suites):
        start = time.perf_counter()
        done.plans = _expert_plans(samples) if name == "expert" else plan_samples(policy, samples, seed=seed)
        if "open" in suites:
            done.suites["open_loop"] = open_loop(samples, done.plans, shape)
        if "consistency" in suites and decides:
            done.suites["consistency"] = consistency(samples, done.plans)
        done.seconds["open"] = time.perf_counter() - start
    if samples is not None and "control" in suites and decides:
        start = time.perf_counter()
        some = samples.take(slice(0, control_samples))
        done.forced_plans = {
            s: plan_samples(policy, some, decision=Decision(s, Direction.UNKNOWN), seed=seed) for s in FORCED
        }
        done.suites["control"] = control(some, done.forced_plans)
        done.seconds["control"] = time.perf_counter() - start
    if "closed" in suites:
        start = time.perf_counter()
        driver: PolicySpec = spec
        if vlm_period_s is not None and decides and isinstance(spec, str):
            driver = functools.partial(configured, spec, vlm_period_s=vlm_period_s)
        # A cheap driver is done before worker processes have started.
        used = workers if getattr(policy, "needs_images", True) else 0
        done.rollouts = drive_many(driver, list(clips), workers=used, seed=seed, policy_name=name, progress=True)
        done.suites["closed_loop"] = closed_loop(done.rollouts)
        done.seconds["closed"] = time.perf_counter() - start
    return done


def configured(spec: str, *, vlm_period_s: float | None = None, forced: Decision | None = None) -> Any:
    """A checkpoint's policy with its VLM period or a forced decision set (picklable by `functools.partial`)."""
    policy = make_policy(spec)
    if vlm_period_s is not None:
        policy.memory.period_s = vlm_period_s
    policy.forced = forced
    return policy


def forced_rollouts(
    spec: str, name: str, clips: Sequence[Path], *, seed: int, workers: int
) -> dict[str, list[Rollout]]:
    """Closed loop under each forced speed decision and under the VLM's own ("normal"): the paper's curves."""
    modes: dict[str, Decision | None] = {"normal": None}
    modes |= {s.name.lower(): Decision(s, Direction.UNKNOWN) for s in FORCED}
    return {
        mode: drive_many(functools.partial(configured, spec, forced=decision), list(clips), workers=workers, seed=seed,
                         policy_name=f"{name} {mode}", progress=True)
        for mode, decision in modes.items()
    }  # fmt: skip


def _expert_plans(samples: Samples) -> Plans:
    """The recorded future as the expert's plan: FDE 0 by definition."""
    none = np.full(len(samples), -1, np.int8)
    return Plans(samples.future_NT3[..., :2].astype(np.float32), none, none, none, none).validate()


def resolve_scenes(scenes: str, out: Path, *, limit: int | None, workers: int) -> list[Path]:
    """`--scenes`: a clip folder, a folder of them, or a generated split such as `core/test`."""
    path = Path(scenes)
    if path.exists():
        clips = find_clips(path)
    elif scenes.count("/") == 1 and scenes.split("/")[0] == "core":
        split = scenes.split("/")[1]
        clips = make_clips(split, limit or DEFAULT_CLIPS, out.parent / "clips" / split, workers=workers)
    else:
        raise InputError(
            f"--scenes {scenes}: neither a folder nor a split (core/train, core/tune, core/val, core/test)"
        )
    if not clips:
        raise InputError(f"--scenes {scenes}: holds no clip (a clip folder has a clip.json)")
    return clips[:limit] if limit else clips


def policy_names(specs: Sequence[str]) -> dict[str, str]:
    """Display name → spec; a checkpoint is called by its folder (`…/senna2/policy` by its parent)."""
    names: dict[str, str] = {}
    for spec in specs:
        path = Path(spec)
        resolved = spec
        if spec not in listing("policies") and not (path / "config.json").is_file() and (path / "policy").is_dir():
            resolved = str(path / "policy")
        folder = Path(resolved)
        name = spec if spec in listing("policies") else (folder.parent.name if folder.name == "policy" else folder.name)
        while name in names:
            name += "'"
        names[name] = resolved
    return names


def eval_verb(
    suite: str, specs: Sequence[str], scenes: str, out: Path, *, limit: int | None, seed: int, workers: int | None
) -> dict[str, Any]:
    """`senna2 eval`: writes the results file and returns its headline."""
    workers = os.cpu_count() or 1 if workers is None else workers
    suites = ("consistency", "open", "closed", "control") if suite == "all" else (suite,)
    named = policy_names(specs)
    for spec in named.values():
        make_policy(spec)  # a wrong name fails before anything is driven
    clips = resolve_scenes(scenes, out, limit=limit, workers=workers)
    shape = load_clip(clips[0]).meta.ego_shape
    samples = None
    if set(suites) - {"closed"}:
        samples = open_loop_samples(clips, out.parent / f".{out.stem}-samples", every=4, most=5000, workers=workers)
    measured = {
        name: measure(spec, name, suites=suites, clips=clips, samples=samples, shape=shape, control_samples=500,
                      seed=seed, workers=workers)
        for name, spec in named.items()
    }  # fmt: skip
    results = collect_results(
        measured, recipe={"name": "eval", "note": f"{suite} on {scenes}"}, seeds=[seed], pairs=neighbours(list(named))
    )
    write_results(out, results)
    return {"results": str(out), **headline(results)}


def neighbours(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every policy against the one before it."""
    return list(zip(names[1:], names, strict=False))


def collect_results(
    measured: Mapping[str, Measured], *, recipe: Mapping[str, Any], seeds: Sequence[int],
    pairs: Sequence[tuple[str, str]], timings_s: Mapping[str, float] | None = None,
    video_of: Callable[[Rollout], str | None] = lambda _: None,
) -> dict[str, Any]:  # fmt: skip
    policies: dict[str, Suites] = {name: m.suites for name, m in measured.items()}
    seconds = {f"{name} {k}": v for name, m in measured.items() for k, v in m.seconds.items()}
    return assemble(
        provenance=provenance(seeds[0]),
        recipe=recipe,
        seeds=seeds,
        policies=policies,
        clips=[clip_row(r, video_of(r)) for m in measured.values() for r in m.rollouts],
        comparisons=compare(policies, pairs),
        timings_s={**(timings_s or {}), **seconds},
    )


def headline(results: Mapping[str, Any]) -> dict[str, str]:
    """One line a policy of what matters first."""
    wanted = (("open_loop", "fde_m"), ("consistency", "avg"), ("closed_loop", "cr"), ("closed_loop", "af_cr"),
              ("closed_loop", "progress_ratio"), ("closed_loop", "off_road"), ("closed_loop", "parked"))  # fmt: skip
    lines = {}
    for name, suites in results["policies"].items():
        values = [(m, suites.get(s, {}).get(m)) for s, m in wanted]
        lines[name] = "  ".join(
            f"{m} {'null' if v['value'] is None else format(v['value'], '.3f')}" for m, v in values if v is not None
        )
    return lines
