"""One request with everything that is known of it, as rows: facts, error, prompt, reasoning, answer, raw lines. Pure.

Texts come as they are in the files; here they pass `tui.text` before they get into a row.
"""

from __future__ import annotations

import bisect
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from engine.pages import Detail
from engine.protocol import RunningRequest
from tui.draw.line import EMPTY, Line, Span, clip, line
from tui.draw.wrap import cut, row_starts, shown
from tui.glyphs import UNICODE, Glyphs
from tui.plain import count, rate, took
from tui.text import cells, one_line, safe

SHOWN_CHARS: Final = 100_000
"""Of one text. More takes long to wrap, and nobody reads it in a box; pager and editor show all of it."""

RAW_ROWS: Final = 12
"""Of a raw line or the settings, where all parts are shown."""

ROOMY: Final = 24
"""Rows of the box from which on sections stand apart."""


class Limits(NamedTuple):
    """Rows of a section where all parts are shown in a box of some height: the answer is wanted most."""

    prompt: int = 6  # of each message
    reasoning: int = 8
    raw: int = RAW_ROWS

    @classmethod
    def of(cls, rows: int) -> Limits:
        return cls(max(1, min(6, rows // 6)), max(1, min(8, rows // 6)), max(3, min(RAW_ROWS, rows // 3)))


class Part(enum.StrEnum):
    """What of a request is shown; `c` goes round."""

    ALL = "all"
    ANSWER = "answer"
    REASONING = "reasoning"
    PROMPT = "prompt"
    INPUT = "input line"
    OUTPUT = "result line"


class Section(NamedTuple):
    """A text with a heading. `limit` 0: all of its rows."""

    heading: str  # safe
    text: str  # not safe
    style: str = "text"
    limit: int = 0
    part: Part = Part.ALL  # where all of it is shown


class Row(NamedTuple):
    text: str  # safe, one line
    style: str
    note: str = ""  # of a heading: how much of the text is shown


BLANK = Row("", "text")


class Place(NamedTuple):
    """A row by what it shows: the section (-1: the facts), and the character of its text at which the row begins."""

    section: int
    offset: int


# --- words ------------------------------------------------------------------------------------------------------------

_STATES = {
    "waiting": "waiting: not run yet",
    "running": "running",
    "done": "done",
    "truncated": "truncated: the token limit cut the answer",
    "failed": "failed",
    "invalid": "invalid: a bad line, not run",
    "aborted": "aborted: taken out, u puts it back",
}

STATE_STYLES = {
    "running": "info",
    "done": "ok",
    "truncated": "warn",
    "failed": "error",
    "invalid": "error",
    "aborted": "warn",
    "waiting": "dim",
}


def facts(detail: Detail, running: RunningRequest | None = None, now: float = 0.0) -> list[tuple[str, str]]:
    """What is known in figures, as (safe text, style), the most important first."""
    row = detail.row
    if running is not None:
        return [*_running_facts(running, now), _place(detail)]
    state = _STATES.get(row.state, one_line(row.state))
    if row.code and row.state in ("failed", "invalid"):
        state = f"{row.state}: {one_line(row.code)}"
    found = [(state, STATE_STYLES.get(row.state, "text"))]
    if row.finish not in ("", "stop") and row.state not in ("failed", "invalid"):
        found.append((f"finish {one_line(row.finish)}", "text"))
    usage = detail.usage
    prompt = usage.prompt_tokens if usage else row.prompt_tokens
    answer = usage.completion_tokens if usage else row.completion_tokens
    if prompt:
        cached = f" ({count(usage.cached_tokens)} from cache)" if usage and usage.cached_tokens else ""
        found.append((f"prompt {count(prompt)} tok{cached}", "text"))
    if answer:
        thought = f" ({count(usage.reasoning_tokens)} reasoning)" if usage and usage.reasoning_tokens else ""
        found.append((f"answer {count(answer)} tok{thought}", "text"))
    if detail.prefill_s:  # 0 of what was never run
        found.append((f"prefill {took(detail.prefill_s)}", "text"))
    if detail.decode_s:
        found.append((f"decode {took(detail.decode_s)}", "text"))
        if answer > 1:
            found.append((rate(answer / detail.decode_s), "number"))
    if detail.queued_s is not None and detail.queued_s >= 0.05:
        found.append((f"queued {took(detail.queued_s)}", "dim"))
    found.append(_place(detail))
    return found


def _running_facts(running: RunningRequest, now: float) -> list[tuple[str, str]]:
    limit = f"/{count(running.max_tokens)}" if running.max_tokens else ""
    found = [("running", "info")]
    if running.generated:
        found.append((f"answer {count(running.generated)}{limit} tok", "text"))
    else:
        found.append(("prefill of the prompt", "text"))
    if running.prompt_tokens:
        found.append((f"prompt {count(running.prompt_tokens)} tok", "text"))
    if running.rate:
        found.append((rate(running.rate), "number"))
    if running.started and now > running.started:
        found.append((took(now - running.started), "text"))
    return found


def _place(detail: Detail) -> tuple[str, str]:
    if not detail.row.line:
        return ("the batch file is gone", "warn")
    name = one_line(Path(detail.input_path).name) if detail.input_path else "the batch file"
    return (f"line {count(detail.row.line)} of {name}", "dim")


# --- sections ---------------------------------------------------------------------------------------------------------


def sections(detail: Detail, part: Part = Part.ALL, limits: Limits | None = None) -> list[Section]:
    """The texts that are shown, in order."""
    match part:
        case Part.ALL:
            return list(_all(detail, limits or Limits()))
        case Part.ANSWER:
            return [*_calls(detail), _answer(detail)]
        case Part.REASONING:
            return [Section("reasoning", detail.reasoning, "reasoning")]
        case Part.PROMPT:
            return list(_prompt(detail, 0)) or [Section("prompt", "")]
        case Part.INPUT:
            return [_input(detail, 0)]
        case Part.OUTPUT:
            return [_output(detail)]


def _all(detail: Detail, limits: Limits) -> Iterator[Section]:
    if detail.error:
        yield Section("error", detail.error, "error")
        yield _input(detail, limits.raw)
    yield from _prompt(detail, limits.prompt)
    if detail.reasoning:
        yield Section("reasoning", detail.reasoning, "reasoning", limits.reasoning, Part.REASONING)
    yield from _calls(detail)
    if detail.answer or not (detail.tool_calls or detail.error):
        yield _answer(detail)
    if detail.settings.strip() not in ("", "{}"):
        yield Section("settings of the request", detail.settings, "dim", limits.raw, Part.INPUT)


def _prompt(detail: Detail, limit: int) -> Iterator[Section]:
    for said in detail.prompt:
        yield Section(f"prompt: {one_line(said.role)}", said.text, "text", limit, Part.PROMPT)


def _calls(detail: Detail) -> Iterator[Section]:
    for call in detail.tool_calls:
        yield Section(f"tool call: {one_line(call.name)}", call.arguments, "tool")


def _answer(detail: Detail) -> Section:
    return Section("answer so far" if detail.partial else "answer", detail.answer, "answer")


def _input(detail: Detail, limit: int) -> Section:
    place = f"input line {count(detail.row.line)}" if detail.row.line else "input line"
    path = f" of {one_line(detail.input_path)}" if detail.input_path else ""
    return Section(place + path, detail.input_line, "text", limit, Part.INPUT)


def _output(detail: Detail) -> Section:
    place = f"result line {count(detail.output_line_number)}" if detail.output_line_number else "result line"
    path = f" of {one_line(detail.output_path)}" if detail.output_path else ""
    return Section(place + path, detail.output_line)


def taken(detail: Detail, part: Part) -> tuple[str, str]:
    """What copy, save and pager take of it: its name and its true text."""
    match part:
        case Part.REASONING:
            return "reasoning", detail.reasoning
        case Part.PROMPT:
            return "prompt", "\n\n".join(said.text for said in detail.prompt)
        case Part.INPUT:
            return "input line", detail.input_line
        case Part.OUTPUT:
            return "result line", detail.output_line
        case _:
            if detail.answer:
                return "answer", detail.answer
            if detail.tool_calls:
                return "tool calls", "\n".join(f"{call.name} {call.arguments}" for call in detail.tool_calls)
            return ("error", detail.error) if detail.error and part == Part.ALL else ("answer", "")


def missing(detail: Detail, section: Section, *, running: bool = False) -> str:
    """Why a section is empty."""
    state = detail.row.state
    if section.heading.startswith("result line"):
        return "none: it is written when the request ends" if running or state in ("waiting", "aborted") else "none"
    if section.heading.startswith("input line"):
        return "not at hand: the batch file is gone or was changed"
    if section.heading == "reasoning":
        return "none"
    if running:
        return "no text yet, or its text is not watched: the streams pane chooses"
    return {
        "waiting": "not run yet",
        "aborted": "none: it was taken out before it ended",
        "failed": "none: the request failed",
        "invalid": "none: a bad line is not run",
    }.get(state, "empty")


# --- rows -------------------------------------------------------------------------------------------------------------


def wrapped(text: str, columns: int) -> Iterator[tuple[str, int]]:
    """Rows of one line of safe text, each with the place of its first character."""
    starts = row_starts(text, columns)
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield shown(text[start:end]), start


class Body:
    """The rows of one request at one width. Made anew where the request, the width, the part or `wrap` changes."""

    def __init__(
        self,
        detail: Detail,
        part: Part,
        columns: int,
        *,
        height: int = 100,
        wrap: bool = True,
        running: RunningRequest | None = None,
        now: float = 0.0,
        query: str = "",
        glyphs: Glyphs = UNICODE,
    ) -> None:
        """`height`: rows of the box. `query`: a text that was searched for: what holds it is shown whole."""
        self._columns = max(1, columns)
        self._wrap = wrap
        self._glyphs = glyphs
        self.rows: list[Row] = []
        self._places: list[Place] = []
        self.heads = self._facts(detail, running, now)
        for nth, section in enumerate(sections(detail, part, Limits.of(height))):
            if height >= ROOMY:
                self._add(BLANK, Place(nth, -2))
            if not section.text:
                self._add(Row(section.heading, "title"), Place(nth, -1))
                for text, at in wrapped(missing(detail, section, running=running is not None), self._columns):
                    self._add(Row(text, "dim"), Place(nth, at))
                continue
            found = bool(query) and query.casefold() in section.text.casefold()
            self._text(nth, section, limit=0 if found else section.limit)

    def _add(self, row: Row, place: Place) -> None:
        self.rows.append(row)
        self._places.append(place)

    def _facts(self, detail: Detail, running: RunningRequest | None, now: float) -> list[Line]:
        heads: list[Line] = []
        current: Line = EMPTY
        used = 0
        for text, style in facts(detail, running, now):
            wide = cells(text)
            if current and used + 2 + wide > self._columns:
                heads.append(current)
                current, used = EMPTY, 0
            gap = (Span("  "),) if current else ()
            current = (*current, *gap, Span(text, style))
            used += wide + len(gap) * 2
        heads.append(current)
        for head in heads:  # drawn from `heads`: they have more than one style
            self._add(Row("".join(span.text for span in head), "text"), Place(-1, 0))
        for note in detail.notes:
            for text, _ in wrapped(f"note: {one_line(note)}", self._columns):
                self._add(Row(text, "warn"), Place(-1, 1))
        return heads

    def _text(self, nth: int, section: Section, *, limit: int) -> None:
        text = section.text
        # With a limit, twice what can be seen is enough to know that there is more.
        enough = min(SHOWN_CHARS, limit * self._columns * 2 + 1000) if limit else SHOWN_CHARS
        clean = safe(text[:enough]).rstrip("\n")
        rows: list[tuple[str, int]] = []
        at = 0
        for paragraph in clean.split("\n"):
            pieces = wrapped(paragraph, self._columns) if self._wrap else [(paragraph, 0)]
            rows.extend((row, at + start) for row, start in pieces)
            at += len(paragraph) + 1
        more = len(text) > enough
        note = ""
        if limit and (more or len(rows) > limit):
            note = f"{limit}{'' if more else f' of {count(len(rows))}'} rows, c shows all of the {section.part}"
            rows = rows[:limit]
        elif more:
            note = f"the first {count(enough)} of {count(len(text))} characters, o shows all in the pager"
        self._add(Row(section.heading, "title", note), Place(nth, -1))
        for row, offset in rows:
            self._add(Row(row, section.style), Place(nth, offset))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def widest(self) -> int:
        """Columns of the widest row."""
        return max((cells(row.text) for row in self.rows), default=0)

    def place_of(self, row: int) -> Place:
        """What stands there, in a way that holds at another width too."""
        return self._places[min(max(0, row), len(self._places) - 1)]

    def row_of(self, place: Place) -> int:
        """Where that stands here."""
        return max(0, bisect.bisect_right(self._places, place) - 1)

    def match(self, query: str, row: int, step: int) -> int | None:
        """The next row after `row` that holds it, or the one before."""
        wanted = one_line(query).casefold()
        places = range(row + 1, len(self.rows)) if step > 0 else range(min(row, len(self.rows)) - 1, -1, -1)
        return next((at for at in places if wanted in self.rows[at].text.casefold()), None) if wanted else None

    def first_match(self, query: str) -> int | None:
        """The first row that holds it."""
        return self.match(query, -1, 1)

    def lines(self, top: int, rows: int, *, left: int = 0, query: str = "") -> list[Line]:
        """Rows from `top` on, as far as there are any, from column `left` on, with `query` marked."""
        out: list[Line] = []
        ellipsis = self._glyphs.ellipsis
        for at in range(max(0, top), min(len(self.rows), top + rows)):
            row = self.rows[at]
            if at < len(self.heads):
                out.append(clip(self.heads[at], self._columns, ellipsis=ellipsis))
            elif row.style == "title":
                note = Span(f"  {row.note}" if row.note else "", "dim")
                heading = line((f"{self._glyphs.rule} ", "rule"), (row.text, row.style), note)
                out.append(clip(heading, self._columns, ellipsis=ellipsis))
            else:
                text = row.text if self._wrap else cut(row.text, left, self._columns)
                out.append(highlighted(text, row.style, query) if query else line((text, row.style)))
        return out


def highlighted(text: str, style: str, query: str) -> Line:
    """The line with every place where it holds `query` marked."""
    folded = text.casefold()
    wanted = one_line(query).casefold()
    if not wanted or len(folded) != len(text) or wanted not in folded:  # ß grows when folded: places would be off
        return line((text, style))
    spans: list[Span] = []
    at = 0
    while (found := folded.find(wanted, at)) >= 0:
        spans.append(Span(text[at:found], style))
        at = found + len(wanted)
        spans.append(Span(text[found:at], f"{style} match"))
    spans.append(Span(text[at:], style))
    return line(*spans)
