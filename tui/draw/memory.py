"""Memory as rows: a gauge per device split by owner, headroom, KV cache, peak, history. Pure.

What is unknown is N/A and what is estimated carries a `~`. Sizes come in steadied (`tui.draw.steady`), so that an idle
machine draws the same rows again and again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from engine.protocol import DeviceReading, EngineView, HistoryPoint, Reading
from tui.draw.bars import Mark, Part, gauge, progress
from tui.draw.big import BIG_ROWS, big
from tui.draw.history import Bounds, Sample, columns_of, graph, seconds_per_column
from tui.draw.line import EMPTY, Line, Span, clip, joined, line, width
from tui.draw.steady import Steady, minutes, size_text
from tui.glyphs import Glyphs
from tui.plain import GIB, MIB, count, memory_state, several
from tui.text import SafeText, one_line

NO_ENGINE: Final = "no engine is loaded"


class Owner(NamedTuple):
    """How one owner of memory is drawn. `meaning` is for the memory screen."""

    name: str
    letter: str
    word: str
    style: str
    meaning: str


OWNERS: Final = (
    Owner("weights", "w", "weights", "owner.weights", "the model's weights"),
    Owner("kv", "k", "KV cache", "owner.kv", "keys and values of every slot"),
    Owner("compute", "c", "compute", "owner.compute", "scratch space of one engine step"),
    Owner("context", "x", "runtime", "owner.context", "held by the engine's libraries"),
    Owner("runner", "r", "runner", "owner.runner", "this program's background process"),
    Owner("other", "o", "others", "owner.other", "other programs and the rest"),
)
_BY_NAME: Final = {owner.name: owner for owner in OWNERS}
_UNKNOWN: Final = _BY_NAME["other"]

_STATES: Final = {
    "": Span(""),
    "ok": Span("ok", "ok"),
    "warn": Span("warn", "warn"),
    "critical": Span("CRITICAL", "error"),
}


class Holding(NamedTuple):
    """What one owner holds."""

    owner: Owner
    amount: int
    estimated: bool

    @property
    def size(self) -> str:
        return f"{'~' if self.estimated else ''}{size_text(self.amount)}"


class SlotPlan(NamedTuple):
    """What one more slot would cost, and how many would fit. An estimate: a slot also needs some compute space."""

    slots: int
    context: int
    slot_bytes: int
    more: int
    device: str  # "GPU" or "RAM", with its number where there are several


class Shown(NamedTuple):
    """The devices to draw: the GPUs, or RAM where there is none; and RAM beside the GPUs."""

    main: list[DeviceReading]
    ram: DeviceReading | None


# --- facts ------------------------------------------------------------------------------------------------------------


def steadied(reading: Reading, steady: Steady) -> Reading:
    """The reading in figures that stand still."""

    def calm(device: DeviceReading) -> DeviceReading:
        name = f"{device.kind}{device.index}"
        owners = {owner: steady.size(f"{name}.{owner}", n) for owner, n in device.owners.items()}
        return msgspec.structs.replace(
            device,
            used=steady.size(f"{name}.used", device.used),
            free=steady.size(f"{name}.free", device.free),
            peak_used=steady.size(f"{name}.peak", device.peak_used),
            owners=owners,
            temperature_c=_calm(steady, f"{name}.temperature", device.temperature_c, 1.0),
            power_w=_calm(steady, f"{name}.power", device.power_w, 5.0),
            utilization=_calm(steady, f"{name}.utilization", device.utilization, 0.05),
        )

    return msgspec.structs.replace(reading, devices=[calm(device) for device in reading.devices])


def _calm(steady: Steady, name: str, value: float | None, step: float) -> float | None:
    return None if value is None else steady.of(name, value, step)


def shown(reading: Reading) -> Shown:
    """GPUs first; RAM where there is no GPU."""
    gpus = [device for device in reading.devices if device.kind == "gpu"]
    rams = [device for device in reading.devices if device.kind != "gpu"]
    if gpus:
        return Shown(gpus, rams[0] if rams else None)
    return Shown(rams, None)


def label(device: DeviceReading, devices: Sequence[DeviceReading]) -> str:
    """`gpu`, `gpu1` where there are several, `ram`."""
    if device.kind != "gpu":
        return "ram"
    several_gpus = sum(other.kind == "gpu" for other in devices) > 1
    return f"gpu{device.index}" if several_gpus else "gpu"


def tightest(devices: Sequence[DeviceReading]) -> DeviceReading | None:
    """The one with the least headroom among those that tell."""
    return min((device for device in devices if device.total), key=lambda device: device.free, default=None)


def state_of(device: DeviceReading) -> Span:
    """`ok`, `warn` or `CRITICAL`; nothing where no thresholds are known."""
    if not device.total:
        return Span("N/A", "dim")
    return _STATES[memory_state(device)]


def holdings(device: DeviceReading) -> list[Holding]:
    """Who holds how much, in the order of the letters. What nobody claims of `used` counts as other, estimated."""
    amounts = dict.fromkeys((owner.name for owner in OWNERS), 0)
    estimated = set(device.estimated)
    for name, amount in device.owners.items():
        owner = _BY_NAME.get(name, _UNKNOWN)
        amounts[owner.name] += max(0, amount)
        if name in estimated:
            estimated.add(owner.name)
    rest = device.used - sum(amounts.values())
    if rest > GIB / 20:  # less is rounding
        amounts["other"] += rest
        estimated.add("other")
    return [Holding(_BY_NAME[name], amount, name in estimated) for name, amount in amounts.items() if amount > 0]


def slot_plan(engine: EngineView, reading: Reading | None) -> SlotPlan | None:
    """None where the engine does not tell what its KV cache weighs."""
    kv = engine.stats.memory.get("kv", 0)
    slots = engine.stats.slots or (engine.info.slots if engine.info else 0)
    if reading is None or not kv or not slots:
        return None
    most = max(reading.devices, key=lambda device: device.owners.get("kv", 0), default=None)
    holders = [d for d in reading.devices if most and d.kind == most.kind and d.owners.get("kv", 0) > 0]
    on_gpu = engine.info is not None and engine.info.gpu_offload
    likely = [device for device in reading.devices if (device.kind == "gpu") == on_gpu]
    device = tightest(holders) or tightest(likely)
    if device is None:
        return None
    context = (engine.info.context if engine.info else 0) or (engine.settings.context if engine.settings else 0)
    each = max(1, kv // slots)
    # Over several GPUs each takes its share of a slot; the tightest one decides.
    share = max(1, each // max(1, len(holders)))
    more = max(0, device.free - device.warn_free) // share
    return SlotPlan(slots, context, each, more, label(device, reading.devices).upper())


# --- single rows ------------------------------------------------------------------------------------------------------

MIN_BAR: Final = 10
"""A gauge narrower than this says less than the figures that it would push out."""

GOOD_BAR: Final = 16
"""Down to this width the bar gives way to the words of its figures, below it they to the bar."""

_STATE_COLUMNS: Final = len("warn")
"""CRITICAL takes more, from the bar: it is rare, and no row may jump for less."""


def gauge_line(
    head: Line, device: DeviceReading, columns: int, glyphs: Glyphs, *, state_columns: int = _STATE_COLUMNS
) -> Line:
    """`head ▕wwwkk··!▏ 13.0/16.0 GiB  free  3.0 GiB  ok`; the bar takes what the figures leave."""
    tail = gauge_tail(device, columns - width(head), state_columns=state_columns)
    bar_columns = columns - width(head) - width(tail)
    if bar_columns < MIN_BAR:
        return clip((*head, *tail), columns, ellipsis=glyphs.ellipsis)
    return (*head, *owner_bar(device, bar_columns, glyphs), *tail)


def owner_bar(device: DeviceReading, columns: int, glyphs: Glyphs) -> Line:
    """The bar alone, with the thresholds marked in its empty part."""
    parts = [Part(h.owner.letter, h.owner.style, h.amount) for h in holdings(device)]
    # A bar that is fine shows no alarm's colour: the critical mark is lit once the warning is passed.
    state = state_of(device).style
    lit = "warn" if state == "warn" else "dim"
    marks = [Mark("!", lit, device.warn_free), Mark("!", lit, device.critical_free)]
    return gauge(parts, device.total, columns, glyphs, marks=marks)


def gauge_tail(device: DeviceReading, columns: int, *, state_columns: int = _STATE_COLUMNS) -> Line:
    """The figures of a gauge: as many as leave a bar, always of the same width for the same device."""
    state = state_of(device)
    if not device.total:
        return line((" memory N/A", "dim"))
    free = f"{size_text(device.free):>{max(8, len(size_text(device.total)))}}"
    style = "number" if state.style in ("ok", "text") else f"number {state.style}"
    word = Span(f"  {state.text:<{state_columns}}", state.style)
    total = f"{device.total / GIB:.1f}"
    used = f" {device.used / GIB:>{len(total)}.1f}/{total}"
    forms = ((f"{used} GiB ", " free"), (f"{used} ", " free"), (f"{used} ", ""), ("", " free"), ("", ""))
    tails = [line(first, f"{middle} ", (free, style), word) for first, middle in forms]
    for least in (GOOD_BAR, MIN_BAR):
        for tail in tails:
            if columns - width(tail) >= least:
                return tail
    return line((free.strip(), style), " free" if columns >= 19 else "", (f"  {state.text}", state.style))


def kv_line(head: Line, engine: EngineView, waiting: int | None, columns: int, glyphs: Glyphs, *, tail: int) -> Line:
    """`head ▕███··▏ 61%  slots 30/32  wait 5 782`; `tail`: columns of the figures, as those of the gauge above."""
    stats = engine.stats
    slots = stats.slots or (engine.info.slots if engine.info else 0)
    room = columns - width(head)
    bar_columns = room - tail
    if not slots or not stats.kv_total:
        words = "N/A" if engine.info is not None else engine_missing(engine)
        return clip((*head, Span(words, "dim"), *_waiting(waiting)), columns, ellipsis=glyphs.ellipsis)
    share = f" {stats.kv_used / stats.kv_total:>4.0%}"
    busy = f"  slots {stats.running:>{len(str(slots))}}/{slots}"
    wait = "".join(span.text for span in _waiting(waiting))
    words = next((w for w in (share + busy + wait, share + busy, share) if len(w) <= max(tail, 0)), share + busy + wait)
    if bar_columns < MIN_BAR or len(words) > tail:
        return clip((*head, Span(words.strip())), columns, ellipsis=glyphs.ellipsis)
    bar = progress(stats.kv_used, 0, stats.kv_total, bar_columns, glyphs, style="owner.kv")
    return (*head, *bar, Span(words))


def engine_missing(engine: EngineView) -> str:
    """Why there is nothing to tell of an engine."""
    return "the engine is loading" if engine.state in ("starting", "loading") else NO_ENGINE


def _waiting(waiting: int | None) -> Line:
    return EMPTY if waiting is None else line(f"  wait {count(waiting)}")


def short_legend(device: DeviceReading) -> Line:
    """`w 10.4  k 1.5  c 0.1  x ~0.4  o 0.6 GiB`."""
    held = holdings(device)
    if not held:
        return line(("who holds it: N/A", "dim"))

    def figure(h: Holding) -> str:
        return f"{'~' if h.estimated else ''}{h.amount / GIB:.1f}" if h.amount >= GIB / 20 else "<0.1"

    parts = [line((h.owner.letter, f"bold {h.owner.style}"), f" {figure(h)}") for h in held]
    return (*joined(parts), Span(" GiB"))


def long_legend(device: DeviceReading, columns: int) -> list[Line]:
    """`w weights 10.4 GiB   k KV cache 1.5 GiB …` in as many columns as fit, so that sizes stand under each other."""
    held = holdings(device)
    if not held:
        return [line((clipped, "dim")) for clipped in ("who holds it: N/A",)]
    word = max(len(h.owner.word) for h in held)
    each = 2 + word + 1 + len("~1000 MiB")
    across = max(1, (columns + 3) // (each + 3))
    rows: list[Line] = []
    for at in range(0, len(held), across):
        parts = [
            line((h.owner.letter, f"bold {h.owner.style}"), f" {h.owner.word:<{word}} ", f"{h.size:>9}")
            for h in held[at : at + across]
        ]
        rows.append(joined(parts, "   "))
    return rows


def room_line(plan: SlotPlan | None, engine: EngineView, columns: int = 120) -> Line:
    """`room for ~12 more slots of 2 048 tokens (~48 MiB each)`; in few columns without what one takes."""
    if plan is None:
        why = engine_missing(engine) if engine.info is None else "the engine does not tell the size of its KV cache"
        return line(("room for more slots N/A: ", "text"), (why, "dim"))
    context = f" of {count(plan.context)} tokens" if plan.context else ""
    row = (*_more_slots(plan), Span(context))
    each = f" (~{size_text(plan.slot_bytes)} each)"
    return (*row, Span(each)) if width(row) + len(each) <= columns else row


def _more_slots(plan: SlotPlan) -> Line:
    if not plan.more:
        return line(("no room", "bold"), " for one more slot")
    return line("room for ", (f"~{count(plan.more)}", "bold"), f" more slot{'' if plan.more == 1 else 's'}")


def peak_line(device: DeviceReading, now: float) -> Line:
    """`peak 13.3 GiB at 14:22 (10 min ago)`."""
    if not device.peak_used or not device.peak_t:
        return line("peak N/A")
    ago = max(0.0, now - device.peak_t)
    when = f" at {clock(device.peak_t)} ({minutes(ago)} ago)"
    return line("peak ", (size_text(device.peak_used), "bold"), when)


def clock(t: float) -> str:
    """A time of day, as the wall clock shows it."""
    return time.strftime("%H:%M", time.localtime(t))


def sensors(device: DeviceReading) -> Line:
    """`62 C  250 W  busy 95%`; N/A for what the card does not tell; nothing for RAM."""
    if device.kind != "gpu":
        return EMPTY
    celsius = "temp N/A" if device.temperature_c is None else f"{device.temperature_c:.0f} C"
    watts = "power N/A" if device.power_w is None else f"{device.power_w:.0f} W"
    busy = "busy N/A" if device.utilization is None else f"busy {device.utilization:.0%}"
    return line(f"{celsius}  {watts}  {busy}")


def device_name(device: DeviceReading) -> SafeText:
    """Without the maker's name, which says nothing on a machine with NVIDIA cards only."""
    name = one_line(device.name)
    for maker in ("NVIDIA GeForce ", "NVIDIA "):
        name = name.removeprefix(maker)
    return SafeText(name)


# --- the pane ---------------------------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What the pane draws. `reading` is steadied."""

    reading: Reading
    engine: EngineView
    history: Sequence[HistoryPoint]
    waiting: int | None
    now: float
    graphs: bool = True
    note_in_title: bool = False


def compact(facts: Facts, columns: int, rows: int, glyphs: Glyphs, *, digit: Line, name_style: str) -> list[Line]:
    """Up to three rows without a title: `2 mem ▕wwwkkk···▏ …` and `  kv ▕███··▏ …`."""
    main, _ = shown(facts.reading)
    device = tightest(main) or (main[0] if main else None)
    if device is None:
        return [clip(line(*digit, ("mem ", name_style), ("N/A", "dim")), columns, ellipsis=glyphs.ellipsis)]
    name = label(device, facts.reading.devices)
    name = "mem" if name == "gpu" else name
    head = line(*digit, (name, name_style), " ")
    indent = " " * width(digit)
    out = [gauge_line(head, device, columns, glyphs)]
    tail = width(gauge_tail(device, columns - width(head)))
    if rows > 1:
        kv_head = line(f"{indent}{'kv':<{len(name)}} ")
        out.append(kv_line(kv_head, facts.engine, facts.waiting, columns, glyphs, tail=tail))
    if rows > 2:
        out.append((Span(indent), *short_legend(device)))
    return [clip(row, columns, ellipsis=glyphs.ellipsis) for row in out]


def body(facts: Facts, columns: int, rows: int, glyphs: Glyphs, bounds: Bounds) -> list[Line]:
    """The rows under a title. What matters most gets its row first; history takes what is left."""
    if rows <= 0:
        return []
    main, ram = shown(facts.reading)
    device = tightest(main) or (main[0] if main else None)
    if device is None:
        return [clip(line((" no memory reading yet", "dim")), columns, ellipsis=glyphs.ellipsis)]
    inner = columns - 1
    left = rows - 1  # the KV row

    def granted(n: int) -> bool:
        nonlocal left
        if left < n:
            return False
        left -= n
        return True

    gauges = main[: max(1, left)]
    granted(len(gauges))
    note = bool(facts.reading.note) and not facts.note_in_title and granted(1)
    legend = granted(1)
    room, peak = granted(1), granted(1)
    beside = ram is not None and granted(1)
    large = (
        left >= BIG_ROWS - 1 and inner >= 30 and bool(big("0", glyphs)) and device.total > 0 and granted(BIG_ROWS - 1)
    )
    history = 0
    if facts.graphs and device.total and left >= 3 and inner >= 24:
        history = min(left, 7)
        granted(history)
    full_legend = long_legend(device, inner)
    if not (legend and granted(len(full_legend) - 1)):
        full_legend = [short_legend(device)] if legend else []
    gap_before, gap_after = large and granted(1), large and granted(1)
    if history:  # whatever is still left
        history += left

    out = _gauges(facts, [*gauges, *([ram] if beside and ram else [])], columns, glyphs)
    if note:
        out.append(line((one_line(facts.reading.note), "dim")))
    plan = slot_plan(facts.engine, facts.reading)
    if large:
        out += [EMPTY] * gap_before + _headline(device, plan, facts, glyphs) + [EMPTY] * gap_after
    out += full_legend
    if room and not large:
        out.append(room_line(plan, facts.engine, columns - 1))
    if peak:
        out.append(peak_line(device, facts.now))
    if history:
        out += _history(facts, device, inner, history, glyphs, bounds)
    return [clip((Span(" "), *row), columns, ellipsis=glyphs.ellipsis) if row else EMPTY for row in out[:rows]]


def _gauges(facts: Facts, devices: Sequence[DeviceReading], columns: int, glyphs: Glyphs) -> list[Line]:
    """The gauges with the KV row after the first device's; all bars of one width."""
    inner = columns - 1
    names = [label(device, facts.reading.devices) for device in devices]
    wide = max(len(name) for name in [*names, "kv"])
    state_columns = max(_STATE_COLUMNS, *(len(state_of(device).text) for device in devices))
    tails = [width(gauge_tail(device, inner - wide - 1, state_columns=state_columns)) for device in devices]
    tail = max(tails)
    out: list[Line] = []
    for name, device, its in zip(names, devices, tails, strict=True):
        head = line((f"{name:<{wide}} ", "text"))
        # A shorter tail ends earlier, so that the bars end together.
        out.append(gauge_line(head, device, inner - (tail - its), glyphs, state_columns=state_columns))
    head = line(f"{'kv':<{wide}} ")
    out.append(kv_line(head, facts.engine, facts.waiting, inner, glyphs, tail=tail))
    return out


def _headline(device: DeviceReading, plan: SlotPlan | None, facts: Facts, glyphs: Glyphs) -> list[Line]:
    """Headroom in large digits, what it means beside them."""
    state = state_of(device)
    figure, unit = size_text(device.free).split()
    style = "number" if state.style in ("ok", "text") else f"number {state.style}"
    name = label(device, facts.reading.devices)
    where = "of RAM free" if name == "ram" else f"free on {name.upper()}"
    limits = "no thresholds known"
    if device.warn_free:
        limits = f"warn <{limit_text(device.warn_free)}, critical <{limit_text(device.critical_free)}"
    words = [
        line((f"{unit} {where}", "bold"), "  ", state),
        line((limits, "dim")),
        _more_slots(plan) if plan else room_line(plan, facts.engine),
    ]
    digits = big(f"{figure:>{len(f'{device.total / GIB:.1f}')}}", glyphs)
    return [line((row, style), "  ", *text) for row, text in zip(digits, words, strict=True)]


def limit_text(n: int) -> str:
    """A threshold, exactly: `512 MiB`."""
    return f"{n / MIB:.0f} MiB" if n < GIB else size_text(n)


def _history(
    facts: Facts, device: DeviceReading, columns: int, rows: int, glyphs: Glyphs, bounds: Bounds
) -> list[Line]:
    """A caption, and the free memory of one device."""
    at = facts.reading.devices.index(device)
    samples = [Sample(point.t, float(point.free[at])) for point in facts.history if at < len(point.free)]
    known = max((sample.value for sample in samples), default=0.0)
    top = bounds.top(f"{device.kind}{device.index}", known / GIB, least=0.1) * GIB
    if device.total:
        top = min(top, float(device.total))
    highest = size_text(round(top))
    wide = columns - len(highest) - 1
    per = seconds_per_column(wide, 300.0)
    values = columns_of(samples, wide, per, now=facts.now)
    lowest = min((sample.value for sample in samples if sample.t >= facts.now - wide * per), default=None)
    low = "N/A" if lowest is None else size_text(round(lowest))
    head = line(("free memory", "text"), (f"  last {minutes(wide * per)}, lowest ", "dim"), low)
    drawn = graph(values, rows - 1, top, glyphs)
    out = [head]
    for y, row in enumerate(drawn):
        bound = highest if y == 0 else "0" if y == len(drawn) - 1 else ""
        out.append(line((row, "graph.free dim"), " ", (bound, "dim")))
    return out


def devices_words(reading: Reading) -> str:
    """For the title: the device's name, or how many there are."""
    main, _ = shown(reading)
    if len(main) > 1:
        return several(len(main), "GPU")
    if main and main[0].kind == "gpu":
        return device_name(main[0])
    return "RAM" if main else ""
