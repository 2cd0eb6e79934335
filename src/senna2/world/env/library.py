"""The clips an environment plays: scenes at hand, folders, or a generated set, made or read when first played."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from senna2.types import InputError, Rig, require
from senna2.world.scene import Scene

Clips = Scene | str | os.PathLike[str] | Sequence[Scene | str | os.PathLike[str]]


class ClipLibrary:
    """Clips by number. `library[i]` reads or makes clip i anew; who plays it keeps it.

    `clips`: a `Scene`; a clip folder or a folder of them; a generated set and split such as "core/test" (then `count`
    is how many, by default one a family, families in turn); or a sequence of these. `count` otherwise takes the first.
    Raises `InputError` for what is none of these, and if nothing is left.
    """

    def __init__(self, clips: Clips, count: int | None = None) -> None:
        given = clips if isinstance(clips, Sequence) and not isinstance(clips, str) else (clips,)
        require(count is None or count >= 1, "clips: count", f"{count} must be at least 1")
        self._makers: list[Callable[[], Scene]] = []
        self._rig: Callable[[], Rig] | None = None
        for item in given:
            self._add(item, count)
        self._makers = self._makers[:count]
        require(len(self._makers) > 0, "clips", "is empty; name a clip")

    def __len__(self) -> int:
        return len(self._makers)

    def __getitem__(self, index: int) -> Scene:
        if not 0 <= index < len(self._makers):
            raise InputError(f"scene {index} does not exist; there are {len(self._makers)}")
        return self._makers[index]()

    @property
    def rig(self) -> Rig:
        """The first clip's cameras, without its splats being read or made."""
        assert self._rig is not None
        return self._rig()

    def _add(self, item: Scene | str | os.PathLike[str], count: int | None) -> None:
        if isinstance(item, Scene):
            self._rig = self._rig or partial(_rig_of, item)
            self._makers.append(partial(_itself, item))
        elif Path(item).exists():
            from senna2.world.clip import find_clips, load_clip, read_rig  # pyarrow: only where folders are played

            folders = find_clips(Path(item))
            self._rig = self._rig or partial(read_rig, folders[0])
            self._makers += [partial(load_clip, folder) for folder in folders]
        else:
            self._rig = self._rig or Rig.default  # of every generated clip
            self._makers += _generated(str(item), count)


def _itself(scene: Scene) -> Scene:
    return scene


def _rig_of(scene: Scene) -> Rig:
    return scene.rig


def _generated(name: str, count: int | None) -> list[Callable[[], Scene]]:
    from senna2.world.town.families import SETS, make_scene, split_scenes  # the town: only where clips are made

    kind, _, split = name.partition("/")
    if kind not in SETS or not split:
        sets = ", ".join(f"{s}/test" for s in SETS)
        raise InputError(f"clips '{name}': neither a folder nor a generated set and split such as {sets}")
    families = SETS[kind]
    chosen = split_scenes(split, len(families) if count is None else count, families)
    return [partial(make_scene, family, seed, split) for family, seed in chosen]
