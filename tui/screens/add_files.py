"""Choosing a batch file: one field, and under it what matches. The newest file of batches/ is at hand."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from engine.protocol import JobView
from tui.draw.line import Line, Span, clip, spread
from tui.files import COUNTED_FILES, Entry, Listing, completed, count_lines, listing, resolve, typed_for, weight
from tui.plain import count, duration
from tui.screens.parts import Field, Rows, Words, desk_of, rich_line
from tui.text import one_line

DETAIL_COLUMNS = 64
"""From this width on a row has the size too."""

RUN_COLUMNS = 90
"""From this width on it says which job ran the file, and what it came to; below only that one did."""


def entry_line(entry: Entry, columns: int, now: float, ran: str, ellipsis: str) -> Line:
    """A row of the list: name, then size, requests, age and the last run of it at fixed columns."""
    if entry.fault:
        return clip((Span(entry.shown, "dim"), Span(f"  {entry.fault}", "warn")), columns, ellipsis=ellipsis)
    if entry.folder:
        return clip((Span(entry.shown, "bold"), Span("  folder", "dim")), columns, ellipsis=ellipsis)
    lines = "" if entry.lines is None else f"{'' if entry.exact else '~'}{count(entry.lines)}"
    word = "" if not lines else "line " if lines == "1" else "lines"
    age = " ".join(duration(now - entry.modified).split()[:2])
    tail: tuple[Span, ...] = (Span(f"{lines:>9} {word:5}"),)
    if columns >= DETAIL_COLUMNS:
        tail = (*tail, Span(f"{weight(entry.size):>10}", "dim"))
    tail = (*tail, Span(f"{age:>8} ago", "dim"))
    if columns >= RUN_COLUMNS:
        tail = (*tail, Span(f"  {ran:<24.24}", "info"))
    elif ran:
        tail = (*tail, Span(" ran", "info"))
    else:
        tail = (*tail, Span("    "))
    room = columns - sum(len(span.text) for span in tail) - 1
    if room < 12:
        return clip((Span(entry.shown), Span(" ran" if ran else "", "info")), columns, ellipsis=ellipsis)
    return spread(clip((Span(entry.shown),), room, ellipsis=ellipsis), tail, columns)


def runs_by_path(jobs: Sequence[JobView]) -> dict[str, str]:
    """Paths of batch files that were run or are in the queue: what the newest job of each came to."""
    found: dict[str, str] = {}
    for job in sorted(jobs, key=lambda job: job.created):
        found[os.path.realpath(job.input_path)] = f"{one_line(job.id)} {job.state}"
    return found


def _is_text(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _marks(found: Listing, ran: dict[str, str]) -> dict[Path, str]:
    """In a thread: what the last run of each listed file came to."""
    return {e.path: mark for e in found.entries if ran and (mark := ran.get(os.path.realpath(e.path), ""))}


class FilePicker(Vertical):
    """Posts `Chosen` with the true path of a file."""

    DEFAULT_CSS = """
    FilePicker { height: 1fr; }
    FilePicker #listed { height: auto; max-height: 2; color: $foreground; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down,ctrl+n", "move(1)", show=False),
        Binding("up", "move(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("tab", "complete", show=False, priority=True),
    ]

    class Chosen(Message):
        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    def __init__(self, root: Path, jobs: Sequence[JobView], *, cwd: Path, say: Callable[[str], None]) -> None:
        super().__init__()
        self._root = root
        self._cwd = cwd
        self._jobs = list(jobs)
        self._ran: dict[str, str] | None = None
        self._marks: dict[Path, str] = {}
        self._say = say
        self._found = Listing("", root, [])
        self._true: dict[str, str] = {}
        """What the field shows of a name that is not safe to draw → how the name really is."""
        self._enter = False
        """Enter came before the list of what was typed."""

    def compose(self) -> ComposeResult:
        yield Field(hint="type a path, or the beginning of a name; tab completes, ~ is your home", id="path")
        yield Words("", id="listed")
        rows = Rows()
        rows.can_focus = False  # the field keeps the focus; arrows move the cursor of the list
        yield rows

    def on_mount(self) -> None:
        self._look()

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def begin(self) -> None:
        self.query_one(Field).focus()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _typed(self) -> str:
        """The field's text with true names."""
        shown = self.query_one(Field).value
        known = [known for known in self._true if shown.startswith(known)]
        if not known:
            return shown
        longest = max(known, key=len)
        return self._true[longest] + shown[len(longest) :]

    def _put(self, typed: str) -> None:
        shown = one_line(os.fsencode(typed).decode("utf-8", "replace"))
        if shown != typed:
            self._true[shown] = typed
        field = self.query_one(Field)
        field.value = shown
        field.cursor_position = len(field.value)

    def _look(self) -> None:
        self.run_worker(self._list(self._typed()), group="files", exclusive=True)

    async def _list(self, typed: str) -> None:
        ran = self._ran
        if ran is None:
            ran = self._ran = await asyncio.to_thread(runs_by_path, self._jobs)
        self._found = await asyncio.to_thread(listing, typed, self._root, self._cwd)
        self._marks = await asyncio.to_thread(_marks, self._found, ran)
        self._draw(first=True)
        if self._enter:
            self._enter = False
            self._choose()
            return
        counted = await asyncio.to_thread(lambda: [count_lines(entry) for entry in self._found.entries[:COUNTED_FILES]])
        self._found = self._found._replace(entries=[*counted, *self._found.entries[COUNTED_FILES:]])
        self._draw()

    def _draw(self, *, first: bool = False) -> None:
        if not self.query(Rows):  # called later: the dialog has been closed meanwhile
            return
        rows = self.query_one(Rows)
        columns = max(20, (rows.size.width or 76) - 1)
        desk = desk_of(self)
        at = 0 if first else (rows.highlighted or 0)
        rows.clear_options()
        rows.add_options(
            [
                Option(
                    rich_line(
                        entry_line(
                            entry,
                            columns,
                            desk.now(),
                            self._marks.get(entry.path, ""),
                            desk.glyphs.ellipsis,
                        ),
                        desk.look,
                    )
                )
                for entry in self._found.entries
            ]
        )
        if self._found.entries:
            rows.highlighted = min(at, len(self._found.entries) - 1)
        where = typed_for(self._found.folder, self._root, folder=True)
        self.query_one("#listed", Words).say(
            self._found.sentence or f"newest first in {one_line(os.fsencode(where).decode('utf-8', 'replace'))}"
        )

    # --- keys ---------------------------------------------------------------------------------------------------------

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._say("")
        self._look()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._found.typed == self._typed() and (self._found.entries or self._found.sentence):
            self._choose()
        else:
            self._enter = True  # the list of what was typed is on its way

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self._choose()

    def _choose(self) -> None:
        at = self.query_one(Rows).highlighted
        typed = self._typed()
        if at is not None and at < len(self._found.entries):
            self._take(self._found.entries[at])
            return
        path = resolve(typed, self._root, self._cwd) if typed else self._found.folder
        self._say(f"there is no file {one_line(os.fsencode(str(path)).decode('utf-8', 'replace'))}")

    def _take(self, entry: Entry) -> None:
        if entry.fault:
            self._say(f"{entry.shown}: {entry.fault}")
        elif entry.folder:
            self._put(typed_for(entry.path, self._root, folder=True))
        elif not _is_text(entry.path):
            self._say(f"{entry.shown}: its name is no valid UTF-8, so no job can be named after it; rename the file")
        else:
            self.post_message(self.Chosen(entry))

    def action_complete(self) -> None:
        if not self.query(Rows):  # its key comes before all others, also before there is anything to see
            return
        typed = self._typed()
        text = completed(typed, self._found.entries, self._root)
        at = self.query_one(Rows).highlighted
        if text == typed and at is not None and at < len(self._found.entries):  # nothing in common: the row's name
            entry = self._found.entries[at]
            text = typed_for(entry.path, self._root, folder=entry.folder)
        self._put(text)

    def action_move(self, by: int) -> None:
        rows = self.query_one(Rows)
        if n := len(self._found.entries):
            rows.highlighted = ((rows.highlighted or 0) + by) % n

    def action_page(self, pages: int) -> None:
        rows = self.query_one(Rows)
        if n := len(self._found.entries):
            rows.highlighted = max(0, min(n - 1, (rows.highlighted or 0) + pages * max(1, rows.size.height - 1)))
