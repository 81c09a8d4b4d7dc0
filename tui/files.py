"""Which files a person may mean: listings of folders, and typed paths with their completion. Reads, writes nothing.

Paths are true ones here; `Entry.shown` is what a terminal may see of them. It waits for disks: not for the UI's loop.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from tui.plain import MIB, size
from tui.text import SafeText, one_line

HEAD_BYTES = 1024 * 1024
"""What is read of a file to count its lines; of larger ones the number is an estimate."""

COUNTED_FILES = 200
LISTED = 2000
"""Names of one folder; more help nobody, and typing finds the rest."""


class Entry(NamedTuple):
    """A file or a folder in a list."""

    path: Path
    shown: SafeText
    folder: bool = False
    size: int = 0
    modified: float = 0.0
    lines: int | None = None  # None: not counted
    exact: bool = True  # False: `lines` is an estimate
    fault: SafeText = SafeText("")  # why it can't be read


class Listing(NamedTuple):
    """What there is for a typed text. `sentence` says why there is nothing."""

    typed: str
    folder: Path
    entries: list[Entry]
    sentence: SafeText = SafeText("")


def resolve(typed: str, root: Path, cwd: Path) -> Path:
    """The path that is meant: from the workspace, from its batches/, or from where the program was started."""
    path = Path(typed).expanduser() if typed.startswith("~") else Path(typed)
    if path.is_absolute():
        return path
    bases = (root, root / "batches", cwd)
    for base in bases:
        if _exists(base / path):
            return base / path
    return next((base / path for base in bases if _is_dir((base / path).parent)), root / path)


def listing(typed: str, root: Path, cwd: Path) -> Listing:
    """Files and folders that begin with what is typed; nothing typed, or no folder in it: those of batches/."""
    batches = root / "batches"
    try:
        if "/" not in typed and typed not in ("~", "."):
            found = _exact_first(_entries(batches, typed), typed) if _is_dir(batches) else []
            if found or (not typed and _is_dir(batches)):
                return Listing(typed, batches, found, _empty(found, Path("batches")))
            if not typed:
                why = SafeText("there is no folder batches/ in this workspace: type the path of a batch file")
                return Listing(typed, batches, _entries(root, ""), why)
        folder, beginning = _place(typed, root, cwd)
        found = _exact_first(_entries(folder, beginning), beginning)
        return Listing(typed, folder, found, _empty(found, folder) if not beginning else _none(found, typed))
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: ~nobody; ValueError: a NUL
        return Listing(typed, root, [], SafeText(f"{one_line(typed or str(batches))}: {_why(error)}"))


def _exact_first(found: list[Entry], typed: str) -> list[Entry]:
    """What is typed in full comes before what only begins so, however new that is: enter takes the first."""
    return sorted(found, key=lambda entry: typed not in (entry.path.name, entry.path.stem))


def completed(typed: str, entries: Sequence[Entry], root: Path) -> str:
    """The text with what all matching names have in common; a single folder gets its slash."""
    if typed in ("~", ".", ".."):
        return f"{typed}/"
    if not entries:
        return typed
    names = [entry.path.name for entry in entries]
    common = os.path.commonprefix(names)  # noqa: RUF071 - of letters, which is what Tab completes
    if len(entries) == 1 and entries[0].folder:
        common += "/"
    head, slash, beginning = typed.rpartition("/")
    if not common.lower().startswith(beginning.lower()) or (common == beginning and len(entries) > 1):
        return typed
    if not slash:  # found in batches/: say where
        inside = _relative(entries[0].path.parent, root)
        return f"{inside}/{common}" if inside else common
    return f"{head}/{common}"


def weight(n: int) -> str:
    """Bytes of a file: `12 KiB`, `3 MiB`, `1.2 GiB`."""
    return size(n) if n >= MIB else f"{-(-n // 1024)} KiB"


def typed_for(path: Path, root: Path, *, folder: bool = False) -> str:
    """How a person would type this path."""
    return (_relative(path, root) or str(path)) + ("/" if folder else "")


def count_lines(entry: Entry) -> Entry:
    """The entry with its number of requests: lines with something on them, as far as a look at its head tells."""
    if entry.folder or entry.fault:
        return entry
    try:
        with entry.path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return entry._replace(fault=_why(error))
    if len(head) < HEAD_BYTES:
        return entry._replace(lines=sum(1 for line in head.split(b"\n") if line.strip()))
    seen = head.count(b"\n")
    return entry._replace(lines=max(1, round(seen * entry.size / len(head))) if seen else None, exact=False)


def _place(typed: str, root: Path, cwd: Path) -> tuple[Path, str]:
    """The folder that a typed path is in, and the beginning of a name in it."""
    head, _, beginning = typed.rpartition("/")
    if typed in ("~", ".", ".."):
        head, beginning = typed, ""
    elif not head:
        head = "/" if typed.startswith("/") else "."
    return resolve(head, root, cwd), beginning


def _entries(folder: Path, beginning: str) -> list[Entry]:
    """Newest files first, then folders, then files that only hold expected answers. Raises OSError."""
    found: list[Entry] = []
    wanted = beginning.lower()
    with os.scandir(folder) as items:
        for item in items:
            if not item.name.lower().startswith(wanted) or (
                item.name.startswith(".") and not beginning.startswith(".")
            ):
                continue
            entry = _entry(item)
            if entry is not None:
                found.append(entry)
    found.sort(key=lambda e: (e.folder, e.path.name.endswith(".expected.jsonl"), -e.modified, e.path.name))
    return found[:LISTED]


def _entry(item: os.DirEntry[str]) -> Entry | None:
    """None for sockets, pipes and devices: no batch is in them, and reading one may wait for ever."""
    shown = one_line(os.fsencode(item.name).decode("utf-8", "replace"))
    path = Path(item.path)
    try:
        facts = item.stat()
    except OSError as error:  # a link to nowhere
        return Entry(path, shown, fault=_why(error))
    if stat.S_ISDIR(facts.st_mode):
        return Entry(path, SafeText(f"{shown}/"), folder=True, modified=facts.st_mtime)
    if not stat.S_ISREG(facts.st_mode):
        return None
    fault = SafeText("") if os.access(path, os.R_OK) else SafeText("no permission to read it")
    return Entry(path, shown, size=facts.st_size, modified=facts.st_mtime, fault=fault)


def _empty(found: Collection[Entry], folder: Path) -> SafeText:
    return SafeText("") if found else SafeText(f"{_shown(folder)} is empty: type the path of a batch file")


def _none(found: Collection[Entry], typed: str) -> SafeText:
    return SafeText("") if found else SafeText(f"there is nothing that begins with {one_line(typed)}")


def _shown(path: Path) -> SafeText:
    return one_line(os.fsencode(path).decode("utf-8", "replace"))


def _why(error: Exception) -> SafeText:
    if isinstance(error, FileNotFoundError):
        return SafeText("it is not there")
    if isinstance(error, PermissionError):
        return SafeText("no permission to read it")
    if isinstance(error, NotADirectoryError):
        return SafeText("it is no folder")
    return one_line(getattr(error, "strerror", None) or str(error))


def _relative(path: Path, root: Path) -> str:
    try:
        inside = str(path.relative_to(root))
    except ValueError:
        return ""
    return "" if inside == "." else inside


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises on folders that may not be entered; this does not


def _is_dir(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - as above
