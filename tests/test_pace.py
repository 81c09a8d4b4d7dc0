"""How often the screen is drawn."""

from __future__ import annotations

from tui.pace import BUSY_WRITES, CALM_S, LOW_HZ, Pace

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
    seen = [(5.0 + TICK, pace.hz)]
    now = 5.0
    while pace.slow and now < 5 + 5 * CALM_S:
        now += TICK
        pace.tick(now, backlog=0, sent_bytes=0, low=False)
        if pace.hz != seen[-1][1]:
            seen.append((now, pace.hz))
    assert [hz for _, hz in seen] == [0.5, 1.0, 2.0, 4.0]
    # The terminal has to keep up for as long before each step.
    assert [t - seen[0][0] for t, _ in seen[1:]] == [CALM_S, 2 * CALM_S, 3 * CALM_S]


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


def test_a_few_writes_under_way_are_no_backlog() -> None:
    pace = Pace(4.0)
    assert run(pace, 20, backlog=BUSY_WRITES - 1) == 20
    assert run(pace, 20, start=5.0, backlog=BUSY_WRITES) == 0


def test_two_busy_ticks_in_a_row_make_one_step() -> None:
    pace = Pace(4.0)
    seen = []
    for i in range(4):
        run(pace, 1, start=i * TICK, backlog=5)
        seen.append((pace.hz, pace.slow))
    assert seen == [(4.0, False), (2.0, True), (2.0, True), (1.0, True)]


def test_busy_ticks_with_others_between_them_are_hiccups() -> None:
    pace = Pace(4.0)
    for i in range(20):
        run(pace, 1, start=i * TICK, backlog=5 * (i % 2))
    assert not pace.slow


def test_a_wish_for_more_draws_waits_until_the_terminal_keeps_up() -> None:
    pace = Pace(4.0)
    run(pace, 20, backlog=5)
    pace.set_top(2.0)
    assert pace.hz == 0.5
    pace.set_top(8.0)
    assert pace.hz == 0.5


def test_ticks_a_little_off_their_plan_are_drawn_all() -> None:
    pace = Pace(4.0)
    assert sum(
        pace.tick(i * TICK + (0.03 if i % 2 else 0.0), backlog=0, sent_bytes=0, low=False) for i in range(40)
    ) == 40  # fmt: skip
