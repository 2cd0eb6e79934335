"""What a decision costs beyond reading the prompt: token trie, scoring of all twenty, and `generate`.

    python benchmarks/decide.py [--json]

The tiny VLM of the recipes and one of random weights with about 100 M parameters, one frame at a time, as when driving.
One thread; CPU times, the least of repeats in which the methods take turns (a shared machine only ever adds). Every
method begins with the samples: prompt and patches are part of each, and of the prefill they are compared with, which is
the stock forward pass over the prompt with the head at its last token.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import transformers
from common import SCHEMA, command_line, least_ms, report

from senna2.model.vlm import DrivingVLM, VLMConfig
from senna2.model.vlm.generate import say
from senna2.types import Camera, Rig, Samples

AIMS = {"tiny": 1.7, "100m": 1.15}
SEED = 3
ANSWER_TOKENS = 8  # random weights never end an answer by themselves; a trained model ends one of ours by then
LARGE = VLMConfig(
    hidden_size=768, layers=12, heads=12, kv_heads=12, intermediate_size=2048, vision_hidden_size=384, vision_layers=8,
    vision_heads=6, vision_intermediate_size=1536, initializer_range=0.02, max_pixels=336 * 168,
)  # fmt: skip
MODELS = {"tiny": (VLMConfig(), 60), "100m": (LARGE, 8)}  # and rounds


def frame(name: str) -> Samples:
    """One sample: of the default rig for the tiny model, of 336 × 168 pixels for the large one."""
    if name == "tiny":
        return Samples.fake(1, Rig.default(), SEED)
    front = Rig.default()["front"]
    camera = Camera(**{**{k: getattr(front, k) for k in front.__dataclass_fields__}, "width": 336, "height": 168})
    return Samples.fake(1, Rig((camera,)), SEED)


@torch.no_grad()
def measure(name: str) -> list[dict[str, Any]]:
    """A row a method."""
    config, rounds = MODELS[name]
    vlm = DrivingVLM.tiny(config, seed=SEED).eval()
    sample = frame(name)
    inputs = vlm.prepare(sample)
    calls: dict[str, Callable[[], object]] = {
        "prefill": lambda: vlm(**vlm.prepare(sample), logits_to_keep=1, use_cache=True),
        "vision": lambda: vlm.hf.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]),
        "trie": lambda: vlm.decide(sample),
        "score": lambda: vlm.decide(sample, method="score"),
        "constrained": lambda: vlm.decide(sample, method="constrained"),
        "generate": lambda: say(vlm.hf, vlm.tokenizer, vlm.prepare(sample), most=ANSWER_TOKENS),
    }
    told = {m: vlm.decide(sample, method=m) for m in ("trie", "constrained")}
    same = [(int(out.speed_B), int(out.direction_B)) for out in told.values()]
    assert same[0] == same[1], f"trie and constrained generation differ: {same}"
    times = least_ms(list(calls.values()), rounds, clock=time.process_time)
    ms = dict(zip(calls, times, strict=True))
    return [
        {
            "name": f"{method}_over_prefill_{name}",
            "model": name,
            "method": method,
            "cpu_ms": round(spent, 2),
            "over_prefill": round(spent / ms["prefill"], 3),
            "parameters": sum(p.numel() for p in vlm.parameters()),
            "prompt_tokens": int(inputs["input_ids"].shape[1]),
            "visual_tokens": int(inputs["mm_token_type_ids"].sum()),
            "rounds": rounds,
        }
        for method, spent in ms.items()
    ]


def row_text(row: dict[str, Any]) -> str:
    return f"{row['model']:5s} {row['method']:12s} {row['cpu_ms']:9.2f} ms  {row['over_prefill']:6.3f} x prefill"


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS, reverse=True))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in args.models for row in measure(name)]
    ratio = {(r["model"], r["method"]): r["over_prefill"] for r in rows}
    headline = {
        f"trie_over_prefill_{name}": {
            "value": ratio[name, "trie"], "aim": AIMS[name], "better": "lower",
            "what": "CPU time of a decision by token trie over that of the prompt's forward pass alone",
        }
        for name in args.models
    }  # fmt: skip
    result = {
        "schema": SCHEMA,
        "machine": {
            "cpu": platform.processor() or platform.machine(), "python": platform.python_version(),
            "torch": torch.__version__, "transformers": transformers.__version__,
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "settings": {"threads": 1, "batch": 1, "dtype": "float32", "seed": SEED, "time": "least CPU time"},
        "rows": rows,
        "headline": headline,
    }  # fmt: skip
    report(result, args.json, row_text, digits="", headline="{name}: {value} (aim {aim})")


if __name__ == "__main__":
    main()
