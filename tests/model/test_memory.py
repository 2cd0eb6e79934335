import pytest

from senna2.model.memory import MemoryBank, SimulatedClock, Thought
from senna2.types import Decision, InputError


def _drive(period: float, frames: int, dt: float = 0.1) -> tuple[list[float], list[float]]:
    """→ ticks of the VLM, and the age the planner sees at every frame."""
    clock, ticks, ages = SimulatedClock(), [], []
    bank = MemoryBank(period, clock)

    def think() -> Thought:
        ticks.append(round(clock.now_s, 6))
        return Thought(clock.now_s, None, Decision.fake())

    for i in range(frames):
        clock.now_s = dt * i
        thought, age = bank.read(think)
        assert thought.t_s == pytest.approx(ticks[-1], abs=1e-5)
        ages.append(round(age, 6))
    return ticks, ages


@pytest.mark.parametrize(("period", "ticks"), [(0.1, 12), (0.5, 3), (1.0, 2), (5.0, 1), (0.3, 4)])
def test_the_vlm_ticks_at_its_period(period, ticks):
    found, ages = _drive(period, 12)
    assert len(found) == ticks
    assert found[0] == 0.0
    assert all(0 <= a < period for a in ages)
    if ticks > 1:
        assert max(ages) == pytest.approx(period - 0.1, abs=1e-6)


def test_reset_forgets_and_a_clock_that_runs_back_is_named():
    clock = SimulatedClock()
    bank = MemoryBank(0.5, clock)
    clock.now_s = 7.0
    bank.read(lambda: Thought(7.0, None, Decision.fake()))
    assert not bank.due
    clock.now_s = 0.0
    with pytest.raises(InputError, match=r"reset\(\)"):
        bank.read(lambda: Thought(0.0, None, Decision.fake()))
    bank.reset()
    assert bank.due
    assert bank.age_s == 0.0
    with pytest.raises(InputError, match="positive"):
        MemoryBank(0.0, clock)
