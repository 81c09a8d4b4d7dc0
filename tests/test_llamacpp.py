"""The llama.cpp engine on real models: a random one that shows the mechanics, the demo model where meaning counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np
import pytest

from engine.backends import llamacpp, llamacpp_grammar, llamacpp_log, llamacpp_loop, llamacpp_sampling
from engine.backends.base import EngineBroken, EngineLoadError, Generation, Sampling
from engine.backends.llamacpp_grammar import SchemaUnusable, compile_schema
from engine.backends.llamacpp_loop import Loop
from engine.protocol import Completion, Delta, EngineSettings, FailureKind, Finish
from tests.llamacpp_tiny import PlainParser, write_tiny

NANO = Path(llamacpp.__file__).parent.parent / "nano"
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def endless(tmp_path_factory) -> Path:
    """The same model, but its end tokens are never likely (their rows of the output matrix are those of one letter)."""
    return write_tiny(tmp_path_factory.mktemp("model") / "endless.gguf", endless=True)


class Rig:
    """A loaded engine with short words for what tests ask of it."""

    def __init__(self, engine: llamacpp.LlamaCpp) -> None:
        self.engine = engine
        self.tokenizer = engine.tokenizer
        self.keys = 0

    def generation(
        self, prompt: Any = "hello there", *, sampling=GREEDY, max_tokens=24, parser=None, stop_tokens=None, **kw
    ) -> Generation:
        self.keys += 1
        ids = self.tokenizer.encode(prompt, special=False) if isinstance(prompt, str) else prompt
        return Generation(
            key=self.keys,
            prompt=ids,
            sampling=sampling,
            max_tokens=max_tokens,
            make_parser=parser or (lambda choice: PlainParser(choice, self.tokenizer.piece)),
            stop_tokens=self.tokenizer.end_tokens if stop_tokens is None else stop_tokens,
            **kw,
        )

    async def items(self, generation: Generation) -> list:
        return [item async for item in self.engine.generate(generation)]

    async def run(self, prompt: Any = "hello there", **kw) -> Any:
        items = await self.items(self.generation(prompt, **kw))
        assert isinstance(items[-1], Completion)
        assert sum(isinstance(item, Completion) for item in items) == 1
        return items[-1]

    async def tokens(self, prompt="hello there", **kw) -> list[list[int]]:
        return [ids_of(choice) for choice in (await self.run(prompt, **kw)).choices]


def ids_of(choice) -> list[int]:
    return [int(t) for t in choice.raw.split(",") if t]


@contextlib.asynccontextmanager
async def loaded(path, **settings):
    engine = llamacpp.create()
    defaults = {"slots": 4, "context": 512, "threads": 1, "kv_type": "f32", "gpu_layers": 0}
    await engine.load(EngineSettings(model_path=str(path), **{**defaults, **settings}), lambda _f, _p: None)
    try:
        yield Rig(engine)
    finally:
        await engine.close()


PROMPTS = ["a", "the thing in the ant " * 9, "xyz " * 40, "1 2 3", "q" * 130, "hello", "in an inn", "The End " * 30] * 2


CLEAR = 0.1
"""Log-probability between first and second from which a greedy choice is sure: how many rows are computed at once, and
in which pieces, moves the random model's by up to 0.02."""


async def clear_answer(rig: Rig, prompt, **kw) -> list[int]:
    """The greedy answer up to the first choice that is not clear."""
    done = await rig.run(prompt, sampling=Sampling(temperature=0, logprobs=2), **kw)
    answer = []
    for token, logprob in zip(ids_of(done.choices[0]), done.choices[0].logprobs, strict=True):
        if logprob.top[0].logprob - logprob.top[1].logprob < CLEAR:
            break
        answer.append(token)
    return answer


async def test_same_greedy_answers_with_1_4_and_16_slots_in_any_order(endless):
    async with loaded(endless, slots=1, batch=64, ubatch=32) as rig:
        expected = [await clear_answer(rig, p, max_tokens=12 + 3 * (i % 4)) for i, p in enumerate(PROMPTS)]
    assert sum(map(len, expected)) > 100
    assert len({str(answer) for answer in expected}) >= 8, "different prompts get different answers"
    for slots, order, unified in ((1, -1, False), (4, -1, False), (16, 1, False), (16, -1, False), (4, 1, True)):
        async with loaded(endless, slots=slots, batch=64, ubatch=32, kv_unified=unified) as rig:
            jobs = list(enumerate(PROMPTS))[::order]
            answers = await asyncio.gather(*(rig.tokens(p, max_tokens=12 + 3 * (i % 4)) for i, p in jobs))
            for (i, _), (answer,) in zip(jobs, answers, strict=True):
                assert len(answer) == 12 + 3 * (i % 4)
                assert answer[: len(expected[i])] == expected[i], (slots, order, unified, i)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 63, 64, 65, 200, 480])
async def test_prompts_around_and_beyond_ubatch_and_batch(tiny, length):
    prompt = [97 + i % 20 for i in range(length)]
    async with loaded(tiny, slots=2, batch=64, ubatch=32) as small, loaded(tiny, slots=1, batch=512, ubatch=512) as big:
        sampling = Sampling(temperature=0, logprobs=5)
        mine = await small.run(prompt, max_tokens=4, sampling=sampling)
        reference = await big.run(prompt, max_tokens=4, sampling=sampling)
        assert ids_of(mine.choices[0]) == ids_of(reference.choices[0])
        assert mine.usage.prompt_tokens == length
        for a, b in zip(mine.choices[0].logprobs, reference.choices[0].logprobs, strict=True):
            assert a.logprob == pytest.approx(b.logprob, abs=0.05)


async def test_one_pass_over_the_weights_per_call(endless, capfd, monkeypatch):
    """Rows sorted, lowest slots first, prefill apart: partitioned, llama.cpp cuts anything else into several passes."""
    monkeypatch.setenv("LLAMA_BATCH_DEBUG", "1")
    calls = []
    real = Loop._decode
    monkeypatch.setattr(Loop, "_decode", lambda self: calls.append(self._batch.struct.n_tokens) or real(self))
    async with loaded(endless, slots=4) as rig:
        mark = llamacpp_log.LOG.mark()
        await asyncio.gather(*(rig.run(p, max_tokens=20) for p in ("aa", "bb", "cc", "dd")))
        lines = llamacpp_log.LOG.since(mark, debug=True)
    capfd.readouterr()
    passes = [int(m[1]) for line in lines if (m := re.search(r"ubatch_print:\s+n_tokens\s*=\s*(\d+)", line.text))]
    assert calls.count(4) >= 5
    assert passes == [n for n in calls for _ in ("planned", "built")], "the library prints each pass twice"


async def test_stops_at_the_end_token_and_counts_it(tiny):
    async with loaded(tiny) as rig:
        end = min(rig.tokenizer.end_tokens)
        done = await rig.run(sampling=Sampling(temperature=0, logit_bias={end: 100.0}))
        assert done.finish is Finish.STOP
        assert ids_of(done.choices[0]) == [end]
        assert done.usage.completion_tokens == 1


async def test_end_tokens_end_nothing_where_the_request_ignores_them(tiny):
    async with loaded(tiny) as rig:
        end = min(rig.tokenizer.end_tokens)
        sampling = Sampling(temperature=0, logit_bias={end: 100.0})
        done = await rig.run(sampling=sampling, stop_tokens=frozenset(), max_tokens=5)
        assert done.finish is Finish.LENGTH
        assert done.usage.completion_tokens == 5


async def test_stops_at_a_stop_string_of_the_parser(endless):
    async with loaded(endless) as rig:
        stop = b"".join(rig.tokenizer.piece(t) for t in (await rig.tokens())[0][4:6])
        done = await rig.run(parser=lambda i: PlainParser(i, rig.tokenizer.piece, stop=(stop,)))
        assert done.finish is Finish.STOP
        assert len(ids_of(done.choices[0])) < 24


async def test_length_at_max_tokens_and_at_the_full_context(endless):
    async with loaded(endless, slots=2, context=256) as rig:
        done = await rig.run("abc", max_tokens=5)
        assert (done.finish, done.usage.completion_tokens) == (Finish.LENGTH, 5)
        done = await rig.run("abc", max_tokens=None)
        assert done.finish is Finish.LENGTH
        assert done.usage.prompt_tokens + done.usage.completion_tokens == 256
        done = await rig.run("abc", max_tokens=253)
        assert done.usage.completion_tokens == 253


@pytest.mark.parametrize(
    ("changes", "finish", "code"),
    [
        ({"prompt": [97] * 250, "max_tokens": 7}, Finish.CONTEXT_EXCEEDED, "context_length_exceeded"),
        ({"prompt": [97] * 256, "max_tokens": None}, Finish.CONTEXT_EXCEEDED, "context_length_exceeded"),
        ({"prompt": []}, Finish.INVALID, "empty_prompt"),
        ({"prompt": [97, 270]}, Finish.INVALID, "invalid_token"),
        ({"prompt": [-1]}, Finish.INVALID, "invalid_token"),
        ({"sampling": Sampling(logit_bias={270: 1.0})}, Finish.INVALID, "invalid_token"),
        ({"max_tokens": 0}, Finish.INVALID, "invalid_value"),
        ({"sampling": Sampling(json_schema='{"type": "nonsense"}')}, Finish.INVALID, "unsupported_schema"),
    ],
)
async def test_what_can_never_run_is_refused_beside_good_requests(tiny, changes, finish, code):
    async with loaded(tiny, slots=2, context=256) as rig:
        good, bad, also = await asyncio.gather(rig.run("one"), rig.run(**changes), rig.run("two"))
        assert (bad.finish, bad.error.code, bad.error.status) == (finish, code, 400)
        assert bad.choices == []
        assert good.error is None
        assert also.error is None


async def test_prompt_count_then_text_then_one_completion(endless):
    async with loaded(endless) as rig:
        items = await rig.items(rig.generation("abcdef", stream=True))
        assert items[0] == 6
        assert isinstance(items[-1], Completion)
        deltas = items[1:-1]
        assert all(isinstance(item, Delta) for item in deltas)
        assert "".join(d.text for d in deltas).encode("latin-1") == b"".join(
            rig.tokenizer.piece(t, special=False) for t in ids_of(items[-1].choices[0])
        )
        assert sum(d.tokens for d in deltas) <= 24
        assert not [i for i in await rig.items(rig.generation("abcdef")) if isinstance(i, Delta)]


async def test_watch_switches_text_on_and_off(endless):
    async with loaded(endless) as rig:
        generation = rig.generation("abc", max_tokens=300)
        rig.engine.watch(frozenset({generation.key}))
        deltas = 0
        async for item in rig.engine.generate(generation):
            if isinstance(item, Delta):
                deltas += 1
                rig.engine.watch(frozenset())
        assert 0 < deltas < 250


async def test_abort_keeps_the_text_so_far(endless):
    async with loaded(endless, slots=1) as rig:
        running = rig.generation("abc", max_tokens=400, stream=True)
        waiting = asyncio.create_task(rig.run("def"))
        ends = []
        async for item in rig.engine.generate(running):
            if isinstance(item, Delta):
                await rig.engine.abort(running.key)
            ends.append(item)
        assert ends[-1].finish is Finish.ABORTED
        assert 0 < len(ids_of(ends[-1].choices[0])) < 400
        assert (await waiting).finish is Finish.LENGTH, "the slot goes to the next"
        await rig.engine.abort(12345)


async def test_abort_in_prefill_and_while_waiting(endless, monkeypatch):
    async with loaded(endless, slots=1, batch=16, ubatch=16) as rig:
        first, second = rig.generation([97] * 400, max_tokens=100), rig.generation("abc")
        calls = []
        real = Loop._decode

        def decode(self):
            calls.append(self._batch.struct.n_tokens)
            if len(calls) == 3:
                self.abort(first.key)
                self.abort(second.key)
            return real(self)

        monkeypatch.setattr(Loop, "_decode", decode)
        one, two = await asyncio.gather(rig.items(first), rig.items(second))
        assert len(calls) == 3, "25 calls of prefill were ahead"
        assert one[-1].finish is two[-1].finish is Finish.ABORTED
        assert one[-1].usage.completion_tokens == 0
        assert len(two) == 1, "it never had a slot"


async def test_a_reader_that_goes_away_gives_its_slot_back(endless):
    async with loaded(endless, slots=1) as rig:
        iterator: Any = rig.engine.generate(rig.generation("abc", max_tokens=480))
        assert await anext(iterator) == 3
        await iterator.aclose()
        assert (await rig.run("def", max_tokens=3)).finish is Finish.LENGTH
        assert rig.engine.stats().generated_tokens < 480


async def test_n_choices_more_than_slots(endless):
    async with loaded(endless, slots=2) as rig:
        sampling = Sampling(temperature=1, seed=7)
        done = await rig.run(n=5, sampling=sampling)
        assert [choice.index for choice in done.choices] == [0, 1, 2, 3, 4]
        assert len({choice.raw for choice in done.choices}) == 5
        assert done.usage.completion_tokens == 5 * 24
        assert done.usage.prompt_tokens == len(rig.tokenizer.encode("hello there", special=False))
        alone = await rig.run(n=1, sampling=sampling)
        assert alone.choices[0].raw == done.choices[0].raw


async def test_seeds_are_reproducible_whatever_else_runs(endless):
    sampling = Sampling(temperature=0.8, top_p=0.95, seed=42)
    async with loaded(endless, slots=1) as rig:
        alone = await rig.tokens("abc", sampling=sampling)
        assert await rig.tokens("abc", sampling=Sampling(temperature=0.8, top_p=0.95, seed=43)) != alone
    async with loaded(endless, slots=4) as rig:
        others = [rig.tokens(p, sampling=Sampling(temperature=1, seed=i)) for i, p in enumerate(PROMPTS[:6])]
        results = await asyncio.gather(*others, rig.tokens("abc", sampling=sampling))
        assert results[-1] == alone


async def test_logprobs_come_with_each_token_and_sum_to_one(tiny):
    async with loaded(tiny) as rig:
        done = await rig.run(sampling=Sampling(temperature=0, logprobs=rig.tokenizer.size), max_tokens=6)
        logprobs = done.choices[0].logprobs
        assert len(logprobs) == len(ids_of(done.choices[0]))
        for one, token in zip(logprobs, ids_of(done.choices[0]), strict=True):
            assert sum(np.exp(t.logprob) for t in one.top) == pytest.approx(1, abs=1e-5)
            assert one.logprob == one.top[0].logprob
            assert bytes(one.bytes) == rig.tokenizer.piece(token)


SCHEMAS = [
    "{}",
    '{"type":"object","properties":{"a":{"type":"integer"},"b":{"enum":["x","y"]}},"required":["a","b"]}',
    '{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":3}',
    '{"type":"string","maxLength":5}',
]


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_schema_holds_the_answer_and_ends_it(tiny, schema):
    async with loaded(tiny) as rig:
        ended = 0
        for seed in range(6):
            sampling = Sampling(temperature=1, seed=seed, json_schema=schema, top_p=0.9)
            done = await rig.run(
                sampling=sampling, max_tokens=250, parser=lambda i: PlainParser(i, rig.tokenizer.piece)
            )
            ids = ids_of(done.choices[0])
            assert not set(ids[:-1]) & rig.tokenizer.control_tokens, "markup is no text, whatever its spelling"
            if done.finish is Finish.STOP:
                ended += 1
                assert ids[-1] in rig.tokenizer.end_tokens
                value = json.loads(b"".join(rig.tokenizer.piece(t) for t in ids[:-1]).decode(errors="replace"))
                if "required" in schema:
                    assert isinstance(value["a"], int)
                    assert value["b"] in ("x", "y")
        assert ended or schema == "{}"


async def test_a_grammar_holds_only_in_the_answer(tiny):
    async with loaded(tiny) as rig:
        free = await rig.tokens(max_tokens=5)
        done = await rig.run(
            sampling=Sampling(temperature=0, json_schema=SCHEMAS[1]),
            max_tokens=60,
            parser=lambda i: PlainParser(i, rig.tokenizer.piece, answer_from=5),
        )
        ids = ids_of(done.choices[0])
        assert ids[:5] == free[0]
        assert rig.tokenizer.piece(ids[5]) == b"{"


@pytest.mark.parametrize(
    "schema",
    [
        "[]",
        "nonsense",
        '{"type":"string","pattern":"^]$"}',
        '{"type":"string","pattern":"^a}$"}',
        '{"type":"string","maxLength":100000}',
        '{"type":"array","items":{"type":"null"},"maxItems":100000}',
        '{"$ref":"https://example.com/x"}',
        '{"$ref":"#/missing"}',
        '{"type":"string","pattern":"no anchors"}',
        '{"type":"string","pattern":"^\\ud800$"}',
    ],
)
def test_schemas_that_would_hang_or_kill_are_refused(schema):
    with pytest.raises(SchemaUnusable):
        compile_schema(schema)


def test_keywords_that_a_grammar_cannot_hold_are_named():
    compiled = compile_schema(
        '{"type":"object","properties":{"n":{"type":"integer","minimum":1},"e":{"type":"string","format":"email"}}}'
    )
    assert compiled.unenforced == ("format 'email'", "minimum")


async def test_unenforced_keywords_are_noted_on_the_completion(tiny):
    async with loaded(tiny) as rig:
        schema = '{"type":"object","properties":{"n":{"type":"integer","minimum":1}},"required":["n"]}'
        done = await rig.run(sampling=Sampling(temperature=0, json_schema=schema), notes=["first"])
        assert done.notes[0] == "first"
        assert "minimum" in done.notes[1]


# --- faults -----------------------------------------------------------------------------------------------------------


async def test_a_full_pool_preempts_and_answers_stay_the_same(endless):
    prompts = [f"prompt {i} " * 5 for i in range(4)]
    async with loaded(endless, slots=1, context=256) as rig:
        expected = [await clear_answer(rig, p, max_tokens=24) for p in prompts]
        assert sum(map(len, expected)) > 20
    async with loaded(endless, slots=4, context=64, kv_unified=True, ubatch=32, batch=64) as rig:
        assert rig.engine.stats().kv_total == 256
        answers = await asyncio.gather(*(rig.tokens(p, max_tokens=24) for p in prompts))
        for (answer,), clear in zip(answers, expected, strict=True):
            assert len(answer) == 24
            assert answer[: len(clear)] == clear
        stats = rig.engine.stats()
        assert stats.preemptions > 0
        assert stats.kv_used == 0
        alone = await rig.run("abc", max_tokens=None)
        assert alone.usage.prompt_tokens + alone.usage.completion_tokens == 256


async def test_a_refused_row_fails_its_request_alone(endless, monkeypatch):
    real = Loop._decode

    def decode(self):
        n = self._batch.struct.n_tokens
        if 33 in self._batch.token[:n]:
            self._batch.token[:n][self._batch.token[:n] == 33] = 5000  # llama.cpp: outside the vocabulary, -1
        return real(self)

    async with loaded(endless) as rig:
        expected = await rig.tokens("abc")
        monkeypatch.setattr(Loop, "_decode", decode)
        no_33 = Sampling(temperature=0, logit_bias={33: -100.0})
        good, bad, also = await asyncio.gather(rig.run("abc"), rig.run("a!", sampling=no_33), rig.run("abcd"))
        assert bad.error.code == "internal_error"
        assert bad.error.status is None
        assert "-1" in bad.error.message
        assert [ids_of(good.choices[0])] == expected
        assert also.error is None
        assert (await rig.run("next")).error is None, "the engine goes on"


@pytest.mark.parametrize(("code", "kind"), [(-2, FailureKind.OOM), (-3, FailureKind.CRASH), (2, FailureKind.CRASH)])
async def test_a_lost_context_breaks_the_engine_for_all(endless, monkeypatch, code, kind):
    async with loaded(endless, slots=1) as rig:
        monkeypatch.setattr(Loop, "_decode", lambda _self: code)
        results: Any = await asyncio.gather(rig.run("abc"), rig.run("def"), return_exceptions=True)
        assert [(type(r), r.kind) for r in results] == [(EngineBroken, kind)] * 2
        with pytest.raises(EngineBroken):
            await rig.run("later")


class Faulty(PlainParser):
    def feed(self, token, logprob=None):
        if len(self.tokens) == 3:
            raise ZeroDivisionError("a parser's fault")
        return super().feed(token, logprob)


async def test_a_fault_in_a_parser_costs_its_own_request(endless, capfd):
    async with loaded(endless) as rig:
        bad, good = await asyncio.gather(
            rig.run("abc", n=2, parser=lambda i: Faulty(i, rig.tokenizer.piece)), rig.run("def")
        )
        assert bad.error.code == "internal_error"
        assert "ZeroDivisionError" in bad.error.message
        assert good.error is None
    assert "a parser's fault" in capfd.readouterr().err, "its traceback is in the log"


async def test_values_that_are_not_numbers_fail_the_request(endless, monkeypatch):
    real = c.llama_get_logits
    async with loaded(endless) as rig:

        def logits(context):
            pointer = real(context)
            pointer[5] = float("nan")
            return pointer

        monkeypatch.setattr(c, "llama_get_logits", logits)
        assert (await rig.run("abc")).error.code == "not_a_number"


# --- loading ----------------------------------------------------------------------------------------------------------


async def test_what_a_loaded_model_says_of_itself(tiny):
    engine = llamacpp.create()
    progress = []
    settings = EngineSettings(model_path=str(tiny), slots=3, context=300, threads=1, gpu_layers=0)
    info = await engine.load(settings, lambda f, p: progress.append((f, p)))
    assert (info.architecture, info.vocabulary, info.slots, info.engine) == ("gpt-oss", 270, 3, "llamacpp")
    assert info.context >= 300, "as granted, padded up"
    assert (info.device, info.gpu_offload, info.warnings) == ("CPU", False, [])
    assert progress[0] == (0.0, "weights")
    assert (1.0, "context") in progress
    stats = engine.stats()
    assert stats.kv_total == 3 * info.context
    assert {"weights", "kv", "compute"} <= stats.memory.keys()
    assert stats.memory["weights"] == pytest.approx(info.size_bytes, rel=0.02)
    await engine.close()
    await engine.close()


async def test_vocabulary(tiny):
    async with loaded(tiny) as rig:
        t = rig.tokenizer
        assert t.end_tokens == {t.special_id(s) for s in ("<|return|>", "<|call|>", "<|endoftext|>")}
        assert t.special_id("<|end|>") not in t.end_tokens
        assert t.special_id("<|nothing|>") is None
        assert t.special_id("the") is None
        assert t.bos is None
        for text in ("the ant é 🙂", "", "a<|end|>b", "<|channel|>final<|message|>", "<|" * 5):
            plain = t.encode(text, special=False)
            assert not set(plain) & t.control_tokens, "text of a user is never markup"
            assert b"".join(t.piece(i) for i in plain).decode() == text
        marked = t.encode("a<|end|>b", special=True)
        assert t.special_id("<|end|>") in marked
        for text in ("<|end|>", "<|channel|>"):
            token = t.special_id(text)
            assert token is not None
            assert (t.piece(token), t.piece(token, special=False)) == (text.encode(), b"")
    with pytest.raises(RuntimeError):
        t.encode("after the end", special=False)


async def failing(path, **settings) -> EngineLoadError:
    engine = llamacpp.create()
    with pytest.raises(EngineLoadError) as caught:
        await engine.load(
            EngineSettings(model_path=str(path), threads=1, gpu_layers=0, **settings), lambda _f, _p: None
        )
    await engine.close()
    return caught.value


async def test_load_failures_are_told_apart(tiny, tmp_path):
    data = tiny.read_bytes()
    cases = {
        "text.gguf": (b"this is a text file\n" * 50, FailureKind.BAD_FILE, "not a GGUF"),
        "empty.gguf": (b"", FailureKind.BAD_FILE, "empty"),
        "cut.gguf": (data[: len(data) // 2], FailureKind.BAD_FILE, "incomplete"),
        "head.gguf": (data[:200], FailureKind.BAD_FILE, "broken"),
        "other.gguf": (data.replace(b"gpt-oss", b"gpt-ozz"), FailureKind.UNSUPPORTED, "architecture"),
    }
    for name, (content, kind, words) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        error = await failing(path)
        assert (error.kind, words in error.message) == (kind, True), (name, error.kind, error.message)
        assert error.advice
    assert "not there" in (await failing(tmp_path / "missing.gguf")).message
    assert (await failing(tmp_path)).kind is FailureKind.UNSUPPORTED


@pytest.mark.parametrize("settings", [{"slots": 0}, {"slots": 257}, {"context": 0}, {"kv_type": "q3"}, {"ubatch": 0}])
async def test_settings_that_would_abort_are_refused(tiny, settings):
    error = await failing(tiny, **settings)
    assert error.kind is FailureKind.UNSUPPORTED
    assert next(iter(settings)) in error.message


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", FailureKind.OOM),
        (
            "llama_init_from_model: failed to initialize the context: failed to allocate buffer for kv cache",
            FailureKind.OOM,
        ),
        ("llama_model_load: error loading model: unable to allocate CUDA0 buffer", FailureKind.OOM),
        ("tensor 'x' data is not within the file bounds, model is corrupted or incomplete", FailureKind.BAD_FILE),
        ("error loading model: unknown model architecture: 'gpt-ozz'", FailureKind.UNSUPPORTED),
    ],
)
def test_causes_in_the_log(text, kind):
    lines = [llamacpp_log.Line(llamacpp_log.INFO, "failed to allocate"), llamacpp_log.Line(llamacpp_log.ERROR, text)]
    assert llamacpp_log.cause(lines) == (kind, text)


def test_log_lines_are_joined_and_levels_kept(capfd):
    log = llamacpp_log.Log()
    mark = log.mark()
    for level, text in ((2, "load_tensors: "), (5, "loading"), (5, " ...\n"), (1, "debug\n"), (4, "bad\nworse\n")):
        log.feed(level, text)
    assert [line.text for line in log.since(mark)] == ["load_tensors: loading ...", "bad", "worse"]
    assert log.last_errors() == ["bad", "worse"]
    assert "debug" not in capfd.readouterr().err


def test_memory_with_a_gpu_keeps_the_host_apart():
    lines = [
        llamacpp_log.Line(2, text)
        for text in (
            "llama_prepare_model_devices: using device CUDA0 (NVIDIA GeForce RTX 4080) (0000:01:00.0) - 15000 MiB free",
            "load_tensors: offloaded 25/25 layers to GPU",
            "load_tensors:        CUDA0 model buffer size = 10694.00 MiB",
            "load_tensors:   CPU_Mapped model buffer size =   587.00 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =   100.00 MiB",
            "llama_kv_cache:      CUDA0 KV buffer size =    20.00 MiB",
            "sched_reserve:      CUDA0 compute buffer size =    48.50 MiB",
            "llama_context:  CUDA_Host  output buffer size =    10.00 MiB",
        )
    ]
    mib = 1024 * 1024
    assert llamacpp_log.memory_by_owner(lines) == {
        "weights": 10694 * mib,
        "host": 597 * mib,
        "kv": 120 * mib,
        "compute": int(48.5 * mib),
    }
    assert llamacpp_log.device_used(lines) == ("NVIDIA GeForce RTX 4080", 25)
    # A long list of odd tokens pushes the line with the card's name out of the ring; the model is on it all the same.
    assert llamacpp_log.device_used(lines[1:]) == ("CUDA0", 25)
    assert llamacpp_log.device_used([line for line in lines if "offloaded" not in line.text]) == ("CPU", 0)


def test_a_gpu_that_is_not_used_is_never_passed_over():
    said = {"gpus": ["RTX 4080"], "library_has_gpu": False, "device": "CPU", "gpu_layers": -1, "errors": []}
    assert "make install" in llamacpp.gpu_warnings(**said)[0]
    broken = llamacpp.gpu_warnings(
        **{**said, "library_has_gpu": True, "errors": ["ggml_cuda_init: failed to initialize CUDA: no driver"]}
    )
    assert "no driver" in broken[0]
    for quiet in ({"gpus": []}, {"gpu_layers": 0}, {"device": "RTX 4080"}):
        assert llamacpp.gpu_warnings(**{**said, **quiet}) == []


HANGING = {"type": "string", "pattern": "^((a{0,40}){0,40}){0,40}$"}
"""So ambiguous that one act of its grammar takes llama.cpp minutes."""


async def test_a_schema_that_hangs_is_refused_alone(endless, monkeypatch):
    monkeypatch.setattr(llamacpp, "SCHEMA_S", 0.2)
    release = threading.Event()
    check = Loop.check
    monkeypatch.setattr(Loop, "check", lambda loop, g: release.wait(30) if g.sampling.json_schema else check(loop, g))
    async with loaded(endless, slots=2) as rig:
        bad, good = await asyncio.gather(
            rig.run(sampling=Sampling(temperature=0, json_schema=json.dumps(HANGING))), rig.run(max_tokens=4)
        )
        assert (bad.finish, bad.error.code, bad.error.status) == (Finish.INVALID, "unsupported_schema", 400)
        assert good.finish is Finish.LENGTH
        release.set()


async def test_a_grammar_that_hangs_in_mid_run_fails_its_request_and_then_the_engine(endless, monkeypatch):
    """Nobody can end a native call; the worker's process must, and it hears of it with the next heartbeat."""
    monkeypatch.setattr(llamacpp_loop, "GRAMMAR_S", 0.2)
    release = threading.Event()
    choose = llamacpp_sampling.Sampler.choose

    def hang(sampler, row, constraint=None):
        if constraint is not None:
            release.wait(30)
        return choose(sampler, row, constraint)

    monkeypatch.setattr(llamacpp_sampling.Sampler, "choose", hang)
    async with loaded(endless, slots=2) as rig:
        schema = json.dumps({"type": "string"})
        guilty = asyncio.create_task(rig.run(sampling=Sampling(temperature=0, json_schema=schema)))
        other = asyncio.create_task(rig.run(max_tokens=24))
        try:
            async with asyncio.timeout(10):
                while not (guilty.done() and other.done()):
                    rig.engine.stats()
                    await asyncio.sleep(0.02)
            assert ((await guilty).finish, (await guilty).error.code) == (Finish.INVALID, "unsupported_schema")
            with pytest.raises(EngineBroken, match="JSON schema") as broken:
                await other
            assert broken.value.kind is FailureKind.SILENT
        finally:
            release.set()


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 10**9},
        {"type": "array", "items": {}, "maxItems": 2.5},
        {"type": "string", "pattern": "^a{1,1000000000}$"},
    ],
)
def test_counts_that_would_fill_the_memory_are_refused_before_they_do(schema, monkeypatch):
    monkeypatch.setattr(llamacpp_grammar, "json_schema_to_gbnf", lambda _: pytest.fail("converted"))
    with pytest.raises(SchemaUnusable):
        compile_schema(json.dumps(schema))


def test_a_root_that_is_a_reference_into_recursive_definitions():
    tree = {
        "$ref": "#/$defs/Node",
        "$defs": {
            "Node": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    }
    assert "next" in compile_schema(json.dumps(tree)).gbnf


@pytest.mark.parametrize("letter", ["x", " ", "中", "."])
def test_long_unbroken_text_does_not_end_the_process(letter, tiny):
    """In a process of its own: the library's recursion ends it at about 30 000 letters."""
    code = (
        "import sys, llama_cpp.llama_cpp as c\n"
        "from engine.backends.llamacpp_vocab import Vocabulary\n"
        "mp = c.llama_model_default_params(); mp.vocab_only = True\n"
        "v = Vocabulary(c.llama_model_load_from_file(sys.argv[1].encode(), mp))\n"
        "text = 'a b ' + sys.argv[2] * 100_000 + ' c'\n"
        "ids = v.encode(text, special=False)\n"
        "assert b''.join(v.piece(t) for t in ids).decode() == text\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny), letter], check=True, capture_output=True)
