"""The table of moves, and the plan of a run. Pure."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import runplan
from engine.errors import CommandRefused
from engine.job import ACTIVE, ENDED, MOVES, RESUMABLE, JobState, after_runner_death, move
from engine.modelfiles import ModelFile
from engine.protocol import ModelInfo, RunSettings
from engine.record import Fingerprint

MODEL = ModelFile(path=Path("/m/x.gguf"), name="x", format="gguf", digest="d")


def test_every_state_has_its_moves_and_none_leads_to_interrupted_but_an_active_one() -> None:
    assert set(MOVES) == set(JobState)
    assert {a for a, to in MOVES.items() if JobState.INTERRUPTED in to} == ACTIVE
    assert set(JobState) - ACTIVE - {JobState.QUEUED} == ENDED


@pytest.mark.parametrize("state", sorted(RESUMABLE))
def test_what_can_be_resumed_can_be_queued(state: JobState) -> None:
    assert move("j", state, JobState.QUEUED) == JobState.QUEUED


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_an_active_job_can_be_ended_and_a_dead_runner_interrupts_it(state: JobState) -> None:
    for to in (JobState.PAUSED, JobState.FAILED, JobState.ABORTED):
        assert move("j", state, to) == to
    assert after_runner_death(state) == JobState.INTERRUPTED


@pytest.mark.parametrize("state", sorted(set(JobState) - ACTIVE))
def test_a_resting_or_queued_job_stays_what_it_is(state: JobState) -> None:
    assert after_runner_death(state) == state


def test_a_refusal_says_what_is_possible() -> None:
    with pytest.raises(CommandRefused, match="j is done and cannot become running") as caught:
        move("j", JobState.DONE, JobState.RUNNING)
    assert "queued" in caught.value.advice


def test_choices_reach_the_engine_and_slots_are_no_more_than_sequences() -> None:
    run = RunSettings(slots=8, context=512, kv_unified=True, gpu_layers=0)
    settings = runplan.engine_settings(run, MODEL, date="2026-01-02", sequences=3)
    assert (settings.slots, settings.context, settings.kv_unified, settings.gpu_layers) == (3, 512, True, 0)
    assert (settings.model_path, settings.model_name, settings.date) == ("/m/x.gguf", "x", "2026-01-02")
    assert runplan.engine_settings(RunSettings(), MODEL, date="", sequences=0).slots == 1


def test_only_what_answers_depend_on_is_compared() -> None:
    def print_of(**choices: object) -> Fingerprint:
        run = RunSettings(**choices)  # type: ignore[arg-type]  # keyword choices of a test
        return runplan.fingerprint(run, MODEL, runplan.engine_settings(run, MODEL, date="d", sequences=99))

    before = runplan.completed(print_of(), ModelInfo(name="x", path="", template_digest="t", engine_version="1"))
    assert runplan.differences(None, before) == []
    assert runplan.differences(before, print_of(slots=2, threads=3, batch=64, gpu_layers=0)) == []
    changed = runplan.differences(before, print_of(context=64, kv_type="q8_0", seed=3, defaults={"top_p": 0.5}))
    assert [text.split(":")[0] for text in changed] == ["context", "kv_type", "defaults", "seed"]
    newer = runplan.completed(print_of(), ModelInfo(name="x", path="", template_digest="t", engine_version="2"))
    assert runplan.differences(before, newer) == ["engine_version: '1' before, '2' now"]


def test_new_settings_lie_over_the_old_ones() -> None:
    before = RunSettings(slots=4, context=64, skip_invalid=True, defaults={"seed": 1})
    after = runplan.overlay(before, RunSettings(context=128, kv_unified=False, seed=0))
    assert after == RunSettings(slots=4, context=128, skip_invalid=True, defaults={"seed": 1}, kv_unified=False, seed=0)
    assert runplan.overlay(before, None) == before


def test_defaults_fill_gaps_only() -> None:
    defaults = {"max_tokens": 5, "temperature": 0.5}
    known = {"max_tokens", "max_completion_tokens", "temperature"}
    assert runplan.with_defaults({}, defaults, known) == defaults
    assert runplan.with_defaults({}, {**defaults, "tools": []}, known) == defaults
    assert runplan.with_defaults({"temperature": 0}, defaults, known) == {"temperature": 0, "max_tokens": 5}
    assert runplan.with_defaults({"max_completion_tokens": 7}, defaults, known) == {
        "max_completion_tokens": 7,
        "temperature": 0.5,
    }


def test_the_seed_of_a_request_depends_on_run_id_and_body_only() -> None:
    seed = runplan.seed_of(0, "a", "req_1")
    assert seed == runplan.seed_of(0, "a", "req_1")
    assert len({seed, runplan.seed_of(1, "a", "req_1"), runplan.seed_of(0, "b", "req_1")}) == 3
    assert 0 <= runplan.seed_of(0, "\ud800", "") < 2**31
