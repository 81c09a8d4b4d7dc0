"""What the dialogs share: a frame that esc closes, a field for typed text, a button, and text without markup.

Dialogs answer by `dismiss` and send no commands. Colours are the terminal's own, through the theme's variables.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.await_complete import AwaitComplete
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static

from tui.desk import Desk
from tui.draw.line import Line
from tui.glyphs import Glyphs
from tui.look import Look, as_cursor
from tui.text import SafeText, one_line

T = TypeVar("T")

MOST_TYPED = 4096
"""Characters in a field, as long as a path may be: a book that was pasted would be measured at every key."""


def desk_of(widget: Widget) -> Desk:
    return cast("Desk", widget.app.desk)  # pyright: ignore[reportAttributeAccessIssue]  # only our app shows dialogs


def rich_line(line: Line, look: Look) -> Text:
    """A line for widgets that take rich text: styled, never parsed as markup."""
    text = Text()
    for span in line:
        text.append(span.text, look.style(span.style))
    return text


def rich_lines(lines: Iterable[Line], look: Look) -> Text:
    return Text("\n").join(rich_line(line, look) for line in lines)


class Words(Static):
    """Text of ours or safe text; markup is off."""

    DEFAULT_CSS = "Words { height: auto; width: 1fr; }"

    def __init__(self, text: str | Text = "", **more: Any) -> None:
        super().__init__(text, markup=False, **more)
        self.said = str(text)
        """What it shows, as plain text."""

    def say(self, text: str | Text) -> None:
        """Show this; nothing is drawn where nothing changed."""
        plain = str(text)
        if isinstance(text, Text) or plain != self.said:
            self.said = plain
            self.update(text)

    def lines(self, lines: Iterable[Line]) -> None:
        self.say(rich_lines(lines, desk_of(self).look))


class Field(Input):
    """One line of typed text. Whatever is pasted into it is made safe before it is drawn; its cursor does not blink."""

    DEFAULT_CSS = """
    Field, Field.-textual-compact { height: 1; border: none; padding: 0; background: $background; color: $foreground; }
    Field:focus { text-style: underline; }
    """

    def __init__(self, value: str = "", *, hint: str = "", **more: Any) -> None:
        super().__init__(value, placeholder=one_line(hint), compact=True, **more)
        self.cursor_blink = False

    def validate_value(self, value: str) -> str:
        return SafeText(one_line(value)[:MOST_TYPED])


class Press(Static, can_focus=True):
    """A button of one row: enter or space presses it."""

    DEFAULT_CSS = """
    Press { width: auto; height: 1; padding: 0 1; margin: 0 1 0 0; color: $foreground; }
    Press:focus { text-style: bold reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "press", show=False)]

    class Pressed(Message):
        def __init__(self, press: Press) -> None:
            super().__init__()
            self.press = press

        @property
        def control(self) -> Press:
            return self.press

    def __init__(self, label: str, **more: Any) -> None:
        super().__init__(f"[ {label} ]", markup=False, **more)
        self.label = label

    def relabel(self, label: str) -> None:
        if label != self.label:
            self.label = label
            self.update(f"[ {label} ]")

    def action_press(self) -> None:
        self.post_message(self.Pressed(self))

    def on_click(self) -> None:
        self.action_press()


class Rows(OptionList):
    """A list of one-line rows; the row under the cursor is reversed, so it shows without colour too."""

    DEFAULT_CSS = """
    Rows { height: 1fr; }
    Rows, Rows.-textual-compact {
        border: none; padding: 0; background: $background; color: $foreground;
        scrollbar-size-vertical: 1;
    }
    Rows:focus { background-tint: $background 0%; }
    Rows > .option-list--option-highlighted, Rows:focus > .option-list--option-highlighted {
        background: $background; color: $foreground; text-style: none;
    }
    Rows > .option-list--option-hover { background: $background; }
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(markup=False, compact=True, **more)

    def render_line(self, y: int) -> Strip:
        # Not by CSS: Textual drops `reverse` where it makes the style of an option.
        strip = super().render_line(y)
        if self.scroll_offset.y + y != self.highlighted:
            return strip
        return Strip([Segment(text, as_cursor(style or Style())) for text, style, _ in strip], strip.cell_length)


class ClosesOnce(Screen[T]):
    """Two keys in one go may both ask to close it: the second would take the screen below away, and end the program."""

    def dismiss(self, result: T | None = None) -> AwaitComplete:
        return super().dismiss(result) if self.is_current else AwaitComplete.nothing()


class Dialog(ClosesOnce[T], ModalScreen[T]):
    """A frame in the middle of the screen. esc closes it, and so does q where no text is typed."""

    DEFAULT_CSS = """
    Dialog { align: center middle; overflow: hidden; }
    Dialog > .frame {
        border: round $primary; padding: 0 1; background: $background; color: $foreground;
        width: 100%; max-width: 100; height: auto; max-height: 100%;
    }
    Dialog.-ascii > .frame { border: ascii $primary; }
    Dialog.-ascii VerticalScroll, Dialog.-ascii Rows { scrollbar-size-vertical: 0; }
    Dialog .dim { text-style: dim; height: 1; }
    Dialog .title { text-style: bold; height: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "close", show=False)]
    AUTO_FOCUS: ClassVar[str | None] = ""

    @property
    def glyphs(self) -> Glyphs:
        return desk_of(self).glyphs

    @property
    def look(self) -> Look:
        return desk_of(self).look

    def on_mount(self, event: events.Mount) -> None:
        del event
        self.set_class(self.glyphs.rule.isascii(), "-ascii")

    def action_close(self) -> None:
        self.dismiss(None)


def safe_lines(lines: Iterable[SafeText]) -> str:
    return "\n".join(lines)
