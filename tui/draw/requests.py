"""Rows of a job's requests: running ones with live figures, the others as the files tell them. Pure."""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

from engine.pages import RequestRow
from engine.protocol import JobView, RunningRequest
from tui.draw.bars import progress
from tui.draw.columns import cell, exact, foreign, name_cell
from tui.draw.line import Line, Span, clip, line, width
from tui.glyphs import Glyphs
from tui.plain import count
from tui.text import cells, fit
from tui.view import Which

WORDS: Final[dict[str, tuple[str, str]]] = {
    "running": ("RUN", "ok"),
    "waiting": ("WAIT", "dim"),
    "done": ("DONE", "text"),
    "truncated": ("CUT", "warn"),
    "failed": ("FAIL", "error"),
    "invalid": ("BAD", "error"),
    "aborted": ("ABORT", "warn"),
    "ended": ("END", "dim"),  # ran a moment ago; its line is not read yet
}
"""The word and the style of each state."""

ROWS_KEPT: Final = 512
"""Drawn rows that are remembered: at most ticks most rows of a pane are what they were."""

_WORD: Final = 5
_HEAD: Final = 2 + _WORD + 1  # cursor, mark, state
_LEAST_NAME: Final = 12
_MOST_NAME: Final = 40
_GAP: Final = 2


class RequestColumns(NamedTuple):
    """Widths of the cells, 0 for those left out. Gaps are apart."""

    columns: int
    name: int
    gap: int = 2
    tokens: int = 6  # of one number of tokens
    line: int = 0
    prompt: int = 0
    out: int = 0
    bar: int = 0
    rate: int = 0
    seconds: int = 0

    @property
    def message(self) -> bool:
        """There is room for a message behind the figures."""
        used = [self.line, self.prompt, self.out, self.bar, self.rate, self.seconds]
        return self.columns - _HEAD - self.name - sum(w + self.gap for w in used if w) > 30


def arrange(columns: int, *, total: int, context: int) -> RequestColumns:
    """Columns for a job of `total` requests in slots of `context` tokens. They depend on nothing that moves."""
    tokens = max(5, len(count(context or 99_999)))
    gap = 1 if columns < 100 else 2
    room = columns - _HEAD
    name = max(0, min(_LEAST_NAME, room))
    room -= name
    widths: dict[str, int] = {}

    def offer(field: str, wanted: int) -> None:
        nonlocal room
        if room >= wanted + gap:
            widths[field] = wanted
            room -= wanted + gap

    offer("out", 4 + 2 * tokens + 1)
    offer("seconds", 7)
    offer("rate", 6)
    offer("line", 5 + len(count(max(total, 999))))
    offer("prompt", 3 + tokens)
    more = max(0, min(4, room))
    name, room = name + more, room - more
    offer("bar", 8)
    more = max(0, min(_MOST_NAME - name, room))
    name, room = name + more, room - more
    if "bar" in widths:
        widths["bar"] += min(12, max(0, room - 30))  # the rest is for messages
    return RequestColumns(columns=columns, name=name, gap=gap, tokens=tokens, **widths)


class Sign(NamedTuple):
    """What stands before a row."""

    cursor: bool = False
    marked: bool = False


@functools.lru_cache(maxsize=ROWS_KEPT)
def running_row(request: RunningRequest, at: RequestColumns, glyphs: Glyphs, sign: Sign, *, now: float) -> Line:
    """One in a slot, with what it has come to so far."""
    parts = _start("running", request.custom_id, at, glyphs, sign)
    _figures(parts, at, glyphs, request.line, request.prompt_tokens)
    if request.generated:
        limit = count(request.max_tokens) if request.max_tokens is not None else ""
        out = _out(count(request.generated), limit, at)
    else:
        out = "prefill".rjust(4 + at.tokens)
    _add(parts, at, at.out, line(cell(out, at.out, glyphs)))
    if at.bar:
        known = request.max_tokens is not None and request.max_tokens > 0
        bar = progress(min(request.generated, request.max_tokens or 0), 0, request.max_tokens or 0, at.bar, glyphs)
        _add(parts, at, at.bar, bar if known else line(" " * at.bar))
    speed = f"{request.rate:.0f}/s" if request.rate > 0 else ""
    _add(parts, at, at.rate, line(cell(speed, at.rate, glyphs, right=True)))
    seconds = _seconds(max(0.0, now - request.started), live=True) if request.started else ""
    _add(parts, at, at.seconds, line(cell(seconds, at.seconds, glyphs, right=True)))
    return exact(parts, at.columns, glyphs)


@functools.lru_cache(maxsize=ROWS_KEPT)
def rest_row(row: RequestRow, at: RequestColumns, glyphs: Glyphs, sign: Sign) -> Line:
    """One that does not run now."""
    parts = _start(row.state, row.custom_id, at, glyphs, sign)
    told = foreign(row.message) or foreign(row.code)
    failed = row.state in ("failed", "invalid")
    if failed and told and not at.message:
        # The reason is worth more than figures where there is room for one of them only.
        _add(parts, at, at.line, _line(row.line, at, glyphs))
        parts.extend(line(" " * at.gap, _with_code(row, told, at.columns - width(tuple(parts)) - at.gap)))
        return exact(parts, at.columns, glyphs)
    _figures(parts, at, glyphs, row.line, row.prompt_tokens)
    out = _out(count(row.completion_tokens), "", at) if row.completion_tokens else ""
    _add(parts, at, at.out, line(cell(out, at.out, glyphs)))
    _add(parts, at, at.bar, line(" " * at.bar))
    _add(parts, at, at.rate, line(" " * at.rate))
    seconds = _seconds(row.seconds) if row.seconds is not None else ""
    _add(parts, at, at.seconds, line(cell(seconds, at.seconds, glyphs, right=True)))
    if told:
        parts.extend(line(" " * at.gap, _with_code(row, told, at.columns - width(tuple(parts)) - at.gap)))
    elif row.finish == "length" and at.message:
        parts.extend(line(" " * at.gap, ("cut at its token limit", "dim")))
    return exact(parts, at.columns, glyphs)


def _with_code(row: RequestRow, told: str, room: int) -> str:
    """The message, with its code in front where there is room for both."""
    both = f"{foreign(row.code)}: {told}" if row.code and row.message else told
    return both if cells(both) <= room else told


def ended_row(request: RunningRequest, at: RequestColumns, glyphs: Glyphs, sign: Sign) -> Line:
    """One that ran a moment ago, of which the files tell nothing yet."""
    parts = _start("ended", request.custom_id, at, glyphs, sign)
    _figures(parts, at, glyphs, request.line, request.prompt_tokens)
    return exact(parts, at.columns, glyphs)


def above_row(row: RequestRow, at: RequestColumns, glyphs: Glyphs, sign: Sign) -> Line:
    """Its place in the order of the file, of one that runs and stands with its figures on top."""
    parts = _start("running", row.custom_id, at, glyphs, sign, dim=True)
    _add(parts, at, at.line, _line(row.line, at, glyphs))
    parts.append(Span(" " * at.gap))
    parts.append(Span("in a slot: see the top of the list", "dim"))
    return exact(parts, at.columns, glyphs)


def absent_row(at: RequestColumns, glyphs: Glyphs, sign: Sign) -> Line:
    """The place of one that is not read yet."""
    lead = Span(glyphs.cursor if sign.cursor else " ", "bold")
    return exact((lead, Span(f" {glyphs.dot * 3}", "dim")), at.columns, glyphs)


def nothing(which: Which, query: str, columns: int, glyphs: Glyphs, *, note: str = "", fraction: float = 1.0) -> Line:
    """Where there are no rows: why, and what brings some back."""
    if fraction < 1:
        text = f"reading{glyphs.ellipsis} {fraction:.0%}"
    elif note:
        text = note
    elif query:
        text = f'nothing matches "{fit(foreign(query), 30, ellipsis=glyphs.ellipsis)}": esc clears it'
    elif which == Which.ALL:
        text = "no requests are known yet"
    elif which == Which.FAILED:
        text = "no request has failed: ! shows all again"
    else:
        text = f"no {_ADJECTIVE.get(which, which)} requests: t goes to the next filter"
    return clip(line((f"  {text}", "dim")), columns, ellipsis=glyphs.ellipsis)


_ADJECTIVE: Final = {Which.DONE: "finished"}


def title_note(job: JobView, which: Which, query: str, matches: int | None, glyphs: Glyphs, columns: int) -> str:
    """Behind the word `requests`: `of evals-1 · failed 3 of 10 000`."""
    name = name_cell(job.id, max(8, min(24, columns // 4)), glyphs).rstrip()
    parts = [f"of {name}"]
    total = job.counts.total
    if which != Which.ALL or query:
        words = [] if which == Which.ALL else [str(which)]
        if query:
            words.append(f'"{fit(foreign(query), 16, ellipsis=glyphs.ellipsis)}"')
        if matches is not None:
            words.append(count(matches))
        if matches is not None and total:
            words.append(f"of {count(total)}")
        parts.append(" ".join(words))
    elif total:
        parts.append(count(total))
    return f" {glyphs.dot} ".join(parts)


def title_right(running: int, marked: int, fraction: float, note: str, glyphs: Glyphs, columns: int) -> Line:
    """At the other end: what is read, marked and running."""
    parts: list[Span] = []
    if fraction < 1:
        parts.append(Span(f"reading{glyphs.ellipsis} {fraction:.0%}", "info"))
    elif note and columns >= 60:
        parts.append(Span(fit(foreign(note), columns // 3, ellipsis=glyphs.ellipsis), "warn"))
    if marked:
        parts.append(Span(f"{count(marked)} marked", "mark"))
    if running:
        parts.append(Span(f"{count(running)} running"))
    out: list[Span] = []
    for part in parts:
        out += [Span("  "), part] if out else [part]
    return tuple(out)


def _start(
    state: str, custom_id: str, at: RequestColumns, glyphs: Glyphs, sign: Sign, *, dim: bool = False
) -> list[Span]:
    word, style = WORDS.get(state, (foreign(state).upper(), "text"))
    style = "dim" if dim else style
    return [
        Span(glyphs.cursor if sign.cursor else " ", "bold"),
        Span(glyphs.mark, "mark") if sign.marked else Span(" "),
        Span(cell(word, _WORD, glyphs), style),
        Span(" "),
        Span(name_cell(custom_id, at.name, glyphs), "dim" if dim or state in ("waiting", "ended") else "text"),
    ]


def _figures(parts: list[Span], at: RequestColumns, glyphs: Glyphs, number: int, prompt: int) -> None:
    _add(parts, at, at.line, _line(number, at, glyphs))
    if prompt:
        text = line(("in ", "dim"), cell(count(prompt), at.prompt - 3, glyphs, right=True))
    else:
        text = line(" " * at.prompt)
    _add(parts, at, at.prompt, text)


def _line(number: int, at: RequestColumns, glyphs: Glyphs) -> Line:
    if not number:
        return line(" " * at.line)
    return line(("line ", "dim"), (cell(count(number), at.line - 5, glyphs, right=True), "dim"))


def _out(n: str, limit: str, at: RequestColumns) -> str:
    return f"out {n.rjust(at.tokens)}" + (f"/{limit}" if limit else "")


def _seconds(s: float, *, live: bool = False) -> str:
    """`4.3 s`, `41 s`, `1 204 s`: one unit, so that rows can be compared. A running clock shows whole seconds."""
    return f"{s:.1f} s" if s < 9.95 and not live else f"{count(round(s))} s"


def _add(parts: list[Span], at: RequestColumns, columns: int, of: Line) -> None:
    if columns:
        parts.append(Span(" " * at.gap))
        parts.extend(of)
