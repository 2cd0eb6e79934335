"""Where a result came from: commit, versions, machine, command, seed."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import senna2

PACKAGES = ("torch", "numpy", "numba", "transformers", "peft")


def provenance(seed: int | None = None, **more: Any) -> dict[str, Any]:
    """A JSON-able record of this process. Everything that may differ between two equal runs lives here."""
    return {
        "senna2": senna2.__version__,
        "commit": COMMIT,
        "command": shareable_command(sys.argv),
        "seed": seed,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        **more,
    }


def shareable_command(argv: Sequence[str]) -> str:
    """The command line with absolute paths cut to their last part: results are published, homes are private."""
    words = [_cut(word) for word in argv[1:]]
    name = Path(argv[0]).name
    return " ".join(["senna2" if name == "cli.py" else name, *words])  # `python -m senna2.cli` is the same command


def _cut(word: str) -> str:
    """`--out=/home/…` too."""
    option, equals, value = word.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


def _commit() -> str | None:
    """The checkout's commit, with `+` when it has changes; None for an installed package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        return f"{head}{'+' if git('status', '--porcelain') else ''}" if head else None
    except FileNotFoundError:  # a checkout on a machine without git
        return None


COMMIT = _commit()  # asked when this process begins: a checkout may move on under a long run, whose code does not
