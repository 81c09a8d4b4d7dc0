"""Token rates as rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import HistoryPoint
from tests.tui_kit import NOW, history, text_of
from tui.draw import rate
from tui.draw.history import Bounds
from tui.draw.line import Span, width
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.look import STYLES

DIGIT = (Span("3 ", "key"),)


def facts(**fields: Any) -> rate.Facts:
    given_facts: dict[str, Any] = {"history": history(), "now": NOW}
    return rate.Facts(**(given_facts | fields))


def compact(of: rate.Facts, columns: int, rows: int = 1, glyphs: Glyphs = UNICODE) -> list[str]:
    return text_of(rate.compact(of, columns, rows, glyphs, Bounds(), digit=DIGIT, name_style="title"))


def body(of: rate.Facts, columns: int, rows: int, glyphs: Glyphs = UNICODE) -> list[str]:
    return text_of(rate.body(of, columns, rows, glyphs, Bounds()))


def test_one_row_at_80() -> None:
    assert compact(facts(), 80) == ["3 out ▅▅▄▄▄▅▅▄▄▄▅▅▄▄▄▅▅▄▄▄▅▅ 0-2k   1 300 tok/s  mean 1 100  max 1 300  in   400"]
    assert compact(facts(), 80, glyphs=ASCII) == [
        "3 out ++===++===++===++===++ 0-2k   1 300 tok/s  mean 1 100  max 1 300  in   400"
    ]


def test_narrow_rows_keep_the_rate() -> None:
    assert compact(facts(), 20) == ["3 out 1 300 tok/s"]
    assert compact(facts(), 60)[0].endswith("1 300 tok/s  max 1 300  in   400")


def test_five_rows_hold_both_graphs_with_their_bounds() -> None:
    rows = body(facts(), 54, 5)
    assert rows[0] == " decode  1 300 tok/s  mean 1 113  max 1 300"
    assert rows[1].endswith(" 2k")
    assert rows[2].endswith(" 0")
    assert rows[3].startswith(" prefill   400 tok/s")
    assert rows[4].endswith(" 0-5k")


def test_low_bandwidth_has_figures_and_no_graph() -> None:
    assert compact(facts(graphs=False), 80) == ["3 out 1 300 tok/s  mean 1 100  max 1 300  in   400"]
    assert body(facts(graphs=False), 54, 5) == [
        " out 1 300 tok/s  mean 1 100  max 1 300",
        " in    400 tok/s  mean   833  max 3 000",
    ]


def test_the_mean_leaves_out_seconds_without_work() -> None:
    past = [HistoryPoint(t=NOW - 60 + s, decode=100.0 if s < 20 else 0.0, running=int(s < 20)) for s in range(60)]
    assert rate.figures(facts(history=past), rate.OUT, 120.0) == rate.Figures(0.0, 100.0, 100.0)


def test_now_is_the_mean_of_the_last_seconds() -> None:
    past = [HistoryPoint(t=NOW - 4 + s, decode=d, running=1) for s, d in enumerate([900.0, 10.0, 20.0, 30.0])]
    assert rate.figures(facts(history=past), rate.OUT, 120.0).now == pytest.approx(20.0)


def test_without_history_the_job_is_asked() -> None:
    assert rate.figures(facts(history=[], fallback=(34.0, 80.0)), rate.IN, 120.0) == rate.Figures(80.0, None, None)
    assert "34 tok/s  mean N/A" in " ".join(compact(facts(history=[], fallback=(34.0, 80.0)), 80)[0].split()).replace(
        "tok/s mean", "tok/s  mean"
    )


def test_an_old_history_is_no_rate_of_now() -> None:
    assert rate.figures(facts(now=NOW + 30), rate.OUT, 120.0).now is None
    assert rate.figures(facts(now=NOW + 9999), rate.OUT, 120.0) == rate.Figures(None, None, None)


def test_figures_keep_their_columns() -> None:
    """A slower second must not move the rest of the row."""
    bounds = Bounds()
    rows = []
    for decode in (1900.0, 7.0, 0.0, 850.0):
        past = [HistoryPoint(t=NOW - 100 + s, decode=1900.0, running=1) for s in range(95)]
        past += [HistoryPoint(t=NOW - 5 + s, decode=decode, running=1) for s in range(6)]
        rows += text_of(rate.compact(facts(history=past), 80, 1, UNICODE, bounds, digit=DIGIT, name_style="title"))
    assert len({row.index("tok/s") for row in rows}) == 1
    assert len({row.index("max") for row in rows}) == 1


@pytest.mark.parametrize(("per_s", "text"), [(None, "N/A"), (0.0, "0"), (3.14, "3.1"), (9.96, "10"), (1012.4, "1 012")])
def test_numbers(per_s: float | None, text: str) -> None:
    assert rate.number(per_s) == text


@pytest.mark.parametrize(("top", "text"), [(10, "10"), (500, "500"), (2000, "2k"), (50_000, "50k"), (2e6, "2M")])
def test_bounds_in_few_columns(top: float, text: str) -> None:
    assert rate.bound(top) == text


points = st.builds(
    HistoryPoint,
    t=st.floats(NOW - 700, NOW),
    decode=st.floats(0, 1e6),
    prefill=st.floats(0, 1e7),
    running=st.integers(0, 64),
)


@given(st.lists(points, max_size=30), st.integers(1, 210), st.integers(0, 30), st.booleans(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_history_fits_any_pane(
    past: list[HistoryPoint], columns: int, rows: int, plain: bool, graphs: bool
) -> None:
    past.sort(key=lambda point: point.t)
    glyphs = ASCII if plain else UNICODE
    of = facts(history=past, graphs=graphs)
    drawn = rate.body(of, columns, rows, glyphs, Bounds())
    assert len(drawn) <= rows
    for row in [*drawn, *rate.compact(of, columns, 1 + rows % 2, glyphs, Bounds(), digit=DIGIT, name_style="title")]:
        assert width(row) <= columns
        assert all(name in STYLES for span in row for name in span.style.split())
        assert not plain or all(span.text.isascii() for span in row)
