"""A worker that speaks the real protocol and answers by digest instead of by model.

    python worker.py SCRIPT.json --fd N

The script (a JSON object, all keys optional) says how it behaves; deaths are listed one per start of the worker,
counted in the file SCRIPT.json.starts, so that a restarted worker goes on with the next entry.
    delay_s      seconds a request takes in its slot
    deaths       [{"at": "start" | "load" | "finish" | "begin", "n": 2, "how": "abort" | "kill" | "exit" | "silent" |
                 "garbage" | "huge" | "fatal", "say": "last words"}, null, …]: die at the n-th such moment
    poison       custom_ids that abort the process when they get a slot
    hold         custom_ids that never finish unless aborted
    drip_s       seconds between two tokens of requests in a slot; their text is `dripped`
    deaf         aborts are not answered
    load_failed  {"kind": "bad_file", "message": "…"}: one for every start, or a list by start
    finish       {custom_id: "invalid" | "length" | "oom" | …}: how these end
    version      what engine_version to tell
    orphan       start a child process of its own and print its pid
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from engine import protocol
from engine.protocol import Choice, Completion, Delta, EngineStats, FailureKind, Finish, ModelInfo, RequestError, Usage


def answer_of(body: dict[str, Any], seed: int) -> str:
    """What this worker answers: a function of the request alone."""
    text = json.dumps(body, sort_keys=True) + (f"/{seed}" if body.get("temperature") else "")
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def dripped(tokens: int) -> str:
    """The text of a request that has generated so many tokens of the script's `drip_s`."""
    return "".join(f"{n} " for n in range(tokens))


class Worker:
    def __init__(self, script: Path, fd: int) -> None:
        self.script: dict[str, Any] = json.loads(script.read_text())
        starts = script.with_name(script.name + ".starts")
        self.start = int(starts.read_text()) if starts.exists() else 0
        starts.write_text(str(self.start + 1))
        deaths = self.script.get("deaths", [])
        self.death: dict[str, Any] = (deaths[self.start] if self.start < len(deaths) else None) or {}
        self.moments = 0
        self.socket = socket.socket(fileno=fd)
        self.buffer = b""
        self.slots = 1
        self.waiting: list[protocol.Generate] = []
        self.running: dict[int, tuple[float, protocol.Generate]] = {}
        self.watched: set[int] = set()
        self.begun: dict[int, float] = {}
        self.dripped: dict[int, int] = {}
        self.generated = 0
        self.loaded = False

    def send(self, message: protocol.FromWorker) -> None:
        self.socket.sendall(protocol.pack(message))

    def moment(self, at: str) -> None:
        """Here a death may be due."""
        if self.death.get("at") != at:
            return
        self.moments += 1
        if self.moments == self.death.get("n", 1):
            self.die(self.death.get("how", "abort"), self.death.get("say", ""))

    def die(self, how: str, say: str) -> None:
        if say:
            sys.stdout.write(say + "\n")
            sys.stdout.flush()
        match how:
            case "abort":
                signal.signal(signal.SIGABRT, signal.SIG_DFL)
                os.abort()
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "silent":
                while True:
                    time.sleep(60)
            case "garbage":
                self.socket.sendall(b"\x00\x00\x00\x04\xc1\xc1\xc1\xc1")
                time.sleep(60)
            case "huge":
                self.socket.sendall(b"\xff\xff\xff\xff")
                time.sleep(60)
            case "fatal":
                self.send(protocol.Fatal(kind=FailureKind.OOM, message="llama_decode: failed to decode, ret = -2"))
                os._exit(1)

    def run(self) -> None:
        if self.script.get("orphan"):
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            sys.stdout.write(f"orphan {child.pid}\n")
            sys.stdout.flush()
        self.moment("start")
        self.send(protocol.Ready(pid=os.getpid()))
        while True:
            now = time.monotonic()
            due = min((t for t, _ in self.running.values()), default=now + 0.2)
            readable, _, _ = select.select([self.socket], [], [], min(0.2, max(0.0, due - now)))
            if readable:
                data = self.socket.recv(1 << 20)
                if not data:
                    os._exit(0)
                self.buffer += data
                while (payload := self.frame()) is not None:
                    self.take(protocol.unpack_to_worker(payload))
            if self.loaded:
                self.work()

    def frame(self) -> bytes | None:
        size = int.from_bytes(self.buffer[:4], "big")
        if len(self.buffer) < 4 + size or len(self.buffer) < 4:
            return None
        payload, self.buffer = self.buffer[4 : 4 + size], self.buffer[4 + size :]
        return payload

    def take(self, message: protocol.ToWorker) -> None:
        match message:
            case protocol.Load(settings=settings):
                self.load(settings)
            case protocol.Generate():
                self.waiting.append(message)
            case protocol.Abort(keys=keys):
                if not self.script.get("deaf"):
                    for key in keys:
                        self.abort(key)
            case protocol.Watch(keys=keys, fresh=fresh):
                for key in set(keys) - self.watched | set(fresh):
                    if text := dripped(self.dripped.get(key, 0)):
                        self.send(protocol.Deltas(items=[Delta(key=key, text=text, tokens=self.dripped[key])]))
                self.watched = set(keys)
            case protocol.Close():
                os._exit(0)

    def load(self, settings: protocol.EngineSettings) -> None:
        failed = self.script.get("load_failed")
        if isinstance(failed, list):
            failed = failed[self.start] if self.start < len(failed) else None
        self.send(protocol.LoadProgress(fraction=0.5))
        self.moment("load")
        if failed:
            self.send(protocol.LoadFailed(kind=FailureKind(failed["kind"]), message=failed["message"]))
            return
        self.slots = settings.slots
        info = ModelInfo(
            name=settings.model_name,
            path=settings.model_path,
            slots=settings.slots,
            context=settings.context,
            engine="llamacpp",
            engine_version=self.script.get("version", "double"),
            template_digest="double",
        )
        self.send(protocol.Loaded(info=info))
        self.loaded = True
        self.stats()

    def stats(self) -> None:
        stats = EngineStats(
            running=len(self.running),
            waiting=len(self.waiting),
            slots=self.slots,
            generated_tokens=self.generated,
            prompt_tokens=self.generated,
            memory={"weights": 1000},
        )
        self.send(protocol.Stats(stats=stats, progress={key: self.dripped.get(key, 0) for key in self.running}))

    def drip(self, step_s: float) -> None:
        for key in self.running:
            before = self.dripped.get(key, 0)
            now = int((time.monotonic() - self.begun[key]) / step_s)
            if now > before:
                self.dripped[key] = now
                self.generated += now - before
                if key in self.watched:
                    offset = len(dripped(before))
                    text = dripped(now)[offset:]
                    delta = Delta(key=key, text=text, tokens=now - before, offset=offset)
                    self.send(protocol.Deltas(items=[delta]))

    def abort(self, key: int) -> None:
        self.waiting = [g for g in self.waiting if g.key != key] if key not in self.running else self.waiting
        self.running.pop(key, None)
        choice = Choice(index=0, finish=Finish.ABORTED, content="half an ans")
        usage = Usage(prompt_tokens=5, completion_tokens=3)
        self.send(
            protocol.Finished(key=key, completion=Completion(finish=Finish.ABORTED, choices=[choice], usage=usage))
        )

    def work(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            generate = self.waiting.pop(0)
            self.send(protocol.Started(key=generate.key, prompt_tokens=5))
            self.begun[generate.key] = time.monotonic()
            self.running[generate.key] = (time.monotonic() + self.script.get("delay_s", 0.0), generate)
            self.moment("begin")
            if generate.custom_id in self.script.get("poison", []):
                self.die("abort", "GGML_ASSERT(poison) failed")
        if step_s := self.script.get("drip_s"):
            self.drip(step_s)
        now = time.monotonic()
        held = set(self.script.get("hold", []))
        for key, (due, generate) in list(self.running.items()):
            if due > now or generate.custom_id in held:
                continue
            del self.running[key]
            self.finish(generate)
            self.moment("finish")
        self.stats()

    def finish(self, generate: protocol.Generate) -> None:
        text = answer_of(generate.body, generate.seed)
        if generate.key in self.watched:
            self.send(protocol.Deltas(items=[Delta(key=generate.key, text=text, tokens=7)]))
        self.generated += 7
        finish = Finish(self.script.get("finish", {}).get(generate.custom_id, "stop"))
        usage = Usage(prompt_tokens=5, completion_tokens=7)
        if finish in protocol.SUCCESSES:
            completion = Completion(finish=finish, choices=[Choice(index=0, finish=finish, content=text)], usage=usage)
        else:
            status = 400 if finish in (Finish.INVALID, Finish.CONTEXT_EXCEEDED) else None
            error = RequestError(code=finish.value, message="as scripted", status=status)
            completion = Completion(finish=finish, usage=usage, error=error)
        self.send(protocol.Finished(key=generate.key, completion=completion))


if __name__ == "__main__":
    script_path, _, number = sys.argv[1:]
    Worker(Path(script_path), int(number)).run()
