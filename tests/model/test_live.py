"""The threaded bank. No test depends on how fast the machine is: a fake VLM waits until it is told to go on."""

import dataclasses
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from senna2.model.live import LiveError, ThreadedBank, live
from senna2.model.memory import SimulatedClock, Thought
from senna2.model.policy import DualSystem, PolicyConfig
from senna2.types import ClipMeta, Decision, Direction, InputError, Observation, Rig, Samples, Speed

PATIENCE_S = 20.0  # for a machine under load; nothing waits so long unless it is broken


class Gate:
    """A VLM that thinks when it is let to, and writes down which frames it saw."""

    def __init__(self, clock: SimulatedClock) -> None:
        self.clock, self.seen = clock, []
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def frame(self):
        t_s = self.clock.now_s

        def think() -> Thought:
            self.seen.append(round(t_s, 3))
            self.begun.release()
            assert self.go.acquire(timeout=PATIENCE_S)
            return Thought(t_s, None, Decision.fake())

        return think

    def finish(self, bank: ThreadedBank) -> None:
        """Let the tick at hand end, and wait until it is published."""
        before = bank.ticks
        self.go.release()
        with bank._change:
            assert bank._change.wait_for(lambda: bank.ticks > before, PATIENCE_S)


@pytest.fixture
def clock() -> SimulatedClock:
    return SimulatedClock()


def test_the_planner_never_waits_ages_grow_and_the_newest_frame_is_next(clock):
    gate = Gate(clock)
    with ThreadedBank(clock) as bank:
        assert bank.read(gate.frame()) == (None, 0.0)
        assert gate.begun.acquire(timeout=PATIENCE_S)
        for i in range(1, 4):
            clock.now_s = 0.1 * i
            assert bank.read(gate.frame()) == (None, 0.0)  # still at frame 0
        gate.finish(bank)
        assert gate.begun.acquire(timeout=PATIENCE_S)
        assert gate.seen == [0.0, 0.3]  # frames 0.1 and 0.2 were overtaken
        ages = []
        for i in range(4, 9):
            clock.now_s = 0.1 * i
            thought, age = bank.read(gate.frame())
            assert thought.t_s == 0.0
            ages.append(age)
        np.testing.assert_allclose(ages, [0.4, 0.5, 0.6, 0.7, 0.8])
        gate.finish(bank)
        clock.now_s = 0.9
        thought, age = bank.read(gate.frame())
        assert (thought.t_s, age) == (pytest.approx(0.3), pytest.approx(0.6))
        gate.go.release()
    assert not bank._thread.is_alive()


def test_a_period_spaces_the_ticks_by_the_frames_clock(clock):
    gate = Gate(clock)
    for _ in range(100):
        gate.go.release()
    with ThreadedBank(clock, period_s=0.5) as bank:
        for i in range(12):
            clock.now_s = 0.1 * i
            before = bank.ticks
            bank.read(gate.frame())
            if i in (0, 5, 10):
                with bank._change:
                    assert bank._change.wait_for(lambda n=before: bank.ticks > n, PATIENCE_S)
    assert gate.seen == [0.0, 0.5, 1.0]


def test_features_and_decision_are_of_one_tick_under_load(clock):
    """Every thought is consistent in itself: its hidden state, decision and time all carry the frame's number."""

    def frame(i: int):
        def think() -> Thought:
            hidden = torch.full((1, 64), float(i))
            return Thought(0.1 * i, hidden, Decision(Speed(i % 4), Direction(i % 5)))

        return think

    torn, last = [], -1
    with ThreadedBank(clock) as bank:
        bank.read(frame(0))
        assert bank.wait(PATIENCE_S)
        end = time.monotonic() + 0.5
        i = 0
        while time.monotonic() < end or (last < 3 and time.monotonic() < end + PATIENCE_S):
            i += 1
            clock.now_s = 0.1 * i
            thought, age = bank.read(frame(i))
            n = round(thought.t_s / 0.1)
            whole = (thought.hidden_1D == n).all() and thought.decision == Decision(Speed(n % 4), Direction(n % 5))
            if not whole or abs(age - 0.1 * (i - n)) > 1e-6 or n < last:
                torn.append((i, thought))
            last = n
    assert not torn
    assert last > 0  # thoughts did change underneath


def test_an_error_of_the_thread_surfaces_at_the_next_read(clock):
    def fail() -> Thought:
        raise ValueError("no such token")

    bank = ThreadedBank(clock)
    bank.read(fail)
    with pytest.raises(LiveError, match="no such token") as caught:
        bank.wait(PATIENCE_S)
    assert isinstance(caught.value.__cause__, ValueError)
    for _ in range(2):
        with pytest.raises(LiveError):
            bank.read(fail)
    with pytest.raises(LiveError):
        bank.reset()
    bank.stop()
    assert not bank._thread.is_alive()


def test_stop_ends_an_idle_and_a_busy_thread_and_may_be_repeated(clock):
    idle = ThreadedBank(clock)
    idle.stop()
    idle.stop()
    with pytest.raises(InputError, match="was stopped"):
        idle.read(lambda: Thought(0.0, None, Decision.fake()))
    gate = Gate(clock)
    busy = ThreadedBank(clock)
    busy.read(gate.frame())
    assert gate.begun.acquire(timeout=PATIENCE_S)
    with pytest.raises(LiveError, match="has not ended"):
        busy.stop(0.01)
    gate.go.release()
    busy.stop()
    assert not busy._thread.is_alive()


def test_stopping_under_a_planner_that_keeps_reading_locks_nobody(clock):
    bank = ThreadedBank(clock)
    ended = []

    def plan() -> None:
        try:
            while True:
                bank.read(lambda: Thought(0.0, None, Decision.fake()))
        except InputError as error:
            ended.append(str(error))

    planner = threading.Thread(target=plan, daemon=True)
    planner.start()
    assert bank.wait(PATIENCE_S)
    bank.stop(PATIENCE_S)
    planner.join(PATIENCE_S)
    assert not planner.is_alive()
    assert "was stopped" in ended[0]


def test_a_thought_begun_before_a_reset_is_dropped(clock):
    gate = Gate(clock)
    with ThreadedBank(clock) as bank:
        clock.now_s = 7.0
        bank.read(gate.frame())
        assert gate.begun.acquire(timeout=PATIENCE_S)
        bank.reset()
        clock.now_s = 0.0
        gate.finish(bank)
        assert bank.read(gate.frame()) == (None, 0.0)
        gate.finish(bank)
        assert bank.read(gate.frame())[0].t_s == 0.0
        clock.now_s = -1.0
        with pytest.raises(InputError, match="went back"):
            bank.read(gate.frame())
        gate.go.release()


def test_bad_settings_are_named(clock):
    with pytest.raises(InputError, match="period_s"):
        ThreadedBank(clock, period_s=-1.0)
    with pytest.raises(InputError, match="threads"):
        ThreadedBank(clock, threads=0)


# ------------------------------------------------------------------------------------------------ in a dual system


class FakeVLM(nn.Module):
    hidden_size, device = 16, torch.device("cpu")

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def decide(self, samples: Samples) -> SimpleNamespace:
        self.begun.release()
        assert self.go.acquire(timeout=PATIENCE_S)
        speed = torch.tensor([int(v) % 4 for v in samples.motion_N4[:, 0]])
        logp = torch.log_softmax(10.0 * nn.functional.one_hot(speed, 4), -1)
        return SimpleNamespace(
            hidden_BD=samples_hidden(samples), speed_B=speed, direction_B=0 * speed, speed_logp_B4=logp
        )


def samples_hidden(samples: Samples) -> torch.Tensor:
    return torch.tensor(samples.motion_N4[:, :1]).expand(-1, 16) * torch.arange(1, 17)


def _policy(vlm: nn.Module | None) -> DualSystem:
    config = PolicyConfig(obs="state", adapter="both" if vlm else "decision", dim=32, heads=2, blocks=1)
    policy = DualSystem(config, Rig.fake(), vlm=vlm)
    policy.fit_planner(Samples.fake(64))
    return policy


def _frame(i: int) -> Observation:
    motion = np.array([float(i), 0, 0, 0], np.float32)
    return dataclasses.replace(Observation.fake(), t_s=0.1 * i, motion_4=motion)


def test_a_dual_system_drives_live_and_is_as_before_afterwards():
    vlm = FakeVLM()
    policy = _policy(vlm)
    bank_before = policy.memory
    with live(policy) as bank:
        policy.reset(ClipMeta.fake(), 0)
        first = policy.act(_frame(0))
        assert (first.vlm_decision, first.decision, first.decision_age_s) == (None, None, 0.0)
        vlm.go.release()
        assert bank.wait(PATIENCE_S)
        assert vlm.begun.acquire(timeout=PATIENCE_S)
        for i in (1, 2, 3):
            plan = policy.act(_frame(i))
            if i == 1:
                assert vlm.begun.acquire(timeout=PATIENCE_S)
            assert plan.vlm_decision == Decision(Speed(0), Direction.STRAIGHT)  # of frame 0
            assert plan.decision_age_s == pytest.approx(0.1 * i)
        vlm.go.release()  # the thread was at frame 1
        with bank._change:
            assert bank._change.wait_for(lambda: bank.ticks == 2, PATIENCE_S)
        plan = policy.act(_frame(4))
        assert plan.vlm_decision == Decision(Speed(1), Direction.STRAIGHT)
        assert plan.decision_age_s == pytest.approx(0.3)
        for _ in range(3):
            vlm.go.release()
    assert policy.memory is bank_before
    assert not bank._thread.is_alive()
    policy.reset(ClipMeta.fake(), 0)
    assert policy.act(_frame(2)).decision_age_s == 0.0  # synchronous again


def test_an_answer_is_as_old_as_its_frame_however_late_it_is_thought():
    class Later:
        period_s = 0.0

        def reset(self) -> None: ...

        def read(self, think):
            self.think = think
            return None, 0.0

    policy = _policy(FakeVLM())
    policy.memory = later = Later()
    policy.act(_frame(3))
    think = later.think
    policy.act(_frame(9))
    policy.vlm.go.release()
    thought = think()
    assert thought.t_s == pytest.approx(0.3)
    assert thought.decision.speed == 3  # of the frame at 3 m/s
    assert torch.equal(thought.hidden_1D, samples_hidden(Samples.from_observations([_frame(3)])))


def test_without_a_vlm_there_is_nothing_to_run_in_a_thread():
    with pytest.raises(InputError, match="no VLM"), live(_policy(None)):
        pass
