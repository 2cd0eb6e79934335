"""Which clips a policy is measured on, and in which order."""

import json
from pathlib import Path

from senna2.recipes.measure import in_turn, resolve_scenes
from senna2.world.clip import SCHEMA
from senna2.world.town.families import CORE, split_scenes


def _clip(folder: Path, family: str) -> Path:
    folder.mkdir()
    (folder / "clip.json").write_text(json.dumps({"schema": SCHEMA, "family": family}))
    return folder


def test_a_folder_of_a_split_has_the_order_of_the_split(tmp_path):
    """By name the first clips would all be of one family, and so would those of `--limit` and of the control suite."""
    wanted = [f"{family}-{seed}" for family, seed in split_scenes("test", 2 * len(CORE) + 3, CORE)]
    for name in wanted:
        _clip(tmp_path / name, name.rsplit("-", 1)[0])
    found = resolve_scenes(str(tmp_path), tmp_path / "x.json", limit=None, workers=0)
    families = [p.name.rsplit("-", 1)[0] for p in found]
    assert sorted(p.name for p in found) == sorted(wanted)
    assert len(set(families[: len(CORE)])) == len(CORE)
    assert families[: len(CORE)] == families[len(CORE) : 2 * len(CORE)]
    assert resolve_scenes(str(tmp_path), tmp_path / "x.json", limit=3, workers=0) == found[:3]


def test_clips_of_one_family_keep_their_order(tmp_path):
    clips = [_clip(tmp_path / name, "log") for name in ("a", "b", "c")]
    assert in_turn(clips) == clips
