"""What all figures share: colours, style, width, and SVG by matplotlib.

Text stays text and the ids are fixed, so that two equal runs give equal pages.
"""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure as Canvas

COLOUR = {
    "ACCELERATE": "#0f766e", "KEEP SPEED": "#475569", "DECELERATE": "#c2410c", "STOP": "#991b1b", "normal": "#1d4ed8",
}  # fmt: skip
STYLE: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "senna2", "font.family": "sans-serif", "font.size": 8,
    "axes.edgecolor": "#94a3b8", "axes.labelcolor": "#334155", "xtick.color": "#475569", "ytick.color": "#475569",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e2e8f0",
    "grid.linewidth": 0.6, "legend.frameon": False, "axes.titlesize": 9, "axes.titlecolor": "#1e293b",
}  # fmt: skip
WIDTH = 8.6  # inches: the page's text width


def svg_of(canvas: Canvas) -> str:
    out = io.StringIO()
    # On white: the text is dark, and the page that a figure stands on may be, too.
    canvas.savefig(out, format="svg", facecolor="white", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def prefixed(svg: str, prefix: str) -> str:
    """Ids made unique within a page of several figures."""
    return svg.replace('id="', f'id="{prefix}').replace('"#', f'"#{prefix}').replace("url(#", f"url(#{prefix}")
