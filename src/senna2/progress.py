"""One progress bar for all that takes a while."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

TERMINAL_S, LOG_S = 1.0, 30.0


def progress_bar(*args: Any, **more: Any) -> tqdm[Any]:
    """tqdm's, moved once a second on a terminal; into a log, where each move stays, twice a minute."""
    every_s = TERMINAL_S if sys.stderr.isatty() else LOG_S
    return tqdm(*args, mininterval=every_s, maxinterval=max(every_s, 10.0), **more)
