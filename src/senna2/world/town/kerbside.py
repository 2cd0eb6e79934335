"""Between carriageway and houses: kerb stones, parking bays, pavement, trees, lamps, signs."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from senna2.types import Array
from senna2.world.gaussians import SH_C0, GaussianCloud
from senna2.world.town.layout import CORNER_TIGHTER, Layout, lay, put_up, steps
from senna2.world.town.look import BAY, KERB_FACE, LAMP_LIGHT, PAVING, STONE, Look
from senna2.world.town.roads import ReferenceLine
from senna2.world.town.surfaces import SurfaceBuilder, placed, quat_about_z
from senna2.world.town.vegetation import build_tree

FACADE = 4.2  # m beyond the kerb where house fronts stand
PARKING = 2.3  # m, width of the parking bay where there is one
KERB_HEIGHT = 0.15
LAMP_EVERY = 25.0  # m
_BITS = {
    "0": "111101101101111", "1": "010110010010111", "2": "111001111100111", "3": "111001011001111",
    "4": "101101111001001", "5": "111100111001111", "6": "111100111101111", "7": "111001010010010",
    "8": "111101111101111", "9": "111101111001111",
}  # fmt: skip
DIGITS = {digit: np.array([bit == "1" for bit in bits]).reshape(5, 3) for digit, bits in _BITS.items()}


def add_kerbside(b: SurfaceBuilder, layout: Layout, look: Look, rng: np.random.Generator) -> Array:
    """Everything beside the road up to the house fronts. Gives the places of the street lamps (L, 3)."""
    lamps: list[Array] = []
    for kerb in layout.kerbs:
        bays = layout.bay if look.parking else (lambda p: np.zeros(len(p), bool))
        for begin, end, bay in layout.runs(kerb, 0.0, float(kerb.s_P[-1]), bays):
            for s0, s1, fine in layout.runs(kerb, begin, end, layout.fine):
                _ground(b, kerb, s0, s1, PARKING if bay else 0.0, look, fine)
        for s0, s1, fine in layout.runs(kerb, 0.0, float(kerb.s_P[-1]), layout.fine):
            cell = 1.2 if fine else 2.0
            lay(b, kerb, steps(s0, s1, cell), np.linspace(-0.2, FACADE + 0.3, 5 if fine else 3),
                np.array(PAVING) * 0.9 * _damp(look), z=-0.1, jitter=0.0)  # fmt: skip
        _trees(b, layout, kerb, look, rng)
        lamps += _lamps(b, layout, kerb, look, rng)
    _signs(b, layout)
    return np.array(lamps)


def _damp(look: Look) -> float:
    return 0.78 if look.weather == "rain" else 1.0


def _ground(b: SurfaceBuilder, kerb: ReferenceLine, s0: float, s1: float, bay: float, look: Look, fine: bool) -> None:
    damp, s_S = _damp(look), steps(s0, s1, 0.9 if fine else 1.8)
    paving = np.array(PAVING) * damp
    if bay:
        lay(b, kerb, s_S, np.array((0.0, 0.3)), np.array(STONE) * damp, z=0.01)
        across = np.linspace(0.3, bay, 4 if fine else 3)

        def tarmac(s: Array, d: Array) -> Array:
            boxes = (np.mod(s, 6.0) < 0.9) & (d > 0.4)  # a line every 6 m
            return np.where(boxes[:, None], 0.72, np.array(BAY) * damp)

        lay(b, kerb, s_S, across, tarmac, z=0.01, jitter=0.02)
    put_up(b, kerb, s_S, np.array((0.0, KERB_HEIGHT)), np.array(KERB_FACE) * damp, d=bay)
    lay(b, kerb, s_S, np.array((bay, bay + 0.35)), np.array(STONE) * damp, z=KERB_HEIGHT)
    columns = 2 if bay else 4
    slabs = np.linspace(bay + 0.35, FACADE + 0.1, (columns if fine else max(columns - 1, 2)) + 1)
    lay(b, kerb, s_S, slabs, paving, z=KERB_HEIGHT, jitter=0.018)


def _straight(kerb: ReferenceLine, s: float) -> bool:
    return bool(abs(kerb.kappa(s)) < 1 / CORNER_TIGHTER)


def _trees(b: SurfaceBuilder, layout: Layout, kerb: ReferenceLine, look: Look, rng: np.random.Generator) -> None:
    """Not where they would hide signals or who is about to cross."""
    s = rng.uniform(2.0, look.tree_spacing)
    while s < kerb.s_P[-1] - 1.0:
        foot = kerb.world(s, 0.0)
        bay = look.parking and bool(layout.bay(foot[None, :2])[0])
        tree = build_tree(rng, rng.uniform(5.0, 7.2), leaves=58)
        if _straight(kerb, s) and layout.away(foot[None, :2], 9.0)[0] and not _hides(foot, layout, look):
            b.add_cloud(placed(tree, kerb.world(s, PARKING + 0.75 if bay else 1.95), KERB_HEIGHT))
        s += look.tree_spacing * rng.uniform(0.85, 1.2)


def _hides(foot_3: Array, layout: Layout, look: Look) -> bool:
    """Whether something there would stand before who waits to cross."""
    s, _ = layout.roads.main.line.project(foot_3[None, :2])
    return any(low < float(s[0]) < high for low, high in look.clear)


def _lamps(b: SurfaceBuilder, layout: Layout, kerb: ReferenceLine, look: Look, rng: np.random.Generator) -> list[Array]:
    heads = []
    lit = look.weather == "dusk"
    for s in np.arange(rng.uniform(3.0, LAMP_EVERY), kerb.s_P[-1] - 1.0, LAMP_EVERY):
        foot, head = kerb.world(s, 0.5), kerb.world(s, -0.6)
        if not _straight(kerb, s) or _hides(foot, layout, look):
            continue
        post = np.column_stack([np.tile(foot[:2], (11, 1)), np.linspace(0.3, 6.0, 11)])
        b.add(post, (0.06, 0.06, 0.30), (0.25, 0.25, 0.27))
        arm = np.column_stack([np.linspace(foot[:2], head[:2], 4), np.full(4, 6.1)])
        b.add(arm, (0.14, 0.14, 0.04), (0.25, 0.25, 0.27))
        b.add((head[0], head[1], 6.05), (0.16, 0.42, 0.07), LAMP_LIGHT if lit else (0.80, 0.80, 0.75),
              quats=quat_about_z(foot[2]))  # fmt: skip
        heads.append(np.array((head[0], head[1], 6.05)))
    return heads


def light_pools(cloud: GaussianCloud, lamps_L3: Array, look: Look) -> Array:
    """rgb (N, 3) of a cloud; at dusk brighter and warmer around the street lamps."""
    rgb = 0.5 + SH_C0 * cloud.sh_NK3[:, 0]
    if look.weather != "dusk" or len(lamps_L3) == 0:
        return rgb
    distance, _ = cKDTree(lamps_L3).query(cloud.means_N3, distance_upper_bound=16.0)
    gain = 1.9 * np.exp(-((np.minimum(distance, 1e3) / 7.5) ** 2))
    return np.where(rgb.max(1, keepdims=True) > 1.0, rgb, rgb * (1 + gain[:, None] * np.array((1.0, 0.80, 0.45))))


def _signs(b: SurfaceBuilder, layout: Layout) -> None:
    """Speed limit at the start, zebra signs, and a warning where a lane ends: on the right, facing the traffic."""
    main = layout.roads.main
    wanted = [(f"{10 * round(layout.roads.speed_limit * 0.36):02d}"[:2], 14.0)]  # km/h
    if layout.roads.zebra_s is not None:
        wanted.append(("zebra", layout.roads.zebra_s + 2.2))  # behind it: before, it would hide who waits there
    if main.drop is not None:
        wanted += [("ends", main.drop.s_from - 22.0), ("ends", main.drop.s_from + 2.0)]
    for name, s in wanted:
        x, y, yaw = main.line.world(s, -float(main.kerb(-1, s)) - 0.55)
        _sign(b, name, (float(x), float(y), float(yaw)))


def _sign(b: SurfaceBuilder, name: str, pose_3: tuple[float, float, float]) -> None:
    sign = SurfaceBuilder()
    sign.add([(0.05, 0, z) for z in np.linspace(0.3, 2.6, 6)], (0.035, 0.035, 0.24), (0.55, 0.55, 0.56))

    def face(p: Array) -> Array:
        """Mostly white or blue, with thin red: nothing here may be taken for a red light from afar."""
        y, z = p[:, 1], p[:, 2] - 2.55
        if name.isdigit():
            r = np.hypot(y, z)
            rgb = np.where((r > 0.33)[:, None], (0.78, 0.25, 0.22), (0.95, 0.95, 0.95))
            bits = np.concatenate([DIGITS[name[0]], np.zeros((5, 1), bool), DIGITS[name[1]]], 1)
            column, row = np.floor(3.5 - y / 0.06).astype(int), np.floor(2.5 - z / 0.07).astype(int)
            inside = (column >= 0) & (column < 7) & (row >= 0) & (row < 5)
            rgb[inside & bits[np.clip(row, 0, 4), np.clip(column, 0, 6)]] = (0.08, 0.08, 0.08)
            rgb[r > 0.42] = np.nan
        elif name == "zebra":
            triangle = (z > -0.25) & (np.abs(y) < 0.3 - 0.5 * (z + 0.25))
            rgb = np.where(triangle[:, None], (0.95, 0.95, 0.95), (0.08, 0.22, 0.70))
        else:
            edge = 0.46 - 0.52 * (z + 0.45)
            rim = (np.abs(y) > edge - 0.11) | (z < -0.36)
            rgb = np.where(rim[:, None], (0.78, 0.25, 0.22), (0.95, 0.95, 0.92))
            rgb[(np.abs(y) < 0.06) & (z > -0.25) & (z < 0.05)] = (0.1, 0.1, 0.1)
            rgb[np.abs(y) > edge] = np.nan
        return rgb

    def back(p: Array) -> Array:
        return np.where(np.isnan(face(p)), np.nan, 0.45)

    sign.rectangle((0.05, -0.45, 2.1), (0, 0.9, 0), (0, 0, 0.9), 0.15, back, jitter=0)
    sign.rectangle((0, -0.45, 2.1), (0, 0.9, 0), (0, 0, 0.9), 0.06 if name.isdigit() else 0.10, face, jitter=0)
    b.add_cloud(placed(sign.cloud(), pose_3, KERB_HEIGHT))
