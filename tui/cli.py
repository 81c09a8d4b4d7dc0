"""The gptoss-tui command: options in, exit code out. Picks screen, lines or JSON by what it is talking to."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from engine.errors import ExitCode, GptossError, UsageError
from engine.workspace import Workspace
from tui import commands
from tui.console import Console
from tui.text import one_line, safe

PROGRAM = "gptoss-tui"
INTERRUPTED = 130
PIPE_CLOSED = 141
"""As shells count: 128 + the signal's number."""

EPILOG = """\
Without COMMAND the screen opens: queue, memory, rate, answers as they are generated, and keys that act.
exit codes: 0 all succeeded, 3 some requests failed, 4 ended early and can be resumed, 2 wrong use, 1 anything else,
130 left with Ctrl-C while the run goes on.
JOB may be left out where only one job fits, and shortened to a unique beginning.
`%(prog)s COMMAND --help` has the rest.
"""


class _Parser(argparse.ArgumentParser):
    """Wrong use is an error like all others: one sentence, what to do, exit code 2."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, advice=f"`{self.prog} --help` shows how it is used.")


def parser() -> argparse.ArgumentParser:
    """The whole command line; completions and help are made from it."""
    top = _Parser(
        prog=PROGRAM,
        description="Run batches of language model requests on your own GPU, from a terminal.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="store_true", help="print the version and end")
    _workspace(top)
    _add_screen(top)
    sub = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def add(name: str, help_text: str, handler: commands.Handler | None) -> argparse.ArgumentParser:
        made = sub.add_parser(name, help=help_text, description=f"{help_text}.", allow_abbrev=False)
        made.set_defaults(handler=handler)
        _workspace(made)
        return made

    _add_run(add("run", "run batch files and watch them; Ctrl-C leaves them running", commands.run))
    made = add("status", "list the jobs of this workspace", commands.status)
    _job(made)
    made.add_argument("--watch", action="store_true", help="again and again, until Ctrl-C")
    _json(made)
    made = add("attach", "watch a job that runs; Ctrl-C leaves it running", commands.attach)
    _job(made)
    _json(made)
    made = add("pause", "pause a job when its running requests are through", commands.pause)
    _job(made)
    made.add_argument("--now", action="store_true", help="abort running requests; their text so far is kept")
    made = add("resume", "let a paused, failed, aborted or interrupted job go on", commands.resume)
    _job(made)
    made.add_argument("--force", action="store_true", help="although the settings changed since; it is noted")
    made = add("abort", "end a job, or one request of it; what is done stays", commands.abort)
    _job(made)
    made.add_argument("--request", metavar="ID", help="only the request with this custom_id")
    made = add("restore", "put aborted requests of a job back", commands.restore)
    _job(made)
    made.add_argument("--request", metavar="ID", help="only the request with this custom_id")
    _job(add("retry", "run the failed requests of a job again", commands.retry))
    _job(add("remove", "take a job off the list; its files stay", commands.remove))
    made = add("move", "move a queued job in the queue", commands.move)
    _job(made)
    made.add_argument("by", metavar="BY", type=_whole, help="places; negative is earlier")
    made = add("validate", "list all that is wrong with a batch file; runs nothing", commands.validate)
    made.add_argument("file", metavar="FILE")
    _json(made)
    made = add("verify", "check that the results of a run add up and are undamaged", commands.verify)
    made.epilog = "exit codes: 0 all there and undamaged, 4 some requests have no line yet, 1 damaged, 10 there are no "
    made.epilog += "results, 11 being written now (and all right so far)."
    _run(made)
    _json(made)
    made = add("export", "write the results of a run in the order of the input", commands.export)
    _run(made)
    made.add_argument("--out", metavar="F", help="where to (default: in the run's folder)")
    made.add_argument("--force", action="store_true", help="replace existing files")
    _json(made)
    _add_serve(add("serve", "the screen in a browser on this machine", commands.serve))
    add("keys", "print the keys of the screen, with your own from gptoss.toml", commands.keys)
    add("stop", "end the background process; running jobs are paused", commands.stop)
    _json(add("doctor", "engines, GPU, versions: what is missing and how to get it", commands.doctor))
    made = add("completion", "print a shell completion script", None)
    made.add_argument("shell", choices=("bash", "zsh", "fish"))
    return top


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _unknown(arguments: Sequence[str], command: str | None) -> UsageError:
    """For what no option or place took: argparse itself would point to the help of all commands."""
    program = f"{PROGRAM} {command}" if command else PROGRAM
    what = "knows no option" if arguments[0].startswith("-") else "has no place for"
    return UsageError(f"`{program}` {what} {' '.join(arguments)}", advice=f"`{program} --help` shows how it is used.")


def _add_run(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "files", metavar="FILE", nargs="+", help="batch file (.jsonl), or a text file with a prompt a line"
    )
    made.add_argument("--detach", action="store_true", help="only start it")
    _json(made)
    made.add_argument("--show-answers", action="store_true", help="print each answer when it is on disk")
    engine = made.add_argument_group("model and engine (else: environment, gptoss.toml, built in)")
    engine.add_argument("--model", metavar="M", help="a GGUF file or the name of one")
    engine.add_argument("--slots", metavar="N", type=_whole, help="requests generated at the same time")
    engine.add_argument(
        "--context",
        metavar="N",
        type=_whole,
        help="tokens a slot holds, prompt and answer together (rounded up to 256s)",
    )
    engine.add_argument("--batch", metavar="N", type=_whole, help="tokens of one engine step")
    engine.add_argument("--ubatch", metavar="N", type=_whole, help="tokens of one pass on the device")
    engine.add_argument("--kv-type", metavar="T", help="number format of the KV cache: f16, f32, q8_0, q4_0")
    engine.add_argument(
        "--kv-unified", action="store_const", const=True, default=None, help="one KV cache shared by all slots"
    )
    engine.add_argument("--gpu-layers", metavar="N", type=_whole, help="layers on the GPU: -1 all, 0 none")
    engine.add_argument("--threads", metavar="N", type=_whole, help="processor threads, 0: chosen by the machine")
    requests = made.add_argument_group("requests")
    requests.add_argument("--seed", metavar="N", type=_whole, help="seed of the run")
    requests.add_argument("--temperature", metavar="X", type=_number, help="for lines that don't say")
    requests.add_argument("--max-tokens", metavar="N", type=_whole, help="for lines that don't say")
    requests.add_argument("--reasoning-effort", metavar="E", help="for lines that don't say: low, medium, high")
    requests.add_argument(
        "--skip-invalid",
        action="store_const",
        const=True,
        default=None,
        help="run the good lines, give the others errors",
    )
    requests.add_argument("--limit", metavar="N", type=_whole, help="only the first N requests")


_SCREEN_OPTIONS = ("plain", "readonly", "add", "low_bandwidth", "theme")


def _add_screen(top: argparse.ArgumentParser) -> None:
    screen = top.add_argument_group("the screen (without COMMAND)")
    screen.add_argument("--plain", action="store_true", help="the same facts as lines, for logs and screen readers")
    screen.add_argument("--readonly", action="store_true", help="only watch: nothing is started or changed")
    screen.add_argument(
        "--add", metavar="FILE", action="append", default=[], help="queue this batch file first; may be repeated"
    )
    screen.add_argument("--low-bandwidth", action="store_true", help="fewer redraws and no graphs, for slow links")
    screen.add_argument("--theme", choices=("dark", "light"), help="for a dark or a light terminal")


def _add_serve(made: argparse.ArgumentParser) -> None:
    made.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    made.add_argument("--port", metavar="N", type=_whole, default=8000, help="port (default: 8000; 0: any free one)")
    # SUPPRESS: before or after the subcommand, and the one does not reset the other.
    made.add_argument("--readonly", action="store_true", default=argparse.SUPPRESS, help="visitors only watch")
    made.add_argument(
        "--allow-remote",
        action="store_true",
        help="listen on other addresses: unencrypted, and no password but the link",
    )


def _job(made: argparse.ArgumentParser) -> None:
    made.add_argument("job", metavar="JOB", nargs="?", help="may be left out where only one fits")


def _run(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", metavar="RUN", nargs="?", help="a job, or its folder")
    made.add_argument("--input", metavar="F", help="the batch file, where it is not where it was any more")


def _json(made: argparse.ArgumentParser) -> None:
    made.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def _workspace(made: argparse.ArgumentParser) -> None:
    # SUPPRESS: before or after the subcommand, and the one does not reset the other.
    made.add_argument(
        "--workspace",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder with batches/ and results/ (default: here)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The console script. Every failure ends here as a sentence."""
    _open_what_is_closed()
    console = Console()
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        return _main(console, arguments)
    except GptossError as error:
        console.close()
        _tell(error, as_json="--json" in arguments)
        return int(error.exit_code)
    except BrokenPipeError:
        _silence()
        return PIPE_CLOSED
    except KeyboardInterrupt:
        console.close()
        return INTERRUPTED
    except OSError as error:
        console.close()
        _tell(GptossError(f"{error.filename or PROGRAM}: {error.strerror or error}"), as_json="--json" in arguments)
        return int(ExitCode.FAILED)
    except asyncio.CancelledError:
        return INTERRUPTED


def _main(console: Console, arguments: Sequence[str]) -> int:
    top = parser()
    options, unknown = top.parse_known_args(arguments)
    if unknown:
        raise _unknown(unknown, options.command)
    if options.version:
        from importlib import metadata  # slow, and of use here only

        print(f"{PROGRAM} {metadata.version(PROGRAM)}")
        return ExitCode.OK
    if options.command is not None:
        _refuse_screen_options(options)
    if options.command is not None and options.handler is None:
        from tui import completion

        print(completion.script(options.shell, top), end="")
        return ExitCode.OK
    workspace = Workspace.at(getattr(options, "workspace", None))
    if not workspace.root.is_dir():
        raise UsageError(f"there is no folder {workspace.root}", advice="Make it, or name another: --workspace DIR.")
    if options.command is None:
        from tui.open import open_screen

        return open_screen(workspace, console, options)
    try:
        return int(asyncio.run(options.handler(commands.Context(console, workspace, options))))
    finally:
        console.close()


def _refuse_screen_options(options: argparse.Namespace) -> None:
    allowed = ("readonly",) if options.command == "serve" else ()
    given = [name for name in _SCREEN_OPTIONS if name not in allowed and getattr(options, name, None)]
    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"{names} goes with the screen, not with `{options.command}`",
            advice=f"`{PROGRAM} {names.split(', ')[0]}` alone opens the screen.",
        )


def _tell(error: GptossError, *, as_json: bool) -> None:
    if as_json:
        item: dict[str, Any] = {
            "event": "error",
            "code": error.code,
            "message": error.message,
            "advice": error.advice,
            "exit_code": int(error.exit_code),
        }
        print(json.dumps(item), flush=True)
    print(f"{PROGRAM}: {safe(error.message)}", file=sys.stderr)
    if error.advice:
        print(f"  {one_line(error.advice)}", file=sys.stderr)


def _open_what_is_closed() -> None:
    """`<&-` and `>&-`: the next file that is opened would take their place, and Python has no stream for them."""
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115  # stays open
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _silence() -> None:
    """The reader has gone; Python would complain once more when it flushes stdout at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
