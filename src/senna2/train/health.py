"""Does the VLM decide, and does it look? Measured in stage 1a."""

from __future__ import annotations

import dataclasses

import numpy as np

from senna2.model.vlm import DrivingVLM
from senna2.train.diagnostics import DIRECTION_CLASSES, SPEED_CLASSES, shares
from senna2.types import Samples


def vlm_health(vlm: DrivingVLM, data: Samples, seed: int) -> dict[str, float]:
    """How well the VLM decides on these samples: accuracy of speed and direction, recall per class, shares of what it
    says (`says_`) and should say (`expert_`), mean entropy of its speed (nat), and the drop of its accuracy when images
    are shuffled among the samples: a VLM that ignores the image shows none (the text-only plateau)."""
    answer = vlm.decide(data)
    said, way = answer.speed_B.cpu().numpy(), answer.direction_B.cpu().numpy()
    order = np.random.default_rng(seed).permutation(len(data))
    shuffled_images = {k: v[order] for k, v in data.images.items()}
    blind = vlm.decide(dataclasses.replace(data, images=shuffled_images)).speed_B.cpu().numpy()
    known, annotated = data.speed_N >= 0, data.direction_N >= 0
    recall = {
        f"recall_{name}": float((given[right == i] == i).mean())
        for names, given, right in ((SPEED_CLASSES, said, data.speed_N), (DIRECTION_CLASSES, way, data.direction_N))
        for i, name in enumerate(names)
        if (right == i).any()
    }
    accuracy = float((said == data.speed_N)[known].mean()) if known.any() else 0.0
    without = float((blind == data.speed_N)[known].mean()) if known.any() else 0.0
    return {
        **recall,
        **{f"says_{c}": v for c, v in shares(said[known]).items()},
        **{f"expert_{c}": v for c, v in shares(data.speed_N[known]).items()},
        "accuracy": accuracy,
        "direction_accuracy": float((way == data.direction_N)[annotated].mean()) if annotated.any() else 0.0,
        "decision_entropy": float(answer.speed_entropy_B.mean()),
        "drop_when_shuffled": accuracy - without,
        "changed_when_shuffled": float((blind != said).mean()),
    }
