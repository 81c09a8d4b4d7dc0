"""`python -m engine.offline COMMAND`: what needs no runner, in a process of its own, as one JSON object a line.

    validate FILE [--limit N] [--all]       every problem of a batch file
    verify RUN_FOLDER [--input FILE]        do the results of a run add up
    export RUN_FOLDER [--out FILE] …        results in input order
    doctor [--workspace DIR] [--only CHECK] what this machine has and lacks
    models [--workspace DIR]                models that can be named here
    browse                                  questions of engine/pages.py on stdin, answers on stdout

Kinds of lines: progress {fraction}, problem {a LineProblem}, finding {a doctor's Finding}, summary {…}, and
error {code, message, advice, exit_code}. The last line is always a summary or an error. The exit code is one of
errors.ExitCode, for verify the verdict's own. `browse` alone speaks engine/pages.py instead.

Clients start this as a command, so that none of them loads numpy or the results' code.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from engine.errors import ExitCode, GptossError, UsageError
from engine.workspace import Workspace

PROGRESS_S = 0.1
"""Shortest time between two progress lines: more is not seen, and writing them costs."""

_encoder = msgspec.json.Encoder()


def emit(kind: str, fields: dict[str, Any]) -> None:
    """One line on stdout, at once: the reader draws it while we work."""
    sys.stdout.buffer.write(_encoder.encode({"kind": kind, **fields}) + b"\n")
    sys.stdout.buffer.flush()


class Progress:
    """Passes on fractions, not more often than a person sees."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if now >= self._next or fraction >= 1.0:
            self._next = now + PROGRESS_S
            emit("progress", {"fraction": round(fraction, 4)})


class _Parser(argparse.ArgumentParser):
    """Wrong use is an error line like all others."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, advice=f"Use: {self.format_usage().removeprefix('usage: ').strip()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m engine.offline", description="Checks and exports as JSON lines.", allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    command = commands.add_parser("validate", help="every problem of a batch file")
    command.add_argument("file", type=Path)
    command.add_argument("--limit", type=_count)
    command.add_argument("--all", action="store_true", help="print all problems, not only the first thousand")
    command.set_defaults(run=validate)
    command = commands.add_parser("verify", help="do the results of a run add up")
    command.add_argument("folder", type=Path)
    command.add_argument("--input", type=Path)
    command.set_defaults(run=verify)
    command = commands.add_parser("export", help="results in input order")
    command.add_argument("folder", type=Path)
    command.add_argument("--out", type=Path)
    command.add_argument("--errors", type=Path)
    command.add_argument("--input", type=Path)
    command.add_argument("--without-cancelled", action="store_true", help="no lines for requests that never ran")
    command.add_argument("--force", action="store_true", help="replace existing files")
    command.set_defaults(run=export)
    command = commands.add_parser("doctor", help="what this machine has and lacks")
    command.add_argument("--workspace", type=Path)
    command.add_argument("--only", metavar="CHECK", help="one check, such as logout: quick")
    command.set_defaults(run=doctor)
    command = commands.add_parser("browse", help="the requests of a run, page by page: questions on stdin")
    command.set_defaults(run=browse)
    command = commands.add_parser("models", help="models that can be named here")
    command.add_argument("--workspace", type=Path)
    command.add_argument("--engine", default="llamacpp", help="say which of them this engine can't run")
    command.set_defaults(run=models)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


# --- commands ---------------------------------------------------------------------------------------------------------


def validate(options: argparse.Namespace) -> int:
    """Exit 0 where every line can be run (warnings or not), 2 where one can't."""
    from engine import batch

    errors_by_code: Counter[str] = Counter()

    def tell(problem: batch.LineProblem) -> None:
        emit("problem", msgspec.to_builtins(problem))

    def heard(problem: batch.LineProblem) -> None:
        if problem.level == "error":
            errors_by_code[problem.code] += 1
        if options.all:
            tell(problem)

    found = batch.scan(options.file, limit=options.limit, on_progress=Progress(), on_problem=heard)
    if not options.all:
        for problem in found.problems:
            tell(problem)
    emit(
        "summary",
        {
            "path": str(found.index.path),
            "requests": len(found.index),
            "good": found.good,
            "errors": found.errors,
            "warnings": found.warnings,
            "by_code": found.by_code,
            "errors_by_code": dict(errors_by_code),
            "endpoint": found.endpoint,
            "bytes": found.size,
            "sha256": found.sha256,
            "notice": found.notice,
            "listed": found.errors + found.warnings if options.all else len(found.problems),
        },
    )
    return ExitCode.USAGE if found.errors else ExitCode.OK


def verify(options: argparse.Namespace) -> int:
    from engine import ledger

    verdict = ledger.verify(options.folder, options.input)
    emit("summary", msgspec.to_builtins(verdict))
    return verdict.exit_code


def export(options: argparse.Namespace) -> int:
    from engine import ledger

    done = ledger.export(
        options.folder,
        options.out,
        options.errors,
        cancelled=not options.without_cancelled,
        force=options.force,
        input_path=options.input,
    )
    emit("summary", msgspec.to_builtins(done))
    return ExitCode.OK


def doctor(options: argparse.Namespace) -> int:
    """Exit 1 where something stands in the way of a run."""
    from engine import doctor as checks

    found = checks.diagnose(
        Workspace.at(options.workspace),
        only=options.only,
        on_finding=lambda finding: emit("finding", msgspec.to_builtins(finding)),
    )
    count = {level: sum(f.level == level for f in found) for level in ("ok", "warn", "error")}
    emit("summary", count)
    return ExitCode.FAILED if count["error"] else ExitCode.OK


def models(options: argparse.Namespace) -> int:
    """One line a model, the embedded one first."""
    from engine import models as found

    known = found.known(Workspace.at(options.workspace))
    for model in known:
        emit(
            "model",
            {
                "name": model.name,
                "path": str(model.path),
                "size_bytes": model.size_bytes,
                "quantization": model.quantization,
                "embedded": model.embedded,
                "why_not": model.why_not(options.engine) or "",
            },
        )
    emit("summary", {"models": len(known)})
    return ExitCode.OK


def browse(_options: argparse.Namespace) -> int:
    """Until stdin closes."""
    from engine import browse_wire

    return browse_wire.serve()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; every failure becomes an error line."""
    try:
        options = _parser().parse_args(arguments)
        return int(options.run(options))
    except GptossError as e:
        return _failed(e.code, e.message, e.advice, e.exit_code)
    except BrokenPipeError:
        # The reader has gone. Python would complain once more when it flushes stdout at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.FAILED
    except OSError as e:
        return _failed("OSError", f"{e.filename or 'a file'}: {e.strerror or e}", "", ExitCode.FAILED)
    except MemoryError:
        return _failed("OutOfMemory", "this machine's memory is not enough for it", "", ExitCode.FAILED)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _failed(code: str, message: str, advice: str, exit_code: int) -> int:
    emit("error", {"code": code, "message": message, "advice": advice, "exit_code": int(exit_code)})
    return int(exit_code)


if __name__ == "__main__":
    sys.exit(main())
