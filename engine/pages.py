"""What a client asks of `python -m engine.offline browse` and gets back: the requests of one run, page by page.

A third wire, JSON lines over the child's stdin and stdout. The child reads the files of results/<job>/ and the batch
file, writes nothing, and needs no runner; it may be killed at any moment. It follows the files while they grow.
Times are seconds. `id` comes back: a question that needs much reading (a find, a text filter) is overtaken by others.
A page never waits for long: with a `fraction` below 1 it is worth asking again. A find ends with a Fault where a newer
one takes its place. OpenRun is answered by a Page without rows; a Fault of it is told to every question until the next.
"""

from __future__ import annotations

import msgspec

from engine.protocol import ToolCall, Usage


class _Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True):
    id: int = 0


class OpenRun(_Ask, frozen=True, kw_only=True):
    """Look at this run from now on. `folder` is absolute; `input_path` "" means what run.json names."""

    folder: str
    input_path: str = ""


class AskPage(_Ask, frozen=True, kw_only=True):
    """Rows `offset` … `offset + count` of those that match.

    `which`: as `tui.view.Which`, without `running`; "failed" holds invalid ones as well, "done" truncated ones; "slow"
    is the slowest twentieth of what is done, slowest first; all others are in the order of the input.
    `text` matches (case-insensitive, literal) in custom_id, prompt, answer, reasoning and error; "" matches all.
    `taken_out`: custom_ids that the runner says are aborted. `around`: a custom_id whose row the page should hold;
    `offset` is then where that page begins, and is ignored in the question.
    """

    which: str = "all"
    text: str = ""
    offset: int = 0
    count: int = 50
    taken_out: list[str] = []
    around: str = ""


class AskDetail(_Ask, frozen=True, kw_only=True):
    """Everything on one request: by `custom_id`, as rows name it."""

    custom_id: str


class AskFind(_Ask, frozen=True, kw_only=True):
    """The next row of AskPage's selection that holds `find`, from row `start` on (`step` -1: backwards)."""

    which: str = "all"
    text: str = ""
    find: str
    start: int = 0
    step: int = 1
    taken_out: list[str] = []


Ask = OpenRun | AskPage | AskDetail | AskFind


class RequestRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request as a list shows it."""

    custom_id: str
    line: int  # in the batch file, from 1; 0 where the batch file is gone
    state: str  # waiting, done, truncated, failed, invalid, aborted (running: only the runner knows)
    finish: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float | None = None  # prefill and decode; None where it never ran
    code: str = ""  # of a failure
    message: str = ""  # of a failure: its first sentence


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A message of the prompt."""

    role: str
    text: str


class _Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag=True, omit_defaults=True):
    id: int = 0


class Page(_Answer, frozen=True, kw_only=True):
    """Rows, and how many there are of each state in the whole run."""

    total: int  # rows that match, as far as known
    offset: int
    rows: list[RequestRow]
    counts: dict[str, int] = {}
    fraction: float = 1.0  # of the files read so far: below 1 more is to come
    note: str = ""  # what is missing: "the batch file is gone: …"


class Detail(_Answer, frozen=True, kw_only=True):
    """One request with everything that is known of it. Texts are the true ones: not safe for a terminal."""

    row: RequestRow
    prompt: list[Said] = []
    reasoning: str = ""
    answer: str = ""
    tool_calls: list[ToolCall] = []
    partial: bool = False  # the texts are what a pause or an abort left
    usage: Usage | None = None
    queued_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    notes: list[str] = []
    error: str = ""  # the error object, as indented JSON
    input_line: str = ""  # raw
    input_path: str = ""
    output_line: str = ""  # raw
    output_path: str = ""
    output_line_number: int = 0
    settings: str = ""  # of the body, as indented JSON without messages


class Found(_Answer, frozen=True, kw_only=True):
    """`row` is its place in the selection, None where nothing was found."""

    row: int | None = None
    custom_id: str = ""


class Fault(_Answer, frozen=True, kw_only=True):
    """The question can't be answered; for people."""

    message: str
    advice: str = ""


Answer = Page | Detail | Found | Fault
