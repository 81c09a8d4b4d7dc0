"""Copying and saving text: to the clipboard of the person's own terminal (OSC 52), or into a file; and it says which.

Whether the terminal took what was sent can't be known: "sent" is all that is claimed. The text goes out as it is,
unlike everything on the screen, so the sentence names what is unusual in it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.workspace import Workspace
from tui.notice import Level
from tui.plain import MIB, several
from tui.plain import size as mebibytes
from tui.remote import Terminal
from tui.text import SafeText, one_line

CAP = 64 * 1024
"""Longest base64 that is sent. Terminals take about 75 KB and drop longer ones without a word."""

SCREEN_CHUNK = 240
"""GNU screen cuts a device control string at 256 bytes in old versions, 768 in later ones."""

_NO_CLIPBOARD = frozenset({"linux", "dumb", "vt100", "vt220"})
"""Terminals by TERM that show OSC 52 as text or drop it."""

Write = Callable[[str], object]
"""Returns False where the terminal does not take it."""


class Outcome(NamedTuple):
    """What happened, for people."""

    sentence: SafeText
    level: Level = "info"
    path: Path | None = None  # where the text lies, if in a file


class Decision(NamedTuple):
    """Either a `sequence` for the terminal, or a reason `why` the text goes to a file."""

    sequence: str
    why: str = ""


# --- pure -------------------------------------------------------------------------------------------------------------


def amount(n: int) -> str:
    """Bytes: `312 B`, `2.1 KiB`, `3 MiB`."""
    if n < 1024:
        return f"{n} B"
    return f"{n / 1024:.1f} KiB" if n < MIB else mebibytes(n)


def encoded(text: str) -> bytes:
    """UTF-8. A lone surrogate, which has none, as JSON would write it."""
    return text.encode("utf-8", "backslashreplace")


def osc52(payload: str, multiplexer: str = "") -> str:
    """The sequence that puts base64 `payload` into the clipboard, through a multiplexer if there is one."""
    plain = f"\x1b]52;c;{payload}\x07"
    if multiplexer == "tmux":
        # tmux passes the first on where allow-passthrough is on, and acts on the second where set-clipboard is on.
        doubled = plain.replace("\x1b", "\x1b\x1b")
        return f"\x1bPtmux;{doubled}\x1b\\{plain}"
    if multiplexer == "screen":
        parts = (plain[at : at + SCREEN_CHUNK] for at in range(0, len(plain), SCREEN_CHUNK))
        return "".join(f"\x1bP{part}\x1b\\" for part in parts)
    return plain


def decide(text: str, terminal: Terminal, *, reachable: bool = True) -> Decision:
    """Where the text goes. `reachable`: there is a terminal of the person's own to write to."""
    if not reachable or terminal.dumb or not terminal.osc52 or terminal.name in _NO_CLIPBOARD:
        return Decision("", "this terminal has no clipboard that can be reached")
    payload = base64.b64encode(encoded(text)).decode("ascii")
    if len(payload) > CAP:
        return Decision("", "too long for the clipboard")
    return Decision(osc52(payload, terminal.multiplexer))


def unusual(text: str) -> str:
    """What somebody should know before pasting: "14 lines", "control characters (ESC, BEL)"; "" for nothing."""
    parts = []
    lines = text.count("\n") + (not text.endswith("\n"))
    if lines > 1:
        parts.append(several(lines, "line"))
    if found := controls(text):
        more = ", …" if len(found) > 4 else ""
        parts.append(f"holds control characters: {', '.join(found[:4])}{more}")
    return ", ".join(parts)


_C0 = (
    *("NUL", "SOH", "STX", "ETX", "EOT", "ENQ", "ACK", "BEL", "BS", "TAB", "LF", "VT", "FF", "CR", "SO", "SI"),
    *("DLE", "DC1", "DC2", "DC3", "DC4", "NAK", "SYN", "ETB", "CAN", "EM", "SUB", "ESC", "FS", "GS", "RS", "US"),
)
_STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def controls(text: str) -> list[str]:
    """The characters in it that steer a terminal or turn the direction of writing, by name, each once."""
    names = dict.fromkeys(found for found in _STEERS.findall(text.replace("\r\n", "\n")))
    return [_name(ord(char)) for char in names]


def _name(code: int) -> str:
    if code < len(_C0):
        return _C0[code]
    return "DEL" if code == 0x7F else f"U+{code:04X}"


def file_name(name: str) -> str:
    """A name for a file from anybody's text: letters, digits, `.`, `_` and `-`, never hidden, never empty."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "text"


# --- effects ----------------------------------------------------------------------------------------------------------


def folder_for(workspace: Workspace, job: str) -> Path:
    """Where texts of a job are saved: beside its results, or under results/.saved/ where it has no folder."""
    run = workspace.run_folder(job)
    return run / "saved" if job and run.parent == workspace.results and run.is_dir() else workspace.results / ".saved"


def write_new(text: str, folder: Path, name: str, *, suffix: str = ".txt") -> Path:
    """A file that was not there before: `name.txt`, else `name-2.txt`, … Readable by its owner. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    data = encoded(text)
    stem = file_name(name)
    n = 1
    while True:
        path = folder / f"{stem}{'' if n == 1 else f'-{n}'}{suffix}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            n += 1
            continue
        try:
            with open(fd, "wb") as file:  # noqa: PTH123  # a descriptor, not a path
                file.write(data)
        except OSError:
            path.unlink(missing_ok=True)  # half a text would look like the whole one
            raise
        return path


def save(text: str, folder: Path, name: str, *, root: Path | None = None, why: str = "") -> Outcome:
    """Into a new file. Blocks: call it in a thread. `root`: what the shown path is relative to."""
    try:
        path = write_new(text, folder, name)
    except OSError as error:
        reason = one_line(error.strerror or str(error))
        start = f"{why}, and " if why else ""
        return Outcome(SafeText(f"{start}can't be saved in {one_line(str(folder))}: {reason}"), "error")
    shown = path.relative_to(root) if root is not None and path.is_relative_to(root) else path
    remark = ", ".join(part for part in (amount(len(encoded(text))), unusual(text)) if part)
    return Outcome(SafeText(f"{why + ': ' if why else ''}saved to {one_line(str(shown))} ({remark})"), path=path)


async def copy(
    text: str, *, terminal: Terminal, write: Write | None, folder: Path, name: str, root: Path | None = None
) -> Outcome:
    """To the terminal's clipboard by `write`, or where that can't work into a new file of `folder`."""
    if not text:
        return Outcome(SafeText("nothing to copy: there is no text yet"), "warn")
    decision = decide(text, terminal, reachable=write is not None)
    if write is None or not decision.sequence:
        return await asyncio.to_thread(save, text, folder, name, root=root, why=decision.why)
    if write(decision.sequence) is False:
        why = "the terminal does not take anything now"
        return await asyncio.to_thread(save, text, folder, name, root=root, why=why)
    remark = ", ".join(part for part in (amount(len(encoded(text))), unusual(text)) if part)
    hint = {
        "tmux": "; tmux: set-clipboard on",
        "screen": "; screen hands it on where its terminal takes it",
    }.get(terminal.multiplexer, "")
    return Outcome(SafeText(f"sent to your terminal's clipboard ({remark}){hint}"))
