"""Takes what was pasted out of what a terminal sends, so that it is text and never keys. Pure; time comes in.

Textual's parser knows pastes too, but takes an escape in one for a key, and what follows it for more keys: orders, in
a program like this.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from textual.events import Paste

BEGIN: Final = "\x1b[200~"
END: Final = "\x1b[201~"

MOST_PASTED: Final = 64 * 1024
"""Characters of a paste that are kept; no field takes as many."""

LOST_S: Final = 5.0
"""A paste that goes on no more has lost its end: keys are keys again."""


def _begun(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


class Pastes:
    """`split` is given everything in order, and is called now and then with nothing."""

    def __init__(self) -> None:
        self._held = ""
        self._paste: str | None = None
        self._heard = 0.0
        self._escape = False

    def split(self, text: str, now: float) -> Iterator[str | Paste]:
        """Keys as they came, and pastes."""
        if not text:
            yield from self._rest(now)
            return
        self._heard = now
        if self._escape and text.startswith(BEGIN[1:]):  # cut behind the escape, which has gone on already
            text = "\x1b" + text
        self._escape = False
        text, self._held = self._held + text, ""
        while text:
            if self._paste is None:
                keys, found, text = text.partition(BEGIN)
                if found:
                    self._paste = ""
                elif (n := _begun(keys, BEGIN)) > 1:  # one would hold up the escape key
                    keys, self._held = keys[:-n], keys[-n:]
                self._escape = keys.endswith("\x1b")
                if keys:
                    yield keys
            else:
                piece, found, text = text.partition(END)
                if not found and (n := _begun(piece, END)):
                    piece, self._held = piece[:-n], piece[-n:]
                self._paste += piece[: max(0, MOST_PASTED - len(self._paste))]
                if found:
                    yield self._over()

    def _over(self) -> Paste:
        pasted, self._paste = self._paste or "", None
        return Paste(pasted.replace("\0", ""))

    def _rest(self, now: float) -> Iterator[str | Paste]:
        """Nothing more came: what looked like the beginning of a mark was none."""
        if self._paste is None:
            keys, self._held = self._held, ""
            if keys:
                yield keys
        elif now - self._heard > LOST_S:
            self._held = ""
            yield self._over()
