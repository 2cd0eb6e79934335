"""How fast the CPU renderer is: against hand-written C++ (AVX2), against the torch reference, and how near the limit.

    python benchmarks/render.py [--json]

One thread throughout. CPU times, the least of many short repeats in which numba and C++ take turns (a shared machine
only ever adds). Two scenes of 40 to 60 k gaussians with 20 agents: a clip of the town, which gives the headline, and a
street made of plain rectangles that no change of the town can touch. `render_kernel.cpp` is compiled on the spot with
g++; it draws the same image (checked before anything is timed) from the same prepared arrays.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numba
import numpy as np
import torch
from common import HEADLINE, SCHEMA, command_line, least_ms, machine, report
from render_cpp import FLAGS, CppView, compiled

from senna2.frames import pose_to_matrix
from senna2.types import AgentClass, Array, Camera, EgoState, Rig
from senna2.world.gaussians import GaussianCloud
from senna2.world.render import Instance, PosedCamera, Sky, View, cpu, posed, raster
from senna2.world.render.cpu import CpuRenderer
from senna2.world.render.prepare import prepare, prepare_camera
from senna2.world.render.reference import ReferenceRenderer
from senna2.world.town.assets import make_asset
from senna2.world.town.families import make_scene, scene_seed

EGO = EgoState(40.0, -1.75, 0.0, 8.0)
AGENTS = 20
FAMILY, MOMENT_S = "cut_in", 2.0
AGREE_DB = 60.0
# Floating-point operations of `project.project` for a gaussian, of `raster._blend_tile` for a pixel of a splat.
FLOPS_PROJECT, FLOPS_BLEND = 155, 33
BYTES_PROJECT = 4 * (12 + 1 + 3 + 11) + 8  # geometry, cell and colour in; splat and box out


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


def street_scene(target: int, agents: int, seed: int = 0) -> list[Instance]:
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


def town_scene(agents: int, seed: int = 0) -> tuple[list[Instance], EgoState]:
    """A generated clip at an instant: its background and its own agents, and more cars on its lanes up to `agents`."""
    rng = np.random.default_rng(seed)
    clip = make_scene(FAMILY, scene_seed("train", FAMILY, seed))
    frame = round(MOMENT_S / clip.meta.dt)
    ego = clip.expert.pose_E3[frame]
    here = [(t, t.pose_T3[frame]) for t in clip.tracks if len(t.t_T) > frame]
    drawn = [Instance(clip.assets[t.asset], pose_to_matrix(pose)) for t, pose in here][:agents]
    looks = [make_asset(AgentClass.CAR, 4.5, 1.8, 1.5, seed=k)[""] for k in range(3)]
    while len(drawn) < agents:
        line = clip.map.lanes[rng.integers(len(clip.map.lanes))].centre_P2
        k = rng.integers(len(line) - 1)
        place = line[k] + rng.random() * (line[k + 1] - line[k])
        if 9 < np.hypot(*(place - ego[:2])) < 120:
            yaw = np.arctan2(*(line[k + 1] - line[k])[::-1])
            drawn.append(Instance(looks[len(drawn) % 3], pose_to_matrix(np.array([*place, yaw]))))
    return [Instance(clip.background), *drawn], EgoState(float(ego[0]), float(ego[1]), float(ego[2]), 8.0)


def three_views(width: int, height: int, ego: EgoState) -> list[PosedCamera]:
    """Front 80° and left, right ±55°, all at one size."""
    views = [("front", 0.0), ("left", 55.0), ("right", -55.0)]
    rig = Rig(tuple(Camera.looking(name, yaw_deg=yaw, fov_deg=80, width=width, height=height, horizon_row=0.42 * height,
                                   position_in_ego=(1.7, 0.0, 1.55)) for name, yaw in views))  # fmt: skip
    return posed(rig, ego)


def psnr(a: View, b: View) -> float:
    return float(-10 * np.log10(np.mean((a.rgb_HW3.astype(np.float64) - b.rgb_HW3) ** 2) + 1e-20))


def numba_stages(instances: list[Instance], cameras: list[PosedCamera]) -> dict[str, Callable[[], Any]]:
    """The renderer's stages over all views, each on what the one before left."""
    scene = cpu._place([prepare(i.cloud) for i in instances], [i.pose_44 for i in instances])
    lenses = [(c.camera, prepare_camera(c.camera), c.cam_to_world_44) for c in cameras]
    ready: list[Any] = []
    tone = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    blend: Any = raster.blend  # mypy takes numba's dispatcher for a function without arguments
    sky = np.array([Sky.day().horizon_rgb, Sky.day().zenith_rgb], np.float32)
    for camera, optics, world in lenses:
        splats, boxes = (a.copy() for a in cpu._project_view(scene, camera, optics, world))
        order = raster.depth_order(np.ascontiguousarray(splats[:, 10]))
        tiles = raster.bin_tiles(order, boxes, camera.width, camera.height)
        size = (camera.height, camera.width)
        out = [np.empty((*size, 3), np.float32), np.empty(size, np.float32), np.empty(size, np.float32)]
        ready.append((splats, boxes, order, tiles, world[2, :3].astype(np.float32), optics.rays_HW3, out))
    return {
        "project": lambda: [cpu._project_view(scene, *lens) for lens in lenses],
        "sort": lambda: [raster.depth_order(np.ascontiguousarray(r[0][:, 10])) for r in ready],
        "bin": lambda: [raster.bin_tiles(r[2], r[1], *r[6][1].shape[::-1]) for r in ready],
        "blend": lambda: [blend(r[0], r[1], *r[3], r[4], r[5], sky, tone, *r[6]) for r in ready],
    }


def machine_limits(kernel: ctypes.CDLL) -> dict[str, float]:
    """Of one core: bytes a ns read from memory, additions and multiplications a ns of AVX2."""
    values = np.ones(32 << 20, np.float32)  # 128 MiB
    kernel.stream.restype = kernel.multiply_add.restype = ctypes.c_float
    rounds = 1_000_000
    stream_ms, flops_ms = least_ms(
        [
            lambda: kernel.stream(ctypes.c_void_p(values.ctypes.data), ctypes.c_int64(values.size)),
            lambda: kernel.multiply_add(ctypes.c_int64(rounds)),
        ],
        10,
    )
    return {"bytes_per_ns": values.nbytes / stream_ms / 1e6, "flops_per_ns": 192 * rounds / flops_ms / 1e6}


def compare(
    name: str, instances: list[Instance], cameras: list[PosedCamera], kernel: ctypes.CDLL | None, repeats: int
) -> list[dict[str, Any]]:
    """Rows of numba and, where there is one, the C++ kernel; refuses to time images that differ."""
    camera, sky, renderer = cameras[0].camera, Sky.day(), CpuRenderer()
    row = {
        "scene": name, "views": f"{len(cameras)} x {camera.width}x{camera.height}",
        "gaussians": sum(len(i.cloud) for i in instances), "agents": len(instances) - 1,
    }  # fmt: skip
    jobs: list[Callable[[], Any]] = [lambda: renderer.render(instances, cameras, sky)]
    if kernel is None:
        return [{"what": "numba", **row, "ms": least_ms(jobs, repeats)[0]}]
    cpp = [CppView(kernel, instances, c) for c in cameras]
    splats = sum(v.draw() for v in cpp)
    alike = min(psnr(a, b.view) for a, b in zip(renderer.render(instances, cameras, sky), cpp, strict=True))
    if alike < AGREE_DB:
        raise SystemExit(f"{name}: numba and C++ differ ({alike:.1f} dB): their times are not comparable")
    jobs.append(lambda: [v.draw() for v in cpp])
    numba_ms, cpp_ms = least_ms(jobs, repeats)
    return [
        {"what": "numba", **row, "ms": numba_ms, "splats": splats},
        {"what": "cpp", **row, "ms": cpp_ms, "splats": splats, "psnr_db": alike, "numba_over_cpp": numba_ms / cpp_ms},
    ]


def stages(
    name: str, instances: list[Instance], cameras: list[PosedCamera], kernel: ctypes.CDLL | None, repeats: int
) -> list[dict[str, Any]]:
    """Rows of the stages, and of the units of the two that cost most beside what the machine allows."""
    camera = cameras[0].camera
    row = {"scene": name, "views": f"{len(cameras)} x {camera.width}x{camera.height}"}
    ours = numba_stages(instances, cameras)
    if kernel is None:
        times = least_ms(list(ours.values()), repeats)
        return [{"what": f"numba {s}", **row, "ms": t} for s, t in zip(ours, times, strict=True)]
    cpp = [CppView(kernel, instances, c) for c in cameras]
    upto = [lambda k=k: [v.draw(k) for v in cpp] for k in (1, 2, 3, 4)]
    times = least_ms([*ours.values(), *upto], repeats)
    rows = []
    for k, stage in enumerate(ours):
        theirs = times[4 + k] - (times[3 + k] if k else 0.0)
        rows += [
            {"what": f"numba {stage}", **row, "ms": times[k]},
            {"what": f"cpp {stage}", **row, "ms": theirs},
        ]
    counts, splats = (ctypes.c_int64 * 2)(), sum(v.draw(1) for v in cpp)
    for v in cpp:
        v.draw(4, counts)
    limit = machine_limits(kernel)
    memory, compute = BYTES_PROJECT / limit["bytes_per_ns"], FLOPS_PROJECT / limit["flops_per_ns"]
    blend = FLOPS_BLEND / limit["flops_per_ns"]
    units = [
        ("ns per projected gaussian", times[0], times[4], splats, max(memory, compute)),
        ("ns per pixel-splat looked at", times[3], times[7] - times[6], counts[0], blend),
        ("ns per pixel-splat blended", times[3], times[7] - times[6], counts[1], blend),
    ]
    for what, numba_ms, cpp_ms, number, least in units:
        each = {"count": number, "numba": 1e6 * numba_ms / number, "cpp": 1e6 * cpp_ms / number, "limit": least}
        rows.append({"what": what, **row, **each})
    return [*rows, {"what": "machine", **row, **limit}]


def detail_rows(repeats: int) -> list[dict[str, Any]]:
    """A large cloud in full and with merged distances (not the default), from the street's beginning."""
    large, views, sky = street_scene(100_000, AGENTS), posed(Rig.default(), EgoState(2.0, -1.75, 0.0, 8.0)), Sky.day()
    renderers = [CpuRenderer(), CpuRenderer(detail="distance")]
    times = least_ms([partial(r.render, large, views, sky) for r in renderers], repeats)
    alike = min(psnr(a, b) for a, b in zip(*(r.render(large, views, sky) for r in renderers), strict=True))
    row = {"scene": "street", "views": "default rig", "gaussians": sum(len(i.cloud) for i in large), "agents": AGENTS}
    return [
        {"what": "numba", **row, "ms": times[0]},
        {"what": "numba detail=distance", **row, "ms": times[1], "psnr_db": alike},
    ]


def against_reference(repeats: int) -> tuple[float, list[dict[str, Any]]]:
    """The reference tries every gaussian at every pixel, so its time grows with both: a quarter of the street."""
    small, view = street_scene(10_000, AGENTS), three_views(160, 96, EGO)[:1]
    renderer, sky = CpuRenderer(), Sky.day()
    ours = renderer.render(small, view, sky)[0]
    (cpu_ms,) = least_ms([lambda: renderer.render(small, view, sky)], repeats)
    start = time.thread_time()  # seconds a view: once is enough
    judged = ReferenceRenderer().render(small, view, sky)[0]
    torch_ms = 1e3 * (time.thread_time() - start)
    row = {"scene": "street", "views": "1 x 160x96", "gaussians": sum(len(i.cloud) for i in small), "agents": AGENTS}
    rows = [
        {"what": "numba", **row, "ms": cpu_ms, "psnr_db": psnr(judged, ours)},
        {"what": "reference", **row, "ms": torch_ms},
    ]
    return torch_ms / cpu_ms, rows


def measure(repeats: int = 40) -> dict[str, Any]:
    torch.set_num_threads(1)
    kernel, why_not = compiled()
    scenes = {"town": town_scene(AGENTS), "street": (street_scene(40_000, AGENTS), EGO)}
    rows, ratios, town_ms = [], {}, 0.0
    for name, (instances, ego) in scenes.items():
        for width, height in ((160, 96), (256, 144)):
            found = compare(name, instances, three_views(width, height, ego), kernel, repeats)
            rows += found
            if name == "town":
                ratios[f"{width}x{height}"] = found[-1].get("numba_over_cpp")
                town_ms = town_ms or found[0]["ms"]
        rows += compare(f"{name}, default rig", instances, posed(Rig.default(), ego), kernel, repeats)
    for size in ((160, 96), (256, 144)):
        rows += stages("town", scenes["town"][0], three_views(*size, scenes["town"][1]), kernel, repeats)
    rows += detail_rows(repeats)
    torch_over_numba, found = against_reference(repeats)
    rows += found
    note = {"note": why_not} if kernel is None else {}
    return {
        "schema": SCHEMA,
        "machine": machine(np, numba, torch),
        "settings": {
            "threads": 1, "repeats": repeats, "statistic": "least CPU time, taking turns; reference once", "seed": 0,
            "family": FAMILY, "moment_s": MOMENT_S, "street_ego": dataclasses.asdict(EGO), "g++": " ".join(FLAGS),
        },
        "rows": rows,
        "headline": {
            "numba_over_cpp_160x96": {
                "value": ratios["160x96"], "aim": 1.5, "better": "lower", **note,
                "what": "CPU renderer over AVX2 C++, three 160x96 views of a town clip with 20 agents",
            },
            "numba_over_cpp_256x144": {
                "value": ratios["256x144"], "aim": 2, "better": "lower", **note,
                "what": "CPU renderer over AVX2 C++, three 256x144 views of a town clip with 20 agents",
            },
            "ms_three_views_20_agents": {
                "value": town_ms, "aim": 22, "better": "lower",
                "what": "ms for three 160x96 views of a town clip with 20 agents, one core",
            },
            "torch_over_numba": {
                "value": torch_over_numba, "aim": 300, "better": "higher",
                "what": "dense float64 torch reference over the CPU renderer, one 160x96 view of a 10 k street",
            },
        },
    }  # fmt: skip


def row_text(row: dict[str, Any]) -> str:
    values = [f"{k} {v:.2f}" for k, v in row.items() if isinstance(v, float)]
    return f"{row['scene']:18} {row['views']:12} {row['what']:28} {', '.join(values)}"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    report(measure(args.repeats), args.json, row_text, headline=HEADLINE + " {note}")


if __name__ == "__main__":
    main()
