"""Rows of the queue: one job a line at fixed columns, and what the selected one unfolds to. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final, NamedTuple

from engine.job import ACTIVE, JobState
from engine.protocol import Eta, JobView
from tui.draw.bars import progress
from tui.draw.columns import cell, exact, foreign, name_cell
from tui.draw.line import Line, Span, line, width
from tui.glyphs import Glyphs
from tui.plain import count, done, duration, in_slots, rate, several
from tui.text import cells, fit

WORDS: Final[dict[JobState, tuple[str, str]]] = {
    JobState.QUEUED: ("QUEUE", "text"),
    JobState.VALIDATING: ("CHECK", "info"),
    JobState.PLANNING: ("PLAN", "info"),
    JobState.LOADING: ("LOAD", "info"),
    JobState.RUNNING: ("RUN", "ok"),
    JobState.PAUSED: ("PAUSE", "warn"),
    JobState.DONE: ("DONE", "dim"),
    JobState.FAILED: ("FAIL", "error"),
    JobState.ABORTED: ("ABORT", "warn"),
    JobState.INTERRUPTED: ("BROKEN", "error"),
}
"""The word and the style of each state."""

ENGINES: Final = {"llamacpp": "llama.cpp", "vllm": "vLLM", "openai": "OpenAI API"}
"""As their makers write them."""

_DOING: Final = {
    JobState.VALIDATING: "checking the file",
    JobState.PLANNING: "choosing slots and context",
    JobState.LOADING: "loading the model",
}

_WORD: Final = 6
_HEAD: Final = 2 + _WORD + 1  # cursor, mark, state
_PERCENT: Final = 4
_ETA: Final = 8
_SPREAD: Final = 9
_RATE: Final = 11
_LEAST_NAME: Final = 10
_MOST_NAME: Final = 36
_LEAST_BAR: Final = 8
_FAIR_BAR: Final = 12
_MOST_BAR: Final = 42
_LEAST_REASON: Final = 28
_LEAST_DONE: Final = 10


class JobColumns(NamedTuple):
    """Widths of the cells, 0 for those left out. Gaps are apart."""

    columns: int
    name: int
    gap: int = 2
    bar: int = 0
    done: int = 0
    percent: int = 0
    failed: int = 0
    rate: int = 0
    eta: int = 0
    spread: int = 0
    model: int = 0
    slots: int = 0
    tokens: int = 0
    active: int = 0


def arrange(jobs: Sequence[JobView], columns: int) -> JobColumns:
    """Columns for these jobs: the most needed first, then room for names and the bar."""
    longest = max((cells(foreign(job.id)) for job in jobs), default=0)
    longest = min(max(longest, _LEAST_NAME), _MOST_NAME)
    room = columns - _HEAD
    name = max(0, min(_LEAST_NAME, room))
    room -= name
    widths: dict[str, int] = {}
    gap = 1 if columns < 100 else 2

    def offer(field: str, wanted: int) -> None:
        nonlocal room
        if room >= wanted + gap:
            widths[field] = wanted
            room -= wanted + gap

    offer("percent", _PERCENT)
    offer("done", max((len(_done(job)) for job in jobs), default=0))
    offer("eta", _ETA)
    offer("failed", max([8, *(len(_failed(job)) for job in jobs)]))
    offer("bar", _LEAST_BAR)
    more = max(0, min(16, longest, name + room) - name)
    name, room = name + more, room - more
    if "bar" in widths:
        more = max(0, min(_FAIR_BAR - _LEAST_BAR, room))
        widths["bar"], room = widths["bar"] + more, room - more
    offer("rate", _RATE)
    offer("spread", _SPREAD)
    more = max(0, min(longest, name + room) - name)
    name, room = name + more, room - more
    offer("slots", max([10, *(len(_slots(job)) for job in jobs)]))
    if "bar" in widths:
        offer("model", min(24, max((cells(foreign(job.model)) for job in jobs), default=0)))
    offer("tokens", max([12, *(len(_tokens(job)) for job in jobs)]))
    offer("active", 11)
    if "bar" in widths:
        widths["bar"] += max(0, min(_MOST_BAR - widths["bar"], room))
    return JobColumns(columns=columns, name=name, gap=gap, **widths)


def job_row(job: JobView, at: JobColumns, glyphs: Glyphs, *, cursor: bool = False, marked: bool = False) -> Line:
    """One job, exactly as wide as its columns say."""
    word, style = WORDS[job.state]
    parts: list[Span] = [
        Span(glyphs.cursor if cursor else " ", "bold"),
        Span(glyphs.mark, "mark") if marked else Span(" "),
        Span(cell(word, _WORD, glyphs), style),
        Span(" "),
        Span(name_cell(job.id, at.name, glyphs), "bold" if job.state in ACTIVE else "text"),
    ]
    # Of a job at rest, or one that is about to, the reason is worth more than figures that it has not.
    words = reason(job)
    explains = bool(words)
    counts = job.counts
    reading = job.load_fraction is not None and not counts.total
    figures: list[Span] = []
    if counts.total or reading or not explains:
        _add(figures, at, at.bar, _bar(job, at.bar, glyphs))
        _add(figures, at, at.done, line(cell(_done(job), at.done, glyphs, right=True)))
        _add(figures, at, at.percent, line(cell(_percent(job), at.percent, glyphs, right=True)))
        if counts.failed or not explains:
            _add(figures, at, at.failed, line((cell(_failed(job), at.failed, glyphs, right=True), "error")))
    if explains:
        room = at.columns - width(tuple(parts)) - 2
        left = room - width(tuple(figures))
        if job.state == JobState.DONE and left < min(cells(words), _LEAST_DONE):
            words = ""  # the figures say more
        elif job.state != JobState.DONE and left < min(cells(words), _LEAST_REASON):
            figures = []
            if share := _percent(job):
                _add(figures, at, at.percent, line(cell(share, at.percent, glyphs, right=True)))
        tail = line("  ", (words, "error" if job.state == JobState.FAILED else "text"))
        return exact((*parts, *figures, *tail), at.columns, glyphs)
    parts += figures
    running = job.state == JobState.RUNNING
    short, spread = time_left(job.eta) if running else ("", "")
    # A rate of 0 in the first seconds says nothing yet.
    speed = _speed(job.decode_rate) if running and job.decode_rate > 0 else ""
    _add(parts, at, at.rate, line((cell(speed, at.rate, glyphs, right=True), "text")))
    _add(parts, at, at.eta, line((cell(short, at.eta, glyphs, right=True), "bold")))
    _add(parts, at, at.spread, line((cell(spread, at.spread, glyphs), "dim")))
    _add(parts, at, at.slots, line((cell(_slots(job), at.slots, glyphs, right=True), "dim")))
    _add(parts, at, at.model, line((name_cell(job.model, at.model, glyphs), "dim")))
    _add(parts, at, at.tokens, line((cell(_tokens(job), at.tokens, glyphs, right=True), "dim")))
    active = duration(job.active_s) if job.active_s >= 1 else ""
    _add(parts, at, at.active, line((cell(active, at.active, glyphs, right=True), "dim")))
    return exact(parts, at.columns, glyphs)


def reason(job: JobView) -> str:
    """Why the job stands where it stands, where figures don't say it; safe."""
    if job.state == JobState.DONE:
        # Its sentence sums up what the figures of the row say already.
        cut = f"{count(job.counts.truncated)} cut" if job.counts.truncated else ""
        took = f"took {duration(job.active_s) if job.active_s >= 1 else 'under 1 s'}" if job.active_s > 0 else ""
        out = f"{count(job.counts.aborted)} taken out" if job.counts.aborted else ""
        return ", ".join(fact for fact in (out, cut, took) if fact)
    if job.sentence:
        return _for_the_screen(job)
    doing = _DOING.get(job.state, "")
    if doing and job.load_fraction is not None:
        return f"{doing}, {job.load_fraction:.0%}"
    return doing


def _for_the_screen(job: JobView) -> str:
    """The runner's sentence without the state that stands before it, and with the key that it means."""
    said, dot, then = foreign(job.sentence).removeprefix(f"{job.state} ").partition("; ")
    if job.state == JobState.INTERRUPTED:
        said = said.partition(" while ")[0]  # which key helps is worth more than what it was doing
    return f"{said}{dot}{then.replace('resume goes on', 'r resumes')}"


def unfolded(job: JobView, columns: int, lines: int, glyphs: Glyphs, *, now: float, shown: str = "") -> list[Line]:
    """What is behind the row of a job, in at most `lines` lines: its sentence, then its facts.

    `shown`: the text of that row, so that nothing is said twice.
    """
    indent = " " * min(_HEAD, max(0, columns // 8))
    room = columns - len(indent)
    if lines <= 0 or room < 8:
        return []
    sentence = _for_the_screen(job)
    if sentence in shown:
        sentence = ""
    facts = _facts(job, now, summed_up=bool(sentence) and job.state == JobState.DONE)
    if sentence and lines == 1:
        facts.insert(0, sentence.rstrip("."))
    rows = [sentence] if sentence and lines > 1 else []
    rows += _packed(facts, room, lines - len(rows))
    return [line(indent, (fit(text, room, ellipsis=glyphs.ellipsis), "dim")) for text in rows]


def _packed(facts: Sequence[str], columns: int, lines: int) -> list[str]:
    """Facts behind each other, a new line where one does not fit; what finds no line any more falls out."""
    rows: list[str] = []
    for fact in facts:
        if rows and cells(together := f"{rows[-1]}, {fact}") <= columns:
            rows[-1] = together
        elif len(rows) < lines:
            rows.append(fact)
        else:
            break
    return rows


def _facts(job: JobView, now: float, *, summed_up: bool = False) -> list[str]:
    """`summed_up`: a sentence says already how many failed and were cut."""
    counts = job.counts
    running, following = in_slots(job)
    failed, cut = (0, 0) if summed_up else (counts.failed, counts.truncated)
    facts: list[str] = []
    for n, text in (
        (counts.reused, f"reused {count(counts.reused)}"),
        (running, f"running {count(running)}"),
        (following, f"{count(following)} up next"),
        (counts.waiting, f"{count(counts.waiting)} waiting"),
        (failed, f"{count(failed)} failed"),
        (counts.invalid, f"{count(counts.invalid)} of them bad lines of the file"),
        (counts.aborted, f"{count(counts.aborted)} taken out"),
        (cut, f"{count(cut)} cut at {'its' if cut == 1 else 'their'} limit"),
        (counts.retried, f"{count(counts.retried)} ran again"),
        (job.restarts, f"engine restarted {several(job.restarts, 'time')}"),
        (job.prompt_tokens, f"{count(job.prompt_tokens)} tokens read"),
        (job.completion_tokens, f"{count(job.completion_tokens)} generated"),
        (job.slots, f"{job.slots} slots of {count(job.context)} tokens"),
    ):
        if n:
            facts.append(text)
    if job.model:
        engine = ENGINES.get(job.engine) or foreign(job.engine)
        facts.append(f"{foreign(job.model)} on {engine}" if engine else foreign(job.model))
    if job.started is not None:
        facts.append(f"started {_clock(job.started, now)}")
    if job.active_s >= 1:
        facts.append(f"{duration(job.active_s)} of running")
    facts.append(f"from {foreign(job.input_path)}")
    return facts


def title_right(jobs: Sequence[JobView], marked: int) -> str:
    """`4 jobs  1 running`."""
    if not jobs:
        return ""
    running = sum(job.state in ACTIVE for job in jobs)
    parts = [several(len(jobs), "job")]
    if running:
        parts.append(f"{running} running")
    if marked:
        parts.append(f"{marked} marked")
    return "  ".join(parts)


def time_left(eta: Eta) -> tuple[str, str]:
    """`~41 min` and `(37-45)` in the same unit; empty where not known."""
    if eta.s is None:
        return "", ""
    for unit, seconds, until in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600), ("d", 86400, None)):
        if until is None or eta.s < until:
            low, middle, high = (_in(value, seconds) for value in (eta.low_s, eta.s, eta.high_s))
            spread = f"({low}-{high})" if low and high and low != high else ""
            return f"~{middle} {unit}", spread
    return "", ""


def _in(value: float | None, seconds: int) -> str:
    if value is None:
        return ""
    units = max(0.0, value) / seconds
    return f"{units:.1f}" if seconds >= 3600 and units < 9.95 else f"{units:.0f}"


def _add(parts: list[Span], at: JobColumns, columns: int, of: Line) -> None:
    if columns:
        parts.append(Span(" " * at.gap))
        parts.extend(of)


def _bar(job: JobView, columns: int, glyphs: Glyphs) -> Line:
    if not columns:
        return ()
    counts = job.counts
    if counts.total:
        return progress(counts.succeeded, counts.failed, counts.total, columns, glyphs)
    # Nothing is counted yet: how much of the file is read, if that is known.
    return progress(round((job.load_fraction or 0.0) * 1000), 0, 1000, columns, glyphs, style="info")


def _done(job: JobView) -> str:
    return f"{count(done(job.counts))}/{count(job.counts.total)}" if job.counts.total else ""


def _percent(job: JobView) -> str:
    counts = job.counts
    if counts.total:
        # 100% only where nothing is left.
        return f"{done(counts) * 100 // counts.total}%"
    return f"{int(job.load_fraction * 100)}%" if job.load_fraction is not None else ""


def _failed(job: JobView) -> str:
    return f"{count(job.counts.failed)} failed" if job.counts.failed else ""


def _speed(per_s: float) -> str:
    """In eleven columns whatever it is: `1 012 tok/s`, `12.3k tok/s`, `123k tok/s`."""
    if per_s < 9_999.5:
        return rate(per_s)
    return f"{per_s / 1000:.1f}k tok/s" if per_s < 99_950 else f"{per_s / 1000:.0f}k tok/s"


def _slots(job: JobView) -> str:
    return f"{job.slots} x {count(job.context)}" if job.slots else ""


def _tokens(job: JobView) -> str:
    return f"{count(job.completion_tokens)} out" if job.completion_tokens else ""


def _clock(t: float, now: float) -> str:
    then, today = (datetime.fromtimestamp(value).astimezone() for value in (t, now))  # the user's own clock
    return f"{then:%H:%M}" if then.date() == today.date() else f"{then:%Y-%m-%d %H:%M}"
