"""Where each line of a batch file is and what it was: a few dozen bytes a line, whatever its size.

`Entries` grow while a file is scanned and become a `BatchIndex`, which reads one line again when its turn comes,
notices where the file has changed meanwhile, and matches results on disk to lines.
"""

from __future__ import annotations

import array
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from engine import lines
from engine.errors import InputChanged
from engine.lines import Form, LineProblem, Reading, Request

_BAD, _DUPLICATE, _NO_ID = 1, 2, 4  # flags of an entry; a duplicate and a line without id are bad as well

REQUEST_ID_CHARS = 36
"""`req_` and the hex of 16 bytes."""


def _id_hash(custom_id: str) -> int:
    """64 bits of an id. Stable between processes, so that a test can say what collides."""
    return int.from_bytes(hashlib.blake2b(custom_id.encode(), digest_size=8).digest(), "little")


class Entries:
    """The arrays of an index while they grow. array.array grows in steps of an eighth, so peaks stay low."""

    def __init__(self) -> None:
        self.offsets = array.array("Q")
        self.lengths = array.array("I")
        self.lines = array.array("I")
        self.digests = bytearray()
        self.hashes = array.array("Q")
        self.flags = bytearray()

    def __len__(self) -> int:
        return len(self.flags)

    def add(self, offset: int, length: int, number: int, reading: Reading) -> None:
        """The next line. `length` counts all of it, also where the reading saw only its beginning."""
        own = reading.custom_id
        self.offsets.append(offset)
        self.lengths.append(min(length, 2**32 - 1))
        self.lines.append(number)
        self.digests += reading.digest
        self.hashes.append(_id_hash(f"line-{number}" if own is None else own))
        self.flags.append((_BAD if reading.bad else 0) | (_NO_ID if own is None else 0))


class BatchIndex:
    """Entries of good and bad lines in the order of the file.

    Every entry has an id of its own in the results: the custom_id of a good line, `bad_custom_id` of a bad one.
    `on_duplicate` is told of lines that lose their id to an earlier one; they are bad from then on.
    """

    def __init__(
        self,
        path: Path,
        form: Form,
        endpoint: str,
        entries: Entries,
        on_duplicate: Callable[[LineProblem], None],
    ) -> None:
        self.path = path
        self.form: Form = form
        self.endpoint = endpoint
        # Views of the grown arrays, not copies.
        self.lines: npt.NDArray[np.uint32] = np.frombuffer(entries.lines, dtype=np.uint32)
        self._offsets: npt.NDArray[np.uint64] = np.frombuffer(entries.offsets, dtype=np.uint64)
        self._lengths: npt.NDArray[np.uint32] = np.frombuffer(entries.lengths, dtype=np.uint32)
        # (n, 2): 16 bytes of sha256, of url and body if good, else of the bytes of the line
        self._digests: npt.NDArray[np.uint64] = np.frombuffer(entries.digests, dtype=np.uint64).reshape(-1, 2)
        self._hashes: npt.NDArray[np.uint64] = np.frombuffer(entries.hashes, dtype=np.uint64)
        self._flags: npt.NDArray[np.uint8] = np.frombuffer(entries.flags, dtype=np.uint8)
        self._renamed: dict[int, str] = {}  # generated ids that a real id of the file had taken
        self._sort()
        self._name_all(on_duplicate)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def nbytes(self) -> int:
        """Bytes held, all arrays together."""
        arrays = (self.lines, self._offsets, self._lengths, self._digests, self._hashes, self._flags)
        return sum(a.nbytes for a in (*arrays, self._order, self._sorted))

    @property
    def is_bad(self) -> npt.NDArray[np.bool_]:
        return (self._flags & _BAD) != 0

    def request(self, i: int) -> Request:
        """Entry `i`, read again from the file. Raises InputChanged where the file no longer holds it."""
        reading = self._reread(i)
        if self._flags[i] & _BAD:
            raise ValueError(f"entry {i} is a bad line and makes no request")
        if reading.bad or reading.custom_id is None or reading.body is None:
            raise self._changed(i)
        return Request(reading.custom_id, reading.url, reading.body, int(self.lines[i]), self.request_id(i))

    def request_id(self, i: int) -> str:
        """What identifies the content of entry `i`; of a bad one, the bytes of its line."""
        return "req_" + self._digests[i].tobytes().hex()

    def problem(self, i: int) -> LineProblem:
        """What is wrong with the bad entry `i`, read again from the file."""
        reading = self._reread(i)
        number = int(self.lines[i])
        if reading.bad:
            return lines.problem_of(reading, number)
        if self._flags[i] & _DUPLICATE and reading.custom_id is not None:
            return lines.duplicate(number, reading.custom_id, self._first_line(reading.custom_id, i))
        raise ValueError(f"entry {i} is a good line")

    def bad_custom_id(self, i: int) -> str:
        """The id that a bad line has in the results: its own where it has one and is the first to use it.

        Else `<id>#line-<n>` for a duplicate, `line-<n>` without an id; `#invalid` behind that where a good line is
        called so.
        """
        if (renamed := self._renamed.get(i)) is not None:
            return renamed
        flags, number = self._flags[i], self.lines[i]
        if flags & _NO_ID:
            return f"line-{number}"
        own = self._reread(i).custom_id
        if own is None:
            raise self._changed(i)
        return f"{own}#line-{number}" if flags & _DUPLICATE else own

    def custom_id(self, i: int) -> str:
        """The id of entry `i` in the results, good or bad."""
        return self.bad_custom_id(i) if self._flags[i] & _BAD else self.request(i).custom_id

    def find(self, custom_id: str) -> int | None:
        """The entry that has this id in the results."""
        return next((i for i in self._candidates(custom_id) if self.custom_id(i) == custom_id), None)

    def match(self, custom_ids: list[str], request_ids: list[str]) -> npt.NDArray[np.int64]:
        """For each pair its entry, or -1: no such id in the input, -2: the id is there and its request was edited.

        Ids are compared by 64 bits, content by 128 bits, without reading the file; only where two ids of the input
        share their 64 bits does the file decide. What this can get wrong, once in 20 million runs of a million lines
        that all left the input, is the word for one line: edited instead of gone. Neither counts as done.
        """
        if len(custom_ids) != len(request_ids):
            raise ValueError("each custom_id needs its request_id")
        result = np.full(len(custom_ids), -1, dtype=np.int64)
        if not custom_ids or not len(self):
            return result
        hashes = np.fromiter((_id_hash(c) for c in custom_ids), dtype=np.uint64, count=len(custom_ids))
        digests, wellformed = _digests_of(request_ids)
        left = np.searchsorted(self._sorted, hashes, side="left")
        many = np.searchsorted(self._sorted, hashes, side="right") - left
        entry = self._order[np.minimum(left, len(self) - 1)]
        same = (self._digests[entry] == digests).all(axis=1) & wellformed
        one = many == 1
        result[one] = np.where(same, entry, -2)[one]
        for k in np.flatnonzero(many > 1):
            found = self.find(custom_ids[k])
            if found is not None:
                edited = not wellformed[k] or bool((self._digests[found] != digests[k]).any())
                result[k] = -2 if edited else found
        return result

    # --- ids ----------------------------------------------------------------------------------------------------------

    def _sort(self) -> None:
        """To be called after every change of `_hashes`."""
        self._order: npt.NDArray[np.int64] = np.argsort(self._hashes, kind="stable")
        self._sorted: npt.NDArray[np.uint64] = self._hashes[self._order]

    def _name_all(self, on_duplicate: Callable[[LineProblem], None]) -> None:
        """Give every entry an id of its own: mark later uses of an id, rename what collides with a real one."""
        generated = [int(i) for i in np.flatnonzero(self._flags & _NO_ID)]
        if duplicates := self._mark_duplicates(on_duplicate):
            generated += duplicates
            self._sort()
        if generated and self._rename(generated):
            self._sort()

    def _mark_duplicates(self, on_duplicate: Callable[[LineProblem], None]) -> list[int]:
        """Mark all uses of an id but the first as bad. Equal hashes only raise the suspicion: the file decides."""
        marked: list[int] = []
        for group in self._equal_hashes():
            first_of: dict[str, int] = {}
            for i in group:
                if self._flags[i] & _NO_ID:
                    continue
                raw = self._raw(i)
                own = self._read(raw, i).custom_id
                if own is None:
                    raise self._changed(i)
                number = int(self.lines[i])
                if own not in first_of:
                    first_of[own] = number
                    continue
                if not self._flags[i] & _BAD:  # one problem a line: of a bad one, the earlier finding is told
                    on_duplicate(lines.duplicate(number, own, first_of[own]))
                    self._digests[i] = np.frombuffer(lines.raw_digest(raw), dtype=np.uint64)
                self._flags[i] |= _BAD | _DUPLICATE
                self._hashes[i] = _id_hash(f"{own}#line-{number}")
                marked.append(i)
        return marked

    def _equal_hashes(self) -> Iterator[list[int]]:
        """Entries whose ids share their 64 bits; each group in the order of the file, since the sort is stable."""
        sorted_, order = self._sorted, self._order
        starts = np.flatnonzero(sorted_[1:] == sorted_[:-1])
        end = 0
        for start in starts:
            if start < end:  # inside the group before
                continue
            end = int(np.searchsorted(sorted_, sorted_[start], side="right"))
            yield [int(i) for i in order[start:end]]

    def _rename(self, generated: list[int]) -> bool:
        """Change generated ids that some line of the file has for its own."""
        made = set(generated)
        hashes = self._hashes[generated]
        counts = np.searchsorted(self._sorted, hashes, side="right") - np.searchsorted(
            self._sorted, hashes, side="left"
        )
        for i, count in zip(generated, counts, strict=True):
            if count == 1:
                continue
            name = plain = self.bad_custom_id(i)
            while any(k not in made and self.custom_id(k) == name for k in self._candidates(name)):
                name += "#invalid"
            if name != plain:
                self._renamed[i] = name
                self._hashes[i] = _id_hash(name)
        return bool(self._renamed)

    def _candidates(self, custom_id: str) -> list[int]:
        key = np.uint64(_id_hash(custom_id))
        left = int(np.searchsorted(self._sorted, key, side="left"))
        right = int(np.searchsorted(self._sorted, key, side="right"))
        return [int(i) for i in self._order[left:right]]

    def _first_line(self, custom_id: str, i: int) -> int:
        """The line that used this id first."""
        for k in self._candidates(custom_id):
            if not self._flags[k] & (_DUPLICATE | _NO_ID) and self._reread(k).custom_id == custom_id:
                return int(self.lines[k])
        raise self._changed(i)

    # --- the file -----------------------------------------------------------------------------------------------------

    def _reread(self, i: int) -> Reading:
        """Entry `i` as it was read first, or InputChanged."""
        raw = self._raw(i)
        reading = self._read(raw, i)
        flags = int(self._flags[i])
        digest = lines.raw_digest(raw) if flags & _DUPLICATE else reading.digest
        taken = reading.custom_id is not None and not flags & (_BAD | _NO_ID)
        if digest != self._digests[i].tobytes() or (taken and _id_hash(reading.custom_id or "") != self._hashes[i]):
            raise self._changed(i)
        return reading

    def _read(self, raw: bytes, i: int) -> Reading:
        return lines.read(raw, self.form, int(self.lines[i]), self.endpoint)

    def _raw(self, i: int) -> bytes:
        """The bytes at the place of entry `i`. Opened each time: a file that an editor replaced must be noticed."""
        try:
            with self.path.open("rb", buffering=0) as f:
                f.seek(int(self._offsets[i]))
                return _read_exactly(f, min(int(self._lengths[i]), lines.MAX_LINE_BYTES + 1))
        except OSError as e:
            raise self._changed(i, f": {e.strerror or e}") from e

    def _changed(self, i: int, why: str = "") -> InputChanged:
        return InputChanged(
            f"{self.path}, line {self.lines[i]}: the file has changed since it was read{why}",
            advice="Put the file back as it was, or resume the job: it is read again then, and edited lines run again.",
        )


def _read_exactly(f: BinaryIO, size: int) -> bytes:
    raw = f.read(size)
    while len(raw) < size and (more := f.read(size - len(raw))):
        raw += more
    return raw


def _digests_of(request_ids: list[str]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.bool_]]:
    """The 16 bytes of each request id as a row, and which of them are well-formed."""
    count = len(request_ids)
    try:
        together = bytes.fromhex("".join([rid.removeprefix("req_") for rid in request_ids]))
    except ValueError:
        together = b""
    # Of all ids at once where nothing is odd: fromhex skips spaces, so a full sum of bytes means that none had any.
    if len(together) == 16 * count and all(len(rid) == REQUEST_ID_CHARS for rid in request_ids):
        return np.frombuffer(together, dtype=np.uint64).reshape(-1, 2), np.ones(count, dtype=np.bool_)
    digests = np.zeros((count, 2), dtype=np.uint64)
    wellformed = np.zeros(count, dtype=np.bool_)
    for k, rid in enumerate(request_ids):
        try:
            raw = bytes.fromhex(rid.removeprefix("req_"))
        except ValueError:
            continue
        if len(raw) == 16:
            digests[k] = np.frombuffer(raw, dtype=np.uint64)
            wellformed[k] = True
    return digests, wellformed
