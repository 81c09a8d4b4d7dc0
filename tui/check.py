"""What the validation of a batch file has told so far, and the rows that show it. Pure.

Fed with the objects that `python -m engine.offline validate FILE` prints.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tui.draw.line import Line, Span
from tui.files import weight
from tui.plain import count, several
from tui.text import SafeText, one_line

SHOWN_PROBLEMS = 200
"""So many are listed on the screen; `gptoss-tui validate FILE` lists all."""

NOTHING = SafeText("")


class CheckState(enum.StrEnum):
    RUNNING = "running"
    GOOD = "good"  # every line can be run
    BAD = "bad"  # some lines can't
    FAILED = "failed"  # the file as a whole is no batch
    STOPPED = "stopped"  # by a person: nothing is known


class Problem(NamedTuple):
    """About one line."""

    line: int
    level: str
    message: SafeText
    fix: SafeText
    custom_id: SafeText


@dataclass
class Check:
    """Grows by `take`."""

    state: CheckState = CheckState.RUNNING
    fraction: float = 0.0
    requests: int = 0
    good: int = 0
    errors: int = 0
    warnings: int = 0
    size_bytes: int = 0
    endpoint: SafeText = NOTHING
    notice: SafeText = NOTHING
    codes: list[tuple[SafeText, int]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    why: SafeText = NOTHING

    def take(self, item: dict[str, Any]) -> None:
        match item.get("kind"):
            case "progress":
                self.fraction = float(item.get("fraction", 0.0))
            case "problem" if len(self.problems) < SHOWN_PROBLEMS:
                self.problems.append(
                    Problem(
                        int(item.get("line", 0)),
                        str(item.get("level", "error")),
                        one_line(str(item.get("message", ""))),
                        one_line(str(item.get("fix") or "")),
                        one_line(str(item.get("custom_id") or "")),
                    )
                )
            case "summary":
                self._summary(item)
            case _:
                pass

    def _summary(self, item: dict[str, Any]) -> None:
        self.requests = int(item.get("requests", 0))
        self.good = int(item.get("good", 0))
        self.errors = int(item.get("errors", 0))
        self.warnings = int(item.get("warnings", 0))
        self.size_bytes = int(item.get("bytes", 0))
        self.endpoint = one_line(str(item.get("endpoint", "")))
        self.notice = one_line(str(item.get("notice", "")))
        by_code: dict[str, int] = item.get("by_code", {})
        self.codes = [(one_line(code), n) for code, n in sorted(by_code.items(), key=lambda pair: -pair[1])]
        self.state = CheckState.BAD if self.errors else CheckState.GOOD

    def fail(self, why: SafeText) -> None:
        self.state, self.why = CheckState.FAILED, why


def _bad_lines(n: int) -> str:
    return several(n, "bad line")


def head(check: Check) -> list[Line]:
    """What it came to, in one to three rows."""
    match check.state:
        case CheckState.RUNNING:
            return [(Span(f"checking every line: {check.fraction:.0%}", "info"), Span("   s stops the check", "dim"))]
        case CheckState.STOPPED:
            return [(Span("not checked: every line is checked once more before it runs", "warn"),)]
        case CheckState.FAILED:
            return [(Span("this can't be run: ", "error"), Span(check.why))]
        case _:
            return _result(check)


def _result(check: Check) -> list[Line]:
    facts = f"{several(check.requests, 'request')}  {weight(check.size_bytes)}"
    rows: list[Line] = [(Span(facts, "number"), Span(f"  {check.endpoint}" if check.endpoint else ""))]
    if check.notice:
        rows.append((Span(check.notice, "dim"),))
    if check.errors:
        verdict: Line = (Span(_bad_lines(check.errors), "error"), Span(f", {count(check.good)} can run"))
    else:
        verdict = (Span("every line is good", "ok"),)
    if check.warnings:
        verdict = (
            *verdict,
            Span(f", {several(check.warnings, 'remark')}", "warn"),
        )
    if check.codes:
        kinds = ", ".join(f"{count(n)} {code}" for code, n in check.codes[:4])
        verdict = (*verdict, Span(f"  ({kinds}{' and more' if len(check.codes) > 4 else ''})", "dim"))
    rows.append(verdict)
    return rows


def problems(check: Check) -> list[Line]:
    """One paragraph a line of the file; whoever shows it wraps it."""
    rows: list[Line] = []
    for problem in check.problems:
        who = f" {problem.custom_id}" if problem.custom_id else ""
        word = ("error ", "error") if problem.level == "error" else ("remark", "warn")
        text = f"  {problem.message.rstrip('.')}. {problem.fix}".rstrip()
        rows.append(
            (Span(f"line {count(problem.line)}", "bold"), Span(f" {word[0]}", word[1]), Span(who, "info"), Span(text))
        )
    more = check.errors + check.warnings - len(check.problems)
    if more > 0 and check.state in (CheckState.BAD, CheckState.GOOD):
        rows.append((Span(f"and {count(more)} more: `gptoss-tui validate FILE` lists each", "dim"),))
    return rows


def why_not_queued(check: Check, *, skip_invalid: bool) -> SafeText:
    """Why this file can't be queued as things are; empty where it can (also while it is still being checked)."""
    if check.state == CheckState.FAILED:
        return SafeText(f"this file can't be run: {check.why}")
    if check.state == CheckState.BAD and not check.good:
        return SafeText("no line of this file can be run: mend it, then choose it again")
    if check.state == CheckState.BAD and not skip_invalid:
        good = several(check.good, "good line")
        return SafeText(f"{_bad_lines(check.errors)}: mend the file, or press g to run the {good} only")
    return SafeText("")
