"""Renderers of gaussian clouds behind one protocol: `cpu` (numba, default), `reference` (float64 torch, the judge)."""

from senna2.world.render.base import Instance, PosedCamera, Renderer, Sky, View, posed, to_u8
from senna2.world.render.cpu import CpuRenderer

__all__ = ["CpuRenderer", "Instance", "PosedCamera", "Renderer", "Sky", "View", "posed", "to_u8"]
