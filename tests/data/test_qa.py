"""Answers against hand-made frames of which the truth is plain."""

from dataclasses import replace

import numpy as np
import pytest

from senna2.data.qa import KINDS, QUESTIONS, agents_of, corpus, intention_of, qa_of, red_line_m
from senna2.data.reasons import CLAUSES
from senna2.types import (
    LANE_POINTS,
    MAX_AGENTS,
    PLAN_DT,
    PLAN_STEPS,
    AgentClass,
    Direction,
    InputError,
    LaneKind,
    Path,
    Samples,
    Speed,
)

T = PLAN_DT * np.arange(PLAN_STEPS + 1)


def frame(*agents, v=8.0, limit=13.9, speed=Speed.KEEP, direction=Direction.STRAIGHT, navigation=Direction.STRAIGHT,
          red_m=None, a=0.0, counterfactual=False) -> Samples:  # fmt: skip
    """One straight street. Each agent: (class, x, y, yaw, vx, vy[, ax])."""
    s = Samples.fake(1)
    boxes = np.full((1, MAX_AGENTS, 6), np.nan, np.float32)
    classes = np.full((1, MAX_AGENTS), -1, np.int8)
    futures = np.full((1, MAX_AGENTS, PLAN_STEPS + 1, 3), np.nan, np.float32)
    for k, (kind, x, y, yaw, vx, vy, *ax) in enumerate(agents):
        boxes[0, k] = (x, y, yaw, 4.5, 1.8, np.hypot(vx, vy))
        classes[0, k] = kind
        futures[0, k] = np.stack([x + vx * T + 0.5 * sum(ax) * T**2, y + vy * T, yaw + 0 * T], 1)
    lanes, kinds = s.lanes_NLP2.copy(), s.lane_kinds_NL.copy()
    if red_m is not None:
        lanes[0, 1] = np.stack([np.full(LANE_POINTS, red_m), np.linspace(-2, 2, LANE_POINTS)], 1)
        kinds[0, 1] = LaneKind.RED_STOP_LINE
    motion = s.motion_N4.copy()
    motion[:, 0] = v
    future = np.zeros_like(s.future_NT3)
    future[0, :, 0] = v * T[1:] + 0.5 * a * T[1:] ** 2
    return replace(
        s, boxes_NA6=boxes, classes_NA=classes, agent_futures_NAT3=futures, lanes_NLP2=lanes, lane_kinds_NL=kinds,
        motion_N4=motion, future_NT3=future, speed_limit_N=np.array([limit], np.float32),
        speed_N=np.array([speed], np.int8), direction_N=np.array([direction], np.int8),
        navigation_N=np.array([navigation], np.int8), counterfactual_N=np.array([counterfactual]),
    ).validate()  # fmt: skip


def answer(kind: str, samples: Samples) -> str | None:
    got = qa_of(samples, 0, kinds=(kind,))
    assert len(got) <= 1
    return got[0].answer if got else None


LEAD = (AgentClass.CAR, 20, 0.3, 0, 8, 0)


def test_scene() -> None:
    assert answer("scene", frame()) == ("The road ahead is straight; nobody else is in view. The ego's path is free.")
    crowd = frame(LEAD, (AgentClass.BUS, 30, 4, 0, 5, 0), (AgentClass.BUS, 40, 4, 0, 5, 0),
                  (AgentClass.PEDESTRIAN, 15, -5, 0, 1, 0))  # fmt: skip
    assert answer("scene", crowd) == (
        "The road ahead is straight; in view: 1 car, 2 buses and 1 pedestrian. "
        "In the ego's path a car moves at 8 m/s 20 m ahead."
    )
    standing = frame((AgentClass.TRUCK, 20, 0, 0, 0, 0))
    assert "In the ego's path a truck stands 20 m ahead." in str(answer("scene", standing))


def test_scene_follows_the_route() -> None:
    s = frame((AgentClass.CAR, 30, 30 * np.tan(0.35), 0.7, 5, 0), LEAD)
    angle = np.linspace(0, 1.2, s.route_NR2.shape[1])
    bend = np.stack([45 * np.sin(angle), 45 * (1 - np.cos(angle))], 1)[None].astype(np.float32)
    left = replace(s, route_NR2=bend)
    assert str(answer("scene", left)).startswith("The route bends to the left")
    assert [a.in_path for a in agents_of(left, 0)] == [False, True]  # where the route leads, not where the ego points
    assert [a.in_path for a in agents_of(s, 0)] == [True, False]
    right = replace(s, route_NR2=bend * (1, -1))
    assert str(answer("scene", right)).startswith("The route bends to the right")


def test_what_the_camera_does_not_see_is_not_told() -> None:
    behind = (AgentClass.CAR, -10, 0, 0, 8, 0)
    beside = (AgentClass.PEDESTRIAN, 2, 6, 0, 1, 0)
    far = (AgentClass.CAR, 80, 0, 0, 8, 0)
    assert agents_of(frame(behind, beside, far), 0) == []
    assert "nobody else" in str(answer("scene", frame(behind, beside, far)))
    assert answer("vulnerable", frame(beside)) == "There is none in view."


def test_lights() -> None:
    assert answer("lights", frame()) == "No light asks the ego to stop."
    assert answer("lights", frame(red_m=18.2)) == "Yes: a light is red or amber, its stop line is 18 m ahead."
    assert red_line_m(frame(red_m=-4.0), 0) is None  # passed
    assert red_line_m(frame(red_m=70.0), 0) is None  # too far to be seen


def test_vulnerable() -> None:
    s = frame((AgentClass.PEDESTRIAN, 12, -5, 1.57, 0, 1.2), (AgentClass.CYCLIST, 20, 3, 0, 5, 0),
              (AgentClass.PEDESTRIAN, 25, 6, 0, 0, 0), LEAD)  # fmt: skip
    assert answer("vulnerable", s) == (
        "There is a pedestrian 13 m ahead on the right, crossing to the left; "
        "a cyclist 20 m ahead on the left, moving away; a pedestrian 26 m ahead on the left, standing."
    )
    unknown = replace(s, agent_futures_NAT3=np.full_like(s.agent_futures_NAT3, np.nan))
    assert str(answer("vulnerable", unknown)).startswith("There is a pedestrian 13 m ahead on the right; a cyclist")


def test_intention_is_f_k_in_the_agents_own_frame() -> None:
    brakes = (AgentClass.CAR, 20, 0, 0, 9, 0, -2.5)
    oncoming = (AgentClass.VAN, 25, 3.5, np.pi, -9, 0, -2.5)  # in its own frame it speeds up
    got = {a.name: intention_of(a) for a in agents_of(frame(brakes, oncoming), 0)}
    assert got == {"car": (Speed.DECELERATE, Path.STRAIGHT), "van": (Speed.ACCELERATE, Path.STRAIGHT)}
    s = frame(brakes, oncoming, (AgentClass.STATIC, 10, 3, 0, 0, 0), v=7.0)
    assert answer(
        "intention", s
    ) == (  # the van comes nearest; the leader is always told of; obstacles have no intention
        "The van 25 m ahead on the left: ACCELERATE, goes straight. "
        "The car 20 m ahead in the ego's path: DECELERATE, goes straight."
    )
    assert answer("intention", frame((AgentClass.CAR, 50, 20, 0, 9, 0))) == "Nobody comes near the ego's path."
    walker = frame((AgentClass.PEDESTRIAN, 45, -4, 1.57, 0, 1.5))  # far, but it enters the path
    assert answer("intention", walker) == "The pedestrian 45 m ahead on the right: KEEP SPEED, goes straight."
    turn = frame((AgentClass.CAR, 15, 4, 0, 6, 0))
    futures = turn.agent_futures_NAT3.copy()
    angle = 0.6 * T  # to the right, into the ego's lane, on a circle of 10 m
    futures[0, 0] = np.stack([15 + 10 * np.sin(angle), 4 - 10 * (1 - np.cos(angle)), -angle], 1)
    text = str(answer("intention", replace(turn, agent_futures_NAT3=futures)))
    assert text == "The car 16 m ahead on the left: KEEP SPEED, turns to the right."


@pytest.mark.parametrize(
    ("samples", "wanted"),
    [
        (frame(red_m=20, speed=Speed.DECELERATE), "the light ahead is red or amber, 20 m away"),
        (frame(red_m=50, speed=Speed.DECELERATE), None),  # too far to brake for, and nothing else explains it
        (frame((AgentClass.PEDESTRIAN, 15, -4, 1.57, 0, 1.5), speed=Speed.DECELERATE),
         "a pedestrian 16 m ahead comes into the ego's path"),
        (frame((AgentClass.PEDESTRIAN, 15, -4, -1.57, 0, -1.5), speed=Speed.DECELERATE), None),  # walks away
        (frame((AgentClass.CAR, 18, 0, 0, 0, 0), speed=Speed.DECELERATE), "the car 18 m ahead stands"),
        (frame((AgentClass.CAR, 5, 0, 0, 0, 0), v=0.0, speed=Speed.STOP), "the car 5 m ahead stands"),
        (frame((AgentClass.BUS, 18, 0, 0, 5, 0), speed=Speed.DECELERATE), "the bus 18 m ahead is slower"),
        (frame((AgentClass.BUS, 18, 3.5, 0, 5, 0), speed=Speed.DECELERATE), None),  # in another lane
        (frame((AgentClass.CAR, 12, 0, 0, 8, 0), speed=Speed.DECELERATE), "the car ahead is only 12 m away"),
        (frame(v=15.0, speed=Speed.DECELERATE), "the ego is faster than the limit"),
        (frame(speed=Speed.DECELERATE, direction=Direction.TURN_LEFT, navigation=Direction.TURN_LEFT),
         "the route turns left"),
        (frame(speed=Speed.ACCELERATE), "the path is free and the ego is under the limit"),
        (frame(speed=Speed.ACCELERATE, limit=np.nan), None),
        (frame((AgentClass.CAR, 15, 0, 0, 10, 0), speed=Speed.ACCELERATE), "the car 15 m ahead pulls away"),
        (frame((AgentClass.CAR, 15, 0, 0, 5, 0), speed=Speed.ACCELERATE), None),
        (frame(LEAD, speed=Speed.KEEP), "the car 20 m ahead keeps the same speed"),
        (frame(v=13.5, speed=Speed.KEEP), "the path is free and the ego is near the limit"),
        (frame(v=8.0, speed=Speed.KEEP), None),
        (frame(v=13.5, direction=Direction.CHANGE_LEFT, navigation=Direction.CHANGE_LEFT),
         "the path is free and the ego is near the limit; the route changes to the left lane"),
        (frame(v=13.5, direction=Direction.CHANGE_LEFT), None),  # its own choice: the sample does not say why
        (frame(red_m=20, speed=Speed.UNKNOWN), None),
        (frame(red_m=20, speed=Speed.DECELERATE, counterfactual=True), None),
    ],
)  # fmt: skip
def test_explanation(samples: Samples, wanted: str | None) -> None:
    got = answer("explanation", samples)
    assert got == (None if wanted is None else f"Because {wanted}.")


@pytest.mark.parametrize(
    ("samples", "said", "wanted"),
    [
        (frame(v=13.9, speed=Speed.ACCELERATE), "we are late, speed up", "the passenger asked to hurry up"),
        (frame(v=9.0, speed=Speed.DECELERATE), "Take it easy.", "the passenger asked to slow down"),
        (frame(v=9.0, speed=Speed.KEEP), "slow down", "the passenger asked to slow down"),
        (frame(v=15.5, speed=Speed.KEEP), "hurry up", "the passenger asked to hurry up"),
        (frame(v=9.0, speed=Speed.DECELERATE), "hurry up", None),  # not what was asked
        (frame(v=9.0, speed=Speed.DECELERATE), "keep left", None),
        (frame(v=9.0, speed=Speed.DECELERATE), "turn around", None),
        (frame(red_m=20, speed=Speed.DECELERATE), "slow down", "the light ahead is red or amber, 20 m away"),
        (frame(speed=Speed.ACCELERATE), "hurry up", "the path is free and the ego is under the limit"),
    ],
)
def test_a_passenger_explains_what_the_road_does_not(samples: Samples, said: str, wanted: str | None) -> None:
    got = answer("explanation", replace(samples, instruction_N=(said,)))
    assert got == (None if wanted is None else f"Because {wanted}.")


def test_wording_varies_and_is_drawn_from_the_seed() -> None:
    many = [replace(frame(LEAD), index_N=np.array([k])) for k in range(30)]
    first = [qa_of(s, 0) for s in many]
    assert first == [qa_of(s, 0) for s in many]
    assert first != [qa_of(s, 0, seed=1) for s in many]
    for k, kind in enumerate(KINDS):
        asked = {qas[k].question for qas in first}
        assert len(asked) == len(QUESTIONS[kind])
        assert {qas[k].kind for qas in first} == {kind}
    assert any("KEEP SPEED, GO STRAIGHT" in qas[-1].question for qas in first)
    assert [q.kind for q in qa_of(many[0], 0, kinds=("lights", "scene"))] == ["lights", "scene"]


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(InputError, match="weather"):
        qa_of(frame(), 0, kinds=("weather",))


def test_the_corpus_knows_the_words() -> None:
    known = set(" ".join(corpus()).replace(",", " ").replace(".", " ").replace(";", " ").replace(":", " ").split())
    spoken = [frame(LEAD, red_m=20, speed=Speed.DECELERATE), frame((AgentClass.CYCLIST, 12, 2, 0, 5, 0))]
    for s in spoken:
        for qa in qa_of(s, 0):
            words = "".join(c if c.isalpha() or c in "'/" else " " for c in f"{qa.question} {qa.answer}").split()
            extra = {w for w in words if w not in known and not w.isupper()}
            assert not {w for w in extra if w.strip("?") not in " ".join(corpus())}
    assert len(set(CLAUSES)) == len(CLAUSES)
