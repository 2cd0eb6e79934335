"""`senna2 doctor`: what this machine has, what senna2 will use of it, and a fix for each problem."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

TESTED = ("torch", "transformers", "peft", "numba", "numpy", "gymnasium", "pyarrow")


def doctor() -> dict[str, Any]:
    """A JSON-able report: versions, hardware, renderer, problems (each with its fix); `ok` if there is none."""
    problems: list[str] = []
    versions = {"python": platform.python_version()}
    for name in TESTED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            problems.append(f"{name} is not installed: run `make install`")
    for name, wanted in _constraints().items():
        found = versions.get(name)
        if found is not None and found.split("+")[0] != wanted:
            problems.append(f"{name} is {found}, tested with {wanted}: `pip install -c constraints.txt -e .`")
    hardware: dict[str, Any] = {
        "cores": os.cpu_count(),
        "disk_free_gb": round(shutil.disk_usage(".").free / 1e9, 1),
    }
    if hardware["disk_free_gb"] < 2:
        problems.append("less than 2 GB of disk are free here: a laptop run needs about 2 GB")
    if _has("torchvision") and not _works("torchvision"):
        problems.append(
            "torchvision is installed but cannot be imported: `pip uninstall torchvision` (senna2 needs none)"
        )
    if any(name not in versions for name in TESTED):  # what follows imports them
        return {"ok": False, "versions": versions, "hardware": hardware, "problems": problems}
    hardware["gpu"] = _gpu()
    renderer = _render_once(problems)
    obstacle = _why_not_gsplat()
    video = _video(problems)
    return {
        "ok": not problems,
        "versions": versions,
        "hardware": hardware,
        "renderer": renderer,
        "gsplat": obstacle or "works, and draws wherever no renderer is named",
        "video": video,
        "problems": problems,
    }


def _constraints() -> dict[str, str]:
    """The tested versions, where senna2 runs from its checkout."""
    path = Path(__file__).resolve().parents[2] / "constraints.txt"
    if not path.is_file():
        return {}
    found = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition("==")
        if name.strip() in TESTED and rest:
            found[name.strip()] = rest.split(";")[0].split("#")[0].strip()
    return found


def _has(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _works(name: str) -> bool:
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: senna2 runs on the CPU"


def _render_once(problems: list[str]) -> str:
    """The CPU renderer against the reference on one small cloud."""
    import numpy as np

    from senna2.types import Camera
    from senna2.world.gaussians import GaussianCloud
    from senna2.world.render.base import Instance, PosedCamera, Sky
    from senna2.world.render.cpu import CpuRenderer
    from senna2.world.render.reference import ReferenceRenderer

    camera = Camera.fake()
    scene = ([Instance(GaussianCloud.fake())], [PosedCamera(camera, camera.cam_to_ego_44)], Sky.day())
    ours, reference = (r.render(*scene)[0].rgb_HW3 for r in (CpuRenderer(), ReferenceRenderer()))
    psnr = -10 * float(np.log10(max(np.mean((np.asarray(ours) - np.asarray(reference)) ** 2), 1e-12)))
    if psnr < 60:
        problems.append(f"cpu renderer differs from the reference ({psnr:.0f} dB): delete numba's __pycache__ folders")
    return f"cpu (numba), {psnr:.0f} dB against the reference"


def _why_not_gsplat() -> str | None:
    from senna2.world.render.select import why_not_gsplat

    return why_not_gsplat()


def _video(problems: list[str]) -> str:
    import imageio_ffmpeg

    try:
        return f"ffmpeg {imageio_ffmpeg.get_ffmpeg_version()}"
    except RuntimeError as error:
        problems.append(f"no ffmpeg: `pip install --force-reinstall imageio-ffmpeg` ({error})")
        return "none"
