"""The queue on disk: one run.json per run under results/. Loading, creating and saving them; decides nothing."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import msgspec

from engine.disk import IO, sync_folder
from engine.errors import GptossError, ResultsError, ResultsUnwritable
from engine.folder import read_record, write_record
from engine.job import JobState
from engine.protocol import CLIENT_PROTOCOL, RunSettings
from engine.record import RunRecord, as_found
from engine.workspace import Workspace


class Loaded(NamedTuple):
    """All runs that can be read, and a sentence for each that can't."""

    records: list[RunRecord]
    unreadable: list[str]


def load(workspace: Workspace) -> Loaded:
    """Every run as a new runner finds it: what was active belonged to a dead one. Raises ResultsError."""
    records: list[RunRecord] = []
    unreadable: list[str] = []
    try:
        names = workspace.run_names()
    except OSError as error:
        raise ResultsError(
            f"{workspace.results} can't be read: {error.strerror or error}", advice="Mend its permissions."
        ) from error
    for name in names:
        try:
            record = read_record(workspace.run_folder(name))
        except (GptossError, OSError, msgspec.DecodeError, ValueError) as error:
            unreadable.append(f"results/{name}/run.json can't be read, the run is left as it is: {error}")
            continue
        if record.removed:
            continue
        # The folder is what people see and type: a renamed or copied one goes by its present name.
        records.append(as_found(msgspec.structs.replace(record, job=name)))
    records.sort(key=lambda r: (r.order, r.created))
    return Loaded(records, unreadable)


def create(workspace: Workspace, path: Path, settings: RunSettings, *, order: int, now: float) -> RunRecord:
    """Make the folder of a new run and its run.json, durably. Raises ResultsUnwritable."""
    try:
        workspace.results.mkdir(parents=True, exist_ok=True)
        while True:
            name = workspace.new_run_name(path)
            try:
                workspace.run_folder(name).mkdir()
            except FileExistsError:  # somebody made one by hand in this moment
                continue
            break
        record = RunRecord(
            job=name,
            state=JobState.QUEUED,
            sentence="waits for its turn",
            order=order,
            input_path=str(path),
            settings=settings,
            versions=versions(),
            created=now,
        )
        save(workspace, record)
        sync_folder(IO, workspace.results)
    except OSError as error:
        raise ResultsUnwritable(
            f"the run's folder under {workspace.results} can't be written: {error.strerror or error}",
            advice="Free some space or mend the permissions, then run it again.",
        ) from error
    return record


def save(workspace: Workspace, record: RunRecord) -> None:
    """Publish run.json. Raises OSError or ResultsUnwritable."""
    write_record(workspace.run_folder(record.job), record)


def versions() -> dict[str, str]:
    """What answers may depend on besides the model."""
    found = {"python": platform.python_version(), "protocol": str(CLIENT_PROTOCOL)}
    for name in ("gptoss-tui", "llama-cpp-python"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
