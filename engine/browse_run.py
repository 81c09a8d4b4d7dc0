"""One run's files and the table made of them, kept up with what other processes write: a step of work at a time."""

from __future__ import annotations

import bisect
import stat
from pathlib import Path

import numpy as np

from engine.browse_files import Followed, stat_of
from engine.browse_read import Answers, Lines, own_id, parse
from engine.browse_table import EXTRA, OUTPUT_BIT, Ints, Table
from engine.errors import GptossError, JobNotFound
from engine.folder import ERRORS, INFLIGHT, OUTPUT, RECORD, Partial, read_inflight, read_record
from engine.lines import Form, form_of
from engine.record import RunRecord

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1024
MAX_PARTIAL_BYTES = 256 * 1024 * 1024
"""A file of unfinished texts larger than this is left alone: it is read whole."""


class Run:
    """Everything that is known of a run; `look` before each question, `step` until it says that nothing is left."""

    def __init__(self, folder: Path, input_path: str = "") -> None:
        """Raises JobNotFound where there is no such folder."""
        self._check(folder)
        self.folder = folder
        self._asked_path = input_path
        self.record: RunRecord | None = None
        self._record_fault = ""
        self._record_stamp: tuple[int, ...] = ()
        self.partials: dict[str, Partial] = {}
        self._partials_stamp: tuple[int, ...] = ()
        self.epoch = 0  # rises when everything was begun anew
        self._files: list[Followed] = []
        self._read_record()
        self._read_partials()
        self._begin()

    @staticmethod
    def _check(folder: Path) -> None:
        found = stat_of(folder)
        if found is None or not stat.S_ISDIR(found.st_mode):
            raise JobNotFound(
                f"there is no run at {folder}",
                advice="It was removed, or has not begun: `gptoss-tui status` lists runs.",
            )

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _begin(self) -> None:
        """From the first byte of each file."""
        self.close()
        self.epoch += 1
        record = self.record
        path = self._asked_path or (record.input_path if record is not None else "")
        self.limit = record.settings.limit if record is not None else None
        self.input_path = Path(path) if path else None
        self.input = Followed(self.input_path, whole=True)
        self.output = Followed(self.folder / OUTPUT, whole=False)
        self.errors = Followed(self.folder / ERRORS, whole=False)
        self._files = [self.input, self.output, self.errors]
        self.table = Table(self._own_name)
        self.form: Form = "openai"
        self._number = 1  # of the next line of the batch file
        self._input_note = ""
        self._damaged = 0
        self._marks: dict[bool, tuple[list[int], list[int]]] = {True: ([], []), False: ([], [])}
        self._lines_read = {True: 0, False: 0}
        self._open_input()

    def _open_input(self) -> None:
        """Find its form, or why it can't be shown."""
        file = self.input
        if self.input_path is None:
            self._input_note = "run.json does not say which batch file this is: only results are shown"
        elif stat_of(self.input_path) is None:
            self._input_note = f"the batch file is gone: {self.input_path}; only what has a result is shown"
        elif not file.there:
            self._input_note = f"the batch file can't be read: {self.input_path}; only what has a result is shown"
        elif file.size:
            head = file.head(_HEAD_BYTES)
            if b"\0" in head:
                self._input_note = f"the batch file is no text: {self.input_path}"
            elif head.startswith(_BOM):
                file.position = len(_BOM)
        if self._input_note or not file.left:
            file.position = file.size
            self.table.end_lines()

    # --- keeping up ---------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Notice what changed on disk: cheap, a few calls of stat. Raises JobNotFound where the run is gone."""
        self._check(self.folder)
        renewed = self._read_record()
        self._read_partials()
        record = self.record
        path = self._asked_path or (record.input_path if record is not None else "")
        limit = record.settings.limit if record is not None else None
        other = renewed and (limit != self.limit or (Path(path) if path else None) != self.input_path)
        came = self._input_note != "" and self.input_path is not None and not self.input.there
        same = [file.look() for file in self._files]
        if other or not all(same) or (came and self.input.there):
            self._begin()

    def _read_record(self) -> bool:
        stamp = _stamp(self.folder / RECORD)
        if stamp == self._record_stamp and (self.record is not None or self._record_fault):
            return False
        self._record_stamp = stamp
        try:
            self.record = read_record(self.folder)
            self._record_fault = ""
        except GptossError as error:
            self.record = None
            self._record_fault = error.message
        return True

    def _read_partials(self) -> None:
        stamp = _stamp(self.folder / INFLIGHT)
        if stamp == self._partials_stamp:
            return
        self._partials_stamp = stamp
        self.partials = {}
        if stamp and stamp[2] <= MAX_PARTIAL_BYTES:
            try:
                self.partials = {partial.custom_id: partial for partial in read_inflight(self.folder)}
            except (GptossError, OSError):  # it holds unfinished texts only: without them all else stands
                self.partials = {}

    @property
    def note(self) -> str:
        """What is missing or odd, in words."""
        notes = [self._record_fault, self._input_note]
        record, table = self.record, self.table
        known = record.input_bytes if record is not None and not self._asked_path else 0
        if known and not self._input_note and self.input.size != known:
            notes.append("the batch file has changed since this run read it")
        if table.extras and not self._input_note:
            what = "1 result is" if table.extras == 1 else f"{table.extras} results are"
            notes.append(f"{what} of requests that the batch file does not hold; they stand at the end")
        if self._damaged:
            what = "1 line" if self._damaged == 1 else f"{self._damaged} lines"
            notes.append(f"{what} of the results can't be read: `gptoss-tui verify` says which")
        return "; ".join(note for note in notes if note)

    # --- reading on ---------------------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Is there anything to step through? A torn last line of the results is not: it is waited for."""
        return not self.table.complete or self._more(self.output) or self._more(self.errors)

    def _more(self, file: Followed) -> bool:
        return file.left > 0 and file.stuck != file.size

    @property
    def fraction(self) -> float:
        if not self.behind:
            return 1.0
        size = sum(file.size for file in self._files)
        return min(0.999, sum(file.position for file in self._files) / max(size, 1))

    def step(self) -> bool:
        """Read one block of what is furthest behind; False where nothing was to be read."""
        results = next((file for file in (self.output, self.errors) if self._more(file)), None)
        if not self.table.complete:
            share = self.input.position / max(self.input.size, 1)
            ahead = results is None or results.position / max(results.size, 1) >= share
            if ahead or results is None:
                self._step_input()
                return True
        if results is None:
            return False
        self._step_results(results)
        return True

    def _step_input(self) -> None:
        file, table = self.input, self.table
        block = file.next_block(file.size)
        if block is None:  # shorter than it was a moment ago; `look` will see that
            file.position = file.size
            table.end_lines()
            return
        if not len(table):
            first = next((raw for raw in block.data.split(b"\n") if raw.strip()), None)
            if first is not None and self.input_path is not None:
                self.form = form_of(self.input_path, first)
        lines = Lines(block, self.form, self._number)
        self._number += block.data.count(b"\n") or 1
        if self.limit is not None:
            lines.cut(self.limit - len(table))
        if not len(table) and lines.names:
            # a tenth more than the first block lets one expect
            table.reserve(int(1.1 * file.size / len(block.data) * len(lines.names)) + 1)
        table.add_lines(lines.places, lines.numbers, lines.names, lines.kinds)
        full = self.limit is not None and len(table) >= self.limit
        if full or not file.left:
            file.position = file.size
            table.end_lines()

    def _step_results(self, file: Followed) -> None:
        block = file.next_block(file.size)
        if block is None:
            file.stuck = file.size
            return
        is_output = file is self.output
        answers = Answers(block, output=is_output)
        offsets, counts = self._marks[is_output]
        offsets.append(block.offset)
        counts.append(self._lines_read[is_output])
        self._lines_read[is_output] += answers.lines
        self._damaged += answers.damaged
        self.table.add_results(answers.results)

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _own_name(self, row: int) -> str:
        return own_id(self.input_line(row), self.form, int(self.table.lines[row]))

    def input_line(self, row: int) -> bytes:
        """Raw, without its newline; empty where no line of the batch file is known."""
        if self.table.kinds[row] == EXTRA:
            return b""
        return self.input.line_at(int(self.table.places[row]))

    def result_line(self, row: int) -> bytes:
        """The line that counts for a row; empty for none."""
        where = int(self.table.where[row])
        if where < 0:
            return b""
        return self.file_of(where).line_at(where & ~OUTPUT_BIT)

    def file_of(self, where: int) -> Followed:
        return self.output if where & OUTPUT_BIT else self.errors

    def line_number(self, where: int) -> int:
        """Of a line of the results, from 1."""
        is_output = bool(where & OUTPUT_BIT)
        offset = where & ~OUTPUT_BIT
        offsets, counts = self._marks[is_output]
        at = bisect.bisect_right(offsets, offset) - 1
        if at < 0:
            return 0
        between = self.file_of(where).read(offsets[at], offset - offsets[at])
        return counts[at] + between.count(b"\n") + 1

    def name(self, row: int) -> str:
        """The row's custom_id in the results."""
        if self.table.kinds[row] != EXTRA and (name := self.table.name(row)):
            return name
        value = parse(self.result_line(row))
        found = value.get("custom_id") if value is not None else None
        return found if isinstance(found, str) else f"line-{self.table.lines[row]}"

    def row_of(self, custom_id: str) -> int | None:
        row = int(self.table.rows_of([custom_id])[0])
        return row if row >= 0 else None

    def aborted_rows(self, taken_out: list[str]) -> Ints:
        """Rows without a result that a person took out: as run.json has it, and as the runner says."""
        names = {*taken_out, *(self.record.aborted if self.record is not None else ())}
        rows = self.table.rows_of(list(names)) if names else np.zeros(0, np.int64)
        rows = rows[rows >= 0]
        return rows[self.table.where[rows] < 0]


def _stamp(path: Path) -> tuple[int, ...]:
    found = stat_of(path)
    return (found.st_ino, found.st_mtime_ns, found.st_size) if found is not None else ()
