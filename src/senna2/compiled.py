"""Functions compiled by numba and kept on disk, so that the next process begins at once.

Numba looks only at the file of the function itself: one that calls a function of another file, or freezes a constant
of it, would go on with the old one after `git pull`. Here each keeps its code in a folder named by the text of its
file and of all that that one imports of senna2.
"""

from __future__ import annotations

import functools
import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

HERE = Path(__file__).parent
CONFIG: Any = numba.config
IMPORT = re.compile(r"^from (senna2[\w.]*) import (\([^)]*\)|[^\n]*)", re.MULTILINE)


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options. What was compiled lies below `NUMBA_CACHE_DIR` if that is set, else in this
    package's `__pycache__`; where neither can be written, where numba itself puts it."""

    def decorate(function: Callable[..., Any]) -> Any:
        given = CONFIG.CACHE_DIR
        below = Path(given) if given else HERE / "__pycache__"
        source = sys.modules[function.__module__].__file__
        # Numba asks for the folder while it decorates, and only then
        CONFIG.CACHE_DIR = str(below / f"compiled-{_digest(Path(str(source)))}")
        try:
            return numba.njit(cache=True, **options)(function)
        finally:
            CONFIG.CACHE_DIR = given

    return decorate


@functools.cache
def _digest(file: Path) -> str:
    """Of the text of a file and of those it imports of senna2, however far."""
    seen, open_ = {file}, [file]
    while open_:
        for found in _imported(open_.pop()):
            if found not in seen:
                seen.add(found)
                open_.append(found)
    texts = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(seen)]
    return hashlib.sha256("".join(texts).encode()).hexdigest()[:12]


@functools.cache
def _imported(file: Path) -> tuple[Path, ...]:
    modules: list[str] = []
    for module, names in IMPORT.findall(file.read_text(encoding="utf-8")):
        modules += [module, *(f"{module}.{name}" for name in re.findall(r"\w+", names))]
    places = [HERE.joinpath(*module.split(".")[1:]) for module in modules]
    return tuple(p for place in places for p in (place.with_suffix(".py"), place / "__init__.py") if p.is_file())
