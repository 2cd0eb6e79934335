"""How fast the hand-written backward pass is, against the forward pass that it belongs to.

    python benchmarks/render_backward.py [--json]

One thread. Three views of a street of flat gaussians drawn from a seed, without agents: a fit knows one cloud. CPU
times, the least of several repeats, the jobs taking turns; ratios are taken in one run. "forward" and "backward" are
the passes of a fit (covariances and colours from their parameters included), "renderer" is the plain CPU renderer on
the same views, "fit_step" what torch sees: forward, an L1 loss, and backward, without the optimiser.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy as np
import torch
from common import SCHEMA, command_line, least_ms, machine, report

from senna2.types import Array, Camera, EgoState, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, posed
from senna2.world.render.autograd import render_differentiable
from senna2.world.render.backward import Gradients, backward, forward
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.reference import cloud_tensors

AIM = 2.2
EGO = EgoState(40.0, -1.75, 0.0, 8.0)


def street(target: int, seed: int = 0) -> GaussianCloud:
    """160 m of road between two rows of facades, as about `target` flat tiles: two thirds road, one third walls."""
    rng = np.random.default_rng(seed)

    def plane(length: float, width: float, count: float) -> tuple[Array, float]:
        step = (length * width / count) ** 0.5
        grid = np.stack(np.meshgrid(np.arange(0, length, step), np.arange(0, width, step), indexing="ij"), -1)
        return grid.reshape(-1, 2) + step / 2, step

    road, fine = plane(160, 22, target * 2 / 3)
    wall, coarse = plane(160, 12, target / 6)
    depths = 11 + 4 * (np.floor(wall[:, 0] / 16) % 2)  # every second house stands back
    parts = [
        (np.insert(road - (0, 11), 2, 0.0, 1), (0.58 * fine, 0.58 * fine, 0.015)),
        *((np.stack([wall[:, 0], side * depths, wall[:, 1]], 1), (0.58 * coarse, 0.015, 0.58 * coarse))
          for side in (-1, 1)),
    ]  # fmt: skip
    means = np.concatenate([m for m, _ in parts])
    scales = np.concatenate([np.tile(s, (len(m), 1)) for m, s in parts])
    n = len(means)
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    return GaussianCloud.from_rgb(means, scales, quats, np.full(n, 0.97), rng.uniform(0.2, 0.8, (n, 3)))


def three_views(width: int, height: int) -> list[PosedCamera]:
    """Front 80° and left, right ±55°, all at one size."""
    views = [("front", 0.0), ("left", 55.0), ("right", -55.0)]
    rig = Rig(tuple(Camera.looking(name, yaw_deg=yaw, fov_deg=80, width=width, height=height, horizon_row=0.42 * height,
                                   position_in_ego=(1.7, 0.0, 1.55)) for name, yaw in views))  # fmt: skip
    return posed(rig, EGO)


def measure_views(target: int, width: int, height: int, repeats: int) -> dict[str, Any]:
    """Times in ms for the three views together."""
    cloud, cameras, sky = street(target), three_views(width, height), Sky.day()
    rng = np.random.default_rng(0)
    traces = forward(cloud, cameras)
    weights = [rng.normal(size=trace.sums_HW5.shape).astype(np.float32) for trace in traces]
    gradients = Gradients.zeros(len(cloud), cloud.sh_NK3.shape[1])
    tensors = [t.requires_grad_() for t in cloud_tensors(cloud, torch.float32)]
    means, scales, quats, opacities, sh = tensors
    goal = torch.full((3, height, width, 3), 0.5)

    def back() -> None:
        for trace, weight in zip(traces, weights, strict=True):
            backward(cloud, trace, weight, gradients)

    def step() -> None:
        rgb = render_differentiable(means, scales, quats, opacities, sh, cameras, sky)[0]
        torch.autograd.grad((rgb - goal).abs().mean(), tensors)

    renderer, instances = CpuRenderer(), [Instance(cloud)]
    jobs = {
        "forward": lambda: forward(cloud, cameras), "backward": back,
        "renderer": lambda: renderer.render(instances, cameras, sky), "fit_step": step,
    }  # fmt: skip
    ms = dict(zip(jobs, least_ms(list(jobs.values()), repeats), strict=True))
    drawn = sum(len(trace.splats_SR) for trace in traces)
    return {
        "views": f"3 views {width}x{height}", "gaussians": len(cloud), "splats_drawn": drawn, "ms": ms,
        "backward_over_forward": ms["backward"] / ms["forward"],
        "backward_over_renderer": ms["backward"] / ms["renderer"],
    }  # fmt: skip


def measure(repeats: int = 20) -> dict[str, Any]:
    torch.set_num_threads(1)
    sizes = ((20_000, 160, 96), (40_000, 160, 96), (40_000, 256, 144))
    rows = [measure_views(*size, repeats) for size in sizes]
    return {
        "schema": SCHEMA,
        "machine": machine(np, numba, torch),
        "settings": {"threads": 1, "repeats": repeats, "statistic": "least CPU time", "seed": 0},
        "rows": rows,
        "headline": {
            "backward_over_forward_160x96": {
                "value": rows[1]["backward_over_forward"], "aim": AIM, "better": "lower",
                "what": "backward over forward pass of a fit, three 160x96 views of a 40 k street",
            },
        },
    }  # fmt: skip


def row_text(row: dict[str, Any]) -> str:
    times = "  ".join(f"{name} {ms:.1f}" for name, ms in row["ms"].items())
    return f"{row['views']:16} {row['gaussians']:6} gaussians {row['splats_drawn']:6} splats   ms: {times}"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    report(measure(args.repeats), args.json, row_text)


if __name__ == "__main__":
    main()
