"""Commands by name: what can be typed after `:`, how typed text finds it, what is said where it finds nothing. Pure.

Every action of the key table is a command; a few more take an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from tui.keys import MOVES, KeyTable, shown
from tui.text import one_line

MIN_HZ, MAX_HZ = 0.5, 10.0


class Entry(NamedTuple):
    """A row of the list. `reason`: why it can't be used now."""

    action: str
    name: str  # as it is typed
    help: str
    keys: str = ""  # as people read them
    argument: str = ""  # what follows the name: "TEXT"
    reason: str | None = None
    optional: bool = False  # the argument may be left out


class Choice(NamedTuple):
    """What was chosen."""

    action: str
    argument: str = ""


ARGUMENTS: tuple[Entry, ...] = (
    Entry("find", "find", "find this text in the requests or results", argument="TEXT"),
    Entry("job", "job", "go to the job of this name", argument="NAME"),
    Entry("line", "line", "go to the request on this line of the batch file", argument="N"),
    Entry("request", "request", "go to the request with this custom_id", argument="ID"),
    Entry("theme", "theme", "dark or light", argument="light|dark", optional=True),
    Entry("hz", "hz", "redraws a second", argument="N"),
)

_SYNONYMS = {"quit": "leave", "q": "leave", "exit": "leave", "wq": "leave", "undo": "put_back", "delete": "remove"}
_NOT_LISTED = frozenset({*MOVES, "commands", "find", "theme"})  # the last two come with their argument


def entries(table: KeyTable, where: str, why_not: Callable[[str], str | None]) -> list[Entry]:
    """All commands, those with an argument last."""
    here = {key.action: key for key in table.within(where)}
    known = {key.action for key in table.rows}
    plain = [
        Entry(key.action, key.action.replace("_", " "), key.help, shown(key.keys), reason=why_not(key.action))
        for key in here.values()
        if key.action not in _NOT_LISTED
    ]
    more = [
        entry._replace(
            keys=shown(here[entry.action].keys) if entry.action in here else "",
            reason=why_not(entry.action) if entry.action in here else None,
        )
        for entry in ARGUMENTS
        if entry.action in here or entry.action not in known
    ]
    return [*plain, *more]


def _split(typed: str) -> tuple[str, str]:
    word, _, rest = typed.strip().removeprefix(":").strip().partition(" ")
    return word.lower(), rest.strip()


def matching(known: Sequence[Entry], typed: str) -> list[Entry]:
    """The commands that may be meant, the likeliest first; all of them where nothing is typed."""
    word, rest = _split(typed)
    if not word:
        return list(known)
    if rest or typed.rstrip() != typed:
        taking = [entry for entry in known if entry.argument and entry.name == word]
        if taking:
            return taking
    text = " ".join(part for part in (word, rest) if part).replace("-", " ").replace("_", " ").lower()
    meant = _SYNONYMS.get(text)
    ranked = [(0 if entry.action == meant else _rank(entry, text), i) for i, entry in enumerate(known)]
    return [known[i] for rank, i in sorted(pair for pair in ranked if pair[0] is not None)]


def _rank(entry: Entry, text: str) -> int | None:
    """How well a text fits; lower is better."""
    name = entry.name.lower()
    if name == text:
        return 0
    if name.startswith(text):
        return 1
    if any(word.startswith(text) for word in name.split()):
        return 2
    if text in name:
        return 3
    if all(word in f"{name} {entry.help.lower()}" for word in text.split()):
        return 4
    return 5 if len(text) > 1 and _in_order(text, name) else None


def _in_order(text: str, name: str) -> bool:
    """All its letters are there, in this order: `pn` for `pause now`."""
    letters = iter(name)
    return all(letter in letters for letter in text if letter != " ")


def choose(entry: Entry, typed: str) -> Choice | str:
    """What enter means on this row: a choice, or a sentence on why not."""
    if entry.reason is not None:
        return f"{entry.name}: not now, {entry.reason}"
    word, rest = _split(typed)
    argument = rest if entry.argument and word == entry.name else ""
    if entry.argument and not argument:
        return Choice(entry.action) if entry.optional else f"{entry.name} needs {entry.argument}: {entry.help}"
    fault = _fault(entry, argument)
    return fault or Choice(entry.action, argument)


def _fault(entry: Entry, argument: str) -> str:
    """A sentence where the argument makes no sense."""
    said = one_line(argument)
    if entry.action == "theme" and argument and argument not in ("light", "dark"):
        return f"there is no theme '{said}': light or dark"
    if entry.action == "line" and not (argument.isascii() and argument.isdigit() and int(argument) > 0):
        return f"'{said}' is no line number: a whole number, at least 1"
    if entry.action == "hz":
        try:
            hz = float(argument)
        except ValueError:
            hz = 0.0
        if not MIN_HZ <= hz <= MAX_HZ:
            return f"'{said}' is not possible: redraws a second, {MIN_HZ:g} to {MAX_HZ:g}"
    return ""


def unknown(typed: str, known: Iterable[Entry]) -> str:
    """For what no command is like."""
    word, _ = _split(typed)
    near = sorted({entry.name for entry in known if word[:1] and entry.name.startswith(word[:1])})[:4]
    hint = f"; there is {', '.join(near)}" if near else "; ? shows all keys"
    return f"there is no command '{one_line(word)}'{hint}"
