"""How fast the CPU renderer is: against the torch reference, and on a clip's rig with 20 agents.

    python benchmarks/render.py [--json]

One thread throughout. CPU times, the least of several repeats (a shared machine only ever adds); the ratio is taken in
one run on one scene. Self-contained: a street of flat gaussians, facades, trees and parked boxes, drawn from a seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy as np
import torch

from senna2.frames import pose_to_matrix
from senna2.types import Array, Camera, EgoState, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, posed
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.reference import ReferenceRenderer

SCHEMA = "senna2.bench/1"
EGO = EgoState(40.0, -1.75, 0.0, 8.0)


def surface(rng: np.random.Generator, corner: Array, u: Array, v: Array, step: float, rgb: Array) -> GaussianCloud:
    """Flat gaussians tiling the parallelogram corner + [0,1]·u + [0,1]·v (u, v orthogonal)."""
    lengths = np.linalg.norm([u, v], axis=1)
    counts = np.maximum(np.round(lengths / step), 1).astype(int)
    grid = (np.stack(np.meshgrid(*(np.arange(c) for c in counts), indexing="ij"), -1).reshape(-1, 2) + 0.5) / counts
    means = corner + grid @ np.array([u, v])
    normal = np.cross(u, v) / np.prod(lengths)
    # the shortest rotation that turns z into the normal; its in-plane turn is irrelevant for a round surfel
    quat = np.array([1 + normal[2], -normal[1], normal[0], 0]) if normal[2] > -0.99 else np.array([0.0, 1, 0, 0])
    n = len(means)
    scales = np.tile([0.58 * step, 0.58 * step, 0.015], (n, 1))
    colours = np.clip(rgb + rng.normal(0, 0.04, (n, 1)), 0, 1)
    return GaussianCloud.from_rgb(
        means, scales, np.tile(quat / np.linalg.norm(quat), (n, 1)), np.full(n, 0.97), colours
    )


def box(rng: np.random.Generator, size: tuple[float, float, float], step: float, rgb: Array) -> GaussianCloud:
    """Four walls and a roof, origin at the bottom centre."""
    l, w, h = size
    x, y, z = np.eye(3) * size
    low, high = np.array([-l / 2, -w / 2, 0.1]), np.array([l / 2, w / 2, h])
    sides = [(low, x, z), (low, y, z), (high - z, -x, z), (high - z, -y, z), (high, -x, -y)]
    return GaussianCloud.concatenate(
        [surface(rng, *side, step, rgb * f) for side, f in zip(sides, (0.9, 0.8, 0.7, 0.8, 1), strict=True)]
    )


def street(target: int, seed: int = 0) -> GaussianCloud:
    """160 m of road, pavements, facades and trees, thinned or thickened to about `target` gaussians."""
    rng = np.random.default_rng(seed)
    fine = (28_700 / target) ** 0.5  # the spacings below give 28.7 k
    e = np.eye(3)
    parts = [
        surface(rng, np.array([0, -7.0, 0]), 160 * e[0], 14 * e[1], 0.40 * fine, np.array([0.36, 0.36, 0.38])),
        surface(rng, np.array([0, -11.0, 0.15]), 160 * e[0], 4 * e[1], 0.7 * fine, np.array([0.6, 0.58, 0.55])),
        surface(rng, np.array([0, 7.0, 0.15]), 160 * e[0], 4 * e[1], 0.7 * fine, np.array([0.6, 0.58, 0.55])),
    ]
    for x in np.arange(0, 160, 16.0):
        for y, turn in ((-11.0, 1), (11.0, -1)):
            height = rng.uniform(8, 15)
            wall = surface(rng, np.array([x, y, 0]), 14 * e[0], height * e[2], 0.6 * fine, rng.uniform(0.3, 0.8, 3))
            side = surface(
                rng,
                np.array([x, y, 0]),
                -turn * 8 * e[1],
                height * e[2],
                1.2 * fine,
                rng.uniform(0.3, 0.7, 3),
            )
            parts += [wall, side]
    for x in np.arange(8, 160, 12.0):
        for y in (-8.5, 8.5):
            n = int(80 / fine**2)
            shell = rng.normal(size=(n, 3))
            shell *= 1.8 / np.linalg.norm(shell, axis=1, keepdims=True)
            green = np.clip(np.array([0.2, 0.45, 0.15]) + rng.normal(0, 0.06, (n, 3)), 0, 1)
            quats = np.tile([1.0, 0, 0, 0], (n, 1))
            scales = rng.uniform(0.2, 0.45, (n, 3)) * fine
            parts.append(GaussianCloud.from_rgb(shell + np.array([x, y, 4.5]), scales, quats, np.full(n, 0.9), green))
    return GaussianCloud.concatenate(parts)


def scene(target: int, agents: int, seed: int = 0) -> list[Instance]:
    """A street and cars (about 600 gaussians each) along it, two looks shared by all."""
    rng = np.random.default_rng(seed + 1)
    looks = [box(rng, (4.5, 1.8, 1.5), 0.25, rng.uniform(0.2, 0.9, 3)) for _ in range(2)]
    instances = [Instance(street(target, seed))]
    for i in range(agents):
        x, y, yaw = rng.uniform(5, 155), (-5.2, -1.75, 1.75, 5.2)[i % 4], np.pi * (i % 4 > 1)
        if abs(x - EGO.x) < 8:
            x += 20
        instances.append(Instance(looks[i % 2], pose_to_matrix(np.array([x, y, yaw]))))
    return instances


def three_views(width: int, height: int) -> list[PosedCamera]:
    """Front 80° and left, right ±55°, all at one size."""
    views = [("front", 0.0), ("left", 55.0), ("right", -55.0)]
    rig = Rig(tuple(Camera.looking(name, yaw_deg=yaw, fov_deg=80, width=width, height=height, horizon_row=0.42 * height,
                                   position_in_ego=(1.7, 0.0, 1.55)) for name, yaw in views))  # fmt: skip
    return posed(rig, EGO)


def least_ms(job: Callable[[], Any], repeats: int) -> float:
    """Least CPU time of `repeats` runs after one to warm up, ms. Wall time would also measure the neighbours."""
    job()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        job()
        times.append(time.thread_time() - start)
    return 1e3 * min(times)


def machine() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    models = (
        [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "cpu": models[0] if models else platform.processor(), "cores": os.cpu_count(), "os": platform.platform(),
        "python": platform.python_version(), "numpy": np.__version__,
        "numba": numba.__version__, "torch": torch.__version__,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }  # fmt: skip


def measure(repeats: int = 20) -> dict[str, Any]:
    torch.set_num_threads(1)
    cpu, sky, rows = CpuRenderer(), Sky.day(), []
    rigs = {
        "3 views 160x96": three_views(160, 96),
        "3 views 256x144": three_views(256, 144),
        "default rig": posed(Rig.default(), EGO),
    }
    town, agents = scene(40_000, 20), 20
    for name, cameras in rigs.items():
        ms = least_ms(lambda c=cameras: cpu.render(town, c, sky), repeats)
        rows.append({"what": "cpu", "views": name, "background": len(town[0].cloud), "agents": agents, "ms": ms})
    # the reference tries every gaussian at every pixel, so its time grows with both: a quarter of the street
    small, view = scene(10_000, 20), three_views(160, 96)[:1]
    cpu_ms = least_ms(lambda: cpu.render(small, view, sky), repeats)
    start = time.thread_time()  # seconds a view: once is enough
    judged = ReferenceRenderer().render(small, view, sky)[0]
    torch_ms = 1e3 * (time.thread_time() - start)
    error = np.mean((judged.rgb_HW3.astype(np.float64) - cpu.render(small, view, sky)[0].rgb_HW3) ** 2)
    row = {"views": "front 160x96", "background": len(small[0].cloud), "agents": agents}
    rows += [
        {"what": "cpu", **row, "ms": cpu_ms, "psnr_db": float(-10 * np.log10(error))},
        {"what": "reference", **row, "ms": torch_ms},
    ]
    return {
        "schema": SCHEMA,
        "machine": machine(),
        "settings": {
            "threads": 1, "repeats": repeats, "statistic": "least CPU time; reference once", "seed": 0,
            "ego": dataclasses.asdict(EGO),
        },
        "rows": rows,
        "headline": {
            "torch_over_numba": {
                "value": torch_ms / cpu_ms, "aim": 300, "better": "higher",
                "what": "dense float64 torch reference over the CPU renderer, one 160x96 view of a 10 k street",
            },
            "ms_three_views_20_agents": {
                "value": rows[0]["ms"], "aim": 22, "better": "lower",
                "what": "ms for three 160x96 views of a 40 k street with 20 agents, one core",
            },
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    result = measure(args.repeats)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for row in result["rows"]:
        size = f"{row['background']} gaussians, {row['agents']} agents"
        print(f"{row['what']:10} {row['views']:16} {size:28} {row['ms']:9.2f} ms")
    for name, h in result["headline"].items():
        print(f"{name} = {h['value']:.1f} (aim {h['aim']}, {h['better']} is better)")


if __name__ == "__main__":
    main()
