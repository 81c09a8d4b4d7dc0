"""Who is at the other end of a Unix socket, and whether the folder it lies in is private. Used by both ends."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path
from typing import Protocol

_UCRED = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid


class HasOptions(Protocol):
    """A socket, or asyncio's wrapper of one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...


def peer_uid(sock: HasOptions) -> int:
    """The user at the other end, told by the kernel."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid


def folder_fault(folder: Path) -> tuple[str, str] | None:
    """Why a socket in this folder could be somebody else's: (what, what to do), None where it is private and ours."""
    return _fault(folder, private=True) or _fault(folder.parent, private=False)


def _fault(folder: Path, *, private: bool) -> tuple[str, str] | None:
    found = folder.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_ISLNK(found.st_mode) and private:
        return f"{folder} is a link", "Remove it."
    if private and not stat.S_ISDIR(found.st_mode):
        return f"{folder} is no folder", "Remove it."
    if not private:
        found = folder.stat()
        mode = stat.S_IMODE(found.st_mode)
    if found.st_uid != os.getuid() and (private or found.st_uid != 0):
        return (
            f"{folder} belongs to user {found.st_uid}",
            "Set XDG_RUNTIME_DIR to a folder of yours.",
        )
    if private and mode & 0o077:
        return f"{folder} is open to other users (mode {mode:o})", f"`chmod 700 {folder}` closes it."
    # In a folder where others may write, they could put another one in place of ours; the sticky bit prevents it.
    if not private and mode & 0o022 and not mode & stat.S_ISVTX:
        return f"{folder} can be written by other users (mode {mode:o})", f"`chmod go-w {folder}` closes it."
    return None
