"""Memory as rows: what is shown, what is marked as an estimate, and what is N/A."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.protocol import DeviceReading, EngineStats, EngineView, HistoryPoint, IncidentView, ModelInfo, Reading
from tests.tui_kit import GIB, MIB, NOW, engine, gpu, history, ram, reading, text_of
from tui.draw import memory, memory_plan
from tui.draw.big import big
from tui.draw.history import Bounds
from tui.draw.line import Span, width
from tui.draw.memory import clock
from tui.draw.steady import Steady
from tui.glyphs import ASCII, UNICODE, Glyphs
from tui.look import STYLES

DIGIT = (Span("2 ", "key"),)

STEERS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal must not be sent."""


def facts(of: Reading | None = None, **fields: Any) -> memory.Facts:
    given_facts: dict[str, Any] = {
        "reading": memory.steadied(of or reading(), Steady()),
        "engine": engine(),
        "history": history(),
        "waiting": 5782,
        "now": NOW,
    }
    return memory.Facts(**(given_facts | fields))


def compact(of: memory.Facts, columns: int, rows: int = 2, glyphs: Glyphs = UNICODE) -> list[str]:
    return text_of(memory.compact(of, columns, rows, glyphs, digit=DIGIT, name_style="title"))


def body(of: memory.Facts, columns: int, rows: int, glyphs: Glyphs = UNICODE) -> list[str]:
    return text_of(memory.body(of, columns, rows, glyphs, Bounds()))


# --- rows as people read them -----------------------------------------------------------------------------------------


def test_two_rows_at_80() -> None:
    assert compact(facts(), 80) == [
        "2 mem ▕wwwwwwwwwwwwwwwwwwwwwwwkkkkcxo·····!!▏ 13.0/16.0 GiB  free  3.0 GiB  ok",
        "  kv  ▕███████████████████████··············▏  61%  slots 30/32  wait 5 782",
    ]


def test_two_rows_in_ascii() -> None:
    rows = compact(facts(), 80, glyphs=ASCII)
    assert rows[0].startswith("2 mem [wwww")
    assert all(row.isascii() for row in rows)


def test_narrow_rows_keep_the_headroom() -> None:
    assert compact(facts(), 20, 1) == ["2 mem 3.0 GiB  ok"]
    assert compact(facts(), 40, 1)[0].endswith("3.0 GiB  ok")


def test_the_body_at_66_columns() -> None:
    rows = body(facts(), 66, 5)
    assert rows[0].startswith(" gpu ▕wwww")
    assert rows[1].startswith(" kv  ▕███")
    assert rows[2:] == [
        " w 10.4  k 1.5  c 0.1  x ~0.4  o 0.6 GiB",
        " room for ~53 more slots of 2 048 tokens (~50 MiB each)",
        f" peak 13.3 GiB at {clock(NOW - 600)} (10 min ago)",
    ]


def test_the_room_is_never_cut_in_the_middle_of_a_figure() -> None:
    rows = text_of([memory.room_line(memory.slot_plan(engine(), reading(gpu(), ram())), engine(), n) for n in (54, 53)])
    assert rows == [
        "room for ~53 more slots of 2 048 tokens (~50 MiB each)",
        "room for ~53 more slots of 2 048 tokens",
    ]


def test_high_panes_have_large_digits_and_history() -> None:
    rows = body(facts(), 80, 21)
    at = next(i for i, row in enumerate(rows) if "GiB free on GPU" in row)
    assert "▀▀█   █▀█" in rows[at]
    assert "warn <512 MiB, critical <256 MiB" in rows[at + 1]
    assert any("free memory  last 5 min, lowest 2.9 GiB" in row for row in rows)
    assert any(row.endswith("5.0 GiB") for row in rows)  # the upper bound of the graph
    assert rows[-1].endswith("█ 0")
    assert any("ram ▕" in row for row in rows)


def test_ascii_has_no_large_digits_and_nothing_is_lost() -> None:
    rows = body(facts(), 80, 21, ASCII)
    assert all(row.isascii() for row in rows)
    assert any("free  3.0 GiB" in row for row in rows)


def test_low_bandwidth_draws_no_graph() -> None:
    assert not any("free memory" in row for row in body(facts(graphs=False), 80, 21))


def test_bars_under_each_other_end_together() -> None:
    for of in (facts(), facts(reading(gpu(), gpu(index=1, free=100 * MIB), ram(total=512 * GIB, free=300 * GIB)))):
        rows = [row for row in body(of, 80, 12) if "▕" in row]
        assert len({row.index("▏") for row in rows}) == 1
        assert len({row.index("▕") for row in rows}) == 1


def test_without_a_gpu_ram_is_shown_and_said_so() -> None:
    of = facts(reading(ram(), note="no GPU: process and system RAM"))
    assert compact(of, 80)[0].startswith("2 ram ▕")
    assert " no GPU: process and system RAM" in body(of, 66, 5)


def test_two_gpus_have_a_gauge_each() -> None:
    of = facts(reading(gpu(), gpu(index=1, used=15 * GIB + 900 * MIB, free=100 * MIB), ram()))
    rows = body(of, 66, 5)
    assert rows[0].startswith(" gpu0 ")
    assert rows[1].startswith(" gpu1 ")
    assert rows[1].endswith("100 MiB  CRITICAL")
    assert compact(of, 66)[0].startswith("2 gpu1 ")  # where only one fits, the one in need


@pytest.mark.parametrize(
    ("free", "word", "style"),
    [(3 * GIB, "ok", "ok"), (511 * MIB, "warn", "warn"), (255 * MIB, "CRITICAL", "error"), (256 * MIB, "warn", "warn")],
)
def test_states(free: int, word: str, style: str) -> None:
    assert memory.state_of(gpu(free=free)) == Span(word, style)


@pytest.mark.parametrize(("free", "styles"), [(3 * GIB, {"dim"}), (400 * MIB, {"warn"}), (200 * MIB, set[str]())])
def test_a_bar_that_is_fine_shows_no_alarm(free: int, styles: set[str]) -> None:
    """The critical mark is lit from the warning on; below it no mark is left to be seen."""
    bar = memory.owner_bar(gpu(free=free, used=16 * GIB - free), 200, UNICODE)
    assert {span.style for span in bar if span.text == "!"} == styles


def test_no_thresholds_no_state() -> None:
    assert memory.state_of(gpu(warn_free=0, critical_free=0)).text == ""


def test_a_device_that_tells_nothing_is_na() -> None:
    silent = DeviceReading(name="GPU", kind="gpu")
    of = facts(reading(silent, ram()), history=[])
    assert compact(of, 60)[0].endswith("memory N/A")
    assert not any("0.0 GiB" in row or "0 MiB" in row for row in body(of, 66, 3))
    assert memory.sensors(silent) == (Span("temp N/A  power N/A  busy N/A"),)


def test_no_engine_is_said() -> None:
    rows = body(facts(engine=EngineView(), waiting=None), 66, 5)
    assert rows[1] == " kv  no engine is loaded"
    assert " room for more slots N/A: no engine is loaded" in rows
    loading = body(facts(engine=EngineView(state="loading"), waiting=None), 66, 5)
    assert loading[1] == " kv  the engine is loading"


# --- owners -----------------------------------------------------------------------------------------------------------


def test_estimates_carry_a_tilde() -> None:
    held = {h.owner.name: h for h in memory.holdings(gpu())}
    assert held["context"].size.startswith("~")
    assert not held["weights"].size.startswith("~")


def test_what_nobody_claims_is_others_and_estimated() -> None:
    held = {h.owner.name: h for h in memory.holdings(gpu(used=8 * GIB, owners={"weights": 6 * GIB}, estimated=[]))}
    assert (held["other"].amount, held["other"].estimated) == (2 * GIB, True)


def test_an_owner_of_a_later_version_counts_as_others() -> None:
    held = memory.holdings(gpu(used=2 * GIB, owners={"adapters": 2 * GIB}, estimated=["adapters"]))
    assert [(h.owner.name, h.amount, h.estimated) for h in held] == [("other", 2 * GIB, True)]


def test_letters_and_styles_are_one_each() -> None:
    assert len({owner.letter for owner in memory.OWNERS}) == len(memory.OWNERS)
    assert all(owner.style in STYLES for owner in memory.OWNERS)


# --- slots ------------------------------------------------------------------------------------------------------------


def test_a_slot_costs_its_share_of_the_kv_cache() -> None:
    plan = memory.slot_plan(engine(), reading())
    assert plan is not None
    assert plan.slot_bytes == 1536 * MIB // 32
    assert plan.more == (3 * GIB - 512 * MIB) // plan.slot_bytes
    assert (plan.slots, plan.context, plan.device) == (32, 2048, "GPU")


def test_gpus_share_the_cost_of_a_slot() -> None:
    one = memory.slot_plan(engine(), reading(gpu(), ram(owners={})))
    two = memory.slot_plan(engine(), reading(gpu(), gpu(index=1, free=2 * GIB), ram(owners={})))
    assert one is not None
    assert two is not None
    assert two.more == (2 * GIB - 512 * MIB) // (one.slot_bytes // 2)


def test_no_room_below_the_warning() -> None:
    plan = memory.slot_plan(engine(), reading(gpu(free=512 * MIB), ram()))
    assert plan is not None
    assert plan.more == 0
    assert text_of([memory.room_line(plan, engine())])[0].startswith("no room for one more slot")


def test_the_plan_looks_at_the_device_of_the_kv_cache() -> None:
    cold = gpu(owners={})
    plan = memory.slot_plan(engine(), reading(cold, ram()))
    assert plan is not None
    assert plan.device == "RAM"


def test_no_plan_without_kv_figures() -> None:
    assert memory.slot_plan(engine(stats=EngineStats(slots=32)), reading()) is None
    assert memory.slot_plan(EngineView(), reading()) is None
    assert memory.slot_plan(engine(), None) is None


# --- any facts, any size ----------------------------------------------------------------------------------------------

sizes = st.integers(0, 200 * GIB)
owners = st.dictionaries(st.sampled_from([o.name for o in memory.OWNERS] + ["host"]), sizes)
devices = st.builds(
    DeviceReading,
    name=st.text(max_size=20),
    kind=st.sampled_from(["gpu", "ram"]),
    index=st.integers(0, 9),
    total=sizes,
    used=sizes,
    free=sizes,
    utilization=st.none() | st.floats(0, 1),
    temperature_c=st.none() | st.floats(0, 110),
    power_w=st.none() | st.floats(0, 1000),
    owners=owners,
    estimated=st.lists(st.sampled_from(["kv", "other", "host"])),
    peak_used=sizes,
    peak_t=st.floats(0, NOW + 100),
    warn_free=sizes,
    critical_free=sizes,
)
stats = st.builds(
    EngineStats,
    running=st.integers(0, 300),
    slots=st.integers(0, 300),
    kv_used=st.integers(0, 10**6),
    kv_total=st.integers(0, 10**6),
    memory=owners,
)
engines = st.builds(
    EngineView,
    state=st.sampled_from(["none", "starting", "loading", "ready", "dead"]),
    info=st.none() | st.builds(ModelInfo, name=st.text(max_size=20), path=st.just(""), slots=st.integers(0, 300)),
    stats=stats,
)
points = st.lists(st.builds(HistoryPoint, t=st.floats(NOW - 700, NOW), free=st.lists(sizes, max_size=3)), max_size=20)


@given(
    st.lists(devices, max_size=4),
    engines,
    points,
    st.integers(1, 210),
    st.integers(0, 30),
    st.sampled_from([UNICODE, ASCII]),
)
@settings(max_examples=60, deadline=None)
def test_any_machine_fits_any_pane(
    found: list[DeviceReading],
    of: EngineView,
    past: list[HistoryPoint],
    columns: int,
    rows: int,
    glyphs: Glyphs,
) -> None:
    past.sort(key=lambda point: point.t)
    machine = Reading(t=NOW, devices=found, note="no GPU: process and system RAM")
    everything = facts(machine, engine=of, history=past, waiting=len(past) or None)
    drawn = memory.body(everything, columns, rows, glyphs, Bounds())
    assert len(drawn) <= max(rows, 0)
    for row in [*drawn, *memory.compact(everything, columns, 3, glyphs, digit=DIGIT, name_style="title")]:
        assert width(row) <= columns
        assert all(name in STYLES for span in row for name in span.style.split())
        assert not any(STEERS.search(span.text) for span in row)
    if not found:
        return
    plan = memory_plan.Facts(everything.reading, of, past, [], NOW)
    for row in memory_plan.plan(plan, columns, glyphs):
        assert not any(STEERS.search(span.text) for span in row)


# --- large digits -----------------------------------------------------------------------------------------------------


def test_large_digits() -> None:
    assert big("1.8", UNICODE) == ["▄█    █▀█", " █    █▀█", "▀▀▀ ▀ ▀▀▀"]
    assert big("1.8", ASCII) == []


@given(st.from_regex(r"[0-9. ]{1,8}", fullmatch=True))
def test_large_digits_are_even(figure: str) -> None:
    rows = big(figure, UNICODE)
    assert len(rows) == 3
    assert len({len(row) for row in rows}) == 1


# --- the memory screen ------------------------------------------------------------------------------------------------


def plan_text(columns: int = 80, **fields: Any) -> list[str]:
    given_facts: dict[str, Any] = {
        "reading": memory.steadied(reading(), Steady()),
        "engine": engine(),
        "history": history(),
        "incidents": [],
        "now": NOW,
    }
    return text_of(memory_plan.plan(memory_plan.Facts(**(given_facts | fields)), columns, UNICODE))


def test_the_screen_lists_owners_with_their_basis() -> None:
    rows = plan_text()
    assert "   w weights    10.4 GiB   65%  measured   the model's weights" in rows
    assert "   x runtime    ~390 MiB    2%  estimated  held by the engine's libraries" in rows
    assert "   · free        3.0 GiB   19%  measured   headroom" in rows
    assert all(len(row) <= 80 for row in rows)


def test_the_screen_says_what_a_slot_costs() -> None:
    rows = plan_text()
    assert "   engine     gpt-oss-20b-Q4_K_M, 32 slots of 2 048 tokens" in rows
    assert "   one slot   ~50 MiB of KV cache at 2 048 tokens" in rows
    assert any(row.startswith("   room       ~53 more would fit") for row in rows)
    assert any("gptoss.toml" in row for row in rows)


def test_the_screen_is_honest_without_engine_and_reading() -> None:
    rows = plan_text(reading=None, engine=EngineView(), history=[])
    assert " no memory reading yet" in rows
    assert "   engine     N/A: no engine is loaded" in rows
    assert "   one slot   N/A" in rows


def test_the_screen_knows_the_low_water() -> None:
    past = [HistoryPoint(t=NOW - 100 + i, free=[(3 * GIB if i != 50 else GIB), 23 * GIB]) for i in range(100)]
    assert f"   lowest free 1.0 GiB at {clock(NOW - 50)} (of the last 1 min)" in plan_text(history=past)
    assert "   lowest free N/A" in plan_text(history=[])


def test_the_screen_keeps_to_incidents_about_memory() -> None:
    incidents = [
        IncidentView(t=NOW - 50, job="a", kind="engine_died", message="not enough GPU memory.", action="16 slots now"),
        IncidentView(t=NOW - 40, job="a", kind="disk_full", message="no space left"),
        IncidentView(t=NOW - 30, job="a", kind="load_failed", message="cuda OOM\x1b[2J", level="error"),
    ]
    rows = plan_text(incidents=incidents)
    at = rows.index(" Incidents about memory")
    assert rows[at + 1 : at + 3] == [
        f"   {clock(NOW - 30)}  cuda OOM␛[2J",
        f"   {clock(NOW - 50)}  not enough GPU memory; 16 slots now",
    ]
    assert not any("no space" in row for row in rows)
    assert "   none" in plan_text(incidents=[])
