"""The memory screen's text: owners of each device, what a slot costs, what still fits, what went wrong. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from engine.protocol import DeviceReading, EngineView, HistoryPoint, IncidentView, Reading
from tui.draw.line import EMPTY, Line, Span, joined, line
from tui.draw.memory import (
    clock,
    device_name,
    engine_missing,
    holdings,
    label,
    limit_text,
    owner_bar,
    peak_line,
    sensors,
    shown,
    slot_plan,
    state_of,
)
from tui.draw.steady import minutes, size_text
from tui.glyphs import Glyphs
from tui.plain import count, several
from tui.text import one_line

_ABOUT_MEMORY: Final = re.compile(r"memory|headroom|\boom\b|\bvram\b|fewer slots", re.IGNORECASE)

KEPT: Final = 20
"""Incidents shown, the newest first: the log pane has all."""

_LEVELS: Final = {"warn": "warn", "error": "error"}


class Facts(NamedTuple):
    """What the screen draws. `reading` is steadied."""

    reading: Reading | None
    engine: EngineView
    history: Sequence[HistoryPoint]
    incidents: Iterable[IncidentView]
    now: float
    add_key: str = "a"


def plan(facts: Facts, columns: int, glyphs: Glyphs) -> list[Line]:
    """All rows; the screen shows a window of them."""
    out: list[Line] = []
    beside: DeviceReading | None = None
    if facts.reading is None:
        out += [line((" no memory reading yet", "dim")), EMPTY]
    else:
        main, beside = shown(facts.reading)
        for device in main:
            out += [*_device(facts, facts.reading, device, columns, glyphs), EMPTY]
        if facts.reading.note:
            out += [*_sentence(one_line(facts.reading.note), columns, "dim"), EMPTY]
    out += [*_slots(facts, columns), EMPTY]
    out += [*_choices(facts, columns), EMPTY]
    out += _incidents(facts, columns)
    if beside is not None and facts.reading is not None:
        out += [EMPTY, *_device(facts, facts.reading, beside, columns, glyphs)]
    return out


# --- devices ----------------------------------------------------------------------------------------------------------


def _device(facts: Facts, reading: Reading, device: DeviceReading, columns: int, glyphs: Glyphs) -> list[Line]:
    name = label(device, reading.devices).upper()
    words = "" if device.kind != "gpu" else f"  {device_name(device)}"
    out = [joined([line(" ", (name, "title"), words), sensors(device)], "   ")]
    if not device.total:
        return [*out, line(("   memory N/A: the driver does not tell", "dim"))]
    state = state_of(device)
    out.append(line("   ", *owner_bar(device, min(columns - 6, 74), glyphs)))
    rows = [
        (h.owner.letter, f"bold {h.owner.style}", h.owner.word, h.size, h.amount, h.estimated, h.owner.meaning)
        for h in holdings(device)
    ]
    free = (glyphs.empty, "owner.free", "free", size_text(device.free), device.free, False, "headroom")
    for letter, style, word, size, amount, estimated, meaning in [*rows, free]:
        basis = "estimated" if estimated else "measured"
        share = f"{amount / device.total:.0%}"
        number = "number" if word == "free" else "text"
        figures = (f" {word:<9}", (f"{size:>10}", number), f"  {share:>4}  {basis:<9}")
        out.append(line("   ", (letter, style), *figures, (f"  {meaning}", "dim")))
    if device.process is not None:
        out.append(line(f"     of it this program and its engine: {size_text(device.process)}"))
    if device.warn_free:
        limits = f"warn below {limit_text(device.warn_free)}, critical below {limit_text(device.critical_free)} free"
        out.append(line("   ", state, "  ", (limits, "dim")))
    out.append((Span("   "), *peak_line(device, facts.now)))
    out.append((Span("   "), *_low_water(facts, reading, device)))
    return out


def _low_water(facts: Facts, reading: Reading, device: DeviceReading) -> Line:
    """The least that was free while this history lasts."""
    at = reading.devices.index(device)
    points = [point for point in facts.history if at < len(point.free)]
    if not points:
        return line("lowest free N/A")
    lowest = min(points, key=lambda point: point.free[at])
    seconds = facts.now - points[0].t
    span = minutes(seconds) if seconds >= 60 else "minute"
    return line("lowest free ", (size_text(lowest.free[at]), "bold"), f" at {clock(lowest.t)} (of the last {span})")


# --- slots ------------------------------------------------------------------------------------------------------------


def _slots(facts: Facts, columns: int) -> list[Line]:
    engine = facts.engine
    out = [line((" Slots", "title"))]
    info = engine.info
    if info is None:
        return [*out, *_fact("engine", f"N/A: {engine_missing(engine)}", columns), *_fact("one slot", "N/A", columns)]
    stats = engine.stats
    slots = stats.slots or info.slots
    what = f"{one_line(info.name)}, {several(slots, 'slot')}"
    if info.context:
        what += f" of {count(info.context)} tokens"
    out += _fact("engine", what, columns)
    if stats.kv_total:
        used = f"{count(stats.kv_used)} of {count(stats.kv_total)} tokens ({stats.kv_used / stats.kv_total:.0%})"
        out += _fact("KV in use", f"{used}, {stats.running} of {count(slots)} slots busy", columns)
    else:
        out += _fact("KV in use", "N/A", columns)
    found = slot_plan(engine, facts.reading)
    if found is None:
        why = "N/A: the engine does not tell the size of its KV cache"
        return [*out, *_fact("one slot", why, columns)]
    context = f" at {count(found.context)} tokens" if found.context else ""
    out += _fact("one slot", f"~{size_text(found.slot_bytes)} of KV cache{context}", columns)
    fits = f"~{count(found.more)} more would fit" if found.more else "no more would fit"
    out += _fact(
        "room", f"{fits} into what is free on {found.device} above the warning; a slot needs a little more than its KV",
        columns,
    )  # fmt: skip
    return out


def _fact(name: str, words: str, columns: int) -> list[Line]:
    """A name and what is to be said, wrapped under itself."""
    indent = 14
    rows = textwrap.wrap(words, max(20, columns - indent)) or [""]
    return [line(f"   {name:<{indent - 3}}", rows[0]), *(line(" " * indent + row) for row in rows[1:])]


def _sentence(words: str, columns: int, style: str = "text") -> list[Line]:
    return [line((f" {row}", style)) for row in textwrap.wrap(words, max(20, columns - 2))]


def _choices(facts: Facts, columns: int) -> list[Line]:
    words = (
        f"Other slots or context: {facts.add_key} adds a batch with settings of its own; slots and context under [run] "
        "in gptoss.toml hold for every batch."
    )
    return _sentence(words, columns)


# --- incidents --------------------------------------------------------------------------------------------------------


def about_memory(incident: IncidentView) -> bool:
    return bool(_ABOUT_MEMORY.search(f"{incident.kind} {incident.message} {incident.action}".replace("_", " ")))


def _incidents(facts: Facts, columns: int) -> list[Line]:
    out = [line((" Incidents about memory", "title"))]
    found = [incident for incident in facts.incidents if about_memory(incident)][-KEPT:]
    if not found:
        return [*out, line(("   none", "dim"))]
    indent = 10
    for incident in reversed(found):
        words = one_line(incident.message).rstrip(".")
        if incident.action:
            words += f"; {one_line(incident.action)}"
        rows = textwrap.wrap(words, max(20, columns - indent)) or [""]
        style = _LEVELS.get(incident.level, "text")
        out.append(line((f"   {clock(incident.t)}  ", "dim"), (rows[0], style)))
        out += [line(" " * indent, (row, style)) for row in rows[1:]]
    return out
