"""The settings of one job as rows: name, value, and where the value comes from. Empty rows stay with the workspace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.events import DescendantFocus, Mount
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from tui import job_settings
from tui.job_settings import FIELDS, FieldInfo, Inherited
from tui.plain import size
from tui.screens.parts import Dialog, Field, Rows, Words, desk_of
from tui.text import SafeText, one_line


class Model(NamedTuple):
    """A model that can be named here."""

    name: str
    path: str
    size_bytes: int = 0
    quantization: str = ""
    embedded: bool = False
    why_not: str = ""  # the engine can't run it

    @property
    def typed(self) -> str:
        """What stands for it in the field: a path where it has one of its own, so that two of one name differ."""
        return self.name if self.embedded else self.path

    @property
    def row(self) -> SafeText:
        facts = "demo model, inside the program" if self.embedded else f"{size(self.size_bytes)}  {self.quantization}"
        why = f"  ({self.why_not})" if self.why_not else ""
        return one_line(f"{self.name}  {facts}{why}")


class PickScreen(Dialog[str | None]):
    """One of a few values; "" stands for the workspace's own."""

    DEFAULT_CSS = """
    PickScreen > .frame { max-width: 78; }
    PickScreen Rows { height: auto; max-height: 12; }
    """

    def __init__(self, title: str, choices: Sequence[tuple[str, SafeText]], note: str = "") -> None:
        super().__init__()
        self._title = one_line(title)
        self._choices = list(choices)
        self._note = one_line(note)

    def compose(self) -> ComposeResult:
        with Vertical(classes="frame"):
            yield Words(self._title, classes="title")
            yield Rows()
            if self._note:
                yield Words(self._note)
            yield Words("enter take   esc back", classes="dim")

    def on_mount(self, event: Mount) -> None:
        super().on_mount(event)
        rows = self.query_one(Rows)
        rows.add_options([Option(Text(shown, no_wrap=True, overflow="crop")) for _, shown in self._choices])
        rows.highlighted = 0
        rows.focus()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.dismiss(self._choices[event.option_index][0])


class Tick(Static, can_focus=True):
    """A yes or no; space or enter changes it."""

    DEFAULT_CSS = """
    Tick { width: 1fr; height: 1; }
    Tick:focus { text-style: bold reverse; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "change", show=False)]

    class Changed(Message):
        def __init__(self, value: bool) -> None:
            super().__init__()
            self.value = value

    def __init__(self, label: str) -> None:
        super().__init__(markup=False)
        self._label = label
        self.value = False

    def on_mount(self) -> None:
        self.put(self.value)

    def put(self, value: bool) -> None:
        self.value = value
        self.update(f"[{'x' if value else ' '}] {self._label}")

    def action_change(self) -> None:
        self.put(not self.value)
        self.post_message(self.Changed(self.value))

    def on_click(self) -> None:
        self.action_change()


class SettingsForm(Vertical):
    """Rows of `job_settings.FIELDS`. Knows nothing of the file."""

    DEFAULT_CSS = """
    SettingsForm { height: auto; }
    SettingsForm Horizontal { height: 1; }
    SettingsForm .name { width: 18; }
    SettingsForm Field { width: 26; margin: 0 2 0 0; }
    SettingsForm .from { width: 1fr; height: 1; }
    """

    class Changed(Message):
        """A field was changed; `name` is its."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Focused(Message):
        """What the row in focus means."""

        def __init__(self, help_: str) -> None:
            super().__init__()
            self.help = help_

    def __init__(self) -> None:
        super().__init__()
        self.given = Inherited()
        self.models: list[Model] = []
        self.models_note = "looking for models"

    def compose(self) -> ComposeResult:
        for field in FIELDS:
            with Horizontal():
                yield Words(field.name, classes="name")
                yield Field(hint=field.built_in, id=f"set-{field.name}")
                yield Words(classes="from", id=f"from-{field.name}")

    def on_mount(self) -> None:
        self.show(self.given)

    def show(self, given: Inherited) -> None:
        """Take the workspace's settings."""
        self.given = given
        for field in FIELDS:
            self.query_one(f"#set-{field.name}", Field).placeholder = job_settings.inherited(field, given)
            self._draw(field)

    @property
    def typed(self) -> dict[str, str]:
        return {field.name: self.query_one(f"#set-{field.name}", Field).value for field in FIELDS}

    def first_fault(self) -> FieldInfo | None:
        """The first row whose text can't be used."""
        typed = self.typed
        return next((field for field in FIELDS if job_settings.fault(field, typed[field.name])), None)

    def focus_on(self, field: FieldInfo) -> None:
        self.query_one(f"#set-{field.name}", Field).focus()

    def _draw(self, field: FieldInfo) -> None:
        typed = self.query_one(f"#set-{field.name}", Field).value
        bad = job_settings.fault(field, typed)
        look = desk_of(self).look
        if bad:
            text = Text(bad, look.style("error"))
        elif typed.strip():
            text = Text("this job only", look.style("info"))
        else:
            text = Text(one_line(job_settings.source(field, self.given)), look.style("dim"))
        text.no_wrap, text.overflow = True, "ellipsis"
        self.query_one(f"#from-{field.name}", Words).say(text)

    # --- keys ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _field_of(widget: object) -> FieldInfo | None:
        name = (getattr(widget, "id", None) or "").removeprefix("set-")
        return next((field for field in FIELDS if field.name == name), None)

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if (field := self._field_of(event.input)) is not None:
            self._draw(field)
            self.post_message(self.Changed(field.name))
            self._explain(field)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter: a list where there is one, else the next row."""
        event.stop()
        field = self._field_of(event.input)
        if field is not None and field.name == "model":
            choices = [("", SafeText(f"as before: {job_settings.inherited(field, self.given)}"))]
            choices += [(model.typed, model.row) for model in self.models]
            self.app.push_screen(PickScreen("Model of this job", choices, self.models_note), self._put_model)
        elif field is not None and field.name == "reasoning_effort":
            values = field.rule.removeprefix("one of ").split(", ")
            choices = [("", SafeText(f"as before: {job_settings.inherited(field, self.given)}"))]
            choices += [(value, SafeText(value)) for value in values]
            self.app.push_screen(PickScreen("Reasoning effort", choices), self._put_effort)
        else:
            self.screen.focus_next()

    def _put_model(self, chosen: str | None) -> None:
        if chosen is not None:
            self.query_one("#set-model", Field).value = chosen

    def _put_effort(self, chosen: str | None) -> None:
        if chosen is not None:
            self.query_one("#set-reasoning_effort", Field).value = chosen

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        field = self._field_of(event.widget)
        if field is not None:
            self._explain(field)

    def _explain(self, field: FieldInfo) -> None:
        """What the row is for; where its text can't be used, why, in full."""
        more = "; enter: list" if field.name in ("model", "reasoning_effort") else ""
        bad = job_settings.fault(field, self.query_one(f"#set-{field.name}", Field).value)
        self.post_message(self.Focused(f"{field.name} {bad}" if bad else f"{field.help}: {field.rule}{more}"))
