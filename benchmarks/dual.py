"""Whether the planner keeps 10 Hz while the VLM thinks in a thread beside it.

    python benchmarks/dual.py [--json] [--seconds S]

On the wall clock: a frame every 0.1 s, and the plan for it due before the next one comes. A tick that begins late
because the one before was late counts as late too. The planner and the VLM have one thread of torch each; frames are
noise in the default rig's sizes, weights random: neither changes what a pass costs. Rendering is not part of it.

"synchronous" is the same system with the VLM asked in every frame, as fast as it goes. Where CUDA is there, both also
with a VLM of Qwen2.5-VL-3B's size in bf16, randomly initialised (its vocabulary aside, which is that of our prompts),
the planner on a stream of its own with priority. The aim is meant for a quiet machine of two cores: look at the load.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from common import SCHEMA, command_line, machine, report

from senna2.model.live import live
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.model.vlm.qwen import DrivingVLM, VLMConfig
from senna2.types import ClipMeta, Observation, Rig, Samples

AIM = 0.01
PERIOD_S = 0.1
FRAMES = 16  # different ones, taken in turn
SYNCHRONOUS_SHARE = 1 / 12  # of the seconds of the threaded run
WARM_UP_S = 60.0
QWEN_3B = VLMConfig(
    hidden_size=2048, layers=36, heads=16, kv_heads=2, intermediate_size=11008, vision_hidden_size=1280,
    vision_layers=32, vision_heads=16, vision_intermediate_size=3420, initializer_range=0.02,
)  # fmt: skip


def system(size: str) -> DualSystem:
    """The dual system of the default configuration, with a VLM of this size ("tiny", "3b"), ready to drive."""
    if size == "tiny":
        vlm = DrivingVLM.tiny(seed=0)
    else:
        with torch.device("cuda"):  # three billion random numbers take a minute on a CPU
            vlm = DrivingVLM.tiny(QWEN_3B).to("cuda", torch.bfloat16)
    policy = DualSystem(PolicyConfig(), Rig.default(), vlm=vlm)
    policy.fit_planner(Samples.fake(64))
    return policy.eval() if size == "tiny" else policy.to("cuda").eval()


def frames() -> list[Observation]:
    return [replace(Observation.fake(Rig.default(), seed=i), state=None) for i in range(FRAMES)]


def threaded(policy: DualSystem, seconds: float) -> dict[str, Any]:
    """Drive so long by the wall clock. Latency is from a frame's arrival to its plan, waiting included."""
    seen = frames()
    cuda = policy.device.type == "cuda"
    stream = torch.cuda.stream(torch.cuda.Stream(priority=-1)) if cuda else nullcontext()
    latency, busy, ages = [], [], []
    with live(policy) as bank, stream:
        policy.reset(replace(ClipMeta.fake(), rig=Rig.default()), 0)
        for _ in range(3):  # the first passes also choose kernels and fill caches
            policy.act(replace(seen[0], t_s=0.0))
        if not bank.wait(WARM_UP_S):
            raise SystemExit(f"dual: the VLM gave no answer within {WARM_UP_S:.0f} s")
        ticks, start = bank.ticks, time.perf_counter()
        for k in range(round(seconds / PERIOD_S)):
            arrival = start + k * PERIOD_S
            time.sleep(max(0.0, arrival - time.perf_counter()))
            begun = time.perf_counter()
            plan = policy.act(replace(seen[k % FRAMES], t_s=arrival - start))
            done = time.perf_counter()
            latency.append(done - arrival)
            busy.append(done - begun)
            ages.append(plan.decision_age_s)
        spent = time.perf_counter() - start
        ticks = bank.ticks - ticks
    late = np.array(latency) > PERIOD_S
    at = (50, 90, 99, 100)
    return {
        "ticks": len(latency), "late": int(late.sum()), "deadline_miss_share": float(late.mean()),
        "latency_ms": {f"p{p}": round(1e3 * float(np.percentile(latency, p)), 2) for p in at},
        "planning_ms": {f"p{p}": round(1e3 * float(np.percentile(busy, p)), 2) for p in at},
        "vlm_hz": round(ticks / spent, 2),
        "decision_age_s": {"mean": round(float(np.mean(ages)), 3), "max": round(float(np.max(ages)), 3)},
    }  # fmt: skip


def synchronous(policy: DualSystem, seconds: float) -> dict[str, Any]:
    """Frames a second with the VLM asked in each."""
    seen = frames()
    policy.memory.period_s = PERIOD_S
    policy.reset(replace(ClipMeta.fake(), rig=Rig.default()), 0)
    policy.act(replace(seen[0], t_s=0.0))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        begun = time.perf_counter()
        plan = policy.act(replace(seen[len(times) % FRAMES], t_s=PERIOD_S * (len(times) + 1)))
        times.append(time.perf_counter() - begun)
        if plan.decision_age_s:
            raise SystemExit(f"dual: a decision {plan.decision_age_s:.1f} s old where each should be fresh")
    return {"hz": round(len(times) / sum(times), 2), "ms": {"p50": round(1e3 * float(np.median(times)), 2),
            "p99": round(1e3 * float(np.percentile(times, 99)), 2)}, "frames": len(times)}  # fmt: skip


def measure(seconds: float = 60.0) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    before = machine(torch, transformers, gpu=gpu)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for size in ("tiny", "3b"):
        if size == "3b" and not torch.cuda.is_available():
            rows.append({"vlm": size, "note": "skipped: no CUDA device here"})
            continue
        policy = system(size)
        known = {"vlm": size, "device": str(policy.device), "parameters": sum(p.numel() for p in policy.parameters())}
        rows.append({"what": "threaded", **known, **threaded(policy, seconds)})
        rows.append({"what": "synchronous", **known, **synchronous(policy, seconds * SYNCHRONOUS_SHARE)})
    return {
        "schema": SCHEMA,
        "machine": {**before, "load_average_after": machine()["load_average"]},
        "settings": {"seconds": seconds, "period_s": PERIOD_S, "rig": "default", "torch_threads_each": 1},
        "rows": rows,
        "headline": {
            "deadline_miss_share": {
                "value": rows[0]["deadline_miss_share"], "aim": AIM, "better": "lower",
                "what": f"share of the planner's ticks at 10 Hz later than the next frame, over {seconds:g} s of wall "
                        "clock, with the tiny VLM in a thread beside it",
            },
        },
    }  # fmt: skip


def row_text(row: dict[str, Any]) -> str:
    return "  ".join(f"{k} {v}" for k, v in row.items())


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="wall-clock seconds of the threaded run")
    args = parser.parse_args()
    if args.seconds < 1:
        parser.error(f"--seconds {args.seconds:g}: must be at least 1")
    result = measure(args.seconds)
    if not args.json:
        load = result["machine"]
        print(f"load average {load['load_average']} before, {load['load_average_after']} after")
    headline = "{name}: {value} (aim {aim}, {better} is better): {what}"
    report(result, args.json, row_text, digits=".4f", headline=headline)


if __name__ == "__main__":
    main()
