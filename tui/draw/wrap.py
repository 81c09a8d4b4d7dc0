"""Soft wrap: where the rows of a line begin, and a window of rows over many lines without wrapping the others. Pure.

A text is sections (the reasoning, the answer) of lines that only grow at their end; a section may have a heading. Rows
are found from a `Place` forwards or backwards, so a change of width costs what is visible, and the place stays.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, Protocol

from tui.text import cells, char_cells

LEAST: Final = 2
"""Columns: a wide character has to fit."""

_CROWDED: Final = 8
"""Characters to a column, at most: a row of a thousand combining marks is no row."""


# --- one line ---------------------------------------------------------------------------------------------------------


def row_starts(text: str, width: int, before: Sequence[int] = (0,)) -> list[int]:
    """Where the rows of a line begin. `before`: what this said when the line was shorter; it goes on from there.

    Blanks at a break hang at the end of their row, beyond its width: `shown` leaves them off.
    """
    width = max(width, LEAST)
    starts = list(before)
    at = starts[-1]
    while (at := _row_end(text, at, width)) < len(text):
        starts.append(at)
    return starts


def shown(row: str) -> str:
    """A row as it is drawn."""
    return row.rstrip(" ")


def _row_end(text: str, start: int, width: int) -> int:
    over = start + width
    window = text[start : over + 1]
    if window.isascii():
        if len(window) <= width:
            return len(text)
        if window[width] == " ":
            return _after_blanks(text, over)
        blank = window.rfind(" ", 0, width)
        # A break inside the indentation would leave a row of nothing.
        return start + blank + 1 if blank >= 0 and window[: blank + 1].strip(" ") else over
    return _row_end_by_character(text, start, width)


def _after_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _row_end_by_character(text: str, start: int, width: int) -> int:
    used = 0
    break_at = start  # the last place where a row may end
    seen_ink = False
    before = ""  # the last character that takes columns
    for at in range(start, len(text)):
        char = text[at]
        wide = char_cells(char)
        if wide:
            # Between words, and on both sides of a wide character: Chinese and Japanese have no blanks.
            between = before == " " and char != " "
            if seen_ink and (between or (before and char != " " and (wide == 2 or char_cells(before) == 2))):
                break_at = at
            seen_ink = seen_ink or char != " "
            before = char
        used += wide
        if used > width:
            if char == " ":
                return _after_blanks(text, at)
            return break_at if break_at > start else max(at, start + 1)
        if at - start >= width * _CROWDED:
            return at
    return len(text)


# --- many lines -------------------------------------------------------------------------------------------------------


class Section(Protocol):
    """Lines, numbered from the first that ever was; the oldest may be gone."""

    @property
    def order(self) -> int:
        """Its place among the sections."""
        ...

    @property
    def heading(self) -> str: ...

    @property
    def first(self) -> int:
        """Number of the first line that is kept."""
        ...

    @property
    def lines(self) -> Sequence[str]: ...


class Place(NamedTuple):
    """A character: its section's order, the line's number (-1: the heading), its index in the line."""

    section: int
    line: int
    at: int = 0


class Row(NamedTuple):
    place: Place
    text: str
    section: Section

    @property
    def is_heading(self) -> bool:
        return self.place.line < 0


class Wraps:
    """Row starts of the lines that were needed last, by section and line."""

    def __init__(self, kept: int = 4096) -> None:
        self._kept = kept
        self._width = 0
        self._known: OrderedDict[tuple[int, int], tuple[int, list[int]]] = OrderedDict()

    def clear(self) -> None:
        self._known.clear()

    def starts(self, section: int, number: int, text: str, width: int) -> list[int]:
        if width != self._width:
            self._width = width
            self._known.clear()
        key = (section, number)
        length, starts = self._known.get(key, (0, [0]))
        if length != len(text):
            # Lines only grow, and growing touches no row but the last.
            starts = row_starts(text, width, starts if length < len(text) else (0,))
            self._known[key] = (len(text), starts)
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        return starts


class Pages:
    """Rows of some sections at one width. Made anew for each look; what is costly is in `wraps`.

    `wrap` False: a line is a row, of which `left` columns are skipped.
    """

    def __init__(
        self, sections: Sequence[Section], width: int, wraps: Wraps, *, wrap: bool = True, left: int = 0
    ) -> None:
        self._sections = sections
        self._width = max(width, LEAST)
        self._wraps = wraps
        self._wrap = wrap
        self._left = left

    def rows_from(self, place: Place, count: int) -> list[Row]:
        """Up to `count` rows, beginning with the one that holds `place` or, where that is gone, the next."""
        rows: list[Row] = []
        for row in self._forwards(place):
            if len(rows) >= count:
                break
            rows.append(row)
        return rows

    def rows_before(self, place: Place | None, count: int) -> list[Row]:
        """Up to `count` rows that end just before the one that holds `place`; None: the last ones."""
        rows: list[Row] = []
        for row in self._backwards(place):
            if len(rows) >= count:
                break
            rows.append(row)
        return rows[::-1]

    def count_from(self, place: Place, most: int) -> int:
        """How many rows there are from the one that holds `place` on, counted up to `most`."""
        found = 0
        for section, number, starts in self._lines_forwards(place):
            here = place == (section.order, number, place.at)
            found += len(starts) - (_holding(starts, place.at) if here else 0)
            if found >= most:
                return most
        return found

    @property
    def start(self) -> Place:
        return Place(self._sections[0].order, -1) if self._sections else Place(0, -1)

    @property
    def end(self) -> Place:
        """The place after the last character that is shown."""
        for section in reversed(self._sections):
            if count := _count(section):
                return Place(section.order, section.first + count - 1, len(section.lines[count - 1]))
        return self.start

    # --- walking ------------------------------------------------------------------------------------------------------

    def _starts(self, section: Section, number: int) -> list[int]:
        if number < 0 or not self._wrap:
            return [0]
        return self._wraps.starts(section.order, number, section.lines[number - section.first], self._width)

    def _row(self, section: Section, number: int, starts: list[int], i: int) -> Row:
        place = Place(section.order, number, starts[i])
        if number < 0:
            return Row(place, section.heading, section)
        text = section.lines[number - section.first]
        if not self._wrap:
            return Row(place, cut(text, self._left, self._width), section)
        end = starts[i + 1] if i + 1 < len(starts) else len(text)
        return Row(place, shown(text[starts[i] : end]), section)

    def _lines_forwards(self, place: Place) -> Iterator[tuple[Section, int, list[int]]]:
        for section in self._sections:
            if section.order < place.section:
                continue
            number = place.line if section.order == place.section else -1
            if number < 0 and section.heading:
                yield section, -1, [0]
            end = section.first + _count(section)
            for line in range(max(number, section.first), end):
                yield section, line, self._starts(section, line)

    def _forwards(self, place: Place) -> Iterator[Row]:
        for section, number, starts in self._lines_forwards(place):
            here = place == (section.order, number, place.at)
            for i in range(_holding(starts, place.at) if here else 0, len(starts)):
                yield self._row(section, number, starts, i)

    def _backwards(self, place: Place | None) -> Iterator[Row]:
        for section in reversed(self._sections):
            end = section.first + _count(section)
            if place is None or section.order < place.section:
                last = end - 1
            elif section.order == place.section:
                last = min(place.line, end - 1)
            else:
                continue
            for number in range(last, section.first - 1, -1):
                starts = self._starts(section, number)
                here = place is not None and place == (section.order, number, place.at)
                until = _holding(starts, place.at) if here and place is not None else len(starts)
                for i in range(until - 1, -1, -1):
                    yield self._row(section, number, starts, i)
            if section.heading and (place is None or place.section != section.order or place.line >= 0):
                yield self._row(section, -1, [0], 0)


def _count(section: Section) -> int:
    """Lines to show: not the empty one that a newline at the end has begun."""
    lines = section.lines
    return len(lines) - (1 if lines and not lines[-1] else 0)


def _holding(starts: Sequence[int], at: int) -> int:
    """Which row holds the character."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        if starts[middle] <= at:
            low = middle
        else:
            high = middle
    return low


def cut(text: str, left: int, width: int) -> str:
    """The part of an unwrapped line that is in view; half a wide character becomes a blank."""
    if text.isascii():
        return text[left : left + width]
    out: list[str] = []
    column = 0
    for char in text:
        wide = char_cells(char)
        if column >= left + width and wide:
            break
        if column >= left:
            out.append(char if column + wide <= left + width else " ")
        elif column + wide > left:
            out.append(" ")
        column += wide
    return "".join(out)


# --- following the end ------------------------------------------------------------------------------------------------


class Scroll:
    """The window over one growing text: follows its end in leaps, or stays where a person put it."""

    def __init__(self) -> None:
        self.top: Place | None = None
        self._left_at: Place | None = None

    @property
    def follows(self) -> bool:
        return self._left_at is None

    def follow(self) -> None:
        """See the newest from now on."""
        self._left_at = None

    def stay(self, pages: Pages) -> None:
        """Keep the place from now on; what comes after this is new."""
        if self._left_at is None:
            self._left_at = pages.end

    def rows(self, pages: Pages, height: int) -> list[Row]:
        """What is in view."""
        if height < 1:
            return []
        top = self.top or pages.start
        if self.follows:
            rows = pages.rows_from(top, height + 1)
            # A full window leaps: rows that stand still can be read, and cost no bytes.
            if len(rows) > height or not rows:
                leap = 0 if self.top is None else max(1, height // 3)
                rows = pages.rows_before(None, max(1, height - leap))
        else:
            rows = pages.rows_from(top, height) or pages.rows_before(None, height)
        if rows and (self.top is None or not self._holds(self.top, rows)):
            self.top = rows[0].place
        return rows[:height]

    @staticmethod
    def _holds(place: Place, rows: Sequence[Row]) -> bool:
        """The first row still shows this character: on a resize the character is kept, not the row's beginning."""
        first = rows[0].place
        same_line = place[:2] == first[:2] and place.at >= first.at
        return same_line and (len(rows) < 2 or place < rows[1].place)

    def move(self, pages: Pages, height: int, by: int) -> None:
        """Rows up (negative) or down, no further than a full window."""
        rows = self.rows(pages, height)
        self.stay(pages)
        if not rows:
            return
        if by < 0:
            above = pages.rows_before(rows[0].place, -by)
            self.top = above[0].place if above else rows[0].place
        else:
            below = pages.rows_from(rows[0].place, by + height)
            self.top = below[max(0, min(by, len(below) - height))].place

    def to_start(self, pages: Pages) -> None:
        self.stay(pages)
        self.top = pages.start

    def new_rows(self, pages: Pages, most: int = 999) -> int:
        """How many came since it stays; counted up to `most`."""
        return 0 if self._left_at is None else max(0, pages.count_from(self._left_at, most + 1) - 1)


def widest(lines: Sequence[str]) -> int:
    """Columns of the widest line: how far unwrapped text can be scrolled."""
    return max(map(cells, lines), default=0)
