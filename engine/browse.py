"""Questions about the requests of one run (engine/pages.py), answered from its files.

`Browse.answer` never waits: it returns None where more has to be read first. `Browse.work` reads on, some ten
milliseconds at a time. So a new question is never behind an old one, and a first page never behind a million lines.
`engine.browse_wire` speaks for it on stdin and stdout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine import lines
from engine.browse_read import FINISHES, parse
from engine.browse_run import Run
from engine.browse_scan import Search
from engine.browse_table import (
    ABORTED,
    DONE,
    DUPLICATE,
    EXTRA,
    FAILED,
    INVALID,
    STATES,
    TRUNCATED,
    WAITING,
    Ints,
)
from engine.browse_texts import (
    Told,
    body_of,
    first_sentence,
    indented,
    prompt_of,
    raw_text,
    sendable,
    settings_of,
    told_of,
    told_of_choices,
)
from engine.errors import GptossError, UsageError
from engine.pages import Answer, Ask, AskDetail, AskFind, AskPage, Detail, Found, OpenRun, Page, RequestRow, Said
from engine.protocol import Usage

MAX_ROWS = 1000
"""Most rows of one page."""

RUNS = 2
"""Runs kept at hand, some 60 MB for a million requests each."""

MAX_TEXT = 2 * 1024 * 1024
"""Characters of one text in a Detail. More is cut with a word about it: nobody reads it here, the files have it."""

CATCH_UP = 2
"""Blocks of new results read before a question is answered: what the last seconds brought is a small part of one."""

SLOWEST = 20
"""The slowest twentieth is called slow."""

_WHICH: dict[str, tuple[int, ...]] = {
    "all": (),
    "failed": (FAILED, INVALID),
    "truncated": (TRUNCATED,),
    "waiting": (WAITING,),
    "done": (DONE, TRUNCATED),
    "aborted": (ABORTED,),
}


class Browse:
    """One run at a time, opened by OpenRun. Those before it stay at hand: two screens may look at two of them."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._runs: dict[tuple[str, str], tuple[Run, dict[str, Search]]] = {}  # the latest opened last
        self._scans: dict[str, Search] = {}  # of the run, by text, the latest asked for last
        self._fault: GptossError | None = None  # why the run could not be opened

    # --- work ---------------------------------------------------------------------------------------------------------

    def work(self) -> bool:
        """Read on a little: the table first, then what is searched. False where nothing is left to do."""
        run = self._run
        if run is None:
            return False
        if run.behind:
            return run.step() or run.behind
        for scan in reversed(self._scans.values()):
            if scan.behind:
                scan.step()
                return True
        return False

    def close(self) -> None:
        """Forget all runs."""
        for run, _ in self._runs.values():
            run.close()
        self._runs = {}
        self._run, self._scans, self._fault = None, {}, None

    def _open(self, folder: str, input_path: str) -> Run:
        self._run, self._scans, self._fault = None, {}, None
        key = (folder, input_path)
        try:
            run, self._scans = self._runs.pop(key, None) or (Run(Path(folder), input_path), {})
            run.look()
        except GptossError as error:
            self._fault = error  # whoever asks about it next did not ask for this answer
            raise
        self._run = run
        self._runs[key] = (run, self._scans)
        while len(self._runs) > RUNS:
            self._runs.pop(next(iter(self._runs)))[0].close()
        return run

    # --- answers ------------------------------------------------------------------------------------------------------

    def answer(self, ask: Ask, *, at_once: bool = False) -> Answer | None:
        """None: `work`, then ask again. `at_once`: a page tells what is known so far. Raises GptossError."""
        if isinstance(ask, OpenRun):
            return self._page(self._open(ask.folder, ask.input_path), AskPage(id=ask.id, count=0), at_once=True)
        run = self._run
        if self._fault is not None:
            raise self._fault
        if run is None:
            raise UsageError("no run is open", advice="The first question is OpenRun.")
        run.look()
        if run.table.complete:
            for _ in range(CATCH_UP):
                if run.behind:
                    run.step()
        match ask:
            case AskPage():
                return self._page(run, ask, at_once=at_once)
            case AskDetail():
                return self._detail(run, ask)
            case AskFind():
                return self._find(run, ask)

    def _page(self, run: Run, ask: AskPage, *, at_once: bool) -> Page | None:
        scan = self._scan(run, ask.text) if ask.text else None
        wanted = run.row_of(ask.around) if ask.around else None
        unfinished = run.behind and (scan is not None or (ask.around != "" and wanted is None))
        if not at_once and (unfinished or (scan is not None and scan.behind)):
            return None
        states = self._states(run, ask.taken_out)
        chosen = self._selection(run, states, ask.which, scan)
        count = min(max(ask.count, 0), MAX_ROWS)
        offset = max(ask.offset, 0)
        if not at_once and run.behind and len(chosen) < offset + count:
            return None
        if wanted is not None and len(at := np.flatnonzero(chosen == wanted)):
            offset = max(0, min(int(at[0]) - count // 2, len(chosen) - count))
        fraction = run.fraction
        if scan is not None:
            fraction = (fraction + (0.0 if run.behind else scan.fraction)) / 2
        held = np.bincount(states, minlength=len(STATES))
        return Page(
            id=ask.id,
            total=len(chosen),
            offset=offset,
            rows=[self._row(run, int(row), int(states[row])) for row in chosen[offset : offset + count]],
            counts={name: int(number) for name, number in zip(STATES, held, strict=True)},
            fraction=fraction,
            note=sendable(run.note),
        )

    def _find(self, run: Run, ask: AskFind) -> Found | None:
        if not ask.find:
            raise UsageError("there is nothing to find", advice="Type a text to look for.")
        scans = [self._scan(run, text) for text in (ask.text, ask.find) if text]
        if run.behind or any(scan.behind for scan in scans):
            return None
        states = self._states(run, ask.taken_out)
        chosen = self._selection(run, states, ask.which, scans[0] if ask.text else None)
        places = np.flatnonzero(scans[-1].mask()[chosen])
        places = places[places >= ask.start] if ask.step >= 0 else places[places <= ask.start][::-1]
        if not len(places):
            return Found(id=ask.id)
        place = int(places[0])
        return Found(id=ask.id, row=place, custom_id=sendable(run.name(int(chosen[place]))))

    # --- which rows ---------------------------------------------------------------------------------------------------

    def _states(self, run: Run, taken_out: list[str]) -> npt.NDArray[np.uint8]:
        states = run.table.states[: len(run.table)]
        aborted = run.aborted_rows(taken_out)
        if len(aborted):
            states = states.copy()
            states[aborted] = ABORTED
        return states

    def _selection(self, run: Run, states: npt.NDArray[np.uint8], which: str, scan: Search | None) -> Ints:
        """Rows in the order in which they are shown."""
        if which == "slow":
            chosen = self._slow(run, states)
            return chosen[scan.mask()[chosen]] if scan is not None else chosen
        if which not in _WHICH:
            raise UsageError(f"there is no list of requests called {which!r}", advice=f"It is one of {_listed()}.")
        mask = np.isin(states, _WHICH[which]) if _WHICH[which] else np.ones(len(states), dtype=np.bool_)
        if scan is not None:
            mask &= scan.mask()
        return np.flatnonzero(mask)

    @staticmethod
    def _slow(run: Run, states: npt.NDArray[np.uint8]) -> Ints:
        seconds = run.table.seconds[: len(states)]
        timed = np.flatnonzero(~np.isnan(seconds) & ((states == DONE) | (states == TRUNCATED)))
        if not len(timed):
            return timed
        many = -(-len(timed) // SLOWEST)
        times = seconds[timed]
        least = np.partition(times, len(times) - many)[-many]
        over, equal = timed[times > least], timed[times == least]
        slowest = np.concatenate([over, equal[: many - len(over)]])  # of equal ones the first, at every question
        return slowest[np.lexsort((slowest, -seconds[slowest]))]

    def _scan(self, run: Run, text: str) -> Search:
        """The search for a text, which goes on where it was."""
        scan = self._scans.pop(text, None)
        if scan is None or scan.epoch != run.epoch:
            scan = Search(run, text)
        self._scans[text] = scan
        while len(self._scans) > 2:  # of a filter and a search in it
            del self._scans[next(iter(self._scans))]
        return scan

    # --- rows and details ---------------------------------------------------------------------------------------------

    def _row(self, run: Run, row: int, state: int, told: Told | None = None) -> RequestRow:
        table = run.table
        where = int(table.where[row])
        name = sendable(run.name(row))
        if where < 0:
            partial = run.partials.get(name)
            return RequestRow(
                custom_id=name,
                line=int(table.lines[row]),
                state=STATES[state],
                prompt_tokens=partial.prompt_tokens if partial else 0,
                completion_tokens=partial.completion_tokens if partial else 0,
            )
        if told is None and state in (FAILED, INVALID):
            told = told_of(parse(run.result_line(row)) or {})
        seconds = float(table.seconds[row])
        return RequestRow(
            custom_id=name,
            line=int(table.lines[row]),
            state=STATES[state],
            finish=FINISHES[table.finishes[row]],
            prompt_tokens=int(table.prompts[row]),
            completion_tokens=int(table.completions[row]),
            seconds=None if np.isnan(seconds) else seconds,
            code=told.code if told else "",
            message=first_sentence(told.message) if told else "",
        )

    def _detail(self, run: Run, ask: AskDetail) -> Detail | None:
        row = run.row_of(ask.custom_id)
        if row is None:
            if run.behind:
                return None
            raise UsageError(f"this run has no request {ask.custom_id!r}", advice="The list is read again with `/`.")
        state = int(self._states(run, [])[row])
        raw = run.input_line(row)
        body = body_of(raw, run.form) if raw else None
        result = run.result_line(row)
        where = int(run.table.where[row])
        value = parse(result) if result else None
        told = told_of(value) if value is not None else None
        row_shown = self._row(run, row, state, told)
        partial = run.partials.get(row_shown.custom_id) if where < 0 else None
        if partial is not None:
            told = told_of_choices(partial.choices)
            told.usage = Usage(prompt_tokens=partial.prompt_tokens, completion_tokens=partial.completion_tokens)
        told = told or Told()
        notes = [*told.notes, *_remarks(run, row, raw, told)]
        texts = {
            "reasoning": told.reasoning,
            "answer": told.answer,
            "error": indented(told.error) if told.error is not None else "",
            "input_line": raw_text(raw),
            "output_line": raw_text(result),
            "settings": settings_of(body, run.form) if body is not None else "",
        }
        for name, text in texts.items():
            if len(text) > MAX_TEXT:
                texts[name] = text[:MAX_TEXT]
                notes.append(f"{name.replace('_', ' ')}: the first {MAX_TEXT:,} of {len(text):,} characters")
        return Detail(
            id=ask.id,
            row=row_shown,
            prompt=_bounded(prompt_of(body), notes) if body is not None else [],
            tool_calls=told.calls,
            partial=partial is not None,
            usage=told.usage,
            queued_s=told.queued_s,
            prefill_s=told.prefill_s,
            decode_s=told.decode_s,
            notes=notes,
            input_path=sendable(str(run.input_path)) if raw else "",
            output_path=sendable(str(run.file_of(where).path)) if result else "",
            output_line_number=run.line_number(where) if result else 0,
            **texts,
        )


def _remarks(run: Run, row: int, raw: bytes, told: Told) -> list[str]:
    """What is odd about a request."""
    table = run.table
    kind, number = int(table.kinds[row]), int(table.lines[row])
    if kind == EXTRA:
        return ["the batch file does not hold this request" if run.input.there else "the batch file is gone"]
    remarks: list[str] = []
    if kind == DUPLICATE:
        remarks.append(f"line {number} uses a custom_id that an earlier line has")
    if told.request_id.startswith("req_") and len(told.request_id) == 36:
        endpoint = run.record.endpoint if run.record is not None else ""
        reading = lines.read(raw, run.form, number, endpoint)
        digests = {reading.digest, lines.raw_digest(raw)}
        if told.request_id not in {"req_" + digest.hex() for digest in digests}:
            remarks.append("the line was edited after this answer was made; resume runs it again")
    return remarks


def _bounded(said: list[Said], notes: list[str]) -> list[Said]:
    """As many characters of a prompt as may be sent."""
    left = MAX_TEXT
    kept: list[Said] = []
    for message in said:
        if len(message.text) > left:
            kept.append(Said(role=message.role, text=message.text[:left]))
            notes.append(f"prompt: the first {MAX_TEXT:,} of {sum(len(m.text) for m in said):,} characters")
            break
        kept.append(message)
        left -= len(message.text)
    return kept


def _listed() -> str:
    return ", ".join([*_WHICH, "slow"])
