"""Deaths of the engine: the words for them (pure), and what a job makes of them (with the scripted worker)."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from engine import protocol
from engine.job import JobState
from engine.protocol import EngineSettings, FailureKind
from engine.recovery import MAX_RESTARTS, Death, GiveUp, Retry, explain, next_step
from tests.runner_kit import desk, lines_of, write_batch

OOM_LINES = [
    "load_tensors: offloading 24 layers",
    "CUDA error: out of memory",
    "  current device: 0, in function alloc at ggml-cuda.cu:420",
    "CUDA error",
]
MIB = 1024 * 1024

# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returncode", "lines", "free", "phase", "kind"),
    [
        (-signal.SIGABRT, OOM_LINES, None, "running", FailureKind.OOM),
        (134, OOM_LINES, None, "running", FailureKind.OOM),
        (-signal.SIGABRT, ["GGML_ASSERT(n > 0) failed"], None, "running", FailureKind.CRASH),
        (-signal.SIGABRT, ["CUDA error"], 100 * MIB, "running", FailureKind.OOM),
        (-signal.SIGABRT, ["CUDA error"], 4000 * MIB, "running", FailureKind.CRASH),
        (-signal.SIGKILL, [], 100 * MIB, "running", FailureKind.KILLED),
        (137, [], None, "running", FailureKind.KILLED),
        (-signal.SIGKILL, OOM_LINES, None, "running", FailureKind.KILLED),
        (-signal.SIGTERM, [], None, "running", FailureKind.KILLED),
        (-signal.SIGABRT, ["D failed to allocate graph, reserving"], None, "running", FailureKind.CRASH),
        (-signal.SIGSEGV, [], 10_000 * MIB, "running", FailureKind.CRASH),
        (1, ["ModuleNotFoundError: No module named 'llama_cpp'"], None, "starting", FailureKind.UNAVAILABLE),
        (1, ["error: tensor data is not within the file bounds"], None, "loading", FailureKind.BAD_FILE),
        (0, [], None, "running", FailureKind.EXITED),
        (3, ["nothing of note"], None, "running", FailureKind.EXITED),
    ],
)
def test_the_cause_is_named_as_far_as_the_evidence_goes(returncode, lines, free, phase, kind) -> None:
    why = explain(returncode, lines, None, free, phase)
    assert why.kind == kind
    assert why.sentence.endswith(".")


def test_oom_is_said_with_its_evidence() -> None:
    assert '"CUDA error: out of memory"' in explain(-6, OOM_LINES, None, None, "running").sentence
    assert "100 MiB were free" in explain(-6, [], None, 100 * MIB, "running").sentence


def test_the_workers_last_word_counts() -> None:
    why = explain(1, [], (FailureKind.OOM, "llama_decode: ret = -2"), None, "running")
    assert (why.kind, "ret = -2" in why.sentence) == (FailureKind.OOM, True)
    assert explain(1, [], (FailureKind.CRASH, "compute failed"), None, "running").kind == FailureKind.CRASH


def test_silence_and_rubbish_have_their_own_words() -> None:
    assert explain(-9, [], None, None, "running", silent_s=20).kind == FailureKind.SILENT
    assert "no message" in explain(-9, [], None, None, "running", garbage="0xc1").sentence


def test_waits_double_and_restarts_without_progress_are_bounded() -> None:
    settings, history, waits = EngineSettings(), [], []
    for _ in range(MAX_RESTARTS):
        history.append(Death(kind=FailureKind.CRASH))
        step = next_step(history, settings)
        assert isinstance(step, Retry)
        assert step.settings == settings
        waits.append(step.wait_s)
    assert waits == [0.5, 1, 2, 4, 8]
    history.append(Death(kind=FailureKind.CRASH))
    assert isinstance(next_step(history, settings), GiveUp)


def test_one_finished_request_begins_the_count_anew() -> None:
    history = [Death(kind=FailureKind.CRASH)] * MAX_RESTARTS + [Death(kind=FailureKind.CRASH, completed=1)]
    step = next_step(history, EngineSettings())
    assert isinstance(step, Retry)
    assert step.wait_s == 0.5


def test_out_of_memory_halves_the_slots_down_to_one() -> None:
    slots, history = [], []
    settings = EngineSettings(slots=5)
    for _ in range(3):
        history.append(Death(kind=FailureKind.OOM))
        step = next_step(history, settings)
        assert isinstance(step, Retry)
        settings = step.settings
        slots.append(settings.slots)
    assert slots == [2, 1, 1]


@pytest.mark.parametrize("kind", [FailureKind.BAD_FILE, FailureKind.UNSUPPORTED, FailureKind.UNAVAILABLE])
def test_what_would_end_the_same_way_is_not_tried_again(kind: FailureKind) -> None:
    assert isinstance(next_step([Death(kind=kind)], EngineSettings()), GiveUp)


# --- deeds ------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_waiting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the deeds; the words are checked with the real waits."""
    if "tmp_path" in request.fixturenames:
        monkeypatch.setattr("engine.recovery.FIRST_WAIT_S", 0.01)


@pytest.mark.parametrize(
    "deaths",
    [
        [{"at": "start"}],
        [{"at": "load"}],
        [{"at": "begin", "n": 1}],
        [{"at": "finish", "n": 1}],
        [{"at": "finish", "n": 7, "how": "kill"}],
        [{"at": "finish", "n": 3, "how": "exit"}],
        [{"at": "finish", "n": 3}, {"at": "load"}, {"at": "finish", "n": 2}],
        [{"at": "finish", "n": 3, "how": "garbage"}],
        [{"at": "finish", "n": 3, "how": "huge"}],
        [{"at": "finish", "n": 3, "how": "silent"}],
    ],
    ids=str,
)
async def test_a_job_survives_deaths_of_its_engine(tmp_path: Path, deaths: list[dict]) -> None:
    async with desk(tmp_path, {"deaths": deaths, "delay_s": 0.01}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 12), slots=4)
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert d.ids(job) == {f"r{i}": 1 for i in range(12)}
        assert record.restarts == len(deaths)
        silent = deaths[0].get("how") == "silent"
        assert d.incidents().count("engine_silent" if silent else "engine_died") == len(deaths)
        evidence = [rec for rec in lines_of(d.folder(job) / "incidents.jsonl") if rec["kind"].startswith("engine_")]
        assert evidence[0]["cause"]
        assert evidence[0]["settings"]["slots"] == 4


async def test_out_of_memory_goes_on_with_fewer_slots(tmp_path: Path) -> None:
    deaths = [{"at": "finish", "n": 2, "say": "CUDA error: out of memory"}, {"at": "finish", "n": 2, "how": "fatal"}]
    async with desk(tmp_path, {"deaths": deaths, "delay_s": 0.01}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 12), slots=8)
        record = await d.rests(job)
        assert (record.state, record.engine.slots) == (JobState.DONE, 2), record.sentence
        causes = [rec.get("cause") for rec in lines_of(d.folder(job) / "incidents.jsonl")]
        assert causes.count("oom") == 2


async def test_little_free_memory_is_evidence(tmp_path: Path) -> None:
    async with desk(tmp_path, {"deaths": [{"at": "finish", "n": 2}], "delay_s": 0.4}) as d:
        d.readings.free = 50 * MIB
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 6), slots=4)
        record = await d.rests(job)
        assert (record.state, record.engine.slots) == (JobState.DONE, 2)


async def test_a_request_that_kills_the_engine_gets_one_error_line_and_the_rest_finish(tmp_path: Path) -> None:
    async with desk(tmp_path, {"poison": ["r3"], "delay_s": 0.01}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 20), slots=4)
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert (record.counts.succeeded, record.counts.failed) == (19, 1)
        [rec] = d.errors(job)
        assert (rec["custom_id"], rec["response"], rec["error"]["code"]) == ("r3", None, "engine_died")
        assert set(d.ids(job).values()) == {1}
        assert record.restarts == 3
        assert record.counts.retried >= 2


async def test_an_engine_that_always_dies_is_given_up_and_the_job_can_be_resumed(tmp_path: Path) -> None:
    async with desk(tmp_path, {"deaths": [{"at": "begin"}] * 9}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 40), slots=4)
        record = await d.rests(job)
        assert record.state == JobState.FAILED
        assert "5 times" in record.sentence
        assert record.counts.waiting + record.counts.failed == 40
        assert record.restarts == MAX_RESTARTS
        d.rescript({})
        await d.command(protocol.Resume, job=job)
        record = await d.rests(job)
        assert record.state == JobState.DONE
        assert record.counts.succeeded + record.counts.failed == 40


async def test_a_damaged_model_fails_at_once_and_memory_at_load_is_tried_smaller(tmp_path: Path) -> None:
    async with desk(tmp_path, {"load_failed": {"kind": "bad_file", "message": "double.gguf is cut short"}}) as d:
        path = write_batch(tmp_path / "b.jsonl", 12)
        record = await d.rests(await d.submit(path, slots=8))
        assert record.state == JobState.FAILED
        assert record.sentence == "double.gguf is cut short"
        assert d.script.with_name("script.json.starts").read_text() == "1"
        d.rescript({"load_failed": [{"kind": "oom", "message": "no room for the KV cache"}]})
        record = await d.rests(await d.submit(path, slots=8))
        assert (record.state, record.engine.slots) == (JobState.DONE, 4)


async def test_a_pause_during_recovery_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.recovery.FIRST_WAIT_S", 60)
    async with desk(tmp_path, {"deaths": [{"at": "begin"}]}) as d:
        job = await d.submit(write_batch(tmp_path / "b.jsonl", 4))
        await d.until(lambda: d.record(job).restarts == 1)
        await d.command(protocol.Pause, job=job)
        assert (await d.rests(job)).state == JobState.PAUSED
