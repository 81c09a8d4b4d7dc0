"""How often the screen is drawn."""

from __future__ import annotations

from tui.pace import CALM_S, LOW_HZ, Pace

TICK = 0.25


def run(pace: Pace, ticks: int, *, start: float = 0.0, backlog: int = 0, low: bool = False, per_draw: int = 0) -> int:
    drawn = 0
    for i in range(ticks):
        drawn += pace.tick(start + i * TICK, backlog=backlog, sent_bytes=drawn * per_draw, low=low)
    return drawn


def test_every_tick_is_drawn_where_the_terminal_keeps_up() -> None:
    pace = Pace(4.0)
    assert run(pace, 40) == 40
    assert (pace.hz, pace.slow) == (4.0, False)


def test_low_bandwidth_draws_once_a_second_and_comes_back() -> None:
    pace = Pace(4.0)
    assert run(pace, 40, low=True) == 10
    assert pace.hz == LOW_HZ
    assert run(pace, 8, start=10.0) == 8


def test_a_terminal_that_does_not_read_gets_nothing_and_the_pace_falls() -> None:
    pace = Pace(4.0)
    assert run(pace, 20, backlog=5) == 0
    assert pace.slow
    assert pace.hz == 0.5


def test_one_busy_tick_is_no_reason_to_slow_down() -> None:
    pace = Pace(4.0)
    run(pace, 4)
    assert not pace.tick(1.0, backlog=5, sent_bytes=0, low=False)
    assert pace.tick(1.25, backlog=0, sent_bytes=0, low=False)
    assert not pace.slow


def test_it_gets_faster_again_step_by_step() -> None:
    pace = Pace(4.0)
    run(pace, 20, backlog=5)
    seen = [pace.hz]
    now = 5.0
    while pace.slow and now < 5 + 5 * CALM_S:
        now += TICK
        pace.tick(now, backlog=0, sent_bytes=0, low=False)
        if pace.hz != seen[-1]:
            seen.append(pace.hz)
    assert seen == [0.5, 1.0, 2.0, 4.0]


def test_the_rate_is_measured_over_the_last_seconds() -> None:
    pace = Pace(4.0)
    for i in range(41):
        pace.tick(i * TICK, backlog=0, sent_bytes=i * 512, low=False)
    assert pace.kib_s == 2.0
    for i in range(41, 81):
        pace.tick(i * TICK, backlog=0, sent_bytes=41 * 512, low=False)
    assert pace.kib_s == 0.0


def test_a_wish_for_fewer_draws_holds() -> None:
    pace = Pace(4.0)
    pace.set_top(1.0)
    assert run(pace, 40) == 10
