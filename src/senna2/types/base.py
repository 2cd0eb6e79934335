"""What every type rests on: the array name, sizes shared by all rooms, the error of bad input, and checks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

Array = np.ndarray

PLAN_STEPS = 30  # points of a plan (3 s at 0.1 s); the horizon of the open-loop metrics
PLAN_DT = 0.1  # s between them
MAX_AGENTS = 24  # nearest agents kept in an observation
MAX_LANES = 12  # nearest polylines kept in an observation
LANE_POINTS = 10
ROUTE_POINTS = 20
ROUTE_SPACING = 3.0  # m between route points
MAX_KERBS = 64  # kerb segments kept beside a sample (open-loop static collisions)


class InputError(ValueError):
    """Bad input of the user: names the file, the field and the fix. The command line turns it into exit code 2."""


def require(condition: bool, where: str, what: str) -> None:
    """Raise `InputError` with the field's name unless `condition` holds."""
    if not condition:
        raise InputError(f"{where}: {what}")


def meant(name: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown name: the one that was probably meant, if there is one like it."""
    import difflib  # for errors alone: every command would wait for it

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def check_shape(value: Array, shape: tuple[int | None, ...], where: str) -> None:
    """Raise `InputError` unless the array has this shape; None stands for any length."""
    found = np.shape(value)
    ok = len(found) == len(shape) and all(s is None or s == n for s, n in zip(shape, found, strict=True))
    wanted = tuple("?" if s is None else s for s in shape)
    require(ok, where, f"shape {found}, expected {wanted}")


def check_finite(value: Array | float, where: str) -> None:
    """Raise `InputError` if any number is NaN or infinite."""
    require(bool(np.isfinite(value).all()), where, "must be finite, holds NaN or infinity")
