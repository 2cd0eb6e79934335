"""Look-up by name of what can be exchanged. Built-ins are listed here, others come by entry points
(group `senna2.<kind>`); nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from senna2.types import InputError, meant

BUILT_IN: Mapping[str, Mapping[str, str]] = {
    "policies": {
        "constant_velocity": "senna2.drivers:ConstantVelocity",
        "expert": "senna2.drivers:Expert",
        "idm": "senna2.drivers:Idm",
        "naive": "senna2.drivers:Naive",
    },
    "planners": {
        "dit": "senna2.model.planners.dit:DiT",
        "transfuser": "senna2.model.planners.transfuser:TransFuser",
        "vad": "senna2.model.planners.vad:Vad",
        "vadv2": "senna2.model.planners.vadv2:VadV2",
        "genad": "senna2.model.planners.genad:GenAd",
        "diffusiondrive": "senna2.model.planners.diffusiondrive:DiffusionDrive",
        "resad": "senna2.model.planners.resad:ResAd",
        "rad": "senna2.model.planners.rad:Rad",
        "rad2": "senna2.model.planners.rad2:Rad2",
    },
    "sources": {"town": "senna2.world.town.families:make_scene"},
    "scenes": {
        "town": "senna2.world.town.families:make_scene",
        "recorded": "senna2.world.dress:dress_log",
    },
    "metrics": {
        "consistency": "senna2.evaluate.consistency:consistency",
        "open_loop": "senna2.evaluate.open_loop:open_loop",
        "closed_loop": "senna2.evaluate.closed_loop:closed_loop",
        "control": "senna2.evaluate.control:control",
    },
    "renderers": {
        "cpu": "senna2.world.render.cpu:CpuRenderer",
        "gsplat": "senna2.world.render.gsplat:GsplatRenderer",
        "reference": "senna2.world.render.reference:ReferenceRenderer",
    },
    "traffic": {
        "replay": "senna2.world.traffic.replay:replay",
        "idm": "senna2.world.traffic.idm:idm",
        "mobil": "senna2.world.traffic.mobil:mobil",
        "hybrid": "senna2.world.traffic.hybrid:hybrid",
        "triggered": "senna2.world.traffic.triggered:triggered",
    },
    "recipes": {
        "smoke": "senna2.recipes.smoke:smoke",
        "laptop": "senna2.recipes.laptop:laptop",
        "results": "senna2.recipes.results:results",
        "baselines": "senna2.recipes.results:baselines",
        "gpu": "senna2.recipes.gpu:gpu",
        "paper": "senna2.recipes.paper:paper",
    },
}


def listing(kind: str) -> dict[str, str]:
    """Name → where it comes from, built-ins and entry points; `InputError` for an unknown kind."""
    if kind not in BUILT_IN:
        raise InputError(f"'{kind}' is no kind of item; kinds are {sorted(BUILT_IN)}{meant(kind, BUILT_IN)}")
    found = dict(BUILT_IN[kind])
    if kind == "policies":
        found |= {name: "/".join(folder.parts[-3:]) for name, folder in packaged().items()}
    for point in importlib.metadata.entry_points(group=f"senna2.{kind}"):
        found[point.name] = point.value
    return found


def packaged() -> dict[str, Path]:
    """Policies whose weights lie in the package, by name, and in a checkout of the source the systems of the published
    tables (`docs/results/weights`), too many for a package; empty while there are none."""
    here = Path(__file__).parent
    folders = (here.parents[1] / "docs" / "results" / "weights", here / "weights")
    return {p.parent.name: p.parent for folder in folders for p in sorted(folder.glob("*/config.json"))}


def get(kind: str, name: str) -> Any:
    """The registered object, or the one at `module:attribute`; `InputError` names what exists."""
    found = listing(kind)
    if ":" in name:
        found[name] = name
    if name not in found:
        raise InputError(
            f"no {kind} named '{name}'; there are {sorted(found)}, or give module:attribute{meant(name, found)}"
        )
    module, _, attribute = found[name].partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:  # of a plug-in; built-ins are tested
        raise InputError(f"{kind} '{name}' ({found[name]}) cannot be loaded: {error}") from error


def find_checkpoint(path: Path) -> Path | None:
    """The checkpoint folder itself, or the one a stage left in `path/policy`; None if there is neither."""
    return next((f for f in (path, path / "policy") if (f / "config.json").is_file()), None)


def make_policy(spec: str, *, forced: Any = None, any_rig: bool = False, device: str = "cpu") -> Any:
    """A policy by registered name or `module:attribute`, or from a checkpoint folder (one that holds config.json).

    Of a checkpoint: `forced` is a decision for the whole rollout, or a callback `(observation, the VLM's decision) ->
    Decision | None`; `any_rig` drives with other cameras than those it was trained with; `device` (of torch) is where
    its networks compute, and nothing to a registered driver. Raises `InputError` for an unknown name, a device that is
    not there, and for `forced` or `any_rig` with a registered driver, which has no decision to override.
    """
    shipped = packaged()
    outside = ":" in spec and not Path(spec).exists()
    if outside or (spec in listing("policies") and spec not in shipped):
        if forced is not None or any_rig:
            raise InputError(f"--policy {spec}: forced and any_rig are for checkpoints; this driver decides nothing")
        factory: Callable[[], Any] = get("policies", spec)
        return factory()
    folder = shipped.get(spec, Path(spec))
    if (folder / "config.json").is_file():
        from senna2.model.policy import DualSystem  # torch only when a checkpoint is asked for

        return DualSystem.from_pretrained(folder, device, forced=forced, any_rig=any_rig).eval()
    hint = "a folder without config.json" if folder.exists() else "neither a registered policy nor a checkpoint folder"
    known = sorted(listing("policies"))
    raise InputError(f"--policy {spec}: {hint}; registered are {known}{meant(spec, known)}")
