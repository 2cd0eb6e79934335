"""Who is beside an agent is in the way of its lane change, however long."""

from __future__ import annotations

import pytest
from test_traffic import along, column, drive, steady, three_lanes

from senna2.types import AgentClass, EgoState
from senna2.world.traffic.mobil import LONG_AGO


@pytest.mark.parametrize("ahead", [-4.0, 0.0, 4.0, 7.0])
def test_mobil_does_not_change_into_a_bus_beside(ahead: float) -> None:
    """12 m long: with its middle 4 m ahead its rear is still 2 m behind the middle of the car."""
    fast, slow = along("fast", 20.0, 0.0, steady(9.0)), along("slow", 45.0, 0.0, steady(5.0))
    bus = along("bus", 20.0 + ahead, 3.5, steady(9.0), kind=AgentClass.BUS, size=(12.0, 2.5))
    states = drive(three_lanes(fast, slow, bus, frames=60), "mobil", 0.0, start=EgoState(-39.0, 9.0, 0.0, 0.0))
    gap = column(states, 2, 0) - column(states, 0, 0) - (12.0 + 4.5) / 2  # from the car's front to the bus's rear
    begun = [s.agents.memory["changed_A"][0] for s in states]
    beside = [b for b, g in zip(begun, gap, strict=True) if g < 0]
    assert len(beside) > 5
    assert set(beside) == {LONG_AGO}
