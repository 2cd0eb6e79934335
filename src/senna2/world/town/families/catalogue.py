"""All families by name: the script, the places, how fast, how long."""

from __future__ import annotations

from senna2.world.town.families import changing, crossing, cutting, following, junctions, plain
from senna2.world.town.families.draft import Family

BASE: dict[str, Family] = {
    "following_and_stop": Family(following.following_place, following.following_and_stop, (0.95, 1.0), 12.0, 0.45),
    "ego_cut_in": Family(cutting.ego_cut_in_place, cutting.ego_cut_in, (0.55, 0.68), 11.0, longer_s=4.0),
    "cut_in": Family(cutting.cut_in_place, cutting.cut_in, (0.8, 1.0)),
    "right_turn_cyclists": Family(junctions.right_turn_place, junctions.right_turn_cyclists, (0.85, 0.97), 13.0),
    "lane_change": Family(changing.lane_change_place, changing.lane_change, (0.88, 1.0), 11.0, longer_s=4.0),
    "aborted_lane_change": Family(
        changing.aborted_place, changing.aborted_lane_change, (0.65, 0.8), 11.0, may_return=True, longer_s=4.0
    ),
    "hard_braking": Family(following.hard_braking_place, following.hard_braking, (0.95, 1.0), 12.0, neighbours=0.5),
    "crossing_pedestrian": Family(crossing.pedestrian_place, crossing.crossing_pedestrian, (0.70, 0.80), 12.0),
    "curve": Family(plain.curve_place, plain.curve, (0.9, 1.0)),
    "empty_road": Family(plain.empty_place, plain.empty_road, (0.6, 1.0), neighbours=0.35),
    "pedestrian_behind_bus": Family(crossing.behind_bus_place, crossing.pedestrian_behind_bus, (0.75, 0.85), 12.0),
    "oncoming_left_turn": Family(junctions.oncoming_left_place, junctions.oncoming_left_turn, (0.7, 0.85), 12.0),
    "merge": Family(changing.merge_place, changing.merge, (0.7, 0.95), 10.0, longer_s=4.0),
    "parked_car_bypass": Family(changing.parked_place, changing.parked_car_bypass, (0.75, 0.95), 14.0, longer_s=4.0),
    "red_light": Family(junctions.red_light_place, junctions.red_light, (0.7, 1.0), 14.0, 0.4),
    "dense_following": Family(following.dense_place, following.dense_following, (0.25, 0.5), 14.0),
    "crossing_cyclist": Family(crossing.cyclist_place, crossing.crossing_cyclist, (0.75, 0.92), 11.0),
}
CORE: tuple[str, ...] = tuple(BASE)[:10]
_WEATHERS = ("dusk", "rain")
EXTENDED: tuple[str, ...] = (*tuple(BASE)[10:], *(f"{name}_{weather}" for weather in _WEATHERS for name in CORE))
FAMILIES: tuple[str, ...] = (*CORE, *EXTENDED)
SETS = {"core": CORE, "extended": EXTENDED}
RISKY: tuple[str, ...] = tuple(name for name in CORE if name != "empty_road")


def base_of(family: str) -> tuple[str, str]:
    """(script, weather) of a family: `cut_in_rain` is the script `cut_in` in rain."""
    for weather in _WEATHERS:
        if family.endswith(f"_{weather}") and family.removesuffix(f"_{weather}") in CORE:
            return family.removesuffix(f"_{weather}"), weather
    return family, "day"
