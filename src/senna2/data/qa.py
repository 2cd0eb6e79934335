"""Questions and answers about a frame, from the truth of its sample: the kinds that Senna asks beside the decision.

Everything is in the ego frame of the sample; distances are from the ego's rear axle to the middle of a box, in m. What
is asked about is what the front camera looks at: within its opening and `VIEW_M`. Nothing tells what hides what [ours].
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, radians, sin

import numpy as np

from senna2.data.reasons import CLAUSES, SIDES, reason
from senna2.decisions import SPEED_TEXT, decision_text, f_k_plan
from senna2.frames import wrap
from senna2.types import AgentClass, Array, Decision, Direction, InputError, LaneKind, Path, Samples, Speed

KINDS = ("scene", "lights", "vulnerable", "intention", "explanation")

VIEW_M = 60.0
VIEW_HALF_RAD = radians(40)  # of the default rig's front camera
CAMERA_X_M = 1.5
BEND_RAD = radians(10)  # of the route's next 60 m
IN_PATH_M = 1.75  # half a lane: a box whose middle is nearer to the route is in the ego's path
SAME_WAY_RAD = radians(60)
STANDS_M = 0.5  # in 3 s
# An agent that comes no nearer to where the ego drives in 3 s does not matter, but for its leader and who enters its
# path.
NEAR_PATH_M = 6.0
MOST = 3  # agents told of in one answer

NAMES = {
    AgentClass.CAR: "car", AgentClass.VAN: "van", AgentClass.TRUCK: "truck", AgentClass.BUS: "bus",
    AgentClass.MOTORCYCLE: "motorcycle", AgentClass.CYCLIST: "cyclist", AgentClass.PEDESTRIAN: "pedestrian",
    AgentClass.STATIC: "obstacle",
}  # fmt: skip
PLURALS = {AgentClass.BUS: "buses"}
VULNERABLE = (AgentClass.PEDESTRIAN, AgentClass.CYCLIST, AgentClass.MOTORCYCLE)
PATH_TEXT = ("goes straight", "turns to the left", "turns to the right")

QUESTIONS: dict[str, tuple[str, ...]] = {
    "scene": ("Describe the scene.", "What is around the ego vehicle?", "What does the front camera show?"),
    "lights": ("Must the ego stop at a light?", "What do the traffic lights say?", "Is there a red light ahead?"),
    "vulnerable": (
        "Which vulnerable road users are there?",
        "Are there pedestrians, cyclists or motorcycles ahead?",
        "Who needs special care?",
    ),
    "intention": (
        "What will the most relevant road users do next?",
        "Predict the motion of the road users that matter.",
        "How will the others near the ego's path move?",
    ),
    "explanation": ("Why {decision}?", "What is the reason to {decision}?", "Explain the decision {decision}."),
}


@dataclass(frozen=True)
class QA:
    """One question about a frame and its answer; `kind` is one of `KINDS`."""

    kind: str
    question: str
    answer: str


@dataclass(frozen=True)
class Agent:
    """What there is to say of one box. lateral_m: to the left of the route. futures_T3: NaN where it is not known."""

    kind: AgentClass
    x: float
    y: float
    speed: float
    heading: float
    lateral_m: float
    futures_T3: Array

    @property
    def distance_m(self) -> float:
        return hypot(self.x, self.y)

    @property
    def in_path(self) -> bool:
        return abs(self.lateral_m) < IN_PATH_M

    @property
    def name(self) -> str:
        return NAMES[self.kind]

    @property
    def where(self) -> str:
        """ "12 m ahead in the ego's path" """
        side = "in the ego's path" if self.in_path else "on the left" if self.lateral_m > 0 else "on the right"
        return f"{self.distance_m:.0f} m ahead {side}"


def qa_of(samples: Samples, i: int, *, kinds: Sequence[str] = KINDS, seed: int = 0) -> list[QA]:
    """Questions and answers of sample `i`, at most one a kind, in the order of `kinds`.

    Wording is drawn from (seed, index_N, kind) alone. A kind is left out where the truth does not hold the answer: an
    explanation of an unknown or forced decision, or one without a cause that can be seen; the intention of agents
    whose future is unknown. Raises InputError for an unknown kind.
    """
    odd = sorted(set(kinds) - set(KINDS))
    if odd:
        raise InputError(f"qa: kinds {odd} are unknown; there are {list(KINDS)}")
    agents = agents_of(samples, i)
    out = []
    for kind in kinds:
        answer = _answer(kind, samples, i, agents)
        if answer is None:
            continue
        rng = np.random.default_rng([seed, int(samples.index_N[i]), KINDS.index(kind)])
        question = QUESTIONS[kind][rng.integers(len(QUESTIONS[kind]))]
        if kind == "explanation":
            question = question.format(decision=decision_text(_decision(samples, i)))
        out.append(QA(kind, question, answer))
    return out


def agents_of(samples: Samples, i: int) -> list[Agent]:
    """The agents in the front camera's view, nearest first."""
    route = samples.route_NR2[i].astype(float)
    route = np.vstack([[0.0, 0.0], route[np.isfinite(route).all(1)]])
    found = []
    for a in np.flatnonzero(samples.classes_NA[i] >= 0):
        x, y, yaw, _, _, speed = (float(v) for v in samples.boxes_NA6[i, a])
        if hypot(x, y) > VIEW_M or abs(np.arctan2(y, x - CAMERA_X_M)) > VIEW_HALF_RAD:
            continue
        future = samples.agent_futures_NAT3[i, a].astype(float)
        kind = AgentClass(int(samples.classes_NA[i, a]))
        found.append(Agent(kind, x, y, speed, yaw, _lateral(np.array([x, y]), route), future))
    return sorted(found, key=lambda agent: agent.distance_m)


def _lateral(point_2: Array, line_P2: Array) -> float:
    """Signed distance of a point to a polyline that runs on straight at its end, left positive."""
    if len(line_P2) < 2:
        return float(point_2[1])
    a, step = line_P2[:-1], np.diff(line_P2, axis=0)
    length = np.hypot(*step.T)
    along = ((point_2 - a) * step).sum(1) / np.maximum(length**2, 1e-9)
    along[:-1] = np.clip(along[:-1], 0, 1)
    along[-1] = max(along[-1], 0.0)
    offset = point_2 - (a + along[:, None] * step)
    k = int(np.argmin(np.hypot(*offset.T)))
    cross = step[k, 0] * offset[k, 1] - step[k, 1] * offset[k, 0]
    return float(np.hypot(*offset[k]) * (1 if cross >= 0 else -1))


def leader(agents: Sequence[Agent]) -> Agent | None:
    """The nearest one in the ego's path that goes its way or stands in it."""
    for agent in agents:
        if agent.in_path and (_turned(agent.heading) < SAME_WAY_RAD or agent.speed < 0.5):
            return agent
    return None


def _turned(angle: float) -> float:
    """Its size, at most π."""
    return abs(float(wrap(np.array(angle))))


def red_line_m(samples: Samples, i: int) -> float | None:
    """Distance to the next stop line of the route whose light is red or amber now; None if there is none in view."""
    rows = samples.lanes_NLP2[i][samples.lane_kinds_NL[i] == LaneKind.RED_STOP_LINE].astype(float)
    middle = [row[np.isfinite(row).all(1)].mean(0) for row in rows if np.isfinite(row).all(1).any()]
    ahead = [hypot(*m) for m in middle if m[0] > 0]
    return min(ahead) if ahead and min(ahead) <= VIEW_M else None


def _decision(samples: Samples, i: int) -> Decision:
    return Decision(Speed(int(samples.speed_N[i])), Direction(int(samples.direction_N[i])))


def _answer(kind: str, samples: Samples, i: int, agents: Sequence[Agent]) -> str | None:
    if kind == "scene":
        return _scene(samples, i, agents)
    if kind == "lights":
        distance = red_line_m(samples, i)
        if distance is None:
            return "No light asks the ego to stop."
        return f"Yes: a light is red or amber, its stop line is {distance:.0f} m ahead."
    if kind == "vulnerable":
        return _vulnerable(agents)
    if kind == "intention":
        return _intention(samples, i, agents)
    return _explanation(samples, i, agents)


def _scene(samples: Samples, i: int, agents: Sequence[Agent]) -> str:
    route = samples.route_NR2[i][np.isfinite(samples.route_NR2[i]).all(1)].astype(float)
    road = "The road ahead is straight"
    if len(route) > 2:
        first, last = route[0], route[-1] - route[-2]
        turn = float(wrap(np.arctan2(last[1], last[0]) - np.arctan2(first[1], first[0])))
        if abs(turn) > BEND_RAD:
            road = f"The route bends to the {'left' if turn > 0 else 'right'}"
    counts = Counter(agent.kind for agent in agents)
    told = [_count(kind, n) for kind, n in sorted(counts.items())]
    others = f"in view: {_list(told)}" if told else "nobody else is in view"
    lead = leader(agents)
    path = "The ego's path is free"
    if lead is not None:
        does = "stands" if lead.speed < 0.5 else f"moves at {lead.speed:.0f} m/s"
        path = f"In the ego's path a {lead.name} {does} {lead.distance_m:.0f} m ahead"
    return f"{road}; {others}. {path}."


def _vulnerable(agents: Sequence[Agent]) -> str:
    told = []
    for agent in [a for a in agents if a.kind in VULNERABLE][:MOST]:
        told.append(f"a {agent.name} {agent.where}, {_movement(agent)}" if _movement(agent) else
                    f"a {agent.name} {agent.where}")  # fmt: skip
    return f"There is {'; '.join(told)}." if told else "There is none in view."


def _movement(agent: Agent) -> str:
    """Where it moves across the ego's view in the next 3 s; empty if nobody knows."""
    if not np.isfinite(agent.futures_T3).all():
        return ""
    dx, dy = (agent.futures_T3[-1] - agent.futures_T3[0])[:2]
    if hypot(dx, dy) < STANDS_M:
        return "standing"
    if abs(dy) > abs(dx):
        return f"crossing to the {'left' if dy > 0 else 'right'}"
    return "moving away" if dx > 0 else "coming closer"


def _intention(samples: Samples, i: int, agents: Sequence[Agent]) -> str | None:
    """The agents that come nearest to the ego's own drive, nearest first, and what f_K says of their next 1.5 s."""
    ego = samples.future_NT3[i, :, :2].astype(float)
    if not np.isfinite(ego).all():
        return None
    moving = [a for a in agents if a.kind != AgentClass.STATIC and np.isfinite(a.futures_T3).all()]
    lead = leader(agents)
    near = [
        a for a in moving if a is lead or comes_into_path(a) or _least_gap(a.futures_T3[:, None, :2], ego) < NEAR_PATH_M
    ]
    if not near:
        return "Nobody comes near the ego's path."
    told = []
    for agent in sorted(near, key=lambda a: _least_gap(a.futures_T3[1:, :2], ego))[:MOST]:
        speed, path = intention_of(agent)
        if speed != Speed.UNKNOWN:
            told.append(f"The {agent.name} {agent.where}: {SPEED_TEXT[speed]}, {PATH_TEXT[path]}.")
    return " ".join(told) or None


def _least_gap(a_2: Array, b_2: Array) -> float:
    """Of points that broadcast against each other."""
    return float(np.hypot(*np.moveaxis(a_2 - b_2, -1, 0)).min())


def intention_of(agent: Agent) -> tuple[Speed, Path]:
    """f_K of an agent's own drive, in its own frame at the start."""
    start, rest = agent.futures_T3[0], agent.futures_T3[1:, :2] - agent.futures_T3[0, :2]
    c, s = cos(start[2]), sin(start[2])
    own = np.column_stack([c * rest[:, 0] + s * rest[:, 1], -s * rest[:, 0] + c * rest[:, 1]])
    speed, path = f_k_plan(own)
    return Speed(int(speed)), Path(int(path)) if path >= 0 else Path.STRAIGHT


def _explanation(samples: Samples, i: int, agents: Sequence[Agent]) -> str | None:
    if samples.speed_N[i] < 0 or samples.direction_N[i] < 0 or samples.counterfactual_N[i]:
        return None
    return reason(
        _decision(samples, i),
        v=float(samples.motion_N4[i, 0]),
        limit=float(samples.speed_limit_N[i]),
        navigation=Direction(int(samples.navigation_N[i])),
        red_m=red_line_m(samples, i),
        lead=leader(agents),
        crossing=next((a for a in agents if a.kind in VULNERABLE and comes_into_path(a)), None),
        said=samples.instruction_N[i],
    )


def comes_into_path(agent: Agent) -> bool:
    """It is in the ego's path, or enters it within 3 s, from the side or standing in it."""
    if agent.in_path:
        return _turned(agent.heading) > SAME_WAY_RAD or agent.speed < 0.5
    if not np.isfinite(agent.futures_T3).all():
        return False
    start, end = agent.futures_T3[0, 1], agent.futures_T3[-1, 1]
    reach = agent.lateral_m + (end - start)  # the route is taken as straight over what a walker does in 3 s
    return abs(reach) < IN_PATH_M or reach * agent.lateral_m < 0


def _count(kind: AgentClass, n: int) -> str:
    name = NAMES[kind]
    return f"1 {name}" if n == 1 else f"{n} {PLURALS.get(kind, name + 's')}"


def _list(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def corpus() -> tuple[str, ...]:
    """Every word that questions and answers use: what a tiny VLM's tokenizer is trained on beside the prompts."""
    plural = [PLURALS.get(kind, name + "s") for kind, name in NAMES.items()]
    words = (
        "The road ahead is straight; in view: 1 car, 2 vans and 3 buses. In the ego's path a car stands 9 m ahead. "
        "The route bends to the left; nobody else is in view. In the ego's path a bus moves at 7 m/s 12 m ahead. "
        "The route bends to the right; nobody. The ego's path is free. No light asks the ego to stop. "
        "Yes: a light is red or amber, its stop line is 18 m ahead. There is none in view. "
        "There is a pedestrian 9 m ahead on the left, standing; a cyclist 9 m ahead on the right, moving away; coming "
        "closer; crossing to the left. Nobody comes near the ego's path. Question: "
    )
    asked = [
        q.format(decision=decision_text(Decision(Speed.KEEP, Direction.STRAIGHT))) for q in sum(QUESTIONS.values(), ())
    ]
    clauses = [clause.format(12, "car") for clause in CLAUSES]
    return (words, *(" ".join(x) for x in (NAMES.values(), plural, PATH_TEXT, asked, clauses, SIDES.values())))
