"""What the report of a whole run shows beside its tables: figures of forced decisions, one video a family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from senna2.evaluate.control import relative_speeds
from senna2.recipes.measure import Measured
from senna2.report.figures import forced_drives_figure, relative_speed_figure
from senna2.report.media import Figure, Video
from senna2.report.video import family_video
from senna2.types import Rollout, Samples, Speed
from senna2.world.clip import load_clip

PAIR = ("senna", "senna2")  # left and right, as on the project page
MODES = {"normal": None, "accelerate": Speed.ACCELERATE, "keep": Speed.KEEP, "decelerate": Speed.DECELERATE}


def story_figures(
    measured: Mapping[str, Measured], forced: Mapping[str, Mapping[str, Sequence[Rollout]]], samples: Samples
) -> list[Figure]:
    """Relative speeds under forced decisions of both systems, and the closed-loop curves of each."""
    ratios = {}
    for name in PAIR:
        plans = measured[name].forced_plans
        some = samples.take(slice(0, len(next(iter(plans.values())))))
        ratios[name] = {speed: relative_speeds(some, p) for speed, p in plans.items()}
    curves = [
        forced_drives_figure({MODES[mode]: list(rollouts) for mode, rollouts in forced[name].items()}, name)
        for name in PAIR
    ]
    return [relative_speed_figure(ratios), *curves]


def family_videos(
    measured: Mapping[str, Measured], clips: Sequence[Path], folder: Path, *, workers: int
) -> tuple[list[Video], dict[str, str]]:
    """For each family its first test clip, `senna` left, `senna2` right; and clip name → video file."""
    drives = {name: {r.clip: r for r in measured[name].rollouts} for name in PAIR}
    first: dict[str, Path] = {}
    for clip in clips:
        family = drives[PAIR[0]][clip.name].family
        first.setdefault(family, clip)

    def make(clip: Path) -> Video:
        left, right = (drives[name][clip.name] for name in PAIR)
        return family_video(folder / f"{clip.name}.mp4", load_clip(clip), left, right, labels=PAIR)

    with ThreadPoolExecutor(workers) as pool:
        videos = list(tqdm(pool.map(make, first.values()), total=len(first), desc="videos", unit="clip"))
    return videos, {v.clip: f"{folder.name}/{v.path.name}" for v in videos}
