"""The command line. Parsing imports nothing heavy; each verb imports what it needs when it runs.

Exit codes: 0 done, 1 the job failed, 2 bad use or bad input (one line that names file, field and fix), 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path
from typing import Any

from senna2 import __version__
from senna2.types import InputError

BAD_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="senna2", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.description = "Train, drive and measure Senna-2: a VLM that decides, a planner that drives."
    parser.add_argument("--version", action="version", version=f"senna2 {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    run = verbs.add_parser(
        "run", help="the whole story: clips, stages 1-3, every evaluation, report.html, results.json"
    )
    run.add_argument(
        "--recipe", default="laptop", help="a registered recipe (`senna2 list recipes`) or module:function"
    )
    run.add_argument("--out", type=Path, help="folder of the run (default runs/<recipe>)")
    run.add_argument("--seed", type=_at_least(0), help="overrides the recipe's seed")
    run.add_argument("--workers", type=_at_least(0), help="worker processes (default: as many as there are cores)")
    run.add_argument("--resume", action="store_true", help="go on where an interrupted run in --out stopped")
    run.add_argument("--jobs", action="store_true", help="results: list the queue's jobs, their state and estimates")
    run.add_argument("--only", nargs="+", action="extend", default=[], metavar="JOB",
                     help="results: these jobs alone (shell patterns) and what they need")  # fmt: skip
    run.add_argument("--tiny", action="store_true", help="results: the same queue in a few minutes, to try it")
    run.add_argument("--limit", type=_at_least(1), help="results: this many test clips (default: the recipe's 480)")
    run.add_argument("--publish", type=Path, metavar="DIR",
                     help="results: copy results.json, claims.json, tables and figures there")  # fmt: skip
    run.add_argument("--json", action="store_true", help="print the path of results.json and the headline as JSON")

    demo = verbs.add_parser("demo", help="play the six showcase clips and write report.html with their videos")
    demo.add_argument("--weights", type=Path, metavar="FOLDER", help="a checkpoint folder, or one that holds those of "
                      "senna and senna2 (default: the weights in the package)")  # fmt: skip
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), help="default runs/demo")
    demo.add_argument("--workers", type=_at_least(0))
    demo.add_argument("--seed", type=_at_least(0), default=0)
    demo.add_argument("--pack", type=Path, metavar="DIR", help="play nothing: write 16-bit copies of the weights there")
    demo.add_argument("--json", action="store_true")

    train = verbs.add_parser("train", help="one stage; the same line runs under torchrun")
    train.add_argument("stage", choices=("1a", "1b", "1c", "2", "3", "rad", "rad2", "grpo", "ppo"))
    train.add_argument("--recipe", default="laptop")
    train.add_argument("--from", dest="start", type=Path, metavar="CKPT", help="checkpoint folder to start from")
    train.add_argument("--data", type=Path, metavar="DIR", help="samples (stages 1, 2) or clips (the others); "
                       "default: generated in --out")  # fmt: skip
    train.add_argument("--vlm", metavar="VLM", help="start from this Qwen-VL: a folder, or its name on the hub "
                       "(default: the recipe's)")  # fmt: skip
    train.add_argument("--out", type=Path, required=True)
    train.add_argument("--seed", type=_at_least(0))
    train.add_argument("--workers", type=_at_least(0))
    train.add_argument("--resume", action="store_true")
    train.add_argument("--json", action="store_true")

    evaluate = verbs.add_parser("eval", help="measure policies: consistency, open loop, closed loop, control")
    evaluate.add_argument("suite", choices=("consistency", "open", "closed", "control", "all", "perception"))
    evaluate.add_argument(
        "--policy", nargs="+", required=True, metavar="P", help="registered names or checkpoint folders"
    )
    evaluate.add_argument(
        "--scenes", required=True, metavar="S", help="a clip folder, a folder of them, or a split (core/test)"
    )
    evaluate.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    evaluate.add_argument("--vlm-period", type=float, nargs="+", default=[], metavar="S",
                          help="with closed: seconds between two ticks of the VLM, a row of results for each "
                          "(default: the checkpoint's own)")  # fmt: skip
    evaluate.add_argument("--device", default="cpu", help="where checkpoints compute: cpu (default), cuda, cuda:1 …; "
                          "every worker process has its copy there")  # fmt: skip
    evaluate.add_argument("--limit", type=_at_least(1), help="at most so many clips (of a split: 60 by default)")
    evaluate.add_argument("--seed", type=_at_least(0), default=0)
    evaluate.add_argument("--workers", type=_at_least(0))
    evaluate.add_argument("--json", action="store_true")

    label = verbs.add_parser("label", help="the decisions that a recorded trajectory expresses (f_K), with counts")
    label.add_argument("file", type=Path)
    label.add_argument("--json", action="store_true")

    scene = verbs.add_parser("scene", help="clips: make, dress a recorded log, check, view")
    kinds = scene.add_subparsers(dest="action", required=True, metavar="ACTION")
    make = kinds.add_parser("make", help="generate clips of the town")
    make.add_argument("--family", help="a family (default: those of --set in turn)")
    make.add_argument("--set", dest="group", default="core", metavar="SET", help="core (default) or extended")
    make.add_argument("--split", default="test")
    make.add_argument("--count", type=_at_least(1), default=1)
    make.add_argument("--seed", type=_at_least(0), help="one clip of exactly this scene seed (without --family: of the "
                      "set's first)")  # fmt: skip
    make.add_argument("--duration", type=float, metavar="S", help="length in s, up to 40 (default: the family's)")
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--json", action="store_true")
    dress = kinds.add_parser("dress", help="a recorded log's tracks and map as a drivable 3DGS clip")
    dress.add_argument("log", type=Path, help="a MetaDrive/ScenarioNet .pkl file or an Argoverse 2 log folder")
    dress.add_argument("--out", type=Path, required=True, metavar="CLIP_DIR")
    dress.add_argument("--json", action="store_true")
    check = kinds.add_parser("check", help="load clips and say what is in them and what is wrong with them")
    check.add_argument("clip", type=Path, nargs="+", help="clip folders, or folders of them")
    check.add_argument("--json", action="store_true", help="one object: the clip's, or of several {clips: [...]}")
    check.description = "Exit codes: 0 no error found, 1 an error in a clip, 2 a folder that cannot be read."
    view = kinds.add_parser("view", help="a clip's cameras along the expert's drive: stills (.png) or a film (.mp4)")
    view.add_argument("clip", type=Path)
    view.add_argument("--out", type=Path, required=True, metavar="FILE.png|FILE.mp4")
    view.add_argument("--scale", type=float, default=3.0, help="resolution against the rig's")
    sheet = kinds.add_parser("sheet", help="a contact sheet: a clip of each family, three instants, 640 x 360")
    sheet.add_argument("--set", dest="group", default="core", metavar="SET", help="core (default) or extended")
    sheet.add_argument("--family", nargs="+", default=[], help="these families instead")
    sheet.add_argument("--split", default="val")
    sheet.add_argument("--number", type=_at_least(0), default=0, help="which clip of each family")
    sheet.add_argument("--out", type=Path, required=True, metavar="FILE.jpg")
    sheet.add_argument("--workers", type=_at_least(0))
    hard = kinds.add_parser("difficulty", help="how often naive, IDM and expert fail in each family; labels; ceiling")
    hard.add_argument("--set", dest="group", default="core", metavar="SET", help="core (default) or extended")
    hard.add_argument("--family", nargs="+", default=[], help="these families instead")
    hard.add_argument("--split", default="tune")
    hard.add_argument("--count", type=_at_least(1), default=24, help="clips a family")
    hard.add_argument("--out", type=Path, metavar="FILE.json")
    hard.add_argument("--workers", type=_at_least(0))
    hard.add_argument("--json", action="store_true")
    hard.description = "Exit code 1 if a family breaks a rule (docs/world.md)."

    data = verbs.add_parser("data", help="samples: inspect, export for fine-tuning tools")
    deeds = data.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = deeds.add_parser("inspect", help="counts per class and family, share UNKNOWN, sizes")
    inspect.add_argument("data", type=Path, metavar="SAMPLES_DIR")
    inspect.add_argument("--json", action="store_true")
    export = deeds.add_parser("export", help="front frames and question-answer pairs for a fine-tuning tool")
    export.add_argument("--format", dest="form", required=True, choices=("llamafactory", "swift", "trl"))
    export.add_argument("--data", type=Path, required=True, metavar="SAMPLES_DIR")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    export.add_argument("--kinds", nargs="+", default=[], metavar="KIND",
                        choices=("scene", "lights", "vulnerable", "intention", "explanation"),
                        help="asked beside the decision: %(choices)s")  # fmt: skip
    export.add_argument("--images", dest="encoding", choices=("png", "jpg"), default="png")
    export.add_argument("--limit", type=_at_least(1), help="at most so many frames")
    export.add_argument("--seed", type=_at_least(0), default=0)
    export.add_argument("--json", action="store_true")

    doctor = verbs.add_parser("doctor", help="versions, hardware, renderer and a fix for each problem")
    doctor.add_argument("--json", action="store_true")
    listing = verbs.add_parser("list", help="what is registered")
    listing.add_argument("kind", nargs="?")
    listing.add_argument("--json", action="store_true")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    try:
        return _dispatch(args)
    except InputError as error:
        print(f"senna2: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = "what was finished is kept, --resume goes on"
        print(f"senna2: interrupted; {kept if hasattr(args, 'resume') else 'give the line again'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has enough of it (`senna2 … | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        print(
            f"senna2: {name}{error.strerror or error}; check the path, its rights and free disk space",
            file=sys.stderr,
        )
        return 2 if isinstance(error, BAD_PATH) else 1
    except BrokenExecutor:
        print("senna2: a worker process died, most often for lack of memory; use fewer --workers", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if type(error).__module__.startswith("senna2."):  # a failed job, e.g. train.loop.TrainingError
            print(f"senna2: {error}", file=sys.stderr)
            return 1
        raise


def _dispatch(args: argparse.Namespace) -> int:
    if args.verb == "run":
        from senna2.recipes.story import jobs_verb, run_verb

        if args.jobs:
            given = {"--seed": args.seed, "--workers": args.workers, "--resume": args.resume or None}
            _none_of(given, "--jobs lists, it runs nothing")
            jobs = jobs_verb(args.recipe, args.out, tiny=args.tiny, limit=args.limit, only=args.only,
                             publish=args.publish)  # fmt: skip
            lines = [f"{j['state']:8s} {j['estimate_s']:6d} s  {j['job']}" for j in jobs]
            return _emit({"jobs": jobs if args.json else lines}, args.json)
        results = run_verb(args.recipe, args.out, seed=args.seed, workers=args.workers, resume=args.resume,
                           tiny=args.tiny, limit=args.limit, only=args.only, publish=args.publish)  # fmt: skip
        return _emit(results, args.json)
    if args.verb == "demo":
        from senna2.recipes.demo import demo_verb, pack_verb

        if args.pack is not None:
            _none_of({"--seed": args.seed or None, "--workers": args.workers}, "--pack plays nothing")
            return _emit(pack_verb(args.weights, args.pack), args.json)
        done = demo_verb(args.weights, args.out, workers=args.workers, seed=args.seed)
        return _emit(done, args.json)
    if args.verb == "train":
        from senna2.recipes.stages import train_verb

        done = train_verb(args.stage, args.recipe, start=args.start, data=args.data, out=args.out, seed=args.seed,
                          workers=args.workers, resume=args.resume, vlm=args.vlm)  # fmt: skip
        return _emit(done, args.json)
    if args.verb == "eval" and args.suite == "perception":
        from senna2.recipes.perceive import perception_verb

        if args.vlm_period:
            raise InputError("--vlm-period: is for `eval closed`; the perception heads ask no VLM")
        _none_of({"--seed": args.seed or None}, "the perception heads draw nothing")
        done = perception_verb(args.policy, args.scenes, args.out, limit=args.limit, workers=args.workers,
                               device=args.device)  # fmt: skip
        return _emit(done, args.json)
    if args.verb == "eval":
        from senna2.recipes.measure import eval_verb

        done = eval_verb(
            args.suite,
            args.policy,
            args.scenes,
            args.out,
            limit=args.limit,
            seed=args.seed,
            workers=args.workers,
            vlm_periods_s=args.vlm_period,
            device=args.device,
        )
        return _emit(done, args.json)
    if args.verb == "label":
        from senna2.data.label import format_counts, label_file

        counts = label_file(args.file)
        print(json.dumps(counts) if args.json else format_counts(counts))
        return 0
    if args.verb == "scene":
        from senna2.recipes import clips

        if args.action == "make":
            done = clips.make_verb(args.out, family=args.family, split=args.split, count=args.count, seed=args.seed,
                                   group=args.group, duration_s=args.duration)  # fmt: skip
        elif args.action == "dress":
            done = clips.dress_verb(args.log, args.out)
        elif args.action == "check":
            return _tell_findings(*clips.check_clips(args.clip), args.json)
        elif args.action == "sheet":
            from senna2.recipes.sheet import sheet_verb

            done = sheet_verb(args.group, args.family, args.out, split=args.split, number=args.number,
                              workers=args.workers)  # fmt: skip
        elif args.action == "difficulty":
            from senna2.recipes.difficulty import difficulty_verb, table

            done = difficulty_verb(args.group, args.family, args.out, split=args.split, count=args.count,
                                   workers=args.workers)  # fmt: skip
            print(json.dumps(done) if args.json else "\n".join([table(done), "", *done["findings"]]))
            return 1 if done["findings"] else 0
        else:
            done = clips.view_verb(args.clip, args.out, scale=args.scale)
        return _emit(done, getattr(args, "json", False))
    if args.verb == "data":
        from senna2.recipes import dataset

        if args.action == "inspect":
            return _emit(dataset.inspect_verb(args.data), args.json)
        done = dataset.export_verb(args.data, args.out, args.form, kinds=args.kinds, seed=args.seed,
                                   encoding=args.encoding, limit=args.limit)  # fmt: skip
        return _emit(done, args.json)
    if args.verb == "doctor":
        from senna2.doctor import doctor

        report = doctor()
        _emit(report, args.json)
        return 0 if report["ok"] else 1
    from senna2.registry import BUILT_IN, listing

    kinds = [args.kind] if args.kind else sorted(BUILT_IN)
    return _emit({kind: listing(kind) for kind in kinds}, args.json)


def _none_of(given: dict[str, Any], why: str) -> None:
    """`InputError` for an option that would be passed over."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}: has no effect here ({why}); drop it")


def _tell_findings(checked: list[dict[str, Any]], unreadable: list[InputError], as_json: bool) -> int:
    """What was found in each clip. Exit code 2 if one could not be read, 1 if one has an error."""
    if as_json and checked:
        totals = {name: sum(clip[name] for clip in checked) for name in ("errors", "warnings")}
        print(json.dumps(checked[0] if len(checked) == 1 and not unreadable else {"clips": checked, **totals}))
    for clip in () if as_json else checked:
        lines = [f"{f['level']:7s} {f['where']}: {f['what']} ({f['fix']})" for f in clip["findings"]]
        _emit({**clip, "findings": lines or ["none"]}, False)
        print()
    for bad in unreadable:
        print(f"senna2: {bad}", file=sys.stderr)
    return 2 if unreadable else int(any(clip["errors"] for clip in checked))


def _at_least(least: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `least` on."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is less than {least}")
        return value

    return whole_number


def _emit(value: dict[str, Any], as_json: bool) -> int:
    """Print a verb's outcome: JSON for machines, aligned lines for people."""
    if as_json:
        print(json.dumps(value))
        return 0
    for key, item in value.items():
        if isinstance(item, dict):
            print(f"{key}:")
            for k, v in item.items():
                print(f"  {k:24s} {v}")
        elif isinstance(item, list):
            print(f"{key}:")
            for v in item:
                print(f"  {v}")
        else:
            print(f"{key}: {item}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
