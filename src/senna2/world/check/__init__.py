"""What is wrong with a clip: schema, units, motions, map, route, lights, and the expert's own drive."""

from __future__ import annotations

from senna2.types import InputError
from senna2.world.check.drive import check_drive, check_start
from senna2.world.check.findings import Finding, error
from senna2.world.check.maps import check_map, check_route, check_shapes, check_signals
from senna2.world.check.motion import check_columns, check_motions
from senna2.world.scene import Scene

__all__ = ["Finding", "check_scene"]

AGAIN = "make the clip again, or mend this field"


def check_scene(scene: Scene) -> list[Finding]:
    """All findings, errors first; empty if the clip is sound. Pure; costs about as much as driving the clip once.

    What follows from a broken part is not checked: of a clip whose files do not fit together (schema, NaN, clocks, ids
    of nothing) that alone is told.
    """
    try:
        scene.validate("clip")
    except InputError as bad:
        where, _, what = str(bad).removeprefix("clip: ").partition(": ")
        return [error(where, what or "is wrong", AGAIN)]
    except (TypeError, ValueError, IndexError) as bad:  # arrays of shapes that validate() cannot even compare
        return [error("schema", str(bad), AGAIN)]
    found = [*check_columns(scene), *check_shapes(scene)]
    if all(f.level != "error" for f in found):
        for check in (check_motions, check_map, check_signals, check_route, check_start, check_drive):
            found += check(scene)
    return sorted(found, key=lambda f: f.level != "error")
