"""Which renderer a program uses: the one it names, or the fastest that is shown to work here.

Nothing heavy is imported before it is needed; torch never, unless gsplat is named or torch is loaded already: so
environment workers, which do without torch, get the CPU renderer.
"""

from __future__ import annotations

import functools
import logging
import sys

import numpy as np

from senna2 import registry
from senna2.types import Camera, InputError
from senna2.world.gaussians import GaussianCloud
from senna2.world.render.base import Instance, PosedCamera, Renderer, Sky

PROBE_PSNR_DB = 50.0
_log = logging.getLogger("senna2.render")


def choose_renderer(name: str | None = None, threads: int = 1) -> Renderer:
    """A renderer by its registered name; without a name "gsplat" if it works on this machine, else "cpu".

    "Works" means that torch sees a CUDA device and that one gaussian comes out as on the CPU (`PROBE_PSNR_DB`). If it
    does not, one line of the log "senna2.render" says why, once a process. threads: of the CPU renderer, over views.
    Raises `InputError` for an unknown name, and for "gsplat" where it does not work, with the cause and the fix.
    """
    if name is None:
        obstacle = _obstacle_unasked()
        if obstacle is not None:
            _say_once(obstacle)
        name = "cpu" if obstacle is not None else "gsplat"
    elif name == "gsplat":
        obstacle = why_not_gsplat()
        if obstacle is not None:
            raise InputError(obstacle)
    make = registry.get("renderers", name)
    renderer: Renderer = make(threads=threads) if name == "cpu" else make()
    return renderer


def _obstacle_unasked() -> str | None:
    if "torch" not in sys.modules:
        return "renderer gsplat: torch is not loaded in this process; name the renderer to have it loaded"
    return why_not_gsplat()


@functools.cache
def why_not_gsplat() -> str | None:
    """Why gsplat cannot be used, or None. The first call builds its kernels (minutes) where no wheel holds them."""
    from senna2.world.render.gsplat import FIX, GsplatRenderer, load_rasterization

    try:
        load_rasterization(GsplatRenderer().device)
        worst = probe(GsplatRenderer())
    except InputError as error:
        return str(error)
    except Exception as error:  # a failed build of its kernels raises anything, from ImportError to RuntimeError
        return f"renderer gsplat: cannot draw one gaussian: {type(error).__name__}: {error}; {FIX}"
    if worst <= PROBE_PSNR_DB:
        return f"renderer gsplat: one gaussian is {worst:.0f} dB from the CPU's, {PROBE_PSNR_DB:.0f} are wanted; {FIX}"
    return None


def probe(renderer: Renderer) -> float:
    """PSNR in dB of one gaussian, long, turned and off the axis, against the CPU renderer; the worst of rgb and alpha,
    and of depth in units of 10 m."""
    from senna2.world.render.cpu import CpuRenderer

    cloud = GaussianCloud.from_rgb(
        np.array([[0.4, -0.3, 5.0]]), np.array([[0.9, 0.3, 0.1]]), np.array([[0.8, 0.2, -0.4, 0.4]]), np.array([0.9]),
        np.array([[0.9, 0.4, 0.1]]),
    )  # fmt: skip
    camera = PosedCamera(Camera("probe", 48, 32, 40.0, 44.0, 22.5, 17.0, np.eye(4)), np.eye(4))
    views = [r.render([Instance(cloud)], [camera], Sky.day())[0] for r in (renderer, CpuRenderer())]
    pairs = ((v.rgb_HW3, v.alpha_HW, v.depth_HW / 10) for v in views)
    errors = [float(np.mean((a.astype(np.float64) - b) ** 2)) for a, b in zip(*pairs, strict=True)]
    return float(-10 * np.log10(max(*errors, 1e-20)))


@functools.cache
def _say_once(obstacle: str) -> None:
    # no CUDA is the ordinary case; a CUDA device that lies idle is worth a warning
    torch = sys.modules.get("torch")
    level = logging.WARNING if torch is not None and torch.cuda.is_available() else logging.INFO
    _log.log(level, "drawing on the CPU. %s", obstacle)
