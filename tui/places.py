"""Where running requests stand in a list, so that rows keep still: a newcomer takes the row of one that has ended.

Pure: time comes in. Without this the list would move up by one row for every request that finishes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from engine.protocol import RunningRequest

LINGER_S: Final = 1.0
"""How long one that has ended keeps its row where no other one takes it."""


class Place(NamedTuple):
    """One row."""

    request: RunningRequest  # as it was last seen running
    ended: float | None = None  # when it was first missed; None while it runs


class Places:
    """The rows, from the top."""

    def __init__(self) -> None:
        self.rows: list[Place] = []

    def take(self, running: Iterable[RunningRequest], now: float, *, keep: str = "") -> None:
        """Who runs at this moment. The row of custom_id `keep` stays, also when that one has ended long ago."""
        left = {request.custom_id: request for request in running}
        free: list[int] = []
        for i, place in enumerate(self.rows):
            name = place.request.custom_id
            if (current := left.pop(name, None)) is not None:
                self.rows[i] = Place(current)
                continue
            if place.ended is None:
                self.rows[i] = Place(place.request, now)
            if name != keep:
                free.append(i)
        newcomers = iter(left.values())
        for i, request in zip(free, newcomers, strict=False):
            self.rows[i] = Place(request)
        self.rows.extend(Place(request) for request in newcomers)
        self.rows = [place for place in self.rows if place.request.custom_id == keep or not _gone(place, now)]

    def clear(self) -> None:
        self.rows = []

    def find(self, custom_id: str) -> int | None:
        return next((i for i, place in enumerate(self.rows) if place.request.custom_id == custom_id), None)


def _gone(place: Place, now: float) -> bool:
    return place.ended is not None and not 0 <= now - place.ended < LINGER_S
