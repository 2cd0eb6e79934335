"""Outcomes of constructed rollouts; null semantics; laws."""

import dataclasses

import numpy as np
import pytest

from senna2.drivers import Expert
from senna2.evaluate.closed_loop import clip_row, closed_loop, from_behind, judge, longest_run
from senna2.evaluate.metrics import CLOSED_LOOP
from senna2.evaluate.stats import clopper_pearson
from senna2.rollouts import drive as drive_policy
from senna2.types import Contact, InputError, Rollout
from senna2.world.scene import Scene


def drive(frames=100, **changes) -> Rollout:
    return dataclasses.replace(Rollout.fake(frames), **changes)


def contact(kind="front", at_fault=True, t=5.0, agent="leader", **more) -> Contact:
    return Contact(t, agent, 0, at_fault, kind, 8.0, **more)


def values(got):
    return {k: v.value for k, v in got.items()}


def test_replaying_the_expert_is_faultless():
    got = values(closed_loop([drive(clip=f"c{i}") for i in range(3)]))
    assert set(got) == set(CLOSED_LOOP)
    for name in ("cr", "af_cr", "straddling", "parked", "off_road", "rear_ended", "lateral_undecided"):
        assert got[name] == 0, name
    for name in ("safety_1", "safety_2", "safety_ahead_1", "finished", "progress_ratio", "comfort"):
        assert got[name] == pytest.approx(1), name


def test_interval_of_no_collision_is_clopper_pearson_over_clips():
    got = closed_loop([drive(clip=f"c{i}", seed=s) for i in range(8) for s in (0, 1, 2)])
    assert got["cr"].ci95 == pytest.approx(clopper_pearson(0, 8))
    assert got["cr"].n == 8
    assert got["cr"].per_seed == [0, 0, 0]


def test_at_fault_and_not():
    got = values(closed_loop([drive(clip="a", contacts=(contact(),)), drive(clip="b"),
                              drive(clip="c", contacts=(contact("lateral", False),)), drive(clip="d")]))  # fmt: skip
    assert got["cr"] == 0.5
    assert got["af_cr"] == 0.25
    assert got["finished"] == 0.5


def test_a_contact_without_fault_can_be_followed_by_one_at_fault():
    o = judge(drive(contacts=(contact("rear", False, 2.0), contact("front", True, 6.0))))
    assert o.at_fault
    assert o.rear_ended
    assert o.hit_ahead


def test_safety_levels():
    ttc = np.full(100, np.inf)
    ttc[40] = 1.5
    got = values(closed_loop([drive(clip="a", ttc_F=ttc), drive(clip="b")]))
    assert (got["safety_1"], got["safety_2"]) == (1.0, 0.5)
    ttc = ttc.copy()
    ttc[40] = 1.0  # "above 1 s" is strict
    assert values(closed_loop([drive(ttc_F=ttc)]))["safety_1"] == 0


def test_safety_ahead_forgives_contacts_from_behind():
    ttc = np.full(100, np.inf)
    ttc[50] = 0.0
    hit = drive(ttc_F=ttc, contacts=(contact("rear", False, 4.95),))
    got = values(closed_loop([hit]))
    assert (got["safety_1"], got["safety_ahead_1"], got["safety_ahead_2"]) == (0, 1, 1)
    both = dataclasses.replace(hit, contacts=(*hit.contacts, contact("front", True, 9.0)))
    assert values(closed_loop([both]))["safety_ahead_1"] == 0
    ttc2 = ttc.copy()
    ttc2[80] = 0.4  # a real danger at another time stays
    assert values(closed_loop([dataclasses.replace(hit, ttc_F=ttc2)]))["safety_ahead_1"] == 0


def test_a_standing_ego_struck_from_behind_is_rear_ended():
    ego = np.zeros((100, 6))
    boxes = np.zeros((100, 1, 6))
    boxes[:, 0] = (-4.0, 0.2, 0, 4.5, 1.8, 5)
    r = drive(ego_F6=ego, boxes_FA6=boxes, contacts=(contact("stopped_ego", False),))
    assert from_behind(r, r.contacts[0])
    boxes = boxes.copy()
    boxes[:, 0, 0] = 6.0
    assert not from_behind(dataclasses.replace(r, boxes_FA6=boxes), r.contacts[0])


def test_longest_run():
    assert longest_run(np.array([1, 1, 0, 1, 1, 1, 0], bool)) == 3
    assert longest_run(np.zeros(4, bool)) == 0
    assert longest_run(np.ones(4, bool)) == 4


@pytest.mark.parametrize(
    ("frames", "bad"),
    [(range(10, 50), False), (range(10, 51), True), (range(97, 100), True), ([*range(5, 40), *range(50, 70)], False)],
)
def test_straddling_for_more_than_4_s_at_a_stretch_or_at_the_end(frames, bad):
    flags = np.zeros(100, bool)
    flags[list(frames)] = True
    o = judge(drive(straddle_F=flags))
    assert o.straddled is bad
    assert o.finished is (not bad)


def test_parked_counts_standing_only_while_the_expert_moves():
    ego = np.zeros((100, 6))
    stands = drive(ego_F6=ego, progress_F=np.zeros(100))
    assert judge(stands).parked
    assert judge(stands).progress_ratio == 0
    expert = stands.expert_E4.copy()
    expert[:, 1] = 0.0  # the expert waits too
    assert not judge(dataclasses.replace(stands, expert_E4=expert)).parked
    expert[:51, 1] = 8.0  # moves for 5.1 s of it
    assert judge(dataclasses.replace(stands, expert_E4=expert)).parked
    expert[50, 1] = 0.0  # 5.0 s: not more than
    assert not judge(dataclasses.replace(stands, expert_E4=expert)).parked


def test_progress_is_over_the_full_clip_of_the_expert():
    long = Rollout.fake(100)
    cut = dataclasses.replace(Rollout.fake(51), expert_E4=long.expert_E4, contacts=(contact(),))
    got = judge(cut)
    assert got.progress_ratio == pytest.approx(50 / 99)
    assert got.finished is False
    assert judge(dataclasses.replace(cut, contacts=())).finished is False  # ended too early all the same


def test_progress_ratio_leaves_out_clips_in_which_the_expert_hardly_moves():
    still = drive(clip="still", expert_E4=np.stack([0.1 * np.arange(100), *np.zeros((3, 100))], 1))
    got = closed_loop([still, drive(clip="moves")])
    assert got["progress_ratio"].value == pytest.approx(1.0)
    assert got["progress_ratio"].n == 1
    assert "1 clips left out" in got["progress_ratio"].note


def test_route_completion_is_of_the_route_ahead():
    r = drive(progress_F=40 + np.linspace(0, 80, 100), route_length_m=200.0)
    assert judge(r).route_completion == pytest.approx(0.5)


def test_what_the_map_cannot_tell_is_null():
    blind = drive(off_road_F=None, straddle_F=None, has_kerbs=False)
    got = closed_loop([blind])
    for name in ("off_road", "straddling", "finished"):
        assert got[name].value is None, name
    assert got["cr"].value == 0
    assert got["cr"].note == "agents only"
    row = clip_row(blind)
    assert (row["off_road"], row["straddled"], row["finished"]) == (None, None, None)
    assert clip_row(dataclasses.replace(blind, contacts=(contact(),)))["finished"] is False
    mixed = closed_loop([blind, drive(clip="known", off_road_F=np.ones(100, bool))])
    assert mixed["off_road"].value == 1.0
    assert mixed["off_road"].n == 1
    assert "agents only in 1 clips" in mixed["cr"].note


def test_lateral_undecided_is_counted():
    r = drive(contacts=(contact("lateral", False, lateral_undecided=True),))
    assert values(closed_loop([r, drive(clip="b")]))["lateral_undecided"] == 0.5


def test_notes_name_vehicle_and_traffic_that_are_not_the_default():
    got = closed_loop([drive(vehicle="perfect", traffic="reactive")])
    assert got["af_cr"].note == "vehicle perfect; traffic reactive"


def test_consistency_in_closed_loop():
    said = np.tile(np.array([0, 0], np.int8), (100, 1))  # says ACCELERATE, keeps speed
    agree, differ = drive(clip="a"), drive(clip="b", vlm_decision_F2=said)
    got = closed_loop([agree])["consistency_avg"]
    assert got.value == 1.0
    assert "left" in got.note
    got = closed_loop([agree, differ])["consistency_avg"]
    assert got.value == pytest.approx(np.mean([1.0, 0.0, 2 * 100 / 300]))
    assert got.n == 200
    mute = drive(vlm_decision_F2=np.full((100, 2), -1, np.int8))
    assert closed_loop([mute])["consistency_avg"].value is None


def _random_rollout(rng, clip, seed) -> Rollout:
    contacts = []
    for i in range(rng.integers(0, 3)):
        kind = rng.choice(["front", "rear", "lateral", "stopped_ego", "static"])
        contacts.append(contact(kind, bool(rng.random() < 0.5) and kind != "rear", 1.0 + 3 * i))
    ttc = np.where(rng.random(100) < 0.98, np.inf, rng.uniform(0.3, 5, 100))
    for c in contacts:
        ttc[int(10 * c.t_s)] = 0
    return drive(clip=clip, seed=seed, contacts=tuple(contacts), ttc_F=ttc)


def test_laws_on_random_rollouts():
    rng = np.random.default_rng(0)
    for _ in range(20):
        got = values(closed_loop([_random_rollout(rng, f"c{i}", s) for i in range(6) for s in (0, 1)]))
        assert got["af_cr"] <= got["cr"]
        assert got["safety_2"] <= got["safety_1"] <= 1 - got["cr"] + 1e-12
        assert got["safety_1"] <= got["safety_ahead_1"]
        assert got["safety_ahead_2"] <= got["safety_ahead_1"]
        assert got["finished"] <= 1 - got["cr"] + 1e-12


def test_moving_turning_or_shifting_time_changes_nothing():
    rng = np.random.default_rng(1)
    base = [_random_rollout(rng, f"c{i}", 0) for i in range(5)]

    def shifted(r: Rollout) -> Rollout:
        c, s = np.cos(0.7), np.sin(0.7)

        def pose(a):
            out = a.copy()
            out[..., 0] = c * a[..., 0] - s * a[..., 1] + 5e5
            out[..., 1] = s * a[..., 0] + c * a[..., 1] - 4e6
            out[..., 2] = a[..., 2] + 0.7
            return out

        expert = r.expert_E4 + np.array([300.0, 0, 0, 0])
        moved = tuple(dataclasses.replace(k, t_s=k.t_s + 300) for k in r.contacts)
        return dataclasses.replace(
            r, t_F=r.t_F + 300, expert_E4=expert, contacts=moved, ego_F6=pose(r.ego_F6), boxes_FA6=pose(r.boxes_FA6)
        )

    assert values(closed_loop([shifted(r) for r in base])) == pytest.approx(values(closed_loop(base)))


def test_mirroring_the_world_changes_nothing():
    """y and yaw negated, left and right decisions swapped: the same outcome, and the same consistency."""
    rng = np.random.default_rng(2)
    radius, yaw = 20.0, 0.4 * 0.1 * np.arange(1, 31)
    arc = np.stack([radius * np.sin(yaw), radius * (1 - np.cos(yaw))], 1)
    base = []
    for i in range(4):
        r = _random_rollout(rng, f"c{i}", 0)
        decision = np.stack([rng.choice([0, 2], 100), rng.choice([0, 1, 3], 100)], 1).astype(np.int8)
        plans = r.plans_FT2.copy()
        plans[::2] = arc
        base.append(dataclasses.replace(r, plans_FT2=plans, vlm_decision_F2=decision))

    def mirrored(r: Rollout) -> Rollout:
        flip6 = np.array([1, -1, -1, 1, 1, 1.0])
        swap = np.array([0, 2, 1, 4, 3])
        said = np.stack([r.vlm_decision_F2[:, 0], swap[r.vlm_decision_F2[:, 1]]], 1)
        return dataclasses.replace(
            r,
            ego_F6=r.ego_F6 * flip6,
            boxes_FA6=r.boxes_FA6 * flip6,
            plans_FT2=r.plans_FT2 * flip6[:2],
            vlm_decision_F2=said,
        )

    got = values(closed_loop(base))
    assert values(closed_loop([mirrored(r) for r in base])) == pytest.approx(got)
    assert 0 < got["consistency_avg"] < 1


def test_the_expert_replayed_by_the_simulator_passes():
    got = values(closed_loop([drive_policy(Expert(), Scene.fake(), policy_name="expert")]))
    assert (got["cr"], got["af_cr"], got["finished"], got["parked"]) == (0, 0, 1, 0)
    assert got["progress_ratio"] == pytest.approx(1.0, abs=0.01)


def test_bad_input():
    with pytest.raises(InputError, match="no rollout"):
        closed_loop([])
    with pytest.raises(InputError, match="several policies"):
        closed_loop([drive(), drive(policy="other")])
    with pytest.raises(InputError, match="twice"):
        closed_loop([drive(), drive()])
