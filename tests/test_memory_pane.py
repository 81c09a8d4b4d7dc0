"""Memory, rate, header and key line as widgets, and the memory screen: calm when idle, right at every size."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from textual.app import App
from textual.geometry import Region

from engine.job import JobState
from engine.protocol import EngineView, Reading
from tests.tui_kit import GIB, MIB, NOW, PaneApp, gpu, history, job_view, make_desk, ram, reading, screen_text
from tui.desk import Desk
from tui.glyphs import ASCII
from tui.keys import KeyTable
from tui.look import Look
from tui.notice import Notice
from tui.panes.header import Header
from tui.panes.keyline import KeyLine
from tui.panes.memory import MemoryPane
from tui.panes.pane import Pane
from tui.panes.rate import RatePane
from tui.screens.memory import ADD, MemoryScreen
from tui.text import one_line

SIZES = [(20, 1), (40, 2), (80, 2), (66, 6), (54, 12), (200, 50)]


class Paints:
    """What a pane asks to be painted again."""

    def __init__(self, pane: Pane, monkeypatch: pytest.MonkeyPatch) -> None:
        self.regions: list[Region] = []

        def refresh(*regions: Region, **more: Any) -> Pane:
            del more
            self.regions.extend(regions or [Region(0, 0, *pane.size)])
            return pane

        monkeypatch.setattr(pane, "refresh", refresh)

    @property
    def cells(self) -> int:
        return sum(region.area for region in self.regions)


def wobbled(of: Reading, by: int) -> Reading:
    """The same machine a moment later."""
    devices = [
        msgspec.structs.replace(
            device,
            used=device.used + by,
            free=device.free - by,
            owners=device.owners | {"other": device.owners["other"] + by},
            power_w=None if device.power_w is None else device.power_w + 1.5,
        )
        for device in of.devices
    ]
    return msgspec.structs.replace(of, devices=devices, t=of.t + 0.25)


@pytest.mark.parametrize("pane_type", [MemoryPane, RatePane, Header, KeyLine])
@pytest.mark.parametrize("size", SIZES)
async def test_every_size_is_drawn(pane_type: type[Pane], size: tuple[int, int]) -> None:
    for glyphs in (None, ASCII):
        desk = make_desk()
        desk.glyphs = glyphs or desk.glyphs
        desk.look = Look(colour=glyphs is None)
        app = PaneApp(pane_type(), desk)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            rows = screen_text(app)
            assert rows[0].strip()
            assert all(len(row) <= size[0] for row in rows)
            if glyphs is ASCII:
                assert all(row.isascii() for row in rows)


async def test_an_idle_machine_paints_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = make_desk()
    app = PaneApp(MemoryPane(), desk)
    async with app.run_test(size=(66, 9)) as pilot:
        await pilot.pause()
        app.pane.redraw()
        paints = Paints(app.pane, monkeypatch)
        first = desk.mirror.reading
        assert first is not None
        for i in range(20):
            desk.mirror.reading = wobbled(first, (i % 5 - 2) * MIB)
            app.pane.redraw()
        assert paints.regions == []
        desk.mirror.reading = wobbled(first, 600 * MIB)
        app.pane.redraw()
        assert paints.regions


async def test_the_rate_graph_is_painted_once_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the figures may change in between: the graph's own cells stay as they are."""
    desk = make_desk(history=history(600))
    clock = NOW
    desk.now = lambda: clock
    app = PaneApp(RatePane(), desk)
    async with app.run_test(size=(80, 1)) as pilot:
        await pilot.pause()
        app.pane.redraw()
        paints = Paints(app.pane, monkeypatch)
        steps = 240
        for tick in range(steps):  # a minute at four ticks a second; 22 columns of six seconds
            clock = NOW + tick / 4
            if tick % 4 == 0:
                last = desk.mirror.history[-1]
                desk.mirror.history.append(msgspec.structs.replace(last, t=clock, decode=900.0 + 90 * (tick % 3)))
            app.pane.redraw()
        graph = [region for region in paints.regions if region.x < 30]
        assert 9 <= len(graph) <= 11


async def test_no_reading_yet() -> None:
    for size, row in (((80, 2), "2 mem no memory reading yet"), ((80, 6), " no memory reading yet")):
        app = PaneApp(MemoryPane(), make_desk(reading=None))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            assert row in screen_text(app)


async def test_titles_come_with_the_room() -> None:
    app = PaneApp(MemoryPane(), make_desk())
    async with app.run_test(size=(66, 6)) as pilot:
        await pilot.pause()
        assert screen_text(app)[0].startswith("─ 2 memory RTX 4080 ─")
        assert "62 C  250 W  busy 95%" in screen_text(app)[0]
        await pilot.resize_terminal(66, 2)
        await pilot.pause()
        assert screen_text(app)[0].startswith("2 mem ▕")
        await pilot.resize_terminal(66, 6)
        await pilot.pause()
        assert screen_text(app)[0].startswith("─ 2 memory")


async def test_ram_is_said_in_the_title() -> None:
    app = PaneApp(MemoryPane(), make_desk(reading=reading(ram(), note="no GPU: process and system RAM")))
    async with app.run_test(size=(66, 6)) as pilot:
        await pilot.pause()
        assert screen_text(app)[0].endswith("no GPU: process and system RAM ─")


async def test_the_rate_pane_says_its_span() -> None:
    app = PaneApp(RatePane(), make_desk())
    async with app.run_test(size=(54, 6)) as pilot:
        await pilot.pause()
        assert screen_text(app)[0].startswith("─ 3 rate ─")
        assert screen_text(app)[0].endswith(" last 2 min ─")


async def test_rates_of_the_job_stand_in_at_the_start() -> None:
    desk = make_desk(history=[])
    app = PaneApp(RatePane(), desk)
    async with app.run_test(size=(80, 1)) as pilot:
        await pilot.pause()
        assert "1 012 tok/s" in screen_text(app)[0]
        desk.mirror.jobs = {"evals-1": job_view(state=JobState.PAUSED)}
        app.pane.redraw()
        await pilot.pause()
        assert "N/A tok/s" in screen_text(app)[0]


# --- header and key line ----------------------------------------------------------------------------------------------


async def test_the_link_figure_changes_once_a_second() -> None:
    desk = make_desk()
    clock = NOW
    desk.now = lambda: clock
    app = PaneApp(Header(), desk)

    async with app.run_test(size=(120, 1)) as pilot:
        await pilot.pause()
        assert "<1 KiB/s" in screen_text(app)[0]
        desk.link.kib_s = 7.8
        clock += 0.5
        app.pane.redraw()
        await pilot.pause()
        assert "<1 KiB/s" in screen_text(app)[0]
        clock += 0.6
        app.pane.redraw()
        await pilot.pause()
        assert "8 KiB/s" in screen_text(app)[0]
        clock += 1
        desk.link.kib_s = 7.4  # less than a step away
        app.pane.redraw()
        await pilot.pause()
        assert "8 KiB/s" in screen_text(app)[0]


async def test_header_and_key_line_take_no_focus() -> None:
    for pane in (Header(), KeyLine()):
        app = PaneApp(pane, make_desk())
        async with app.run_test(size=(80, 1)) as pilot:
            await pilot.pause()
            assert app.focused is None


async def test_the_key_line_follows_the_state_and_shows_notices() -> None:
    pane = KeyLine()
    app = PaneApp(pane, make_desk())
    async with app.run_test(size=(60, 1)) as pilot:
        table = KeyTable()
        pane.show(table, lambda action: "no" if action == "pause" else None)
        await pilot.pause()
        assert "p pause" not in screen_text(app)[0]
        pane.show(table, lambda _: None, Notice(one_line("nothing runs [/x]"), "warn"))
        await pilot.pause()
        assert screen_text(app)[0] == " ! nothing runs [/x]"
        pane.show(table, lambda _: None)
        await pilot.pause()
        assert "p pause" in screen_text(app)[0]


# --- the memory screen ------------------------------------------------------------------------------------------------


class ScreenApp(App[None]):
    """Opens the memory screen over nothing."""

    ENABLE_COMMAND_PALETTE = False

    def __init__(self, desk: Desk, screen: MemoryScreen) -> None:
        super().__init__()
        self.desk = desk
        self.over = screen
        self.results: list[str | None] = []

    def on_mount(self) -> None:
        self.push_screen(self.over, self.results.append)


@pytest.mark.parametrize("key", ["escape", "q", "m"])
async def test_the_memory_screen_closes(key: str) -> None:
    app = ScreenApp(make_desk(), MemoryScreen())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        assert screen_text(app)[0].startswith("─ memory who holds how much")
        await pilot.press(key)
        await pilot.pause()
        assert app.results == [None]


async def test_the_memory_screen_leads_to_adding_a_batch() -> None:
    app = ScreenApp(make_desk(), MemoryScreen())
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("a")
        await pilot.pause()
        assert app.results == [ADD]
    watching = ScreenApp(make_desk(), MemoryScreen(readonly=True))
    async with watching.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        await pilot.press("a")
        await pilot.pause()
        assert watching.results == []


async def test_the_memory_screen_scrolls_and_stops_at_its_ends() -> None:
    app = ScreenApp(make_desk(), MemoryScreen())
    async with app.run_test(size=(60, 10)) as pilot:
        await pilot.pause()
        top = screen_text(app)
        await pilot.press("k")
        await pilot.pause()
        assert screen_text(app)[1:] == top[1:]
        await pilot.press("j")
        await pilot.pause()
        assert screen_text(app)[1:-1] == top[2:]
        await pilot.press("G", "j", "pagedown")
        await pilot.pause()
        assert screen_text(app)[-1].startswith("   lowest free 23.0 GiB")  # of RAM, which stands last
        await pilot.press("g")
        await pilot.pause()
        assert screen_text(app) == top


async def test_the_memory_screen_follows_the_machine() -> None:
    desk = make_desk(engine=EngineView())
    app = ScreenApp(desk, MemoryScreen())
    async with app.run_test(size=(80, 40)) as pilot:
        await pilot.pause()
        assert "   engine     N/A: no engine is loaded" in screen_text(app)
        desk.mirror.reading = reading(gpu(free=100 * MIB, used=16 * GIB - 100 * MIB), ram())
        app.over.redraw()
        await pilot.pause()
        assert any(row.startswith("   CRITICAL") for row in screen_text(app))


async def test_foreign_names_can_not_steer_the_terminal() -> None:
    evil = "\x1b]52;c;AAAA\x07[/nope]\u202e"
    desk = make_desk(reading=reading(gpu(name=evil), note=evil), jobs=[job_view(model=evil, input_path=f"/x/{evil}")])
    desk.link.connected, desk.link.why = False, evil
    for pane, size in ((MemoryPane(), (80, 20)), (Header(), (120, 1))):
        app = PaneApp(pane, desk)
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            assert not any(c in "".join(screen_text(app)) for c in "\x1b\x07\u202e")
