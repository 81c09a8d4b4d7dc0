"""What each subcommand does: find the job, talk to the runner or to an offline helper, print. Returns the exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from engine import client as clients
from engine.client import Client
from engine.errors import CommandRefused, ExitCode, GptossError, JobNotFound, RunnerUnreachable, UsageError
from engine.job import ACTIVE, ENDED, RESUMABLE, JobState
from engine.protocol import (
    AbortJob,
    AbortRequest,
    Command,
    JobView,
    Move,
    Pause,
    PutBack,
    Remove,
    Reply,
    Resume,
    Retry,
    RunSettings,
    Stop,
    Submit,
)
from engine.workspace import Workspace
from tui import plain, progress, report
from tui.console import Console
from tui.state import Mirror
from tui.text import cells, one_line, pad

WATCH_S = 1.0
ENDING_S = 60.0
LOGOUT_CHECK_S = 15.0

Fits = Callable[[JobView], bool]


class Context(msgspec.Struct, frozen=True):
    """What every command is given."""

    console: Console
    workspace: Workspace
    options: argparse.Namespace


# --- which job --------------------------------------------------------------------------------------------------------


def choose(jobs: Iterable[JobView], name: str | None, fits: Sequence[Fits], what: str) -> JobView:
    """The job named (or by a unique beginning of its name); without a name the only one that fits.

    `fits` are tried in turn: what runs is meant before what merely could be. Raises JobNotFound or UsageError.
    """
    jobs = list(jobs)
    if name is not None:
        name = name.rstrip("/").removeprefix("results/")
        found = [job for job in jobs if job.id == name] or [job for job in jobs if name and job.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(f"{name!r} may be {_names(found)}", advice="Type more of it.")
        raise JobNotFound(
            f"no job {name!r} here", advice=f"There is {_names(jobs)}." if jobs else "There are no jobs here."
        )
    for fit in fits:
        found = [job for job in jobs if fit(job)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"more than one job {what}: {_names(found)}", advice="Name one of them.")
    raise JobNotFound(f"no job here {what}", advice="`gptoss-tui status` lists the jobs.")


def _names(jobs: Sequence[JobView]) -> str:
    names = ", ".join(one_line(job.id) for job in jobs[:6])
    return names + (f" and {len(jobs) - 6} more" if len(jobs) > 6 else "")


def _is(*states: JobState) -> Fits:
    return lambda job: job.state in states


_ACTIVE: Fits = lambda job: job.state in ACTIVE  # noqa: E731 - a table entry like its neighbours
_UNFINISHED: Fits = lambda job: job.state != JobState.DONE  # noqa: E731 - as above


# --- run and attach ---------------------------------------------------------------------------------------------------


async def run(context: Context) -> int:
    from engine import settings  # only where settings are needed

    options, console, workspace = context.options, context.console, context.workspace
    paths = [batch_file(name) for name in options.files]
    chosen = settings.load(workspace, _overrides(options)).run
    tell = console.note if options.json else console.say
    if chosen.model is None:
        tell("no model named: the embedded demo model answers (it is small and here to try the program; see --model)")
    client = await clients.connect(workspace, start=True)
    try:
        jobs = await _submit(client, console, paths, chosen, as_json=options.json)
    except BaseException:
        await client.close()
        raise
    if options.detach:
        await client.close()
        return await _detached(context, jobs)
    return await _follow(context, client, jobs)


def batch_file(name: str) -> Path:
    """The path of a file that can be queued. Raises UsageError."""
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        why = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "is not there"
        raise UsageError(f"{name} {why}", advice="Name a batch file. Nothing was started.")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{name} can't be read", advice="Look at its permissions. Nothing was started.")
    return path


def _model(name: str | None) -> str | None:
    """A path counts from where it was typed; the runner lives elsewhere. Anything else is a name for it to find."""
    if not name:
        return name
    path = Path(name).expanduser()
    return str(path.absolute()) if path.exists() or name.startswith(("./", "../", "~")) else name


def _overrides(options: argparse.Namespace) -> dict[str, object]:
    names = ("model", "slots", "context", "batch", "ubatch", "kv_unified", "kv_type", "gpu_layers", "threads", "seed")
    found: dict[str, object] = {name: getattr(options, name) for name in (*names, "skip_invalid", "limit")}
    found["model"] = _model(options.model)
    defaults = {
        name: value
        for name in ("temperature", "max_tokens", "reasoning_effort")
        if (value := getattr(options, name)) is not None
    }
    return {**found, **({"defaults": defaults} if defaults else {})}


async def _submit(
    client: Client, console: Console, paths: Sequence[Path], settings: RunSettings, *, as_json: bool
) -> list[str]:
    jobs = []
    for path in paths:
        reply = await client.command(Submit(id=0, path=str(path), settings=settings))
        job = reply.job or ""
        jobs.append(job)
        if as_json:
            console.data({"event": "submitted", "job": job, "path": str(path)})
        else:
            console.say(f"{one_line(job)}: {one_line(report.shown_path(path))}")
    return jobs


async def _detached(context: Context, jobs: Sequence[str]) -> int:
    console = context.console
    if context.options.json:
        console.data({"event": "detached", "jobs": list(jobs)})
    tell = console.note if context.options.json else console.say
    tell(f"running in the background; `gptoss-tui attach {one_line(jobs[0])}` shows it, `gptoss-tui status` lists all")
    for warning in await _logout_warnings():
        tell(f"warning: {warning}")
    return ExitCode.OK


async def _logout_warnings() -> list[str]:
    """What ends a detached run at logout. The check is a courtesy: where it fails, the run is not held up by it."""
    found: list[str] = []
    with contextlib.suppress(GptossError, TimeoutError):
        async with asyncio.timeout(LOGOUT_CHECK_S):
            found.extend(
                [
                    one_line(f"{str(item.get('sentence')).rstrip('.')}. {item.get('fix')}")
                    async for item in clients.offline("doctor", ["--only", "logout"])
                    if item.get("name") == "logout" and item.get("level") != "ok"
                ]
            )
    return found


async def attach(context: Context) -> int:
    try:
        client = await clients.connect(context.workspace, start=False)
    except RunnerUnreachable:
        jobs = clients.jobs_on_disk(context.workspace)
        job = choose(jobs, context.options.job, [_UNFINISHED, lambda _: True], "can be shown")
        if job.state not in ENDED:
            raise CommandRefused(
                f"{job.id} is {job.state} and no runner is alive",
                advice="Any command that starts one lets it go on, e.g. `gptoss-tui run` or `resume`.",
            ) from None
        return _show_rested(context, job)
    try:
        jobs = client.snapshot.jobs
        job = choose(jobs, context.options.job, [_ACTIVE, _is(JobState.QUEUED), lambda _: True], "can be shown")
    except BaseException:
        await client.close()
        raise
    return await _follow(context, client, [job.id])


def _show(context: Context, jobs: list[str]) -> progress.Show:
    if context.options.json:
        return progress.Machine(context.console, context.workspace, jobs)
    answers = getattr(context.options, "show_answers", False)
    return progress.People(context.console, context.workspace, jobs, show_answers=answers)


def _show_rested(context: Context, job: JobView) -> int:
    _show(context, [job.id]).rested(job)
    return progress.exit_code_of(job)


async def _follow(context: Context, client: Client, jobs: list[str]) -> int:
    mirror = Mirror(client.snapshot)
    end = await progress.follow(client, context.workspace, jobs, _show(context, jobs), mirror)
    if end.interrupted:
        names = " ".join(one_line(name) for name in end.left)
        if context.options.json:
            context.console.data({"event": "detached", "jobs": end.left})
        context.console.note(
            f"left {names} running; `gptoss-tui attach {one_line(end.left[0])}` shows it again, "
            f"`gptoss-tui pause {one_line(end.left[0])}` pauses it"
        )
        return progress.DETACHED
    if end.left:
        if context.options.json:
            context.console.data({"event": "lost", "jobs": end.left})
        raise progress.lost_error(end.left, end.lost)
    return progress.worst([progress.exit_code_of(job) for job in end.rested.values()])


# --- status -----------------------------------------------------------------------------------------------------------


async def status(context: Context) -> int:
    options = context.options
    while True:
        lines = await _status(context)
        if lines is not None:
            if options.watch and context.console.is_terminal:
                context.console.page(lines)
            else:
                for line in lines:
                    context.console.say(line)
        if not options.watch:
            return ExitCode.OK
        await asyncio.sleep(WATCH_S if context.console.is_terminal else progress.PLAIN_S)


async def _status(context: Context) -> list[str] | None:
    """The lines to print; None where JSON was printed."""
    workspace, options = context.workspace, context.options
    try:
        client = await clients.connect(workspace, start=False)
    except RunnerUnreachable:
        client = None
    if client is None:
        jobs, engine, reading = clients.jobs_on_disk(workspace), None, None
    else:
        await client.close()
        jobs, engine, reading = client.snapshot.jobs, client.snapshot.engine, client.snapshot.reading
    jobs = list(jobs)
    if options.job is not None:
        jobs = [choose(jobs, options.job, [], "")]
    if options.json:
        context.console.data(
            {
                "workspace": str(workspace.root),
                "runner": client.welcome.pid if client else None,
                "engine": progress.full(engine) if engine else None,
                "reading": progress.full(reading) if reading else None,
                "jobs": [progress.full(job) for job in jobs],
                "unreadable": clients.unreadable_runs(workspace),
            }
        )
        return None
    width = context.console.width
    lines: list[str] = list(plain.status_table(jobs, width - 1 if width else None))
    if client is None:
        lines.append("no runner is alive here; `run` or `resume` starts one")
    else:
        began = plain.duration(time.time() - client.welcome.started)
        lines.append(f"runner {client.welcome.pid}, up {began}; engine: {plain.engine_words(client.snapshot.engine)}")
        if text := plain.memory(reading):
            lines.append(text)
        if engine is not None and engine.info is not None:
            lines.extend(f"warning: {one_line(warning)}" for warning in engine.info.warnings)
    if options.job is not None:
        lines.extend(plain.summary(jobs[0]) if jobs[0].state in ENDED else [])
    else:
        lines.extend(f"warning: {one_line(sentence)}" for sentence in clients.unreadable_runs(workspace))
    return lines


# --- commands to the runner -------------------------------------------------------------------------------------------


async def _command(context: Context, make: Callable[[str], Command], fits: Sequence[Fits], what: str) -> int:
    """Choose a job, send a command for it, print what the runner says. A runner is started where none is alive."""
    workspace, name = context.workspace, context.options.job
    try:
        client = await clients.connect(workspace, start=False)
    except RunnerUnreachable:
        choose(clients.jobs_on_disk(workspace), name, fits, what)  # starting one only to refuse would be a waste
        client = await clients.connect(workspace, start=True)
    async with client:
        job = choose(client.snapshot.jobs, name, fits, what)
        return _said(context, await client.command(make(job.id)))


def _said(context: Context, reply: Reply) -> int:
    if reply.sentence:
        context.console.say(one_line(reply.sentence))
    return ExitCode.OK


async def pause(context: Context) -> int:
    now = context.options.now
    try:
        client = await clients.connect(context.workspace, start=False)
    except RunnerUnreachable as error:
        raise CommandRefused(
            f"no runner is alive in {context.workspace.root}, so nothing runs", advice="`gptoss-tui status` lists jobs."
        ) from error
    async with client:
        fits = [_ACTIVE, _is(JobState.QUEUED)]
        job = choose(client.snapshot.jobs, context.options.job, fits, "can be paused")
        return _said(context, await client.command(Pause(id=0, job=job.id, now=now)))


async def resume(context: Context) -> int:
    force = context.options.force
    fits = [_is(JobState.PAUSED, JobState.INTERRUPTED), lambda job: job.state in RESUMABLE]
    return await _command(context, lambda job: Resume(id=0, job=job, force=force), fits, "can be resumed")


async def abort(context: Context) -> int:
    request = context.options.request
    if request is not None:
        return await _command(
            context,
            lambda job: AbortRequest(id=0, job=job, custom_id=request),
            [_ACTIVE, _UNFINISHED],
            "can be aborted",
        )
    fits = [lambda job: job.state not in (JobState.DONE, JobState.ABORTED)]
    return await _command(context, lambda job: AbortJob(id=0, job=job), fits, "can be aborted")


async def restore(context: Context) -> int:
    request = context.options.request
    fits: list[Fits] = [lambda job: job.counts.aborted > 0]
    return await _command(context, lambda job: PutBack(id=0, job=job, custom_id=request), fits, "has aborted requests")


async def retry(context: Context) -> int:
    fits: list[Fits] = [lambda job: job.counts.failed > 0]
    return await _command(context, lambda job: Retry(id=0, job=job), fits, "has failed requests")


async def remove(context: Context) -> int:
    fits = [_is(JobState.DONE), lambda job: job.state not in ACTIVE]
    return await _command(context, lambda job: Remove(id=0, job=job), fits, "can be removed")


async def move(context: Context) -> int:
    by = context.options.by
    fits = [_is(JobState.QUEUED)]
    return await _command(context, lambda job: Move(id=0, job=job, by=by), fits, "is queued")


async def stop(context: Context) -> int:
    try:
        client = await clients.connect(context.workspace, start=False)
    except RunnerUnreachable:
        context.console.say("no runner is alive here")
        return ExitCode.OK
    async with client:
        pid = client.welcome.pid
        _said(context, await client.command(Stop(id=0)))
        end = time.monotonic() + ENDING_S
        while _lives(pid):
            if time.monotonic() > end:
                raise RunnerUnreachable(
                    f"the runner (process {pid}) is still there after {ENDING_S:.0f} s",
                    advice=f"Its log is {context.workspace.runner_log}; `kill {pid}` asks it once more.",
                )
            await asyncio.sleep(clients.POLL_S)
    context.console.say("stopped")
    return ExitCode.OK


def _lives(pid: int) -> bool:
    """A zombie has ended; only its parent has not asked yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False


# --- without a runner -------------------------------------------------------------------------------------------------


async def validate(context: Context) -> int:
    options, console = context.options, context.console
    code = ExitCode.OK
    arguments = [_absolute(options.file), "--all"]
    async for item in clients.offline("validate", arguments):
        if options.json:
            console.data(item)
        match item.get("kind"):
            case "progress" if console.is_terminal and not options.json:
                console.live(f"reading {item.get('fraction', 0):.0%}")
            case "problem" if not options.json:
                console.say(report.problem_line(item))
            case "summary":
                if item.get("errors"):
                    code = ExitCode.USAGE
                if not options.json:
                    for line in _validated(item):
                        console.say(line)
            case _:
                pass
    return code


def _validated(item: dict[str, object]) -> list[str]:
    by_code = item.get("errors_by_code")
    errors, warnings = (msgspec.convert(item.get(name, 0), int) for name in ("errors", "warnings"))
    lines = [f"{one_line(str(item['notice']))}"] if item.get("notice") else []
    said = f"{item.get('good')} of {item.get('requests')} requests can run"
    if warnings:
        said += f", {plain.several(warnings, 'warning')}"
    lines.append(said)
    if errors and isinstance(by_code, dict):
        lines.append(f"{plain.several(errors, 'error')}: {report.code_counts(by_code)}")
    return lines


def _absolute(name: str) -> str:
    """The helper runs elsewhere: a path means the same there."""
    return str(Path(name).expanduser().absolute())


def _run_folder(context: Context) -> Path:
    """A run's folder by its name, or by the path of the folder."""
    name = context.options.run
    if name is not None and (Path(name) / "run.json").is_file():
        return Path(name).resolve()
    jobs = clients.jobs_on_disk(context.workspace)
    removed = context.workspace.run_folder(name) if name else None  # off the list, yet its files are there
    if removed is not None and removed.name == name and (removed / "run.json").is_file():
        return removed
    return context.workspace.run_folder(choose(jobs, name, [lambda _: True], "has results").id)


def _input(context: Context) -> list[str]:
    return ["--input", _absolute(context.options.input)] if context.options.input else []


async def verify(context: Context) -> int:
    code = int(ExitCode.FAILED)
    async for item in clients.offline("verify", [str(_run_folder(context)), *_input(context)]):
        if context.options.json:
            context.console.data(item)
        if item.get("kind") != "summary":
            continue
        code = int(item.get("exit_code", code))
        if not context.options.json:
            for line in _verdict(item):
                context.console.say(line)
    return code


def _verdict(item: dict[str, object]) -> list[str]:
    sentence = str(item.get("sentence"))
    if item.get("problems"):  # they follow, each on a line
        sentence = sentence.partition(", first: ")[0]
    lines = [f"{item.get('status')}: {one_line(sentence)}"]
    for name in ("problems", "notes", "duplicates", "not_in_input", "edited"):
        values = item.get(name)
        if isinstance(values, list):
            title = name.replace("_", " ")
            lines.extend(f"  {title}: {one_line(str(value))}" for value in values[: report.PROBLEMS])
            if len(values) > report.PROBLEMS:
                lines.append(f"  {title}: ... and {len(values) - report.PROBLEMS} more")
    return lines


async def export(context: Context) -> int:
    options = context.options
    more = ["--out", _absolute(options.out)] if options.out else []
    more += [*_input(context), *(["--force"] if options.force else [])]
    async for item in clients.offline("export", [str(_run_folder(context)), *more]):
        if options.json:
            context.console.data(item)
        elif item.get("kind") == "summary":
            say = context.console.say
            say(
                f"answers: {one_line(report.shown_path(Path(str(item.get('output')))))} ({item.get('completed')} lines)"
            )
            if item.get("errors"):
                shown = one_line(report.shown_path(Path(str(item["errors"]))))
                say(f"errors: {shown} ({item.get('failed')} failed, {item.get('cancelled')} cancelled or not run)")
            notes = item.get("notes")
            for note in notes if isinstance(notes, list) else []:
                say(f"note: {one_line(str(note))}")
    return ExitCode.OK


async def doctor(context: Context) -> int:
    code = ExitCode.OK
    async for item in clients.offline("doctor", ["--workspace", str(context.workspace.root)]):
        if context.options.json:
            context.console.data(item)
        match item.get("kind"):
            case "finding" if not context.options.json:
                name, level = one_line(str(item.get("name"))), one_line(str(item.get("level")))
                context.console.say(f"{level:5} {name}: {one_line(str(item.get('sentence')))}")
                if item.get("fix"):
                    context.console.say(f"      {one_line(str(item['fix']))}")
            case "summary" if item.get("error"):
                code = ExitCode.FAILED
            case _:
                pass
    return code


# --- the screen's keys, and the screen in a browser -------------------------------------------------------------------


async def keys(context: Context) -> int:
    """The key table with a person's own bindings, and what of them could not be taken."""
    from engine import settings  # only where settings are needed
    from tui.keys import GROUPS, KeyTable, shown

    table = KeyTable(settings.load(context.workspace).keys)
    wide = max(cells(shown(key.keys)) for key in table.rows)
    named = max(len(key.action) for key in table.rows)
    for group, title in GROUPS.items():
        context.console.say(title)
        for key in table.rows:
            if key.group == group:
                keys = pad(one_line(shown(key.keys)) or "-", wide)
                context.console.say(f"  {keys}  {key.action:{named}}  {key.help}".rstrip())
    context.console.say("Others are bound in gptoss.toml, by the names of the second column:")
    context.console.say("  [keys]")
    context.console.say('  pause = "p,f5"')
    for problem in table.problems:
        context.console.note(f"warning: {context.workspace.settings_file}: {one_line(problem)}")
    return ExitCode.USAGE if table.problems else ExitCode.OK


async def serve(context: Context) -> int:
    from tui import serve as web  # loads a web server

    options = context.options
    return await web.serve(
        context.workspace,
        context.console,
        host=options.host,
        port=options.port,
        readonly=options.readonly,
        allow_remote=options.allow_remote,
    )


Handler = Callable[[Context], Awaitable[int]]
