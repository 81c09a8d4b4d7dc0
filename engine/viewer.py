"""What one client reads of the requests in flight, and what all of them do together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from engine.protocol import Delta, WatchRequests


class Watched(NamedTuple):
    """Requests in flight whose text somebody wants. `fresh`: for somebody it has to begin at its beginning."""

    keys: frozenset[int]
    fresh: frozenset[int]


class Viewer:
    """What one client reads: text of a request reaches it from its first character on, or not at all."""

    def __init__(self, watch: WatchRequests) -> None:
        self.watch = watch
        self._keys: frozenset[int] = frozenset()
        self._begun: set[int] = set()

    def look(self, keys: frozenset[int]) -> frozenset[int]:
        """These are its requests in flight now. Returns those that are new to it."""
        fresh = keys - self._keys
        self._keys = keys
        self._begun &= keys
        return fresh

    def chosen(self, pieces: Iterable[Delta]) -> list[Delta]:
        """What of these is for it. What was on its way before its request began anew is not."""
        out = []
        for piece in pieces:
            if piece.key in self._keys and (piece.offset == 0 or piece.key in self._begun):
                self._begun.add(piece.key)
                out.append(piece)
        return out
