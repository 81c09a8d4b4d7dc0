"""What a newcomer does first: the demo batch on the embedded model, and the files it leaves."""

from __future__ import annotations

import json

import pytest
from openai.types import Batch
from openai.types.chat import ChatCompletion

from tests.e2e.harness import Box
from tools.make_batches import check

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_demo_ends_10_of_10_with_right_answers_shown(box: Box) -> None:
    box.batch("demo_10")
    done = box.run("run", "batches/demo_10.jsonl", "--show-answers")
    said = done.stdout + done.stderr
    assert "10/10" in said
    assert "embedded" in said  # no model was named: it says which one answers
    right, total, wrong = check(box.folder("demo_10-1"), None)
    assert (right, total) == (10, 10), wrong


def test_results_are_in_openai_form(box: Box) -> None:
    box.batch("demo_10")
    box.run("run", "batches/demo_10.jsonl")
    lines = box.lines("demo_10-1")
    assert len(lines) == 10
    for line in lines:
        assert list(line)[:4] == ["id", "custom_id", "response", "error"]
        assert line["error"] is None
        assert line["response"]["status_code"] == 200
        completion = ChatCompletion.model_validate(line["response"]["body"], strict=True)
        assert completion.choices[0].finish_reason == "stop"
        assert completion.choices[0].message.content
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0
    batch = Batch.model_validate_json((box.folder("demo_10-1") / "batch.json").read_bytes())
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (10, 10, 0)


def test_export_is_in_input_order_and_verify_is_content(box: Box) -> None:
    source = box.batch("demo_10")
    box.run("run", source)
    box.run("verify", "demo_10-1")
    out = box.root / "ordered.jsonl"
    box.run("export", "demo_10-1", "--out", out)
    wanted = [json.loads(line)["custom_id"] for line in source.read_text(encoding="utf-8").splitlines()]
    assert [json.loads(line)["custom_id"] for line in out.read_text(encoding="utf-8").splitlines()] == wanted


def test_verify_finds_a_damaged_line(box: Box) -> None:
    box.run("run", box.batch("demo_10"))
    box.run("stop")
    path = box.folder("demo_10-1") / "output.jsonl"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = box.run("verify", "demo_10-1", expect=None)
    assert done.returncode != 0
    assert "output.jsonl line 6" in done.stdout


@pytest.mark.parametrize("slots", [1, 16])
def test_answers_do_not_depend_on_the_number_of_slots(box: Box, slots: int) -> None:
    source = box.batch("batch_10")
    box.run("run", source, "--slots", "4")
    box.run("run", source, "--slots", str(slots))
    assert box.answers("batch_10-1") == box.answers("batch_10-2")


def test_bad_lines_are_all_reported_and_nothing_is_started(box: Box) -> None:
    source = box.root / "batches" / "bad.jsonl"
    good = {"custom_id": "ok", "method": "POST", "url": "/v1/chat/completions"}
    good["body"] = {"model": "nano", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}  # type: ignore[assignment]  a dict among strings
    body = json.dumps(good["body"])
    source.write_text(
        "\n".join(
            [
                json.dumps(good),
                "{not json",
                json.dumps(good),  # the id again
                '{"custom_id":"typo","method":"POST","url":"/v1/chat/completions","body":'
                + body.replace('"model"', '"temprature": 1, "model"')
                + "}",
            ]
        ),
        encoding="utf-8",
    )
    done = box.run("run", source, expect=2)
    said = done.stdout + done.stderr
    for part in ("line 2", "line 3", "line 4", "temprature", "temperature", "duplicate"):
        assert part in said, said
    assert not box.workers()

    box.run("run", source, "--skip-invalid", expect=3)
    job = max(p.name for p in (box.root / "results").glob("bad-*"))
    assert [line["custom_id"] for line in box.lines(job)] == ["ok"]
    assert len(box.lines(job, "errors.jsonl")) == 3


def test_plain_prompts_run_too(box: Box) -> None:
    source = box.root / "prompts.txt"
    source.write_text('What is 12 + 30?\nReverse the word "house".\n', encoding="utf-8")
    box.run("run", source, "--temperature", "0")
    said = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in box.lines("prompts-1")
    }
    assert said == {"line-1": "42", "line-2": "esuoh"}


def test_two_files_queue_and_run_one_after_another(box: Box) -> None:
    first, second = box.batch("demo_10"), box.batch("batch_10")
    box.run("run", first, second)
    assert box.state("demo_10-1") == box.state("batch_10-1") == "done"
    assert len(box.runners()) <= 1


def test_a_done_run_whose_answers_were_damaged_is_mended_by_resume(box: Box) -> None:
    box.run("run", box.batch("demo_10"))
    whole = box.answers("demo_10-1")
    box.run("stop")
    path = box.folder("demo_10-1") / "output.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = lines[3].replace(b'"content":"', b'"content":"x', 1)
    path.write_bytes(b"".join(lines)[:-20])
    box.run("verify", "demo_10-1", expect=1)
    box.run("resume", "demo_10-1")
    box.run("attach", "demo_10-1")
    box.run("verify", "demo_10-1")
    assert box.answers("demo_10-1") == whole


def test_a_run_without_a_readable_record_is_named(box: Box) -> None:
    box.run("run", box.batch("demo_10"))
    box.run("stop")
    (box.folder("demo_10-1") / "run.json").write_text('{"version": 1,', encoding="utf-8")
    said = box.run("status").stdout
    assert "demo_10-1: run.json can't be read" in said
    assert "run.json" in box.run("status", "--json").stdout
