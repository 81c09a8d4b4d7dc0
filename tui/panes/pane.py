"""The base of all panes: draws lines, remembers them, and lets the terminal repaint only the cells that changed.

A subclass says what its rows are; nothing else here knows what they mean. Row 0 is its title where `titled` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, cast

from rich.segment import Segment
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from tui.draw.line import EMPTY, Line, Span, clip, fill, line, width
from tui.text import cells

if TYPE_CHECKING:
    from tui.desk import Desk


def first_difference(old: Line, new: Line) -> int:
    """The column from which on two lines differ."""
    column = 0
    for a, b in zip(old, new, strict=False):
        if a == b:
            column += cells(a.text)
            continue
        if a.style != b.style:
            return column
        for x, y in zip(a.text, b.text, strict=False):
            if x != y:
                return column
            column += cells(x)
        return column
    return column


def last_difference(old: Line, new: Line, columns: int) -> int:
    """The column from which on two filled lines of the same width are equal again."""
    right = 0
    for a, b in zip(reversed(old), reversed(new), strict=False):
        if a == b:
            right += cells(a.text)
            continue
        if a.style != b.style:
            break
        for x, y in zip(reversed(a.text), reversed(b.text), strict=False):
            if x != y:
                break
            right += cells(x)
        break
    return columns - right


class Pane(Widget, can_focus=True):
    """One pane. `redraw` is called once a tick and after every key; it costs nothing where nothing changed."""

    DEFAULT_CSS = "Pane { height: 1fr; width: 1fr; }"

    NAME: ClassVar[str] = ""  # as in tui.keys.PANES
    DIGIT: ClassVar[str] = ""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self._lines: list[Line] = []
        self._drawn_size = Size(0, 0)
        self.divider = False
        """A vertical rule in column 0: the pane has a neighbour on its left."""

    # --- what a subclass says -----------------------------------------------------------------------------------------

    def rows(self, desk: Desk, columns: int, rows: int) -> list[Line]:
        """All rows of the pane, its title first. More than `rows` are cut, fewer are filled with blanks."""
        raise NotImplementedError

    def act(self, action: str) -> bool:
        """Do one of `tui.keys.MOVES` (or another action of this pane); False if that means nothing here."""
        del action
        return False

    # --- drawing ------------------------------------------------------------------------------------------------------

    @property
    def desk(self) -> Desk:
        return cast("Desk", self.app.desk)  # pyright: ignore[reportAttributeAccessIssue]  # only our app mounts panes

    @property
    def body_columns(self) -> int:
        """Columns that `rows` gets."""
        return max(0, self.size.width - (1 if self.divider else 0))

    def redraw(self) -> None:
        """Draw again what has changed."""
        size = self.size
        if not size.width or not size.height:
            return
        new = self._fresh(size)
        old = self._lines
        self._lines = new
        if self._drawn_size != size or len(old) != len(new):
            self._drawn_size = size
            self.refresh()
            return
        changed: list[Region] = []
        for y, (before, after) in enumerate(zip(old, new, strict=True)):
            if before != after:
                left = first_difference(before, after)
                right = max(left + 1, last_difference(before, after, size.width))
                changed.append(Region(left, y, right - left, 1))
        if changed:
            self.refresh(*changed)

    def _fresh(self, size: Size) -> list[Line]:
        columns = self.body_columns
        cut = self.desk.glyphs.ellipsis
        rows = self._guarded(columns, size.height)[: size.height]
        lines = [fill(row, columns, ellipsis=cut) for row in rows]
        blank = fill(EMPTY, columns)
        lines.extend([blank] * (size.height - len(lines)))
        if self.divider:
            rule = Span(self.desk.glyphs.vrule, "rule")
            lines = [(rule, *row) for row in lines]
        return lines

    def _guarded(self, columns: int, rows: int) -> list[Line]:
        try:
            return self.rows(self.desk, columns, rows)
        except Exception as error:  # one pane's fault must not take away the others, and with them the view of a run
            failed = getattr(self.app, "pane_failed", None)
            told = failed(self.NAME or type(self).__name__, error) if failed is not None else None
            if told is None:
                raise
            return [line((told, "error"))]

    def render_line(self, y: int) -> Strip:
        if self._drawn_size != self.size:
            self._lines = self._fresh(self.size)
            self._drawn_size = self.size
        row = self._lines[y] if y < len(self._lines) else EMPTY
        look = self.desk.look
        return Strip([Segment(span.text, look.style(span.style)) for span in row], width(row))

    def on_focus(self) -> None:
        self.redraw()

    def on_blur(self) -> None:
        self.redraw()

    def on_resize(self) -> None:
        self.redraw()

    # --- shared pieces ------------------------------------------------------------------------------------------------

    def title(self, columns: int, left: str, *, right: Line = EMPTY, note: str = "") -> Line:
        """The rule over a pane: `─ 1 jobs note ───────── right ─`. `left`, `note` and `right` are safe already."""
        rule = self.desk.glyphs.rule
        focus = self.has_focus
        line_style, name_style = ("rule.focus", "title.focus") if focus else ("rule", "title")
        head: Line = (
            Span(f"{rule} ", line_style),
            Span(f"{self.DIGIT} " if self.DIGIT else "", "key"),
            Span(left, name_style),
            Span(f" {note}" if note else "", "text"),
            Span(" ", line_style),
        )
        head = tuple(span for span in head if span.text)
        tail: Line = (Span(" ", line_style), *right, Span(f" {rule}", line_style)) if right else EMPTY
        room = columns - width(head) - width(tail)
        if room < 0:
            head = clip(head, max(0, columns - width(tail)), ellipsis=self.desk.glyphs.ellipsis)
            room = columns - width(head) - width(tail)
            if room < 0:
                return clip(head, columns, ellipsis=self.desk.glyphs.ellipsis)
        return (*head, Span(rule * room, line_style), *tail)
