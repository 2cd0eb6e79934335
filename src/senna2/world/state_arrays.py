"""A simulator's state as a flat dictionary of small arrays, and back: to drive on from one instant in other processes,
or from a file (`numpy.savez`; nothing is pickled)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from senna2.types import Array, Contact, EgoState, InputError, require
from senna2.world.sim import SimState, Simulator
from senna2.world.traffic import AgentsState
from senna2.world.traffic.base import frozen

MEMORY = "agents/"  # prefix of what the controllers remember
FIXED = frozenset({
    "step", "ego_6", "boxes_A6", "lights_A", "contact_C4", "contact_undecided_C", "contact_id_C", "contact_kind_C",
    "touched_ids", "ignored_ids", "done", "ttc_s", "flags_2", "progress_m", "past_step_M", "past_ego_M6",
    "past_boxes_MA6", "past_lights_MA",
})  # fmt: skip
SIZE_SLACK_M = 1e-3
UNKNOWN = -1  # of a flag that the map does not answer


def state_to_arrays(state: SimState) -> dict[str, Array]:
    """Everything of a state but the clip: restored into a simulator of the same clip and configuration it drives on
    to the same bits."""
    contacts, past = state.contacts, state.past
    agents = len(state.agents.boxes_A6)
    return {
        "step": np.array(state.step),
        "ego_6": state.ego.as_array(),
        "boxes_A6": np.array(state.agents.boxes_A6),
        "lights_A": np.array(state.agents.lights_A),
        **{MEMORY + name: np.array(value) for name, value in state.agents.memory.items()},
        "contact_C4": np.array([(c.t_s, c.ego_v, c.agent_class, c.at_fault) for c in contacts]).reshape(-1, 4),
        "contact_undecided_C": np.array([c.lateral_undecided for c in contacts], bool),
        "contact_id_C": np.array([c.agent_id for c in contacts], np.str_),
        "contact_kind_C": np.array([c.kind for c in contacts], np.str_),
        "touched_ids": np.array(sorted(state.touched_ids), np.str_),
        "ignored_ids": np.array(sorted(state.ignored_ids), np.str_),
        "done": np.array(state.done),
        "ttc_s": np.array(state.ttc_s),
        "flags_2": np.array([UNKNOWN if f is None else f for f in (state.off_road, state.straddling)], np.int8),
        "progress_m": np.array(state.progress_m),
        "past_step_M": np.array([a.step for a, _ in past], np.int64),
        "past_ego_M6": np.array([e.as_array() for _, e in past]).reshape(-1, 6),
        "past_boxes_MA6": np.array([a.boxes_A6 for a, _ in past]).reshape(len(past), agents, 6),
        "past_lights_MA": np.array([a.lights_A for a, _ in past], np.int8).reshape(len(past), agents),
    }


def require_fits(simulator: Simulator, agents: AgentsState, ego: EgoState, where: str) -> None:
    """Raise `InputError` if these agents, beside that ego, are of another clip or traffic than the simulator's."""
    ids, last = simulator.traffic.ids, simulator.last_step
    here, asked = f"clip {simulator.scene.meta.name} has", "was it taken in another clip?"
    found = len(agents.boxes_A6)
    require(found == len(ids), where, f"has {found} agents, {here} {len(ids)}; {asked}")
    require(np.shape(agents.boxes_A6) == (found, 6), where, f"boxes_A6 has shape {np.shape(agents.boxes_A6)}; {asked}")
    require(0 <= agents.step <= last, where, f"is at frame {agents.step}, {here} frames 0 to {last}; {asked}")
    size_of = {t.id: (t.length, t.width) for t in simulator.scene.tracks}
    for name, size in zip(ids, agents.boxes_A6[:, 3:5].tolist(), strict=True):  # NaN of who is not there
        wanted = size_of.get(name, size)
        if max(abs(a - b) for a, b in zip(size, wanted, strict=True)) > SIZE_SLACK_M:
            length, width = wanted
            there = f"agent {name} is {size[0]:.2f} × {size[1]:.2f} m"
            raise InputError(f"{where}: {there}, {here} it of {length:.2f} × {width:.2f} m; {asked}")
    memory, expected = sorted(agents.memory), sorted(simulator.traffic.initial(agents.step, ego).memory)
    if memory != expected:
        raise InputError(
            f"{where}: its traffic remembers {memory}, that of '{simulator.config.traffic}' {expected}; "
            "go on with the SimConfig.traffic it was taken with"
        )


def state_from_arrays(simulator: Simulator, arrays: Mapping[str, Array]) -> SimState:
    """The state again. Raises `InputError` if an array is missing, or if they come from another clip or traffic."""
    where = f"state of clip {simulator.scene.meta.name}"
    if missing := FIXED - set(arrays):
        raise InputError(f"{where}: {sorted(missing)} missing; give what state_to_arrays returned")
    step, ego = int(arrays["step"]), _ego(arrays["ego_6"])
    memory = {n.removeprefix(MEMORY): _kept(v) for n, v in arrays.items() if n.startswith(MEMORY)}
    agents = AgentsState(step, _kept(arrays["boxes_A6"]), _kept(arrays["lights_A"]), memory)
    require_fits(simulator, agents, ego, where)
    off_road, straddling = (None if f == UNKNOWN else bool(f) for f in arrays["flags_2"])
    moments = zip(
        arrays["past_step_M"], arrays["past_boxes_MA6"], arrays["past_lights_MA"], arrays["past_ego_M6"], strict=True
    )
    return SimState(
        step=step,
        t_s=step * simulator.config.dt,
        ego=ego,
        agents=agents,
        contacts=_contacts(arrays),
        touched_ids=frozenset(str(i) for i in arrays["touched_ids"]),
        ignored_ids=frozenset(str(i) for i in arrays["ignored_ids"]),
        done=bool(arrays["done"]),
        ttc_s=float(arrays["ttc_s"]),
        off_road=off_road,
        straddling=straddling,
        progress_m=float(arrays["progress_m"]),
        past=tuple((AgentsState(int(k), _kept(b), _kept(li)), _ego(e)) for k, b, li, e in moments),
    )


def _contacts(arrays: Mapping[str, Array]) -> tuple[Contact, ...]:
    rows = zip(
        arrays["contact_C4"], arrays["contact_id_C"], arrays["contact_kind_C"], arrays["contact_undecided_C"],
        strict=True,
    )  # fmt: skip
    return tuple(
        Contact(float(t), str(i), int(kind_of), bool(fault), str(kind), float(v), bool(undecided))
        for (t, v, kind_of, fault), i, kind, undecided in rows
    )


def _ego(ego_6: Array) -> EgoState:
    x, y, yaw, v, a, steer = (float(value) for value in ego_6)
    return EgoState(x, y, yaw, v, a, steer)


def _kept(array: Array) -> Array:
    return frozen(np.array(array))
