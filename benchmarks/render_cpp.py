"""Compiles `render_kernel.cpp` and draws with it: the bridge of benchmarks/render.py to its yardstick."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from senna2.world.render import Instance, PosedCamera, Sky, View
from senna2.world.render.prepare import prepare, prepare_camera

FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")


class CloudArgument(ctypes.Structure):
    _fields_: ClassVar[list[Any]] = [(n, ctypes.c_void_p) for n in ("geometry", "cells", "rgb", "cell")] + [
        ("count", ctypes.c_int64), ("cell_count", ctypes.c_int64),
        ("view", ctypes.c_float * 12), ("sphere", ctypes.c_float * 4),
    ]  # fmt: skip


class CameraArgument(ctypes.Structure):
    _fields_ = [(n, ctypes.c_float) for n in ("fx", "fy", "cx", "cy", "left", "right", "up", "down", "near")] + [
        ("width", ctypes.c_int32), ("height", ctypes.c_int32),
    ]  # fmt: skip


def compiled() -> tuple[ctypes.CDLL | None, str]:
    """The C++ kernel, or None and why not."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if shutil.which("g++") is None:
        return None, "no g++ on this machine"
    if " avx2 " not in flags or " fma " not in flags:
        return None, "this machine has no AVX2 or no FMA"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "render_kernel.so"
        source = Path(__file__).with_name("render_kernel.cpp")
        done = subprocess.run(["g++", *FLAGS, "-o", library, source], capture_output=True, text=True, check=False)
        if done.returncode:
            return None, f"g++ failed: {done.stderr[-500:]}"
        kernel = ctypes.CDLL(str(library))  # stays mapped when the folder is gone
    kernel.render_view.restype = ctypes.c_int64
    return kernel, ""


class CppView:
    """One view drawn by the C++ kernel, by day. Arguments are made beforehand: only drawing is timed."""

    def __init__(self, kernel: ctypes.CDLL, instances: list[Instance], view: PosedCamera) -> None:
        camera, world = view.camera, view.cam_to_world_44
        optics = prepare_camera(camera)
        clouds = [prepare(i.cloud) for i in instances]
        arguments = (CloudArgument * len(clouds))()
        for k, (cloud, instance) in enumerate(zip(clouds, instances, strict=True)):
            pose = np.eye(4) if instance.pose_44 is None else instance.pose_44
            turn = world[:3, :3].T @ pose[:3, :3]
            centre = pose[:3, :3].T @ (world[:3, 3] - pose[:3, 3])
            matrix = np.concatenate([turn, centre[:, None]], 1).ravel()
            arguments[k] = CloudArgument(
                *(a.ctypes.data for a in (cloud.geometry_NG, cloud.cells_C4, cloud.rgb_N3, cloud.cell_N)),
                len(cloud.geometry_NG), len(cloud.cells_C4),
                (ctypes.c_float * 12)(*matrix), (ctypes.c_float * 4)(*cloud.centre_3, cloud.radius),
            )  # fmt: skip
        sky = np.array([Sky.day().horizon_rgb, Sky.day().zenith_rgb], np.float32)
        up = world[2, :3].astype(np.float32)
        size = (camera.height, camera.width)
        self.view = View(np.empty((*size, 3), np.float32), np.empty(size, np.float32), np.empty(size, np.float32))
        lens = CameraArgument(*optics.camera_4, *optics.slope_4, camera.near, camera.width, camera.height)
        arrays = (up, optics.rays_HW3, sky, self.view.rgb_HW3, self.view.depth_HW, self.view.alpha_HW)
        self._keep = (clouds, arguments, lens, arrays, optics)
        pointers = (ctypes.c_void_p(a.ctypes.data) for a in arrays)
        self._arguments = (arguments, ctypes.c_int64(len(clouds)), ctypes.byref(lens), *pointers)
        self._draw = kernel.render_view

    def draw(self, stage: int = 4, count: Any = None) -> int:
        return int(self._draw(*self._arguments, stage, count))
