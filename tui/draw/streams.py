"""The texts of running requests as lines: one in focus, others below or beside it. Pure; state comes in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from engine.job import ACTIVE, JobState
from engine.protocol import Channel, RunningRequest
from tui.desk import Desk
from tui.draw.line import EMPTY, Line, Span, fill, joined, line, width
from tui.draw.wrap import Pages, Place, Row, Scroll, Wraps
from tui.glyphs import Glyphs
from tui.plain import count, several, state_words
from tui.text import fit, one_line, pad
from tui.transcripts import Block, Transcript, Transcripts
from tui.view import Channels, View

LINGER_S: Final = 1.5
"""An ended text stays at least so long, so that its last words can be read."""

BESIDE_COLUMNS: Final = 120
BELOW_ROWS: Final = 14
WORDY: Final = 50
SHORT: Final = 64
NARROW: Final = 40
"""Columns below which a title has no room for the channel, the full figures, any figures."""

BOX_ROWS: Final = 3
"""A further stream: its title and two rows of text, at least."""

MOST_NEW: Final = 999

MOST_ROWS_DOWN: Final = 100_000
"""To the end of a text that came from the files; one is at most two million characters long."""

SOON: Final = 16
"""So many tokens without a word are more than a piece of text on its way."""

Name = tuple[str, str]
"""Job and custom_id."""

_CHANNELS: Final = {
    Channels.ALL: (Channel.REASONING, Channel.ANSWER, Channel.TOOL),
    Channels.ANSWER: (Channel.ANSWER, Channel.TOOL),
    Channels.REASONING: (Channel.REASONING,),
}
_WORDS: Final = {Channel.REASONING: "reasoning", Channel.ANSWER: "answer", Channel.TOOL: "tool call"}
_STYLES: Final = {Channel.REASONING: "reasoning", Channel.ANSWER: "answer", Channel.TOOL: "tool"}
_ONLY: Final = {Channels.ANSWER: "answer only", Channels.REASONING: "reasoning only"}


# --- who --------------------------------------------------------------------------------------------------------------


def running_by_name(desk: Desk) -> dict[Name, RunningRequest]:
    """Who runs, the one that began first first."""
    active = next((job.id for job in desk.mirror.queue if job.state in ACTIVE), "")
    ordered = sorted(desk.mirror.running, key=lambda request: request.key)
    return {(request.job or active, request.custom_id): request for request in ordered}


def wanted(desk: Desk) -> tuple[str, list[str], int]:
    """What the runner should send: job, custom_ids of it, and how many of those that run longest besides."""
    view = desk.view
    places = 1 if desk.view.low_bandwidth else max(1, min(desk.transcripts.places, 1 + view.wall))
    name = (view.job, view.request)
    if view.chosen and view.request:
        if name in running_by_name(desk):
            return view.job, [view.request], places if places > 1 else 0
        if desk.transcripts.get(*name) is not None:  # it has ended: its text is at hand
            return "", [], places if places > 1 else 0
    return "", [], places


def choose_focus(
    view: View, running: Sequence[Name], transcripts: Transcripts, current: Name | None, now: float
) -> Name | None:
    """Whose text to show. A person's choice; else the same as before for as long as it says something."""
    chosen = (view.job, view.request)
    if view.chosen and view.request and (chosen in running or transcripts.get(*chosen) is not None):
        return chosen
    if current is not None:
        transcript = transcripts.get(*current)
        # Where nothing runs it stays for as long as its job is the one that is looked at.
        rests = not running and current[0] == view.job
        lingers = transcript is not None and (rests or not view.follow or _lingers(transcript, now))
        if current in running or lingers:
            return current
    if running:
        return running[0]
    return chosen if transcripts.get(*chosen) is not None else None  # the row under the cursor, for want of others


def choose_wall(
    running: Sequence[Name],
    transcripts: Transcripts,
    focus: Name | None,
    before: Sequence[Name],
    places: int,
    now: float,
) -> list[Name]:
    """Whose texts to show besides. Everybody keeps the place; the longest running take those that become free."""

    def stays(name: Name) -> bool:
        transcript = transcripts.get(*name)
        return name != focus and (name in running or (transcript is not None and _lingers(transcript, now)))

    kept = [name if stays(name) else None for name in before[:places]]
    kept += [None] * (places - len(kept))
    waiting = iter([name for name in running if name != focus and name not in kept])
    filled = [name if name is not None else next(waiting, None) for name in kept]
    return [name for name in filled if name is not None]


def _lingers(transcript: Transcript, now: float) -> bool:
    return transcript.ended is None or now - transcript.ended < LINGER_S


# --- one text ---------------------------------------------------------------------------------------------------------


class _Shown(NamedTuple):
    """A block with its heading: a section for `tui.draw.wrap`."""

    block: Block
    heading: str

    @property
    def order(self) -> int:
        return self.block.order

    @property
    def first(self) -> int:
        return self.block.first

    @property
    def lines(self) -> Sequence[str]:
        return self.block.lines


class _Missing(NamedTuple):
    """A section that is only its heading: what comes after the text that was received."""

    order: int = 1 << 62
    heading: str = "the end may be missing here; the results have all of it"
    first: int = 0
    lines: Sequence[str] = ()


def _sections(transcript: Transcript, channels: Channels) -> list[_Shown | _Missing]:
    several_choices = transcript.several_choices
    shown: list[_Shown | _Missing] = []
    for block in transcript.of(_CHANNELS[channels]):
        words: list[str] = []
        if several_choices:
            words.append(f"choice {block.choice}")
        # A plain answer needs no word above it; reasoning does, and what follows it.
        if shown or several_choices or block.channel != Channel.ANSWER:
            words.append(_WORDS[block.channel])
        if block.first:
            words.append(f"({several(block.first, 'earlier line')} left out)")
        shown.append(_Shown(block, " ".join(words)))
    if shown and transcript.may_lack_its_end:
        shown.append(_Missing())
    return shown


class _Look(NamedTuple):
    """All that the lines of a text depend on."""

    generation: int
    version: int
    columns: int
    rows: int
    channels: Channels
    wrap: bool
    left: int
    top: Place | None
    follows: bool


class Reader:
    """The window over one transcript."""

    def __init__(self) -> None:
        self.scroll = Scroll()
        self.left = 0
        self.channel = ""
        """What the first row in view belongs to; further down a heading says where that changes."""
        self._wraps = Wraps()
        self._generation = -1
        self._drawn: tuple[_Look, list[Row]] | None = None

    def pages(self, transcript: Transcript, view: View, columns: int) -> Pages:
        if transcript.generation != self._generation:
            self._generation = transcript.generation
            self._wraps.clear()
        sections = _sections(transcript, view.channels)
        return Pages(sections, columns, self._wraps, wrap=view.wrap, left=self.left)

    def rows(self, transcript: Transcript, view: View, columns: int, rows: int) -> list[Row]:
        """What is in view; computed where something is another than last time."""
        look = self._look(transcript, view, columns, rows)
        if self._drawn is not None and self._drawn[0] == look:
            return self._drawn[1]
        found = self.scroll.rows(self.pages(transcript, view, columns), rows)
        self._drawn = (self._look(transcript, view, columns, rows), found)
        top = found[0].section if found else None
        self.channel = _WORDS[top.block.channel] if isinstance(top, _Shown) else ""
        return found

    def _look(self, transcript: Transcript, view: View, columns: int, rows: int) -> _Look:
        scroll = self.scroll
        return _Look(
            transcript.generation,
            transcript.version,
            columns,
            rows,
            view.channels,
            view.wrap,
            self.left,
            scroll.top,
            scroll.follows,
        )


def drawn(rows: Sequence[Row], columns: int, glyphs: Glyphs) -> list[Line]:
    """Rows with the style of their channel; headings between rules."""
    out: list[Line] = []
    for row in rows:
        if row.is_heading:
            rule = glyphs.rule * 2
            out.append(line((fit(f"{rule} {row.text} {rule}", columns, ellipsis=glyphs.ellipsis), "dim")))
        elif isinstance(row.section, _Shown):
            out.append(line((row.text, _STYLES[row.section.block.channel])))
    return out


# --- words ------------------------------------------------------------------------------------------------------------


def before_text(desk: Desk, request: RunningRequest | None, transcript: Transcript | None) -> str:
    """Why there is no text to see."""
    tokens = f" ({several(request.generated, 'token')} so far)" if request is not None and request.generated else ""
    if transcript is not None and not transcript.empty:
        over = transcript.ended is not None
        if desk.view.channels is Channels.ANSWER:
            return "it ended without an answer" if over else f"no answer yet: it is reasoning{tokens}"
        return "it ended without reasoning" if over else f"no reasoning so far; c shows the answer{tokens}"
    if request is None:
        return "it has ended; its text is in the results" if transcript is not None else nothing_runs(desk)
    if request.generated >= SOON:
        return f"{several(request.generated, 'token')} so far, no text of them yet"
    if request.generated:
        return "its text arrives in a moment"
    if request.prompt_tokens:
        return f"prefill: {several(request.prompt_tokens, 'token')} of prompt"
    return "waiting for a slot"


def nothing_runs(desk: Desk) -> str:
    if not desk.link.connected:
        return "no connection to the background process"
    for job in desk.mirror.queue:
        if job.state in ACTIVE:
            if job.state == JobState.RUNNING:
                return "no request is running at this moment"
            return f"nothing runs yet: {one_line(job.id)} is {state_words(job)}"
    if any(job.state == JobState.QUEUED for job in desk.mirror.queue):
        return "nothing runs yet: the next job is about to start"
    return "nothing runs; answers appear here word by word when a job runs"


def _said(words: str, columns: int, desk: Desk) -> Line:
    """Our own words where a text would stand."""
    return line((fit(f" {words}", columns, ellipsis=desk.glyphs.ellipsis), "dim"))


def figures(request: RunningRequest | None, transcript: Transcript | None, columns: int) -> Line:
    """Tokens and rate, at fixed columns; less of them in a narrow pane."""
    if columns < NARROW:
        return EMPTY
    if request is None:
        if transcript is None or transcript.ended is None:
            return EMPTY
        parts = line((f"ended{': ' if transcript.finish else ''}{one_line(transcript.finish)}", "bold"))
        return joined([parts, line(f"{count(transcript.tokens)} tok" if transcript.tokens is not None else "")])
    if not request.generated:
        return line("prefill" if request.prompt_tokens else "waits")
    if columns < SHORT:
        return line(f"{pad(count(request.generated), 5, right=True)} tok")
    limit = f"/{count(request.max_tokens)}" if request.max_tokens else ""
    tokens = pad(count(request.generated), max(5, len(limit) - 1), right=True)
    speed = f"{request.rate:.0f}" if request.rate >= 10 else f"{request.rate:.1f}"
    return line(f"{tokens}{limit} tok", f" {pad(speed if request.rate else 'N/A', 4, right=True)}/s")


# --- the whole pane ---------------------------------------------------------------------------------------------------


class Streams:
    """What the pane remembers between two looks: whose texts, and where in them."""

    def __init__(self) -> None:
        self.focus: Name | None = None
        self._wall: list[Name] = []
        self._readers: dict[Name, Reader] = {}
        self._last: RunningRequest | None = None  # of the focus, when it was last seen running
        self._size = (80, 1)  # of the text in focus

    # --- what is shown ------------------------------------------------------------------------------------------------

    def look(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        """The rows under the title."""
        view = desk.view
        boxes, beside = _boxes(columns, rows, 0 if view.low_bandwidth else view.wall)
        desk.transcripts.places = 1 + boxes
        running = self.choose(desk)
        self._wall = choose_wall(list(running), desk.transcripts, self.focus, self._wall, boxes, desk.now())
        job, custom_ids, auto = wanted(desk)
        desk.transcripts.watched = frozenset([*((job, custom_id) for custom_id in custom_ids), *list(running)[:auto]])
        self._forget()
        if not self._wall:
            return self._text(desk, running, columns, rows)
        if beside:
            right = min(columns * 2 // 5, 100)
            left = columns - right - 1
            rule = Span(desk.glyphs.vrule, "rule")
            wall = self._boxes(desk, running, right, rows)
            text = self._text(desk, running, left, rows)
            text += [EMPTY] * (rows - len(text))
            wall += [EMPTY] * (rows - len(wall))
            return [(*fill(a, left), rule, *b) for a, b in zip(text, wall, strict=False)]
        room = max(BOX_ROWS * len(self._wall), rows * 2 // 5)
        text = self._text(desk, running, columns, rows - room)
        text += [EMPTY] * (rows - room - len(text))
        return text + self._boxes(desk, running, columns, room)

    def choose(self, desk: Desk) -> dict[Name, RunningRequest]:
        """Decide whose text is in focus; who runs."""
        running = running_by_name(desk)
        before = self.focus
        self.focus = choose_focus(desk.view, list(running), desk.transcripts, before, desk.now())
        desk.transcripts.focus = self.focus
        if self.focus != before:
            self._last = None
        if self.focus is not None:
            self._last = running.get(self.focus) or self._last
        return running

    def _text(self, desk: Desk, running: dict[Name, RunningRequest], columns: int, rows: int) -> list[Line]:
        self._size = (columns, rows)
        if self.focus is None:
            return [_said(nothing_runs(desk), columns, desk)]
        transcript = desk.transcripts.get(*self.focus)
        reader = self._reader(self.focus)
        if transcript is not None:
            if transcript.from_files:
                if reader.scroll.top is None:  # a whole text is read from its beginning
                    reader.scroll.to_start(reader.pages(transcript, desk.view, columns))
            elif desk.view.follow:
                reader.scroll.follow()
            elif reader.scroll.follows:
                reader.scroll.stay(reader.pages(transcript, desk.view, columns))
            if desk.view.wrap:
                reader.left = 0
            if found := reader.rows(transcript, desk.view, columns, rows):
                return drawn(found, columns, desk.glyphs)
        return [_said(before_text(desk, running.get(self.focus), transcript), columns, desk)]

    def _boxes(self, desk: Desk, running: dict[Name, RunningRequest], columns: int, rows: int) -> list[Line]:
        out: list[Line] = []
        rule, ellipsis = desk.glyphs.rule, desk.glyphs.ellipsis
        for i, name in enumerate(self._wall):
            height = rows // len(self._wall) + (1 if i < rows % len(self._wall) else 0)
            request, transcript = running.get(name), desk.transcripts.get(*name)
            reader = self._reader(name)
            found = reader.rows(transcript, desk.view, columns, height - 1) if transcript is not None else []
            text = drawn(found, columns, desk.glyphs) or [_said(before_text(desk, request, transcript), columns, desk)]
            right = figures(request, transcript, columns)
            tail = line((" ", "rule"), *right, (f" {rule}", "rule")) if right else EMPTY
            room = max(4, columns - width(tail) - 4)
            label = fit(f"{one_line(name[1])}  {reader.channel if found else ''}".rstrip(), room, ellipsis=ellipsis)
            head = line((f"{rule}{rule} ", "rule"), label, (" ", "rule"))
            out.append((*head, Span(rule * max(0, columns - width(head) - width(tail)), "rule"), *tail))
            out += text + [EMPTY] * (height - 1 - len(text))
        return out

    def _reader(self, name: Name) -> Reader:
        return self._readers.setdefault(name, Reader())

    def _forget(self) -> None:
        shown = {self.focus, *self._wall}
        for name in [name for name in self._readers if name not in shown]:
            del self._readers[name]

    # --- title --------------------------------------------------------------------------------------------------------

    def note(self, desk: Desk, columns: int) -> str:
        """What the title says of the focus, on its left."""
        if self.focus is None:
            return ""
        name = fit(one_line(self.focus[1]), max(8, columns // 3), ellipsis=desk.glyphs.ellipsis)
        names = list(running_by_name(desk))
        place = f"{names.index(self.focus) + 1} of {len(names)}" if self.focus in names and columns >= 90 else ""
        if self.focus[0] != desk.view.job and columns >= SHORT:  # the cursor is on a job that does not run
            name += f" of {fit(one_line(self.focus[0]), max(8, columns // 5), ellipsis=desk.glyphs.ellipsis)}"
        shown = _ONLY.get(desk.view.channels, self._readers[self.focus].channel if self.focus in self._readers else "")
        return "  ".join(part for part in (name, place, shown if columns >= WORDY else "") if part)

    def state(self, desk: Desk, columns: int) -> Line:
        """And on its right."""
        if self.focus is None:
            return EMPTY
        transcript = desk.transcripts.get(*self.focus)
        request = running_by_name(desk).get(self.focus)
        right = figures(request, transcript, columns)
        if request is None and transcript is not None and transcript.tokens is None and self._last is not None:
            right = joined([right, line(f"{count(self._last.generated)} tok" if self._last.generated else "")])
        if transcript is not None and transcript.from_files:
            return right
        if desk.view.follow:
            return joined([line(("FOLLOW", "ok")), right])
        reader = self._readers.get(self.focus)
        new = 0
        if reader is not None and transcript is not None:
            new = reader.scroll.new_rows(reader.pages(transcript, desk.view, self._size[0]), MOST_NEW)
        words = f"{MOST_NEW}+ new lines" if new >= MOST_NEW else several(new, "new line") if new else ""
        return joined([line(("STAY", "warn")), line((words, "bold")), right if columns >= 64 else EMPTY])

    # --- keys ---------------------------------------------------------------------------------------------------------

    def act(self, desk: Desk, action: str) -> bool:
        """One of `tui.keys.MOVES`."""
        if action in ("left", "right") and desk.view.wrap:
            return self._other(desk, -1 if action == "left" else 1)
        if self.focus is None:
            return False
        transcript = desk.transcripts.get(*self.focus)
        if transcript is None:
            return False
        columns, rows = self._size
        reader = self._reader(self.focus)
        if action in ("left", "right"):
            step = max(1, columns // 2)
            reader.left = max(0, reader.left + (-step if action == "left" else step))
            return True
        if action == "bottom" and transcript.from_files:
            action = "to_end"
        if action == "bottom":
            desk.view.follow = True
            reader.scroll.follow()
            return True
        pages = reader.pages(transcript, desk.view, columns)
        steps = {"up": -1, "down": 1, "half_up": -(rows // 2), "half_down": rows // 2, "page_up": 1 - rows}
        steps["page_down"] = rows - 1
        steps["to_end"] = MOST_ROWS_DOWN
        if action == "top":
            reader.scroll.to_start(pages)
        elif action in steps:
            by = steps[action] or (-1 if action.endswith("up") else 1)
            reader.scroll.move(pages, rows, by)
        else:
            return False
        if not transcript.from_files:
            desk.view.follow = False
        return True

    def _other(self, desk: Desk, step: int) -> bool:
        """The running request before or after the one in focus becomes the chosen one."""
        names = list(running_by_name(desk))
        if not names:
            return False
        at = names.index(self.focus) + step if self.focus in names else 0
        job, custom_id = names[at % len(names)]
        view = desk.view
        view.select_job(job)
        view.request, view.chosen, view.follow = custom_id, True, True
        return True


def _boxes(columns: int, rows: int, wall: int) -> tuple[int, bool]:
    """How many further streams there is room for under the title, and whether beside the text in focus."""
    if columns >= BESIDE_COLUMNS and rows >= BOX_ROWS:
        return min(wall, rows // BOX_ROWS), True
    if rows + 1 >= BELOW_ROWS:
        return min(wall, (rows - max(7, rows // 2)) // BOX_ROWS), False
    return 0, False
