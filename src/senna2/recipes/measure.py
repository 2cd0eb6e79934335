"""Measure policies on clips: all four suites, into one `results.json`. Shared by `senna2 eval` and the whole story."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from senna2.data.store import samples_of
from senna2.demonstrations import Replay, collect
from senna2.evaluate.closed_loop import clip_row, closed_loop
from senna2.evaluate.consistency import consistency, nobody_decides
from senna2.evaluate.control import control, nobody_listens
from senna2.evaluate.open_loop import no_plans, open_loop
from senna2.evaluate.results import Suites, assemble, compare, write_results
from senna2.files import write_text
from senna2.provenance import provenance
from senna2.recipes.clips import make_clips
from senna2.recipes.driven import drive_clips
from senna2.recipes.instructed import instructed_of, plan_instructed
from senna2.registry import find_checkpoint, listing, make_policy
from senna2.report.measured import TITLE, measured_page
from senna2.rollouts import PolicySpec, drive_several
from senna2.sample_plans import plan_samples
from senna2.types import Decision, Direction, InputError, Plans, Rollout, Samples, Speed, VehicleShape
from senna2.workers import run_jobs, worker_count
from senna2.world.clip import clip_info, clip_meta, find_clips
from senna2.world.town.families import SETS, SPLITS

DEFAULT_CLIPS = 60
FORCED = (Speed.ACCELERATE, Speed.KEEP, Speed.DECELERATE)


@dataclass
class Measured:
    """What one policy did: its suites, and what the report draws from."""

    suites: dict[str, Any] = field(default_factory=dict)
    rollouts: list[Rollout] = field(default_factory=list)
    plans: Plans | None = None
    forced_plans: dict[Speed, Plans] = field(default_factory=dict)
    forced_rollouts: dict[str, list[Rollout]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def open_loop_samples(clips: Sequence[Path], folder: Path, *, every: int, most: int, workers: int) -> Samples:
    """Samples of the clips' recorded drives; at most `most`, spread evenly."""
    collect(clips, folder, Replay(every), workers=workers, label="evaluation")
    return chosen_samples(clips, folder, most=most)


def chosen_samples(clips: Sequence[Path], folder: Path, *, most: int, images: bool = True) -> Samples:
    """At most `most` of the samples of these clips, spread evenly; without images where only states are needed."""
    store = samples_of(folder, clips, images=images)
    chosen = np.unique(np.linspace(0, len(store) - 1, min(most, len(store))).round().astype(int))
    return store.take(chosen)


def clip_shapes(clips: Sequence[Path]) -> dict[str, VehicleShape]:
    """The ego's body in each clip, by the clip's name: recordings come from several cars.

    Raises `InputError` if two clips have one name; results are told apart by it.
    """
    metas = [clip_meta(folder) for folder in clips]
    where: dict[str, Path] = {}
    for folder, meta in zip(clips, metas, strict=True):
        if meta.name in where:
            raise InputError(f"{folder}: is named '{meta.name}' like {where[meta.name]}; measure them one at a time")
        where[meta.name] = folder
    return {meta.name: meta.ego_shape for meta in metas}


def measure(
    specs: Mapping[str, PolicySpec],
    *,
    suites: Sequence[str],
    clips: Sequence[Path],
    samples: Samples | None,
    shapes: Mapping[str, VehicleShape],
    control_samples: int,
    seed: int,
    workers: int,
    vlm_period_s: float | None = None,
    forced: tuple[Sequence[str], Sequence[Path]] = ((), ()),
) -> dict[str, Measured]:
    """Run the suites (`consistency`, `open`, `closed`, `control`) for every policy. `shapes`: the ego's body by clip.

    `forced`: policies that also drive these clips under each forced speed decision (the paper's curves); their
    rollouts come back in `Measured.forced_rollouts`, by mode.
    """
    done = {name: Measured() for name in specs}
    if samples is not None and set(suites) - {"closed"}:
        jobs = [(spec, name, suites, samples, shapes, control_samples, seed) for name, spec in specs.items()]
        planned = run_jobs(plan_policy, jobs, workers=workers, label="open loop", unit="policy")
        for part, made in zip(done.values(), planned, strict=True):
            part.plans, part.forced_plans, told, part.seconds["open"], why_none = made
            if "open" in suites and part.plans is not None:
                part.suites["open_loop"] = open_loop(samples, part.plans, shapes)
            elif "open" in suites:
                part.suites["open_loop"] = no_plans(why_none)
            if "consistency" in suites and part.plans is not None and (part.plans.vlm_speed_N >= 0).any():
                part.suites["consistency"] = consistency(samples, part.plans)
            elif "consistency" in suites:
                part.suites["consistency"] = nobody_decides()
            if part.forced_plans:
                some = samples.take(slice(0, control_samples))
                part.suites["control"] = control(some, part.forced_plans, instructed_of({seed: told}))
            elif "control" in suites:
                part.suites["control"] = nobody_listens()
    if "closed" not in suites:
        return done
    start = time.perf_counter()
    modes = {s.name.lower(): Decision(s, Direction.UNKNOWN) for s in FORCED}
    drivers: dict[str, PolicySpec] = {}
    here: list[tuple[str, Path]] = []  # a cheap driver is done before a worker has loaded the clip
    away: list[tuple[str, Path]] = []
    for name, spec in specs.items():
        policy = make_policy(spec) if isinstance(spec, str) else spec()
        needs_images = getattr(policy, "needs_images", True)
        decides = getattr(policy, "vlm", None) is not None
        drivers[name] = _configured(spec, vlm_period_s, None) if decides and isinstance(spec, str) else spec
        (away if needs_images else here).extend((name, clip) for clip in clips)
        if name in forced[0] and isinstance(spec, str):
            for mode, decision in modes.items():
                drivers[f"{name} {mode}"] = _configured(spec, vlm_period_s, decision)
                away += [(f"{name} {mode}", clip) for clip in forced[1]]
    rollouts = drive_several(drivers, here, workers=0, seed=seed, label="drive cheap policies", progress=bool(here))
    rollouts += drive_clips(drivers, away, workers=workers, seed=seed, label="drive")
    seconds = time.perf_counter() - start
    for name, part in done.items():
        part.rollouts = [r for r in rollouts if r.policy == name]
        part.suites["closed_loop"] = closed_loop(part.rollouts)
        part.seconds["closed"] = seconds * len(part.rollouts) / len(rollouts)
        if name in forced[0]:
            chosen = {r.clip for r in rollouts if r.policy == f"{name} keep"}
            part.forced_rollouts = {m: [r for r in rollouts if r.policy == f"{name} {m}"] for m in modes}
            part.forced_rollouts["normal"] = [r for r in part.rollouts if r.clip in chosen]
    return done


def plan_policy(
    spec: PolicySpec, name: str, suites: Sequence[str], samples: Samples, shapes: Mapping[str, VehicleShape],
    control_samples: int, seed: int,
) -> tuple[Plans | None, dict[Speed, Plans], dict[str, Plans], float, str]:  # fmt: skip
    """One policy's plans for the samples, those under forced decisions and (by name) under a passenger's words, the
    seconds they took, and why there are none if the policy's plans are not to be compared."""
    start = time.perf_counter()
    policy = make_policy(spec) if isinstance(spec, str) else spec()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    decides = getattr(policy, "vlm", None) is not None
    plans, forced, told = None, {}, {}
    why_none: str = getattr(policy, "no_open_loop", "")
    if why_none:
        return None, {}, {}, time.perf_counter() - start, why_none
    if spec == "expert":
        plans = _expert_plans(samples)
    elif {"open", "consistency"} & set(suites):
        plans = plan_samples(policy, samples, seed=seed, shapes=shapes)
    if "control" in suites and decides:
        some = samples.take(slice(0, control_samples))
        for speed in FORCED:
            forced[speed] = plan_samples(policy, some, decision=Decision(speed, Direction.UNKNOWN), seed=seed)
        told = plan_instructed(policy, some, seed=seed, own=plans)
    return plans, forced, told, time.perf_counter() - start, ""


def _configured(spec: str, vlm_period_s: float | None, forced: Decision | None, device: str = "cpu") -> PolicySpec:
    return functools.partial(configured, spec, vlm_period_s=vlm_period_s, forced=forced, device=device)


def configured(
    spec: str, *, vlm_period_s: float | None = None, forced: Decision | None = None, device: str = "cpu"
) -> Any:
    """A checkpoint's policy with its VLM period, a forced decision or its device set (picklable by
    `functools.partial`)."""
    policy = make_policy(spec, forced=forced, device=device)
    if vlm_period_s is not None:
        policy.memory.period_s = vlm_period_s
    return policy


def _expert_plans(samples: Samples) -> Plans:
    """The recorded future as the expert's plan: FDE 0 by definition."""
    none = np.full(len(samples), -1, np.int8)
    return Plans(samples.future_NT3[..., :2].astype(np.float32), none, none, none, none).validate()


def resolve_scenes(scenes: str, out: Path, *, limit: int | None, workers: int) -> list[Path]:
    """`--scenes`: a clip folder, a folder of them, or a generated set and split such as `core/test`."""
    path = Path(scenes)
    if path.exists():
        clips = in_turn(find_clips(path))
    elif scenes.count("/") == 1 and scenes.split("/")[0] in SETS:
        group, split = scenes.split("/")
        folder = out.parent / "clips" / (split if group == "core" else f"{group}-{split}")
        clips = make_clips(split, limit or DEFAULT_CLIPS, folder, SETS[group], workers=workers,
                           same_code=True)  # fmt: skip
    else:
        sets, splits = ", ".join(SETS), ", ".join(SPLITS)
        raise InputError(f"--scenes {scenes}: neither a folder nor SET/SPLIT (sets: {sets}; splits: {splits})")
    return clips[:limit] if limit else clips


def in_turn(clips: Sequence[Path]) -> list[Path]:
    """Families in turn, as a generated split has them: the first of them (`--limit`, the control suite) are of all."""
    place: Counter[str] = Counter()
    keys = []
    for clip in clips:
        family = str(clip_info(clip).get("family"))  # what a clip lacks is said where it is loaded
        keys.append((place[family], family))
        place[family] += 1
    return [clips[i] for i in sorted(range(len(clips)), key=keys.__getitem__)]


def policy_names(specs: Sequence[str]) -> dict[str, str]:
    """Display name → spec; a checkpoint is called by its folder (`…/senna2/policy` by its parent)."""
    names: dict[str, str] = {}
    for spec in specs:
        name = resolved = spec
        if spec not in listing("policies"):
            folder = find_checkpoint(Path(spec)) or Path(spec)
            resolved = str(folder)
            name = folder.parent.name if folder.name == "policy" else folder.name
        while name in names:
            name += "'"
        names[name] = resolved
    return names


def eval_verb(
    suite: str, specs: Sequence[str], scenes: str, out: Path, *, limit: int | None, seed: int, workers: int | None,
    vlm_periods_s: Sequence[float] = (), device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """`senna2 eval`: writes the results file and its tables beside it, and returns its headline.

    `vlm_periods_s`: drive every policy that has a VLM once with each, as a row of its own. `device`: where the networks
    compute; every worker process has its own copy there.
    """
    workers = worker_count(workers)
    suites = ("consistency", "open", "closed", "control") if suite == "all" else (suite,)
    named = rows_of(policy_names(specs), vlm_periods_s, suites, device)  # a wrong name fails before all driving
    check_writable(out)
    page = page_beside(out)
    clips = resolve_scenes(scenes, out, limit=limit, workers=workers)
    shapes = clip_shapes(clips)
    samples = None
    if set(suites) - {"closed"}:
        # Made anew each time: clips of the same name may have been made again since.
        with tempfile.TemporaryDirectory(prefix=f".{out.stem}-", dir=out.parent) as folder:
            samples = open_loop_samples(clips, Path(folder), every=4, most=5000, workers=workers)
    measured = measure(
        named,
        suites=suites,
        clips=clips,
        samples=samples,
        shapes=shapes,
        control_samples=500,
        seed=seed,
        workers=workers,
    )
    results = collect_results(
        measured, recipe={"name": "eval", "note": f"{suite} on {scenes}"}, seeds=[seed], pairs=each_pair(list(named))
    )
    write_results(out, results)
    write_text(page, measured_page(results))
    return {"results": str(out), "tables": str(page), **headline(results)}


def rows_of(
    named: Mapping[str, str], periods_s: Sequence[float], suites: Sequence[str] = ("closed",), device: str = "cpu"
) -> dict[str, PolicySpec]:
    """Name → policy, with a row a VLM period ("senna2 (VLM 0.5 s)") for those that have a VLM; others have no period.

    Raises `InputError` for a wrong name, a device that is not there, a period that is no positive number, or a period
    with another suite: there every decision is fresh.
    """
    if periods_s and tuple(suites) != ("closed",):
        raise InputError("--vlm-period: is for `eval closed`; the other suites ask the VLM anew for every sample")
    for period in periods_s:
        if not 0 < period < np.inf:
            raise InputError(f"--vlm-period {period:g}: must be a positive number of seconds")
    rows: dict[str, PolicySpec] = {}
    deciding = set()
    for name, spec in named.items():
        policy = make_policy(spec, device=device)
        if getattr(policy, "vlm", None) is not None:
            deciding.add(name)
        if periods_s and name in deciding:
            rows |= {f"{name} (VLM {p:g} s)": _configured(spec, p, None, device) for p in periods_s}
        else:
            rows[name] = _configured(spec, None, None, device) if hasattr(policy, "device") else spec
    if periods_s and not deciding:
        raise InputError(f"--vlm-period: none of {sorted(named)} has a VLM; name a checkpoint that has one")
    return rows


def check_writable(out: Path) -> None:
    """`InputError` now rather than after an hour of driving."""
    if out.suffix != ".json":
        raise InputError(f"--out {out}: give the name of a .json file")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); choose another place") from error
    if out.is_dir():
        raise InputError(f"--out {out}: is a folder; give the name of a .json file")


def page_beside(out: Path) -> Path:
    """Where the tables go. Raises `InputError` if a page that is not one of them would be overwritten."""
    page = out.with_suffix(".md")
    if page.exists() and not (page.is_file() and page.read_bytes().startswith(TITLE.encode())):
        raise InputError(f"--out {out}: the tables would overwrite {page}, which is another file; choose another name")
    return page


def each_pair(names: Sequence[str]) -> list[tuple[str, str]]:
    """Every policy against each of those before it."""
    return [(b, a) for i, b in enumerate(names) for a in names[:i]]


def collect_results(
    measured: Mapping[str, Measured], *, recipe: Mapping[str, Any], seeds: Sequence[int],
    pairs: Sequence[tuple[str, str]], timings_s: Mapping[str, float] | None = None,
) -> dict[str, Any]:  # fmt: skip
    policies: dict[str, Suites] = {name: m.suites for name, m in measured.items()}
    seconds = {f"{name} {k}": v for name, m in measured.items() for k, v in m.seconds.items()}
    return assemble(
        provenance=provenance(seeds[0]),
        recipe=recipe,
        seeds=seeds,
        policies=policies,
        clips=[clip_row(r) for m in measured.values() for r in m.rollouts],
        comparisons=compare(policies, pairs),
        timings_s=seconds if timings_s is None else timings_s,
    )


def headline(results: Mapping[str, Any]) -> dict[str, str]:
    """One line a policy of what matters first."""
    wanted = (("open_loop", "fde_m"), ("consistency", "avg"), ("closed_loop", "cr"), ("closed_loop", "af_cr"),
              ("closed_loop", "safety_1"), ("closed_loop", "safety_2"), ("closed_loop", "progress_ratio"),
              ("closed_loop", "off_road"), ("closed_loop", "parked"))  # fmt: skip
    lines = {}
    for name, suites in results["policies"].items():
        values = [(m, suites.get(s, {}).get(m)) for s, m in wanted]
        lines[name] = "  ".join(
            f"{m} {'null' if v['value'] is None else format(v['value'], '.3f')}" for m, v in values if v is not None
        )
    return lines
