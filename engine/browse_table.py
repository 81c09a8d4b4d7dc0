"""The table of one run's requests: what each is called, where its lines are, how it ended. Some 60 bytes a request.

Rows are the lines of the batch file in its order, then results of requests that the file does not hold. Both sides
arrive in blocks and in any order; names follow `engine.batch_index`. Ids are compared by 64 bits of Python's hash,
whose key is new in each process: two ids of a million share them once in 40 million runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

WAITING, DONE, TRUNCATED, FAILED, INVALID, ABORTED = range(6)
STATES = ("waiting", "done", "truncated", "failed", "invalid", "aborted")

OWN, NUMBERED, NAMELESS, DUPLICATE, EXTRA = range(5)
"""How a row came to its name: its own; `line-<n>` in a form where that is its own; a bad line without a name; a later
use of a name; a result whose request is not in the batch file."""

OUTPUT_BIT = 1 << 62
"""Set in `where` for lines of output.jsonl: the larger `where` is the one that counts, and a success outranks."""

RESULT = np.dtype(
    [
        ("hash", "i8"),
        ("where", "i8"),  # offset of its line
        ("state", "u1"),
        ("finish", "u1"),
        ("prompt", "u4"),
        ("completion", "u4"),
        ("seconds", "f4"),  # nan: it never ran
    ]
)
Results = npt.NDArray[np.void]


def hashes_of(names: Sequence[str]) -> Ints:
    return np.fromiter(map(hash, names), dtype=np.int64, count=len(names))


class Finder:
    """Hash → row, growing: sorted pieces of falling size, merged as they come."""

    def __init__(self) -> None:
        self._pieces: list[tuple[Ints, npt.NDArray[np.uint32]]] = []

    @property
    def nbytes(self) -> int:
        return sum(h.nbytes + r.nbytes for h, r in self._pieces)

    def add(self, hashes: Ints, rows: Rows) -> None:
        if not len(hashes):
            return
        self._pieces.append(_sorted(hashes, rows.astype(np.uint32)))
        while len(self._pieces) > 1 and 2 * len(self._pieces[-1][0]) >= len(self._pieces[-2][0]):
            (h1, r1), (h2, r2) = self._pieces[-2:]
            self._pieces[-2:] = [_sorted(np.concatenate([h1, h2]), np.concatenate([r1, r2]))]

    def find(self, hashes: Ints) -> Ints:
        """-1 where there is no such row."""
        order = np.argsort(hashes)  # neighbours are looked for in the same corner of memory
        asked = hashes[order]
        found = np.full(len(hashes), -1, dtype=np.int64)
        for sorted_, rows in self._pieces:
            at = np.minimum(np.searchsorted(sorted_, asked), len(sorted_) - 1)
            same = sorted_[at] == asked
            found[order[same]] = rows[at[same]]
        return found

    def find_one(self, name: str) -> int:
        return int(self.find(np.array([hash(name)], dtype=np.int64))[0])


def _sorted(hashes: Ints, rows: npt.NDArray[np.uint32]) -> tuple[Ints, npt.NDArray[np.uint32]]:
    order = np.argsort(hashes, kind="stable")  # which merges runs that are sorted already
    return hashes[order], rows[order]


class Table:
    """Columns over all rows; `len` counts those that are valid."""

    def __init__(self, name_of: Callable[[int], str]) -> None:
        """`name_of` reads the own id of a row from the batch file."""
        self._name_of = name_of
        self._count = 0
        self.complete = False  # the batch file was read to its end
        self.version = 0  # rises with every change of a row
        self.places = np.zeros(0, np.int64)  # offset in the batch file
        self.lines = np.zeros(0, np.uint32)
        self.kinds = np.zeros(0, np.uint8)
        self.where = np.zeros(0, np.int64)  # of the line that counts, see OUTPUT_BIT; -1 for none
        self.states = np.zeros(0, np.uint8)
        self.finishes = np.zeros(0, np.uint8)
        self.prompts = np.zeros(0, np.uint32)
        self.completions = np.zeros(0, np.uint32)
        self.seconds = np.zeros(0, np.float32)
        self.renamed: dict[int, str] = {}  # generated names that a real id of the file had taken
        self.extras = 0
        self._own = Finder()
        self._made = Finder()  # generated names; only once all own ones are known, since those go first
        self._made_rows: list[int] = []
        self._made_hashes: list[int] = []
        self._pending: list[Results] = []
        self._pending_count = 0
        self._tried = 0  # rows there were when the pending ones were tried last

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes of the rows there are. What is reserved beyond them costs nothing until it is written."""
        columns = (self.places, self.lines, self.kinds, self.where, self.states, self.finishes)
        numbers = (self.prompts, self.completions, self.seconds)
        return sum(c.itemsize for c in (*columns, *numbers)) * self._count + self._own.nbytes + self._made.nbytes

    def reserve(self, count: int) -> None:
        """Room for so many rows. Pages that were never written take no memory, so a guess may be generous."""
        if count <= len(self.places):
            return
        count = max(count, 1024, len(self.places) * 3 // 2)
        for name in ("places", "lines", "kinds", "where", "states", "finishes", "prompts", "completions", "seconds"):
            old = getattr(self, name)
            new = np.zeros(count, old.dtype)
            new[: self._count] = old[: self._count]
            setattr(self, name, new)

    # --- the batch file -----------------------------------------------------------------------------------------------

    def add_lines(self, places: Ints, numbers: Ints, names: list[str], kinds: npt.NDArray[np.uint8]) -> None:
        """The next lines. `names`: own ids; of a nameless one `line-<n>`."""
        first, many = self._count, len(names)
        if not many:
            return
        hashes = hashes_of(names)
        own = kinds != NAMELESS
        before = np.zeros(many, dtype=np.bool_)
        at = np.flatnonzero(own)
        _, firsts = np.unique(hashes[at], return_index=True)
        before[at] = True
        before[at[firsts]] = False
        if first:
            before[at] |= self._own.find(hashes[at]) >= 0
        for i in np.flatnonzero(before):
            hashes[i] = hash(f"{names[i]}#line-{numbers[i]}")
        kinds[before] = DUPLICATE
        self._append(many)
        self.places[first : self._count] = places
        self.lines[first : self._count] = numbers
        self.kinds[first : self._count] = kinds
        real = np.flatnonzero(own & ~before)
        self._own.add(hashes[real], real + first)
        for i in np.flatnonzero(~own | before):
            self._made_rows.append(first + int(i))
            self._made_hashes.append(int(hashes[i]))
        if self._pending_count <= 4 * many or 2 * self._tried <= self._count:
            self._retry()

    def end_lines(self) -> None:
        """The batch file was read, or there is none: what no line of it asked for becomes a row of its own."""
        made = np.array(self._made_hashes, dtype=np.int64)
        rows = np.array(self._made_rows, dtype=np.intp)
        if len(made):
            for i in np.flatnonzero(self._own.find(made) >= 0):
                row = int(rows[i])
                name = self.name(row)
                while self._own.find_one(name) >= 0:
                    name += "#invalid"
                self.renamed[row] = name
                made[i] = hash(name)
            self._made.add(made, rows)
        self._made_rows, self._made_hashes = [], []
        self.complete = True
        self.version += 1
        self._retry()

    def name(self, row: int) -> str:
        """What a row of the batch file is called in the results."""
        if (name := self.renamed.get(row)) is not None:
            return name
        kind = self.kinds[row]
        if kind in (NUMBERED, NAMELESS):
            return f"line-{self.lines[row]}"
        own = self._name_of(row)
        return f"{own}#line-{self.lines[row]}" if kind == DUPLICATE else own

    def _append(self, many: int) -> None:
        self.reserve(self._count + many)
        self.where[self._count : self._count + many] = -1
        self.seconds[self._count : self._count + many] = np.nan
        self._count += many
        self.version += 1

    # --- results ------------------------------------------------------------------------------------------------------

    def add_results(self, results: Results) -> None:
        """Lines of output.jsonl or errors.jsonl. Those whose request is not known yet wait for it."""
        rows = self.find(results["hash"])
        found = rows >= 0
        if found.all():
            self._set(rows, results)
            return
        self._set(rows[found], results[found])
        rest = results[~found]
        if self.complete:
            self._add_extras(rest)
        else:
            self._pending.append(rest)
            self._pending_count += len(rest)

    def find(self, hashes: Ints) -> Ints:
        """Rows by the hashes of their names, -1 for none."""
        rows = self._own.find(hashes)
        if self.complete and self._made.nbytes:
            missing = np.flatnonzero(rows < 0)
            rows[missing] = self._made.find(hashes[missing])
        return rows

    def rows_of(self, names: Sequence[str]) -> Ints:
        return self.find(hashes_of(names))

    def _retry(self) -> None:
        self._tried = self._count
        if self._pending:
            waiting, self._pending, self._pending_count = np.concatenate(self._pending), [], 0
            self.add_results(waiting)

    def _add_extras(self, results: Results) -> None:
        hashes, firsts = np.unique(results["hash"], return_index=True)
        order = np.argsort(firsts)
        first = self._count
        self._append(len(hashes))
        self.kinds[first : self._count] = EXTRA
        self.lines[first : self._count] = 0
        self.extras += len(hashes)
        self._own.add(hashes[order], np.arange(first, self._count))
        self._set(self._own.find(results["hash"]), results)

    def _set(self, rows: Ints, results: Results) -> None:
        if not len(rows):
            return
        newer = results["where"] > self.where[rows]
        rows, results = rows[newer], results[newer]
        order = np.argsort(results["where"], kind="stable")  # of two lines for one row, the last assignment stands
        rows, results = rows[order], results[order]
        self.where[rows] = results["where"]
        self.states[rows] = results["state"]
        self.finishes[rows] = results["finish"]
        self.prompts[rows] = results["prompt"]
        self.completions[rows] = results["completion"]
        self.seconds[rows] = results["seconds"]
        self.version += 1
