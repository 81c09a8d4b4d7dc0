"""Jobs from submit to rest, with the scripted worker: order of acknowledgement, commands, counts, idle exit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine import protocol
from engine.errors import BatchInvalid, CommandRefused, FingerprintChanged, JobNotFound
from engine.job import JobState
from engine.protocol import RunSettings
from engine.viewer import Watched
from tests.runner_kit import Desk, content, desk, expected, line, lines_of, write_batch


async def test_a_batch_runs_to_the_end_and_every_line_answers_its_request(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "batches" / "ten.jsonl", 10)
    async with desk(tmp_path) as d:
        job = await d.submit(path)
        record = await d.rests(job)
        assert job == "ten-1"
        assert record.state == JobState.DONE, record.sentence
        assert record.counts.succeeded == record.counts.total == 10
        assert (record.prompt_tokens, record.completion_tokens) == (50, 70)
        wanted = {rec["custom_id"]: expected(rec) for rec in lines_of(path)}
        assert {rec["custom_id"]: content(rec) for rec in d.output(job)} == wanted
        assert sorted(item.custom_id for item in d.acknowledged()) == sorted(wanted)
        batch = json.loads((d.folder(job) / "batch.json").read_text())
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
        assert json.loads((d.folder(job) / "run.json").read_text())["state"] == "done"


async def test_nothing_is_acknowledged_before_it_is_in_the_file(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 30)
    async with Desk(tmp_path, {}) as d:
        early: list[str] = []
        tell = d.runner.acknowledged

        def checked(job, items) -> None:
            on_disk = {rec["custom_id"] for rec in lines_of(d.folder(job.id) / "output.jsonl")}
            early.extend(item.custom_id for item in items if item.custom_id not in on_disk)
            tell(job, items)

        d.runner.acknowledged = checked  # type: ignore[method-assign]  # a test listens in
        await d.rests(await d.submit(path))
        assert len(d.acknowledged()) == 30
        assert early == []


async def test_slots_are_no_more_than_requests_and_the_worker_gets_a_bounded_number(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 40)
    async with desk(tmp_path, {"hold": [f"r{i}" for i in range(40)]}) as d:
        job = await d.submit(path, slots=4)
        await d.until(lambda: d.record(job).counts.running == 8)
        assert d.record(job).counts.waiting == 32
        assert d.record(job).engine.slots == 4
        await d.command(protocol.AbortJob, job=job)
        assert (await d.rests(job)).state == JobState.ABORTED
        few = await d.submit(write_batch(tmp_path / "few.jsonl", 2), slots=4)
        await d.until(lambda: d.record(few).counts.running == 2)
        assert d.record(few).engine.slots == 2


async def test_jobs_run_in_order_and_the_engine_is_kept_warm(tmp_path: Path) -> None:
    async with desk(tmp_path) as d:
        first = await d.submit(write_batch(tmp_path / "a.jsonl", 4))
        second = await d.submit(write_batch(tmp_path / "b.jsonl", 4))
        await d.rests(second)
        done = [e.job.id for e in d.events if isinstance(e, protocol.JobChanged) and e.job.state == JobState.DONE]
        assert list(dict.fromkeys(done)) == [first, second]
        assert d.script.with_name("script.json.starts").read_text() == "1"


async def test_pause_lets_running_requests_finish_and_resume_goes_on(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 60)
    async with desk(tmp_path, {"delay_s": 0.05}) as d:
        job = await d.submit(path, slots=4)
        await d.until(lambda: d.record(job).counts.succeeded >= 4)
        said = (await d.command(protocol.Pause, job=job)).sentence
        # with nothing in flight at this very moment there is nothing to wait for, and it says so
        assert "pauses now" in said or "pauses when" in d.record(job).sentence
        record = await d.rests(job)
        assert record.state == JobState.PAUSED
        assert 0 < record.counts.waiting < 60
        assert "no failed requests" in (await d.command(protocol.Retry, job=job)).sentence
        assert d.record(job).state == JobState.PAUSED  # nothing to retry is no reason to go on
        assert record.counts.running == 0
        assert not (d.folder(job) / "inflight.jsonl").exists()
        assert "already" in (await d.command(protocol.Pause, job=job)).sentence
        await d.command(protocol.Resume, job=job)
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert len(record.sessions) == 2
        assert set(d.ids(job).values()) == {1}
        assert len(d.ids(job)) == 60
        assert record.completion_tokens == 60 * 7


async def test_a_pause_can_be_taken_back(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 5)
    async with desk(tmp_path, {"delay_s": 0.3}) as d:
        job = await d.submit(path, slots=1)
        await d.until(lambda: bool(d.runner.current and d.runner.current.running()))
        await d.command(protocol.Pause, job=job)
        assert "taken back" in (await d.command(protocol.Resume, job=job)).sentence
        assert (await d.rests(job)).state == JobState.DONE


async def test_pause_now_keeps_the_text_so_far(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 6)
    async with desk(tmp_path, {"hold": ["r1", "r2"]}) as d:
        job = await d.submit(path)
        await d.until(lambda: d.record(job).counts.succeeded == 4)
        await d.command(protocol.Pause, job=job, now=True)
        record = await d.rests(job)
        assert (record.state, record.counts.waiting) == (JobState.PAUSED, 2)
        partials = lines_of(d.folder(job) / "inflight.jsonl")
        assert {p["custom_id"] for p in partials} == {"r1", "r2"}
        assert partials[0]["choices"][0]["content"] == "half an ans"
        d.rescript({})
        await d.runner.host.close()
        await d.command(protocol.Resume, job=job)
        assert (await d.rests(job)).state == JobState.DONE
        assert not (d.folder(job) / "inflight.jsonl").exists()


async def test_abort_with_a_deaf_engine_ends_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.jobrun.HARD_S", 0.3)
    path = write_batch(tmp_path / "b.jsonl", 3)
    async with desk(tmp_path, {"hold": ["r0", "r1", "r2"], "deaf": True}) as d:
        job = await d.submit(path)
        await d.until(lambda: bool(d.runner.current) and len(d.runner.current.running()) == 3)
        await d.command(protocol.AbortJob, job=job)
        record = await d.rests(job)
        assert (record.state, record.counts.waiting) == (JobState.ABORTED, 3)
        await d.until(lambda: not d.runner.host.ready)


async def test_one_request_is_taken_out_and_put_back(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 4)
    async with desk(tmp_path, {"hold": ["r2"]}) as d:
        job = await d.submit(path)
        await d.until(lambda: d.record(job).counts.succeeded == 3)
        await d.command(protocol.AbortRequest, job=job, custom_id="r2")
        record = await d.rests(job)
        assert (record.state, record.counts.aborted, record.aborted) == (JobState.DONE, 1, ["r2"])
        assert "r2" not in d.ids(job)
        d.rescript({})
        await d.runner.host.close()
        await d.command(protocol.PutBack, job=job)
        record = await d.rests(job)
        assert (record.state, record.counts.succeeded, record.aborted) == (JobState.DONE, 4, [])


async def test_a_request_of_a_resting_job_is_taken_out_only_if_it_waits(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 40)
    async with desk(tmp_path, {"delay_s": 0.02}) as d:
        job = await d.submit(path, slots=2)
        await d.until(lambda: d.record(job).counts.succeeded >= 2)
        await d.command(protocol.Pause, job=job, now=True)
        before = (await d.rests(job)).counts
        with pytest.raises(CommandRefused, match="no request"):
            await d.command(protocol.AbortRequest, job=job, custom_id="nobody")
        with pytest.raises(CommandRefused, match="succeeded already"):
            await d.command(protocol.AbortRequest, job=job, custom_id="r0")
        await d.command(protocol.AbortRequest, job=job, custom_id="r39")
        after = d.record(job).counts
        assert (after.aborted, after.waiting) == (1, before.waiting - 1)
        await d.command(protocol.Resume, job=job)
        assert (await d.rests(job)).counts.succeeded == 39


async def test_bad_lines_stop_the_job_with_a_sentence_or_get_error_lines(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 5)
    with path.open("a") as file:
        file.write("not json\n")
        file.write(json.dumps({**line("x", "hi"), "method": "GET"}) + "\n")
    async with desk(tmp_path) as d:
        job = await d.submit(path)
        record = await d.rests(job)
        assert record.state == JobState.FAILED
        assert "2 lines do not hold" in record.sentence
        assert len(lines_of(d.folder(job) / "problems.jsonl")) == 2
        await d.command(protocol.Resume, job=job, settings=RunSettings(skip_invalid=True))
        record = await d.rests(job)
        assert (record.state, record.counts.succeeded) == (JobState.DONE, 5), record.sentence
        assert (record.counts.failed, record.counts.invalid) == (2, 2)
        assert sorted(rec["custom_id"] for rec in d.errors(job)) == ["line-6", "x"]
        # A second look writes nothing twice.
        await d.command(protocol.Retry, job=job)
        assert len(d.errors(job)) == 2


async def test_failed_requests_run_again_on_retry_and_success_wins(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 6)
    async with desk(tmp_path, {"finish": {"r1": "invalid", "r4": "parse_error"}}) as d:
        job = await d.submit(path)
        record = await d.rests(job)
        assert (record.counts.succeeded, record.counts.failed) == (4, 2)
        assert {rec["custom_id"]: rec["error"] is None for rec in d.errors(job)} == {"r1": True, "r4": False}
        d.rescript({"finish": {"r4": "length"}})
        await d.runner.host.close()
        await d.command(protocol.Retry, job=job)
        record = await d.rests(job)
        assert (record.counts.succeeded, record.counts.failed, record.counts.truncated) == (6, 0, 1)
        assert len(d.errors(job)) == 2
        assert "no failed" in (await d.command(protocol.Retry, job=job)).sentence


async def test_resume_under_other_settings_is_refused_unless_forced(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 8)
    async with desk(tmp_path, {"delay_s": 0.05}) as d:
        job = await d.submit(path, slots=1)
        await d.until(lambda: d.record(job).counts.succeeded >= 2)
        await d.command(protocol.Pause, job=job, now=True)
        await d.rests(job)
        with pytest.raises(FingerprintChanged, match="context: 4096 before, 512 now"):
            await d.command(protocol.Resume, job=job, settings=RunSettings(context=512))
        await d.command(protocol.Resume, job=job, settings=RunSettings(slots=2))
        await d.until(lambda: d.record(job).counts.succeeded >= 3)
        await d.command(protocol.Pause, job=job, now=True)
        await d.rests(job)
        await d.command(protocol.Resume, job=job, settings=RunSettings(context=512), force=True)
        record = await d.rests(job)
        assert record.state == JobState.DONE, record.sentence
        assert record.sessions[-1].forced == ["context: 4096 before, 512 now"]
        assert "settings_changed" in d.incidents()


async def test_another_engine_version_is_seen_after_loading(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 8)
    async with desk(tmp_path, {"delay_s": 0.05, "version": "1"}) as d:
        job = await d.submit(path, slots=1)
        await d.until(lambda: d.record(job).counts.succeeded >= 1)
        await d.command(protocol.Pause, job=job, now=True)
        await d.rests(job)
        d.rescript({"version": "2"})
        await d.runner.host.close()
        await d.command(protocol.Resume, job=job)
        record = await d.rests(job)
        assert record.state == JobState.FAILED
        assert record.failure == "FingerprintChanged"
        assert "engine_version: '1' before, '2' now" in record.sentence
        await d.command(protocol.Resume, job=job, force=True)
        assert (await d.rests(job)).state == JobState.DONE


async def test_edited_lines_run_again_and_removed_ones_are_kept(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 4)
    async with desk(tmp_path, {"hold": ["r3"]}) as d:
        job = await d.submit(path)
        await d.until(lambda: d.record(job).counts.succeeded == 3)
        await d.command(protocol.Pause, job=job, now=True)
        await d.rests(job)
        d.rescript({})
        await d.runner.host.close()
        path.write_text(
            "\n".join(json.dumps(rec) for rec in (line("r1", "say 1"), line("r2", "edited"), line("r3", "say 3")))
        )
        await d.command(protocol.Resume, job=job)
        record = await d.rests(job)
        assert (record.state, record.counts.total, record.counts.succeeded) == (JobState.DONE, 3, 3), record.sentence
        assert record.counts.reused == 1
        assert d.ids(job) == {"r0": 1, "r1": 1, "r2": 2, "r3": 1}
        assert "1 edited" in record.sentence
        assert "input_changed" in d.incidents()


async def test_a_file_that_changes_in_mid_run_pauses_the_job(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 50)
    async with desk(tmp_path, {"delay_s": 0.05}) as d:
        job = await d.submit(path, slots=2)
        await d.until(lambda: d.record(job).counts.succeeded >= 2)
        write_batch(path, 50, word="ask for number")
        record = await d.rests(job)
        assert record.state == JobState.PAUSED
        assert "resume re-reads" in record.sentence
        await d.command(protocol.Resume, job=job)
        record = await d.rests(job)
        assert (record.state, record.counts.succeeded) == (JobState.DONE, 50)


async def test_defaults_and_seed_reach_the_worker_and_the_line_wins(tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    free, bound = line("free", "hi"), line("bound", "hi", max_completion_tokens=9)
    path.write_text("\n".join(json.dumps(rec) for rec in (free, bound)))
    async with desk(tmp_path) as d:
        job = await d.submit(path, defaults={"max_tokens": 5, "temperature": 1})
        await d.rests(job)
        free["body"]["max_tokens"] = 5
        answers = {rec["custom_id"]: content(rec) for rec in d.output(job)}
        assert answers == {"free": expected(free), "bound": expected(bound)}


async def test_queue_commands(tmp_path: Path) -> None:
    async with desk(tmp_path, {"hold": ["r0"]}) as d:
        running = await d.submit(write_batch(tmp_path / "a.jsonl", 1))
        await d.until(lambda: d.record(running).counts.running == 1)
        b, c = [await d.submit(write_batch(tmp_path / f"{name}.jsonl", 1, start=1)) for name in "bc"]
        assert "number 1 of 2" in (await d.command(protocol.Move, job=c, by=-5)).sentence
        assert d.record(c).order < d.record(b).order
        with pytest.raises(CommandRefused):
            await d.command(protocol.Move, job=running, by=1)
        with pytest.raises(CommandRefused):
            await d.command(protocol.Remove, job=running)
        await d.command(protocol.Remove, job=b)
        assert b not in d.runner.jobs
        assert d.folder(b).is_dir()
        await d.command(protocol.Pause, job=c)
        assert d.record(c).state == JobState.PAUSED
        await d.submit(write_batch(tmp_path / "cc.jsonl", 1))
        with pytest.raises(JobNotFound, match="several"):
            await d.command(protocol.Pause, job="c")
        with pytest.raises(JobNotFound) as caught:
            await d.command(protocol.Pause, job="d-1")
        assert "Did you mean" in caught.value.advice
        with pytest.raises(BatchInvalid, match="no file"):
            await d.submit(tmp_path / "absent.jsonl")
        await d.command(protocol.AbortJob, job=running)
        await d.rests(running)


async def test_stop_pauses_what_runs_and_the_next_runner_goes_on(tmp_path: Path) -> None:
    path = write_batch(tmp_path / "b.jsonl", 5)
    async with desk(tmp_path, {"hold": ["r1", "r3"]}) as d:
        job = await d.submit(path)
        queued = await d.submit(write_batch(tmp_path / "later.jsonl", 2, start=10))
        await d.until(lambda: d.record(job).counts.succeeded == 3)
        await d.command(protocol.Stop)
        await d.ended()
        assert d.record(job).state == JobState.PAUSED
    async with desk(tmp_path) as d:
        assert (await d.rests(queued)).state == JobState.DONE
        assert d.record(job).state == JobState.PAUSED
        await d.command(protocol.Resume, job=job[:3])
        assert (await d.rests(job)).state == JobState.DONE
        assert d.ids(job) == {f"r{i}": 1 for i in range(5)}


async def test_an_idle_runner_unloads_and_leaves(tmp_path: Path) -> None:
    async with desk(tmp_path, idle_exit_s=0.2) as d:
        await d.rests(await d.submit(write_batch(tmp_path / "b.jsonl", 2)))
        await d.ended()
        assert d.runner.host.view.state == "none"


async def test_a_fault_in_a_job_ends_the_job_and_not_the_runner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk(tmp_path) as d:

        def broken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("of the test")

        with monkeypatch.context() as patch:
            patch.setattr("engine.intake.take_stock", broken)
            job = await d.submit(write_batch(tmp_path / "b.jsonl", 2))
            record = await d.rests(job)
        assert record.state == JobState.FAILED
        assert record.failure == "InternalError"
        assert "ZeroDivisionError" in record.sentence
        await d.command(protocol.Resume, job=job)
        assert (await d.rests(job)).state == JobState.DONE


async def test_text_goes_to_watchers_only_and_metrics_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_batch(tmp_path / "b.jsonl", 12)
    async with Desk(tmp_path, {"delay_s": 0.3}) as d:
        watch = protocol.WatchRequests(id=1, auto=2)
        monkeypatch.setattr(
            type(d.runner.control), "watched", lambda _: Watched(d.runner.resolve_watch(watch), frozenset())
        )
        texts: list[protocol.Delta] = []
        d.runner.control.publish_text = lambda _, deltas: texts.extend(deltas)  # type: ignore[method-assign]
        job = await d.submit(path, slots=4)
        await d.rests(job)
        assert 0 < len(texts) < 12
        metrics = lines_of(d.folder(job) / "metrics.jsonl")
        assert metrics
        assert metrics[-1]["memory"] == {"weights": 1000}
