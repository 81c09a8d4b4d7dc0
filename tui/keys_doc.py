"""The key table as text for people: rows of the help screen, and the tables of README and docs. Pure."""

from __future__ import annotations

from collections.abc import Callable

from tui.draw.line import EMPTY, Line, Span
from tui.keys import GROUPS, Key, KeyTable, shown
from tui.text import cells, fit, pad

WhyNot = Callable[[str], str | None]

KEY_COLUMNS = 14
"""Room for `left h [`, the widest of the built-in ones."""


def wrapped(text: str, columns: int) -> list[str]:
    """Words of a sentence in rows of at most so many columns; a longer word is cut."""
    rows: list[str] = []
    for word in text.split():
        if rows and cells(rows[-1]) + 1 + cells(word) <= columns:
            rows[-1] += f" {word}"
        else:
            rows.append(fit(word, max(1, columns)))
    return rows or [""]


def matches(key: Key, typed: str) -> bool:
    """Every word typed is in what the help shows of the key."""
    facts = f"{shown(key.keys)} {key.label} {key.help} {key.action.replace('_', ' ')} {GROUPS[key.group]}".lower()
    return all(word in facts for word in typed.lower().split())


def help_lines(table: KeyTable, where: str, why_not: WhyNot, columns: int, typed: str = "") -> list[Line]:
    """All keys that mean something there, by group. What can't be used now is dim and says why."""
    lines: list[Line] = []
    here = [key for key in table.within(where) if matches(key, typed)]
    room = max(8, columns - KEY_COLUMNS - 2)
    for group, title in GROUPS.items():
        rows = [key for key in here if key.group == group]
        if not rows:
            continue
        if lines:
            lines.append(EMPTY)
        lines.append((Span(title, "title"),))
        for key in rows:
            lines.extend(_rows(key, why_not(key.action), room))
    for problem in table.problems:
        if lines:
            lines.append(EMPTY)
        lines.extend((Span(row, "warn"),) for row in wrapped(problem, max(8, columns)))
    return lines or [(Span(f"no key does anything like '{typed}'", "text"),)]


def _rows(key: Key, reason: str | None, room: int) -> list[Line]:
    name = pad(shown(key.keys) if key.keys else "no key", KEY_COLUMNS - 1) + " "
    texts = wrapped(key.help, room)
    if reason is None:
        first: Line = (Span(f"  {name}", "key"), Span(texts[0]))
        return [first, *((Span(" " * (KEY_COLUMNS + 2)), Span(text)) for text in texts[1:])]
    indent = " " * (KEY_COLUMNS + 2)
    rows: list[Line] = [(Span(f"  {name}", "dim"), Span(texts[0], "dim"))]
    rows.extend((Span(indent), Span(text, "dim")) for text in texts[1:])
    rows.extend((Span(indent), Span(text, "info")) for text in wrapped(f"not now: {reason}", room))
    return rows


def markdown(table: KeyTable) -> str:
    """One table a group, for README and docs."""
    parts: list[str] = []
    for group, title in GROUPS.items():
        rows = [key for key in table.rows if key.group == group]
        parts.append(f"**{title}**\n\n| key | does |\n|---|---|\n" + "\n".join(map(_markdown_row, rows)))
    return "\n\n".join(parts) + "\n"


def _markdown_row(key: Key) -> str:
    names = " ".join(f"`{name}`" for name in shown(key.keys).replace("|", "\\|").split()) or "none"
    place = " (in results)" if key.where == "results" else ""
    return f"| {names} | {key.help.replace('|', chr(92) + '|')}{place} |"
