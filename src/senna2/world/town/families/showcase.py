"""The showcase: one clip for each of the six situations of the paper's project page, and 20 variations of each.

A variation keeps the clip's street and varies speeds, gaps, timing and looks. The seeds were fixed before any policy
was trained on this world.
"""

from __future__ import annotations

from senna2.world.town.families.catalogue import CORE
from senna2.world.town.families.make import VARIATIONS, scene_seed

# Index of the place a family shows.
_PLACES = dict.fromkeys(CORE[:6], 0)
SHOWCASE: dict[str, tuple[int, ...]] = {
    family: tuple(scene_seed("showcase", family, VARIATIONS * place + i) for i in range(21))
    for family, place in _PLACES.items()
}
