"""What the benchmarks share: which machine it was, the least CPU time of jobs, the command line and the report.

Every script prints one object of the schema `senna2.bench/1` with --json: schema, machine, settings, rows, headline (by
name: value, aim, which is better, and what it is). Threads of OpenMP must be set before numpy and torch are imported,
so the scripts do that themselves, first of all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

SCHEMA = "senna2.bench/1"
HEADLINE = "{name} = {value} (aim {aim}, {better} is better)"


def machine(*libraries: ModuleType, **more: Any) -> dict[str, Any]:
    """Processor, system, versions of these libraries, whatever else is told, and the load average of this moment."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(), "cores": os.cpu_count(), "os": platform.platform(),
        "python": platform.python_version(), **{lib.__name__: lib.__version__ for lib in libraries}, **more,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def least_ms(
    jobs: Sequence[Callable[[], Any]],
    repeats: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.thread_time,
) -> list[float]:
    """Least CPU time of each job, ms, taking turns. Wall time would also measure the neighbours.

    Args:
        warm_up: rounds before the first that counts.
        clock: s; `time.process_time` for jobs that may start threads.
    """
    least = [float("inf")] * len(jobs)
    for turn in range(-warm_up, repeats):
        for k, job in enumerate(jobs):
            start = clock()
            job()
            if turn >= 0:
                least[k] = min(least[k], 1e3 * (clock() - start))
    return least


def command_line(doc: str | None) -> argparse.ArgumentParser:
    """A parser with --json that shows the script's docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help=f"print one JSON object ({SCHEMA}), nothing else")
    return parser


def report(
    result: dict[str, Any],
    as_json: bool,
    row_text: Callable[[dict[str, Any]], str],
    *,
    digits: str = ".2f",
    headline: str = HEADLINE,
) -> None:
    """Print the result: as JSON, or a line a row and a line a headline.

    Args:
        digits: format of the headlines' values; one that could not be measured (None) is shown as "null".
        headline: the line's format, from `name`, `value` and the headline's other entries; `note` may be absent there.
    """
    if as_json:
        print(json.dumps(result, indent=2))
        return
    for row in result["rows"]:
        print(row_text(row))
    for name, item in result["headline"].items():
        value = "null" if item["value"] is None else format(item["value"], digits)
        print(headline.format(**{"note": "", **item, "name": name, "value": value}).rstrip())
