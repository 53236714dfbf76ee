from __future__ import annotations

from dataclasses import dataclass

import pytest

from stepwrit_broker.clock import DOUBT_S, JUMP_S, SystemClock, SystemEntropy
from stepwrit_broker.core.errors import Unavailable

NOON = 1_790_000_000.0


@dataclass
class Machine:
    """A wall clock and a stopwatch that move together until someone sets the clock."""

    wall: float = NOON
    elapsed: float = 100.0

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.elapsed += seconds

    def clock(self) -> SystemClock:
        return SystemClock(lambda: self.wall, lambda: self.elapsed)


def test_steady_time_is_the_wall_clocks() -> None:
    machine = Machine()
    clock = machine.clock()
    for _ in range(100):
        machine.passes(3600.0)
        assert clock.now() == machine.wall


@pytest.mark.parametrize("slew", [JUMP_S, -JUMP_S, 0.5])
def test_a_small_correction_is_no_doubt(slew: float) -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += slew
    assert clock.now() == machine.wall


@pytest.mark.parametrize("jump", [JUMP_S + 0.1, -JUMP_S - 0.1, 86_400.0, -86_400.0])
def test_a_jump_is_doubt_that_says_when_to_retry_and_passes(jump: float) -> None:
    machine = Machine()
    clock = machine.clock()
    assert clock.now() == NOON
    machine.wall += jump
    with pytest.raises(Unavailable) as doubt:
        clock.now()
    assert (doubt.value.code, doubt.value.rule, doubt.value.retry_after) == ("unavailable", "clock", DOUBT_S)
    machine.passes(DOUBT_S - 0.1)
    with pytest.raises(Unavailable) as doubt:
        clock.now()
    assert doubt.value.retry_after == pytest.approx(0.1)
    machine.passes(0.2)
    assert clock.now() == machine.wall
    machine.passes(1000.0)
    assert clock.now() == machine.wall


def test_a_second_jump_begins_the_doubt_again() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.wall += 60
    with pytest.raises(Unavailable):
        clock.now()
    machine.passes(DOUBT_S - 1)
    machine.wall -= 60
    for _ in range(2):
        with pytest.raises(Unavailable):
            clock.now()
    machine.passes(DOUBT_S - 1)
    with pytest.raises(Unavailable):
        clock.now()
    machine.passes(1)
    assert clock.now() == machine.wall


def test_a_suspended_machine_is_not_in_doubt() -> None:
    machine = Machine()
    clock = machine.clock()
    machine.passes(8 * 3600.0)
    assert clock.now() == machine.wall


def test_the_real_clock_and_the_real_randomness_answer() -> None:
    assert SystemClock().now() > NOON - 20 * 365 * 86_400
    assert len(SystemEntropy().bytes(17)) == 17
    assert SystemEntropy().bytes(16) != SystemEntropy().bytes(16)
