"""What differs between streets that have the same shape: light, asphalt, houses' colours, parking, weather."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from senna2.types import Array, require
from senna2.world.scene import WEATHERS

RGB = tuple[float, float, float]
# Paint is brighter than white, because the asphalt beside it bleeds over it.
WHITE, YELLOW = (1.10, 1.10, 1.08), (1.05, 0.80, 0.10)
STONE, KERB_FACE, PAVING, BAY = (0.68, 0.68, 0.66), (0.50, 0.50, 0.48), (0.55, 0.51, 0.47), (0.40, 0.38, 0.38)
CYCLE_PATHS = ((0.56, 0.24, 0.19), (0.20, 0.42, 0.27))
WALLS = np.array(
    [
        (0.66, 0.47, 0.37), (0.76, 0.68, 0.57), (0.58, 0.60, 0.66), (0.70, 0.38, 0.30), (0.80, 0.74, 0.62),
        (0.50, 0.53, 0.50), (0.82, 0.80, 0.76), (0.52, 0.34, 0.28), (0.72, 0.58, 0.38), (0.62, 0.68, 0.70),
    ]
)  # fmt: skip
AWNINGS = np.array([(0.72, 0.16, 0.14), (0.14, 0.36, 0.24), (0.16, 0.26, 0.52), (0.80, 0.62, 0.16), (0.45, 0.18, 0.32)])
WINDOW, SHOP = np.array((0.17, 0.20, 0.25)), np.array((0.22, 0.25, 0.30))
WARM = np.array((2.7, 1.9, 0.85))  # lit windows at dusk: brighter than 1, for the sky's light dims all colours
LAMP_LIGHT = np.array((4.0, 3.3, 2.0))


@dataclass(frozen=True)
class Look:
    """tint: rgb gain of everything. asphalt: grey. parking: bays beside the kerb. tree_spacing m. yellow: the line
    between the senses. cycle: surface of cycle lanes. sun: rad, where the sun stands (world). weather: of `WEATHERS`;
    what the weather does to the sky and to all light is the renderer's business, here windows light up or roads wet.
    clear: stretches along the main street without lamps and trees, which would hide who waits there to cross.
    """

    tint: RGB
    asphalt: float
    parking: bool
    tree_spacing: float
    yellow: bool
    cycle: RGB = CYCLE_PATHS[0]
    sun: float = 0.8
    weather: str = "day"
    clear: tuple[tuple[float, float], ...] = ()

    @classmethod
    def draw(cls, rng: np.random.Generator, weather: str = "day") -> Self:
        """A random look. Raises `InputError` for an unknown weather."""
        require(weather in WEATHERS, "look.weather", f"'{weather}' is unknown; there are {', '.join(WEATHERS)}")
        light = rng.uniform(0.80, 1.12)
        red, green, blue = (float(light * g) for g in rng.uniform(0.94, 1.06, 3))
        return cls(
            (red, green, blue), float(rng.uniform(0.22, 0.32)), bool(rng.random() < 0.5), float(rng.uniform(11, 18)),
            bool(rng.random() < 0.6), CYCLE_PATHS[int(rng.random() < 0.4)], float(rng.uniform(-np.pi, np.pi)), weather,
        )  # fmt: skip

    @property
    def road(self) -> Array:
        """rgb of dry, or wet, asphalt."""
        grey = np.array((self.asphalt, self.asphalt, self.asphalt + 0.02))
        return grey * {"day": 1.0, "dusk": 0.88, "rain": 0.62}[self.weather]

    @property
    def cycle_path(self) -> Array:
        """rgb of a cycle lane's surface."""
        return np.array(self.cycle) * (0.7 if self.weather == "rain" else 1.0)

    def wet(self, rgb_N3: Array, s_N: Array, d_N: Array) -> Array:
        """A road's colours with the sky's sheen on its wet patches; unchanged unless it rains."""
        if self.weather != "rain":
            return rgb_N3
        patches = np.sin(0.31 * s_N + 1.7 * np.sin(0.9 * d_N)) + np.sin(0.13 * s_N - 0.8 * d_N + 2.0)
        sheen = 0.05 + 0.26 * np.clip(patches, 0, 1)[:, None]
        return rgb_N3 * (1 - sheen) + sheen * np.array((0.66, 0.71, 0.77))

    def pane(self, base: Array, n: int, share: float, rng: np.random.Generator) -> Array:
        """(n, 3) colours of panes: dark glass, some paler with the sky or curtains, a share lit at dusk."""
        rgb = base * rng.uniform(0.75, 1.25, (n, 1)) + rng.uniform(0, 0.10, (n, 1)) * np.array((0.8, 0.9, 1.0))
        if self.weather == "day":
            return rgb
        lit = rng.random(n) < (share if self.weather == "dusk" else 0.3 * share)
        return np.where(lit[:, None], WARM * rng.uniform(0.45, 1.0, (n, 1)), rgb)

    def shade(self, yaw: float | Array) -> Array:
        """Factor for a wall whose outward normal points to `yaw` (world): sunny sides are brighter."""
        contrast = 0.20 if self.weather == "day" else 0.06
        return 1.0 - contrast * (0.5 - 0.5 * np.cos(np.asarray(yaw) - self.sun))
