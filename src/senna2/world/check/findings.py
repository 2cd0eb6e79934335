"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass

from senna2.world.scene import Scene

RECORDED = "recorded"  # split of dressed logs


@dataclass(frozen=True)
class Finding:
    """level: "error" (the clip misleads whoever trains or is judged on it) or "warning". where: the part of the clip;
    what: what is wrong there; fix: how to mend it."""

    level: str
    where: str
    what: str
    fix: str


def error(where: str, what: str, fix: str) -> Finding:
    return Finding("error", where, what, fix)


def warning(where: str, what: str, fix: str) -> Finding:
    return Finding("warning", where, what, fix)


def real_or_wrong(scene: Scene, where: str, what: str, fix: str) -> Finding:
    """What is an error in a generated clip, but may well be how it was in a recording."""
    return (warning if scene.meta.split == RECORDED else error)(where, what, fix)
