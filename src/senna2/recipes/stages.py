"""One stage of a recipe, from checkpoint to checkpoint: what `senna2 train` and the whole story share.

`out/policy` is the checkpoint, `out/training` the log and the state that `--resume` needs.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from senna2.abreast import drive_abreast
from senna2.config import fingerprint, load_json, to_dict
from senna2.data.qa import corpus
from senna2.data.store import SampleStore, samples_of
from senna2.demonstrations import Drives, collect
from senna2.files import write_json
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM
from senna2.provenance import provenance
from senna2.recipes.cache import FRAME_CODE, keep_if_same
from senna2.recipes.clips import make_clips
from senna2.recipes.config import Recipe, load_recipe
from senna2.recipes.driven import drive_clips
from senna2.recipes.own_drives import DRIVEN, run_driven
from senna2.registry import find_checkpoint, listing, packaged
from senna2.train.diagnostics import driving
from senna2.train.distributed import Ranks, start_ranks, stop_ranks
from senna2.train.gradient import dit_of
from senna2.train.guards import Verdict, judge_driving
from senna2.train.rad import rad_of
from senna2.train.rad2 import rad2_of
from senna2.train.stage1 import run_1a, run_1b, run_1c, vlm_of
from senna2.train.stage2 import run_2
from senna2.train.stage3 import run_3
from senna2.types import InputError, Rig, Rollout
from senna2.workers import worker_count
from senna2.world.clip import find_clips


def checkpoint_in(path: Path) -> Path:
    """`find_checkpoint`, also by the name of a policy whose weights are at hand; or an `InputError`."""
    folder = packaged().get(str(path)) or find_checkpoint(path)
    if folder is None and str(path) in listing("policies"):
        raise InputError(f"{path}: drives without a network; give a checkpoint, or one of {sorted(packaged())}")
    if folder is None:
        raise InputError(
            f"{path}: holds no checkpoint (no config.json, nor policy/config.json); train that stage first"
        )
    return folder


def new_policy(recipe: Recipe, *, adapter: str | None = None) -> DualSystem:
    """A freshly initialised dual system of this recipe; `adapter` overrides its kind (`senna`: "decision")."""
    config = recipe.policy if adapter is None else dataclasses.replace(recipe.policy, adapter=adapter)
    # Only a tokenizer made for them says the words of other questions in few tokens.
    texts = corpus() if recipe.stage1a.qa_share else ()
    vlm = DrivingVLM.make(recipe.vlm, seed=recipe.seed, texts=texts)
    return DualSystem(config, Rig.default(), vlm=vlm, seed=recipe.seed)


def with_adapter(policy: DualSystem, adapter: str, seed: int, *, hidden: str | None = None) -> DualSystem:
    """The same system with a new adapter of another kind (Table 4; `senna` has "decision"), or one that reads other
    hidden states of the VLM."""
    config = dataclasses.replace(policy.config, adapter=adapter, hidden=hidden or policy.config.hidden)
    other = DualSystem(config, policy.rig, vlm=policy.vlm, seed=seed)
    _copy_parts(policy, other, ("encoder", "perception", "planner"))
    fitted = policy.planner.fitted()
    if fitted is not None:
        other.planner.restore(fitted)
    return other


def with_planner(policy: DualSystem, config: PolicyConfig, seed: int, *, anew: bool = False) -> DualSystem:
    """A new planner and a new adapter, as `config` has them, on the encoder and the perception heads of `policy`; its
    VLM stays. A planner that extends the one before (`rad2`: `dit`) keeps what that has learned, unless `anew`."""
    other = DualSystem(config, policy.rig, vlm=policy.vlm, hidden_size=policy.hidden_size, seed=seed)
    _copy_parts(policy, other, ("encoder", "perception"))
    fitted = policy.planner.fitted()
    if isinstance(other.planner, type(policy.planner)) and fitted is not None and not anew:
        other.planner.load_state_dict(policy.planner.state_dict(), strict=False)
        other.planner.restore(fitted)
    return other


def _copy_parts(source: DualSystem, target: DualSystem, names: Sequence[str]) -> None:
    for name in names:
        part, mine = source.part(name), target.part(name)
        if part is not None and mine is not None:
            mine.load_state_dict(part.state_dict())


def run_stage(
    stage: str,
    policy: DualSystem,
    recipe: Recipe,
    out: Path,
    *,
    store: SampleStore | None = None,
    clips: Sequence[Path] = (),
    tune_clips: Sequence[Path] = (),
    ranks: Ranks | None = None,
    resume: bool = False,
    workers: int = 1,
    **loop: Any,
) -> Path:
    """Train one stage of `policy` (in place) and save it as `out/policy`; returns that folder.

    A finished stage is not run again with `resume`: its weights are loaded into nothing, only the folder is returned.
    Without `resume` it begins again; a checkpoint that is there stays until the new one stands. Raises `InputError` as
    `check_stage` does, and for folders there that are not a stage's.
    """
    ranks = ranks or Ranks()
    check_stage(stage, policy, ranks)
    saved, training = out / "policy", out / "training"
    identity = fingerprint({"stage": stage, "adapter": policy.config.adapter, **depends_on(recipe, stage)})
    mark = training / "identity.json"
    if resume and mark.exists() and load_json(mark) != identity:
        raise InputError(f"{training}: belongs to another recipe or seed; drop --resume or choose another --out")
    begun = training / "begun"  # until it ends: a checkpoint beside it is an earlier training's
    if resume and (saved / "config.json").is_file() and not begun.exists():
        return saved
    for folder, ours in ((training, mark), (saved, saved / "config.json")):
        if folder.exists() and any(folder.iterdir()) and not ours.is_file():
            raise InputError(f"{folder}: is not of a stage (no {ours.name}); choose another --out")
    ranks.barrier()  # all have looked before one writes
    if ranks.is_main:
        if not resume:
            shutil.rmtree(training, ignore_errors=True)
        write_json(mark, identity)
        begun.touch()
    ranks.barrier()
    policy.to(ranks.device)
    policy.mixed = torch.bfloat16 if recipe.precision == "bfloat16" else None
    common: dict[str, Any] = {"seed": recipe.seed, "ranks": ranks, "resume": resume, **loop}
    policy.train()
    if stage == "3":
        _stage_3(policy, recipe, training, clips, tune_clips, workers, {**common, "store": store})
    elif stage in DRIVEN:
        run_driven(stage, policy, recipe, training, clips, store, common)
    elif store is None:
        raise InputError(f"stage {stage}: needs samples (--data DIR)")
    else:
        if not policy.planner.is_fitted:
            policy.fit_planner(store.states)
        run: Any = {"1a": run_1a, "1b": run_1b, "1c": run_1c, "2": run_2}[stage]
        run(policy, store, getattr(recipe, f"stage{stage}"), training, **common)
    if policy.vlm is not None and policy.vlm.lora_parameters():
        policy.vlm.merge_lora()
    policy.eval()
    if ranks.is_main:
        policy.save_pretrained(saved, provenance(recipe.seed, stage=stage, recipe=to_dict(recipe)))
        begun.unlink(missing_ok=True)
    ranks.barrier()
    return saved


def check_stage(stage: str, policy: DualSystem, ranks: Ranks) -> None:
    """`InputError` if this stage cannot train this policy, or not in so many processes, before anything is generated or
    cleared for it."""
    if stage in DRIVEN and ranks.size > 1:
        raise InputError(f"stage {stage}: a trainer on the policy's own drives runs in one process; start it without "
                         "torchrun")  # fmt: skip
    if stage == "rad":
        rad_of(policy)
    elif stage == "rad2":
        rad2_of(policy)
    elif stage in DRIVEN:
        dit_of(policy, stage)
    elif stage != "1b":
        vlm_of(policy)


def depends_on(recipe: Recipe, stage: str) -> dict[str, Any]:
    """What of a recipe a stage under way must not change; how later stages are set may, while it is."""
    parts = ("seed", "vlm", "policy", "precision", DRIVEN.get(stage, f"stage{stage}"))
    more = {"rollout": recipe.clips.rollout} if stage == "3" else {}
    return {name: to_dict(getattr(recipe, name)) for name in parts} | more


def _stage_3(
    policy: DualSystem, recipe: Recipe, training: Path, clips: Sequence[Path], tune_clips: Sequence[Path],
    workers: int, common: dict[str, Any],
) -> None:  # fmt: skip
    if not clips:
        raise InputError("stage 3: needs clips to drive (--data DIR with clip folders)")

    def roll(now: DualSystem, folder: Path, on: Sequence[Path], seed: int, **more: Any) -> list[Rollout]:
        """On the CPU in worker processes, by a copy; on a GPU here, where the policy is."""
        now.eval()
        if now.device.type == "cpu":
            now.save_pretrained(folder, provenance(seed))
            rollouts = drive_clips({"senna2": str(folder)}, [("senna2", clip) for clip in on], workers=workers,
                                   seed=seed, label="stage 3 drives", **more)  # fmt: skip
        else:
            rollouts = drive_abreast(now, list(on), policy_name="senna2", seed=seed, **more)
        now.train()
        return rollouts

    def gather(now: DualSystem, number: int, folder: Path) -> list[Rollout]:
        """Training clips, and before the first round the tuning clips too, so that the judge can compare."""
        rng = np.random.default_rng([recipe.seed, number])
        chosen = [clips[i] for i in rng.permutation(len(clips))[: recipe.clips.rollout]]
        first = list(tune_clips) if number == 0 else []
        every = recipe.stage3.every
        rollouts = roll(
            now, folder / "start", [*first, *chosen], recipe.seed + number, record="images", record_every=every
        )
        if first:
            write_json(training / "before.json", driving(rollouts[: len(first)]))
        return rollouts[len(first) :]

    def judge(now: DualSystem, number: int) -> Verdict:
        if not tune_clips:
            return Verdict(True, "no tuning clips")
        after = driving(roll(now, training / f"round-{number}" / "after", tune_clips, recipe.seed))
        return judge_driving(load_json(training / "before.json"), after, recipe.stage3.guards)

    run_3(policy, gather, recipe.stage3, training, judge=judge, **common)


def demonstration_samples(
    recipe: Recipe, clips: Sequence[Path], out: Path, *, workers: int, training: bool, resume: bool = False,
    drive_seed: int | None = None,
) -> SampleStore:  # fmt: skip
    """The samples of these clips; perturbed drives and branches only for training.

    Those that are there are kept if settings and code are the same (with `resume`: if the settings are).
    `drive_seed`: of the perturbations, by default the recipe's seed.
    """
    c = recipe.clips
    drives = Drives(
        drives=c.drives if training else 1, every=c.every, images=True,
        branch_every=c.branch_every if training else 0, instructed=c.instructed if training else 0,
        recover_every=c.recover_every if training else 0, seed=recipe.seed if drive_seed is None else drive_seed,
    )  # fmt: skip
    keep_if_same(out, drives, FRAME_CODE, resume=resume)
    counts = collect(clips, out, drives, workers=workers, label=out.name)
    if (out / "counts.json").is_file():
        counts.update({k: v for k, v in load_json(out / "counts.json").items() if k != "kept_from_before"})
    write_json(out / "counts.json", dict(sorted(counts.items())))
    return samples_of(out, clips)


def train_verb(
    stage: str, recipe_name: str, *, start: Path | None, data: Path | None, out: Path, seed: int | None,
    workers: int | None, resume: bool, vlm: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`senna2 train`: returns where the checkpoint lies. `vlm` stands in for the recipe's, in a new policy."""
    recipe = load_recipe(recipe_name)
    if vlm is not None:
        if start is not None:
            raise InputError("--vlm: the checkpoint of --from brings its own VLM; give one of the two")
        recipe = dataclasses.replace(recipe, vlm=dataclasses.replace(recipe.vlm, checkpoint=vlm))
    if seed is not None:
        recipe = dataclasses.replace(recipe, seed=seed)
    workers = worker_count(workers)
    if stage not in ("1a", "1b") and start is None:
        raise InputError(f"train {stage}: needs --from CKPT, the checkpoint of the stage before")
    ranks = start_ranks()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks.size))
    try:
        policy = new_policy(recipe) if start is None else DualSystem.from_pretrained(checkpoint_in(start))
        check_stage(stage, policy, ranks)
        store: SampleStore | None = None
        clips: list[Path] = []
        tune: list[Path] = []
        if stage == "3" or stage in DRIVEN:
            clips = _stage_clips(recipe, data, out, workers, ranks, resume)
            if stage == "3" and recipe.clips.tune:  # of the judge between two rounds
                tune = _generated(recipe, "tune", out, workers, ranks, resume)
            shown = stage == "rad" or (stage == "3" and recipe.stage3.imitation > 0)
            store = _samples_of(recipe, clips, out / "samples", workers, ranks, resume) if shown else None
        else:
            store = _stage_store(recipe, data, out, workers, ranks, resume)
        saved = run_stage(stage, policy, recipe, out, store=store, clips=clips, tune_clips=tune, ranks=ranks,
                          resume=resume, workers=workers)  # fmt: skip
    finally:
        stop_ranks()
    return {"checkpoint": str(saved), "log": str(out / "training")}


def _stage_store(recipe: Recipe, data: Path | None, out: Path, workers: int, ranks: Ranks, resume: bool) -> SampleStore:
    if data is not None:
        return SampleStore(data)
    clips = _stage_clips(recipe, None, out, workers, ranks, resume)
    return _samples_of(recipe, clips, out / "samples", workers, ranks, resume)


def _samples_of(
    recipe: Recipe, clips: Sequence[Path], folder: Path, workers: int, ranks: Ranks, resume: bool
) -> SampleStore:
    if ranks.is_main:
        demonstration_samples(recipe, clips, folder, workers=workers, training=True, resume=resume)
    ranks.barrier()
    return samples_of(folder, clips)


def _stage_clips(recipe: Recipe, data: Path | None, out: Path, workers: int, ranks: Ranks, resume: bool) -> list[Path]:
    """The training clips: those of `data`, else those that the recipe names."""
    return _generated(recipe, "train", out, workers, ranks, resume) if data is None else find_clips(data)


def _generated(recipe: Recipe, split: str, out: Path, workers: int, ranks: Ranks, resume: bool) -> list[Path]:
    """The recipe's clips of a split, by the first rank where they are missing or (without `resume`) of other code."""
    if not ranks.is_main:
        ranks.barrier()
    made = make_clips(split, getattr(recipe.clips, split), out / "clips" / split, recipe.families, workers=workers,
                      same_code=not resume)  # fmt: skip
    if ranks.is_main:
        ranks.barrier()
    return made
