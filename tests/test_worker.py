"""The worker process as its runner meets it: frames, load failures, bad requests, signals, and no orphan."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.protocol import (
    HEARTBEAT_S,
    Abort,
    Close,
    Deltas,
    EngineSettings,
    FailureKind,
    Fatal,
    Finish,
    Finished,
    Generate,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Ready,
    Started,
    Stats,
    Watch,
    pack,
    unpack_from_worker,
)

ROOT = Path(engine.__file__).parent.parent
NANO = ROOT / "engine" / "nano" / "nano.gguf"
SETTINGS = EngineSettings(model_path=str(NANO), slots=4, context=1024, threads=1, gpu_layers=0)
pytestmark = pytest.mark.e2e


class Peer:
    """The runner's end, with blocking reads. `patch`: Python run in the worker before its main."""

    def __init__(self, log: Path, patch: str = "") -> None:
        self.sock, theirs = socket.socketpair()
        self.sock.settimeout(60)
        start = textwrap.dedent(patch) + "\nfrom engine.backends.worker import main\nmain()"
        command = ["-c", start] if patch else ["-m", "engine.backends.worker"]
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command, "--fd", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=out,
                cwd=ROOT,
            )
        theirs.close()
        self.seen: list = []

    def send(self, *messages) -> None:
        for message in messages:
            self.sock.sendall(pack(message))

    def read(self):
        message = unpack_from_worker(self._exactly(int.from_bytes(self._exactly(4), "big")))
        self.seen.append(message)
        return message

    def _exactly(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            piece = self.sock.recv(n - len(data))
            if not piece:
                raise EOFError(self.log.read_text()[-2000:])
            data += piece
        return data

    def until(self, *kinds) -> Any:
        while not isinstance(message := self.read(), kinds):
            pass
        return message

    def load(self, settings=SETTINGS) -> Any:
        self.send(Load(settings=settings))
        return self.until(Loaded, LoadFailed)

    def finished(self, n: int) -> dict[int, Finished]:
        return {(m := self.until(Finished)).key: m for _ in range(n)}

    def end(self) -> None:
        self.sock.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def worker(tmp_path):
    with contextlib.ExitStack() as stack:

        def start(patch: str = "") -> Peer:
            peer = Peer(tmp_path / "worker.log", patch)
            stack.callback(peer.end)
            assert peer.read() == Ready(pid=peer.process.pid)
            return peer

        yield start


def chat(key: int, text: str, *, stream=False, **body) -> Generate:
    body = {"model": "nano", "messages": [{"role": "user", "content": text}], "temperature": 0, **body}
    return Generate(key=key, custom_id=f"r{key}", url="/v1/chat/completions", body=body, stream=stream)


def raw(key: int, prompt: Any = "Once", **body: Any) -> Generate:
    body = {"model": "nano", "prompt": prompt, "temperature": 0, **body}
    return Generate(key=key, custom_id=f"r{key}", url="/v1/completions", body=body)


FOREVER: dict[str, Any] = {"logit_bias": {"1272": -100, "1273": -100, "1279": -100}}  # the demo model's end tokens


def test_a_load_good_and_bad_requests_and_close(worker):
    peer = worker()
    loaded = peer.load()
    assert loaded.info.harmony
    assert loaded.info.template_digest
    assert loaded.info.slots == 4
    progress = [m.fraction for m in peer.seen if isinstance(m, LoadProgress)]
    assert progress == sorted(progress)
    assert len(progress) >= 2
    peer.send(
        chat(1, 'Reverse the word "planet".', stream=True),
        chat(2, "What is 12 + 34?", max_tokens=40),
        chat(3, "x " * 3000),
        Generate(key=4, custom_id="r4", url="/v1/nothing", body={}),
        raw(5, prompt=[5_000_000]),
        chat(6, "hi", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "foo"}}}),
        raw(7, max_tokens=3, n=2),
    )
    done = peer.finished(7)
    assert done[1].completion.finish is Finish.STOP
    assert done[1].completion.choices[0].content
    assert done[1].completion.choices[0].reasoning
    assert done[2].completion.finish in (Finish.STOP, Finish.LENGTH)
    assert done[3].completion.finish is Finish.CONTEXT_EXCEEDED
    assert done[4].completion.finish is Finish.INVALID
    assert done[5].completion.finish is Finish.INVALID
    assert (done[6].completion.finish, done[6].completion.error.code) == (Finish.INVALID, "unsupported_schema")
    assert [c.index for c in done[7].completion.choices] == [0, 1]
    text = "".join(d.text for m in peer.seen if isinstance(m, Deltas) for d in m.items if d.key == 1)
    assert done[1].completion.choices[0].content in text
    order = [type(m).__name__ for m in peer.seen if getattr(m, "key", None) == 1]
    assert order == ["Started", "Finished"]
    assert not [d for m in peer.seen if isinstance(m, Deltas) for d in m.items if d.key != 1], "only what is watched"
    assert isinstance(peer.until(Stats), Stats)
    peer.send(Close())
    assert peer.process.wait(20) == 0


def test_abort_and_watch(worker):
    peer = worker()
    peer.load()
    peer.send(*(raw(key, max_tokens=900, **FOREVER) for key in (1, 2)), Watch(keys=[2]))
    deltas = peer.until(Deltas)
    assert {d.key for d in deltas.items} == {2}
    peer.send(Abort(keys=[2, 99]))
    aborted = peer.until(Finished)
    assert (aborted.key, aborted.completion.finish) == (2, Finish.ABORTED)
    assert aborted.completion.choices[0].content
    peer.send(raw(3, max_tokens=900, **FOREVER), Abort(keys=[3]))
    rest = peer.finished(2)
    assert rest[3].completion.finish is Finish.ABORTED
    assert rest[1].completion.finish is Finish.LENGTH


def test_load_failures_have_their_kind_and_another_load_may_follow(worker, tmp_path):
    (tmp_path / "text.gguf").write_text("not a model " * 99)
    (tmp_path / "cut.gguf").write_bytes(NANO.read_bytes()[:900_000])
    peer = worker()
    for name in ("text.gguf", "cut.gguf", "missing.gguf"):
        failed = peer.load(EngineSettings(model_path=str(tmp_path / name), slots=1, threads=1))
        assert isinstance(failed, LoadFailed), name
        assert failed.kind is FailureKind.BAD_FILE
        assert name in failed.message
        assert failed.advice
    assert peer.load(EngineSettings(engine="elsewhere", model_path=str(NANO))).kind is FailureKind.UNSUPPORTED
    peer.send(chat(1, "too early"))
    early = peer.until(Finished).completion
    assert (early.error.code, early.error.status) == ("internal_error", None)
    assert isinstance(peer.load(), Loaded)
    again = peer.load()
    assert isinstance(again, LoadFailed)
    peer.send(raw(2, max_tokens=2))
    assert peer.until(Finished).completion.error is None


def test_a_missing_library_is_unavailable(worker):
    peer = worker("import sys; sys.modules['llama_cpp'] = None")
    failed = peer.load()
    assert (failed.kind, "make install" in failed.advice) == (FailureKind.UNAVAILABLE, True)


def test_the_worker_itself_loads_no_engine():
    code = (
        "import sys, engine.backends.worker; print([m for m in ('llama_cpp', 'numpy', 'jinja2') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"


SLOW_DECODE = """
    import ctypes
    from engine.backends.llamacpp_loop import Loop
    real = Loop._decode
    def decode(self):
        ctypes.CDLL(None).usleep({us})  # as llama_decode: without the interpreter's lock
        return real(self)
    Loop._decode = decode
"""


def test_heartbeat_during_a_long_decode(worker):
    peer = worker(SLOW_DECODE.format(us=2_500_000))
    peer.load()
    peer.send(raw(1, max_tokens=1))
    times = []
    while not isinstance(message := peer.read(), Finished):
        if isinstance(message, Stats):
            times.append(time.monotonic())
    assert len(times) >= 4
    assert max(b - a for a, b in itertools.pairwise(times)) < 2 * HEARTBEAT_S


def test_eof_ends_an_idle_worker(worker):
    peer = worker()
    peer.load()
    peer.sock.close()
    assert peer.process.wait(2) == 1


def test_eof_ends_a_worker_inside_a_decode_that_never_ends(worker):
    peer = worker(SLOW_DECODE.format(us=60_000_000))
    peer.load()
    peer.send(raw(1))
    peer.until(Started, Stats)
    peer.sock.close()
    assert peer.process.wait(3) == 1


def test_eof_ends_a_worker_whose_event_loop_hangs(worker):
    peer = worker("""
        import time
        from engine.backends.worker import Worker
        Worker._handle = lambda self, message: time.sleep(100)
    """)
    peer.send(Close())
    peer.sock.close()
    assert peer.process.wait(3) == 1


def test_sigterm_ends_in_order_and_answers_what_runs(worker):
    peer = worker()
    peer.load()
    peer.send(raw(1, max_tokens=900, **FOREVER))
    peer.until(Started)
    for ignored in (signal.SIGINT, signal.SIGHUP):
        peer.process.send_signal(ignored)
    peer.until(Stats)
    peer.process.send_signal(signal.SIGTERM)
    assert peer.until(Finished).completion.finish in (Finish.ABORTED, Finish.LENGTH)
    assert peer.process.wait(10) == 0


def test_a_broken_engine_is_fatal_with_its_own_exit_code(worker):
    peer = worker("""
        from engine.backends.llamacpp_loop import Loop
        Loop._decode = lambda self: -2
    """)
    peer.load()
    peer.send(raw(1), raw(2))
    fatal = peer.until(Fatal)
    assert fatal.kind is FailureKind.OOM
    assert "-2" in fatal.message
    assert peer.process.wait(10) == 70
    assert sum(isinstance(m, Fatal) for m in peer.seen) == 1
    assert not [m for m in peer.seen if isinstance(m, Finished)]


def test_a_fault_in_one_request_is_told_and_the_others_go_on(worker):
    peer = worker("""
        from engine.chat import Chat
        real = Chat.prepare
        def prepare(self, **kw):
            if kw["key"] == 2:
                raise ZeroDivisionError("for the test")
            return real(self, **kw)
        Chat.prepare = prepare
    """)
    peer.load()
    peer.send(*(raw(key, max_tokens=5) for key in (1, 2, 3)))
    done = peer.finished(3)
    assert done[2].completion.error.code == "internal_error"
    assert done[2].completion.error.status is None
    assert "ZeroDivisionError" in done[2].completion.error.message
    assert done[1].completion.error is None
    assert done[3].completion.error is None
    assert "for the test" in peer.log.read_text(), "its traceback is evidence in the log"


def test_what_is_no_message_ends_the_worker_with_a_word(worker):
    peer = worker()
    peer.sock.sendall((5).to_bytes(4, "big") + b"hello")
    assert "can't read" in peer.until(Fatal).message
    assert peer.process.wait(10) == 65


def test_an_abort_of_the_library_leaves_its_text_in_the_log(worker):
    peer = worker("""
        from engine.backends import llamacpp_loop
        llamacpp_loop.Loop._decode = lambda self: llamacpp_loop.c.llama_memory_seq_rm(self._memory, 99, -1, -1) and 0
    """)
    peer.load()
    peer.send(raw(1))
    with pytest.raises(EOFError):
        peer.until(Finished)
    assert peer.process.wait(10) == -signal.SIGABRT
    assert "GGML_ASSERT" in peer.log.read_text()
