"""The texts of the requests that are watched: pieces come in, lines that are safe to show come out. Pure and bounded.

A request's text is blocks: a run of one channel (reasoning, answer, tool call) of one choice. Beside the lines stands
the true text, for copying. Pieces say where they begin, so what was seen already is skipped and what was lost is
marked. What grows without end is bounded twice: all lines together, and the transcripts of ended requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from engine.protocol import Channel, Delta, RunningRequest, Text
from tui import plain
from tui.text import safe

MOST_LINES: Final = 200_000
"""Of scroll-back, over all transcripts. The largest gives its oldest."""

MOST_CHARS: Final = 32 * 1024 * 1024
"""And so many characters, where lines are long."""

MOST_RAW: Final = 1024 * 1024
"""Characters of true text kept for copying, a transcript; an answer that is longer is on disk when it has ended."""

LONGEST_LINE: Final = 64 * 1024
"""A line without an end goes on in the next one: wrapping again after a resize takes as long as the longest line."""

KEPT_ENDED: Final = 16
"""Transcripts of ended requests: the last few, so that what one reads doesn't vanish under the eyes."""

MOST_EARLY: Final = 256 * 1024
"""Characters kept of requests that are not known to be running yet; text may be a little ahead of the list."""

FROM_FILES: Final = -1
"""Stands for the key of a request that ran before this screen looked."""

_JOINED_AT: Final = 256
_ORDER_OF_CHOICE: Final = 1 << 20


class _Raw:
    """True text: pieces, joined now and then; at most MOST_RAW characters."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self.whole = True

    def add(self, text: str) -> None:
        self._pieces.append(text)
        self._length += len(text)
        if len(self._pieces) >= _JOINED_AT or self._length > MOST_RAW:
            joined = "".join(self._pieces)
            if len(joined) > MOST_RAW:
                # More than needed, so that it isn't cut again with the next piece.
                joined = joined[len(joined) - MOST_RAW * 3 // 4 :]
                self.whole = False
            self._pieces = [joined]
            self._length = len(joined)

    def text(self) -> str:
        return "".join(self._pieces)


class Block:
    """A run of one channel of one choice. `lines[-1]` is open: it grows."""

    def __init__(self, choice: int, channel: Channel, order: int) -> None:
        self.choice = choice
        self.channel = channel
        self.order = order
        self.lines: list[str] = [""]
        self.first = 0
        self.chars = 0
        self._raw = _Raw()
        self._held = ""  # a carriage return whose newline may come with the next piece

    @property
    def raw(self) -> str:
        return self._raw.text() + self._held

    @property
    def raw_is_whole(self) -> bool:
        return self._raw.whole

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        if text.endswith("\r"):
            text, self._held = text[:-1], "\r"
        self._raw.add(text)
        self.show(safe(text))

    def show(self, text: str) -> None:
        """Text that is safe already, and no part of the true one: marks."""
        self.chars += len(text)
        lines = self.lines
        first, *others = text.split("\n")
        lines[-1] += first
        self._split()
        for line in others:
            lines.append(line)
            self._split()

    def _split(self) -> None:
        while len(line := self.lines[-1]) > LONGEST_LINE:
            blank = line.rfind(" ", LONGEST_LINE // 2, LONGEST_LINE)
            at = blank + 1 if blank > 0 else LONGEST_LINE
            self.lines[-1:] = [line[:at], line[at:]]

    def drop(self, count: int) -> int:
        """Give up the oldest lines; how many that were. The open one stays."""
        count = min(count, len(self.lines) - 1)
        self.chars -= sum(map(len, self.lines[:count]))
        del self.lines[:count]
        self.first += count
        return count


class Transcript:
    """What one request has said so far."""

    def __init__(self, job: str, custom_id: str, key: int) -> None:
        self.job = job
        self.custom_id = custom_id
        self.key = key
        self.version = 0
        """Another number, another text."""
        self.generation = 0
        """Another number: not only more text, but other text in its place."""
        self.ended: float | None = None
        self.finish = ""  # as the runner acknowledged it; "" while unknown
        self.tokens: int | None = None
        self._clear()

    def _clear(self) -> None:
        self.blocks: list[Block] = []
        """In the order of choices, each in the order of arrival."""
        self._seen: dict[tuple[int, Channel], int] = {}
        self._gaps: set[int] = set()
        self._doubtful = False

    @property
    def lines(self) -> int:
        return sum(len(block.lines) for block in self.blocks)

    @property
    def chars(self) -> int:
        return sum(block.chars for block in self.blocks)

    @property
    def from_files(self) -> bool:
        """Whole when it came: there is nothing to follow."""
        return self.key == FROM_FILES

    @property
    def empty(self) -> bool:
        return not self.blocks

    @property
    def several_choices(self) -> bool:
        return bool(self.blocks) and self.blocks[-1].choice != self.blocks[0].choice

    def of(self, channels: Iterable[Channel]) -> list[Block]:
        wanted = frozenset(channels)
        return [block for block in self.blocks if block.channel in wanted]

    def true_text(self, *channels: Channel) -> str:
        """What was received of these channels (none: the answer), as the model wrote it; blocks an empty line apart."""
        return "\n\n".join(block.raw for block in self.of(channels or (Channel.ANSWER,)))

    def is_whole(self, *channels: Channel) -> bool:
        """Nothing of that is known to be missing."""
        kept = all(block.raw_is_whole for block in self.of(channels or (Channel.ANSWER,)))
        return kept and not self._gaps and not self._doubtful

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin_again(self, key: int) -> None:
        """The request runs once more, under another key: what it said before is no part of its answer."""
        self.key = key
        self.ended, self.finish, self.tokens = None, "", None
        self._clear()
        self.version += 1
        self.generation += 1

    def add(self, piece: Delta) -> None:
        place = (piece.choice, piece.channel)
        end = piece.offset + len(piece.text)
        if piece.offset == 0 and piece.choice in self._gaps and end >= self._seen.get(place, 0):
            # The text so far comes again, whole this time.
            self.blocks = [block for block in self.blocks if block.choice != piece.choice]
            self._seen = {at: n for at, n in self._seen.items() if at[0] != piece.choice}
            self._gaps.discard(piece.choice)
            self.generation += 1
        seen = self._seen.get(place, 0)
        self._trust()
        if end <= seen or not piece.text:
            return
        block = self._block(piece.choice, piece.channel)
        if piece.offset > seen:
            self._gaps.add(piece.choice)
            block.show(_missing(piece.offset - seen))
        block.add(piece.text[max(0, seen - piece.offset) :])
        self._seen[place] = end
        self.version += 1

    def _trust(self) -> None:
        if self._doubtful:
            self._doubtful = False
            self.version += 1

    def goes_on(self, piece: Delta) -> bool:
        return piece.offset == self._seen.get((piece.choice, piece.channel), 0)

    def doubt(self) -> None:
        """Text may have passed unseen: unless the next piece shows that it hasn't, the end is missing."""
        if not self.empty and not self._doubtful:
            self._doubtful = True
            self.version += 1

    @property
    def may_lack_its_end(self) -> bool:
        return self.ended is not None and self._doubtful

    def end(self, now: float) -> None:
        if self.ended is None:
            self.ended = now
            self.version += 1

    def _block(self, choice: int, channel: Channel) -> Block:
        """The one to add to."""
        mine = [block for block in self.blocks if block.choice == choice]
        if mine and mine[-1].channel == channel:
            return mine[-1]
        order = mine[-1].order + 1 if mine else choice * _ORDER_OF_CHOICE
        block = Block(choice, channel, order)
        after = sum(other.order < order for other in self.blocks)
        self.blocks.insert(after, block)
        return block

    def drop(self, lines: int) -> int:
        """Give up the oldest lines."""
        dropped = 0
        for block in self.blocks:
            dropped += block.drop(lines - dropped)
            if dropped >= lines:
                break
        if dropped:
            self.version += 1
        return dropped


def _missing(characters: int) -> str:
    return f"[… {plain.count(characters)} characters not received] "


class Transcripts:
    """By job and custom_id."""

    def __init__(self) -> None:
        self._by_name: dict[tuple[str, str], Transcript] = {}
        self._names: dict[int, tuple[str, str]] = {}  # of those that run, by key
        self._early: dict[int, list[Delta]] = {}
        self._early_chars = 0
        self.focus: tuple[str, str] | None = None
        """Kept longer than others after its end; whoever shows it says."""
        self.watched: frozenset[tuple[str, str]] | None = None
        """Whose text the runner is asked for: what others say passes unseen. None: nobody has said."""
        self.places = 1
        """Streams that the screen has room for; whoever draws says. No more are watched."""

    def get(self, job: str, custom_id: str) -> Transcript | None:
        return self._by_name.get((job, custom_id))

    # --- what comes in ------------------------------------------------------------------------------------------------

    def take(self, event: Text, running: Sequence[RunningRequest]) -> None:
        """Pieces of text. `running` tells whose they are."""
        self._learn(running, event.job)
        if event.dropped:
            for transcript in self._by_name.values():
                if transcript.job == event.job and transcript.ended is None:
                    transcript.doubt()
        for piece in event.items:
            name = self._names.get(piece.key) or self._late(event.job, piece)
            if name is None:
                self._keep_early(piece)
            else:
                self._add(name, piece)
        self._bound()

    def note_running(self, running: Sequence[RunningRequest], now: float) -> None:
        """Who runs now: whoever ran before and is not there any more has ended."""
        self._learn(running, "")
        if self.watched is not None:
            for name, transcript in self._by_name.items():
                if transcript.ended is None and name not in self.watched:
                    transcript.doubt()
        keys = {request.key for request in running}
        for key in [key for key in self._names if key not in keys]:
            transcript = self._by_name.get(self._names.pop(key))
            if transcript is not None and transcript.key == key:
                transcript.end(now)
        # Text that was ahead of the list belongs to somebody in it by now, or to nobody.
        for key in [key for key in self._early if key not in keys and key < min(keys, default=key)]:
            self._forget_early(key)
        self._forget_ended()

    def ended(self, job: str, custom_id: str, *, finish: str = "", tokens: int | None = None, now: float) -> None:
        """Its line is on disk."""
        transcript = self.get(job, custom_id)
        if transcript is None:
            return
        transcript.end(now)
        transcript.finish = finish or transcript.finish
        transcript.tokens = tokens if tokens is not None else transcript.tokens
        transcript.version += 1
        self._forget_ended()

    def adopt(self, job: str, custom_id: str, parts: Sequence[tuple[Channel, str]], *, finish: str, tokens: int | None,
              now: float) -> None:  # fmt: skip
        """A text that came from the files, whole: of a request that nobody watched while it ran."""
        transcript = self._by_name[job, custom_id] = Transcript(job, custom_id, FROM_FILES)
        for channel, text in parts:
            transcript.add(Delta(key=FROM_FILES, text=text, channel=channel))
        self.ended(job, custom_id, finish=finish, tokens=tokens, now=now)
        self._bound()

    # --- whose is it --------------------------------------------------------------------------------------------------

    def _learn(self, running: Sequence[RunningRequest], job: str) -> None:
        for request in running:
            name = (request.job or job, request.custom_id)
            if self._names.get(request.key) == name or not name[0]:
                continue
            self._names[request.key] = name
            known = self._by_name.get(name)
            if known is not None and known.key != request.key:
                known.begin_again(request.key)
            for piece in self._forget_early(request.key):
                self._add(name, piece)

    def _late(self, job: str, piece: Delta) -> tuple[str, str] | None:
        """Of a request that has just left the list, where the piece goes on exactly where that one stopped."""
        for transcript in self._by_name.values():
            if (transcript.key, transcript.job) == (piece.key, job) and transcript.ended is not None:
                return (job, transcript.custom_id) if transcript.goes_on(piece) else None
        return None

    def _add(self, name: tuple[str, str], piece: Delta) -> None:
        transcript = self._by_name.get(name)
        if transcript is None:
            transcript = self._by_name[name] = Transcript(*name, piece.key)
        transcript.add(piece)

    def _keep_early(self, piece: Delta) -> None:
        self._early.setdefault(piece.key, []).append(piece)
        self._early_chars += len(piece.text)
        while self._early_chars > MOST_EARLY and self._early:
            self._forget_early(min(self._early))  # what is lost is marked, should its name come after all

    def _forget_early(self, key: int) -> list[Delta]:
        pieces = self._early.pop(key, [])
        self._early_chars -= sum(len(piece.text) for piece in pieces)
        return pieces

    # --- bounds -------------------------------------------------------------------------------------------------------

    def _forget_ended(self) -> None:
        ended = [t for t in self._by_name.values() if t.ended is not None and (t.job, t.custom_id) != self.focus]
        for transcript in sorted(ended, key=lambda t: t.ended or 0.0)[: max(0, len(ended) - KEPT_ENDED)]:
            del self._by_name[transcript.job, transcript.custom_id]

    def _bound(self) -> None:
        transcripts = list(self._by_name.values())
        lines = sum(transcript.lines for transcript in transcripts)
        chars = sum(transcript.chars for transcript in transcripts)
        while lines > MOST_LINES or chars > MOST_CHARS:
            by_lines = lines > MOST_LINES
            largest = max(transcripts, key=lambda t: t.lines if by_lines else t.chars)
            # A good bite, so that not every piece of text has to take one.
            before = largest.chars
            dropped = largest.drop(max(1, largest.lines // 10))
            if not dropped:
                break
            lines -= dropped
            chars -= before - largest.chars
