"""Renderers of gaussian clouds behind one protocol (`base`): `cpu` (numba, default), `reference` (torch, the judge).

Only the protocol is imported here: `render.cpu` costs numba, `render.reference` torch.
"""

from senna2.world.render.base import Instance, PosedCamera, Renderer, Sky, View, posed, to_u8

__all__ = ["Instance", "PosedCamera", "Renderer", "Sky", "View", "posed", "to_u8"]
