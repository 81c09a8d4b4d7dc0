"""Pieces of generated text that wait to be sent, and how two of them become one. Pure.

A piece is a `Delta`; its `offset` says where it begins in its channel, so a piece that repeats what is known and one
that leaves something out can be told apart.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from engine.protocol import Channel, Delta

Place = tuple[int, int, Channel]


def place_of(piece: Delta) -> Place:
    """Whose text it is: request, choice, channel."""
    return piece.key, piece.choice, piece.channel


def join(older: Delta, newer: Delta) -> Delta | None:
    """Two pieces of one place as one; None where text is missing between them.

    A repeat (a request that is watched anew sends its text from the beginning) takes the older piece in.
    """
    first, second = (older, newer) if older.offset <= newer.offset else (newer, older)
    end = first.offset + len(first.text)
    if second.offset > end:
        return None
    text = first.text + second.text[end - second.offset :]
    # A repeat counts the tokens of all its text; only what follows without overlap adds its own.
    tokens = older.tokens + newer.tokens if second.offset == end else max(older.tokens, newer.tokens)
    return msgspec.structs.replace(first, text=text, tokens=tokens)


def joined(pieces: Iterable[Delta]) -> list[Delta]:
    """What follows each other in one text as one piece. Only pieces of different choices change their order."""
    out: list[Delta] = []
    last: dict[tuple[int, int], int] = {}
    for piece in pieces:
        at = last.get((piece.key, piece.choice))
        if at is not None and out[at].channel is piece.channel and (both := join(out[at], piece)) is not None:
            out[at] = both
        else:
            last[piece.key, piece.choice] = len(out)
            out.append(piece)
    return out
