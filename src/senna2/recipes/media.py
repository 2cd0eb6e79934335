"""What the report of a whole run shows beside its tables: figures of forced decisions, one video a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from senna2.evaluate.control import relative_speeds
from senna2.recipes.measure import Measured
from senna2.report.figures import forced_drives_figure, relative_speed_figure
from senna2.report.media import Figure, Video
from senna2.report.video import family_video
from senna2.types import Rollout, Samples, Speed
from senna2.workers import run_jobs
from senna2.world.clip import load_clip

PAIR = ("senna", "senna2")  # left and right, as on the project page
MODES = {"normal": None, "accelerate": Speed.ACCELERATE, "keep": Speed.KEEP, "decelerate": Speed.DECELERATE}


def story_figures(measured: Mapping[str, Measured], samples: Samples) -> list[Figure]:
    """Relative speeds under forced decisions of both systems, and the closed-loop curves of each."""
    ratios = {}
    for name in PAIR:
        plans = measured[name].forced_plans
        some = samples.take(slice(0, len(next(iter(plans.values())))))
        ratios[name] = {speed: relative_speeds(some, p) for speed, p in plans.items()}
    curves = [
        forced_drives_figure({MODES[mode]: r for mode, r in measured[name].forced_rollouts.items()}, name)
        for name in PAIR
    ]
    return [relative_speed_figure(ratios), *curves]


def family_videos(
    measured: Mapping[str, Measured], clips: Sequence[Path], folder: Path, *, workers: int, every: int
) -> tuple[list[Video], dict[str, str]]:
    """For each family its first test clip, `senna` left, `senna2` right, every `every`-th frame; and clip name →
    video file."""
    # Rollouts come in the order of the clips; a clip's name is not its folder's.
    drives = {name: {c.name: r for c, r in zip(clips, measured[name].rollouts, strict=True)} for name in PAIR}
    first: dict[str, Path] = {}
    for clip in clips:
        family = drives[PAIR[0]][clip.name].family
        first.setdefault(family, clip)
    jobs = [(folder, c, drives[PAIR[0]][c.name], drives[PAIR[1]][c.name], every) for c in first.values()]
    videos = run_jobs(_video, jobs, workers=workers, label="videos")
    return videos, {v.clip: f"{folder.name}/{v.path.name}" for v in videos}


def _video(folder: Path, clip: Path, left: Rollout, right: Rollout, every: int) -> Video:
    return family_video(folder / f"{clip.name}.mp4", load_clip(clip), left, right, labels=PAIR, every=every)
