"""Every message between client, runner and worker, and their versions.

Two wires:
  client ⇄ runner   Unix socket, one JSON object a line (`encode_line`, `decode_command`, `decode_server`).
                    The client speaks first with Hello; the runner answers Welcome, then one Snapshot, then Events.
  runner ⇄ worker   a socketpair, u32 big-endian length + msgpack (`pack`, `unpack_to_worker`, `unpack_from_worker`).

Structs are frozen. Fields may be added with a default; anything else raises the version.
Times are Unix seconds (float), durations seconds, sizes bytes, rates per second.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from engine.job import JobState

CLIENT_PROTOCOL = 2
WORKER_PROTOCOL = 2

MAX_LINE_BYTES = 64 * 1024 * 1024
"""Longest JSON line either side accepts: a submit never carries a file's content, so more is a fault."""


class _Message(msgspec.Struct, frozen=True, tag_field="type", tag=True, kw_only=True, omit_defaults=True):
    """Base of all messages: the class name is the tag."""


class _Value(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of what messages carry."""


# --- generation: what a request comes to ------------------------------------------------------------------------------


class Channel(enum.StrEnum):
    """Where a piece of text belongs."""

    REASONING = "reasoning"  # harmony analysis, <think>
    ANSWER = "answer"  # what `message.content` holds
    TOOL = "tool"  # arguments of a tool call


class Finish(enum.StrEnum):
    """Why a request ended. The first three are successes in OpenAI's sense."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORTED = "aborted"  # by a person or a pause; has no line in the journal
    INVALID = "invalid"  # the request's own fault
    CONTEXT_EXCEEDED = "context_exceeded"  # prompt, or prompt + max_tokens, does not fit a slot
    PARSE_ERROR = "parse_error"  # the output broke its format; raw text is kept
    OOM = "oom"
    ENGINE_DIED = "engine_died"


SUCCESSES = frozenset({Finish.STOP, Finish.LENGTH, Finish.TOOL_CALLS})


class FailureKind(enum.StrEnum):
    """Why an engine could not load or died, as far as the evidence goes."""

    OOM = "oom"  # text of an allocation failure, or no free memory just before
    BAD_FILE = "bad_file"  # missing, truncated or not a model
    UNSUPPORTED = "unsupported"  # the engine can't run this model or setting
    CRASH = "crash"  # abort() or a signal without evidence of OOM
    KILLED = "killed"  # SIGKILL by somebody
    SILENT = "silent"  # no heartbeat
    EXITED = "exited"  # ended by itself with a code
    UNAVAILABLE = "unavailable"  # the library is missing


class RequestError(_Value, frozen=True, kw_only=True):
    """Why one request has no answer. `status` is an HTTP status when the request itself is at fault, else None."""

    code: str
    message: str
    status: int | None = None
    param: str | None = None


class TopLogprob(_Value, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(_Value, frozen=True, kw_only=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top: list[TopLogprob] = []


class ToolCall(_Value, frozen=True, kw_only=True):
    name: str
    arguments: str  # JSON text as generated; not re-encoded


class Choice(_Value, frozen=True, kw_only=True):
    index: int
    finish: Finish
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] | None = None
    raw: str | None = None  # the whole text with its markup, kept when parsing failed


class Usage(_Value, frozen=True, kw_only=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0


class Timing(_Value, frozen=True, kw_only=True):
    """Seconds of one request inside the engine."""

    queued_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0


class Completion(_Value, frozen=True, kw_only=True):
    """The end of a request: always exactly one per Generate, also after an abort or an error."""

    finish: Finish
    choices: list[Choice] = []
    usage: Usage = Usage()
    error: RequestError | None = None
    timing: Timing = Timing()
    notes: list[str] = []  # e.g. 'reasoning_effort "minimal" was read as "low"'


class Delta(_Value, frozen=True, kw_only=True):
    """A piece of text of a request in flight. `key` is the Generate's.

    `offset` is where it begins: characters of this channel of this choice before it. A request that is watched anew
    sends its text so far first (offset 0), so whoever watched before skips what it has.
    """

    key: int
    text: str
    channel: Channel = Channel.ANSWER
    choice: int = 0
    tokens: int = 1
    offset: int = 0


# --- engine settings and facts ----------------------------------------------------------------------------------------


class EngineSettings(_Value, frozen=True, kw_only=True):
    """What a worker needs to load a model. Two equal values mean a loaded engine can be kept."""

    engine: str = "llamacpp"
    model_path: str = ""
    model_name: str = ""  # what answers print as `model`
    slots: int = 16
    context: int = 4096  # tokens a slot holds, prompt and answer together
    batch: int = 2048  # rows of one llama_decode call
    ubatch: int = 256  # rows of one pass on the device
    kv_unified: bool = False
    kv_type: str = "f16"  # f16, f32, q8_0, q4_0
    gpu_layers: int = -1  # -1 all, 0 none
    threads: int = 0  # 0: chosen from the machine's cores
    date: str = ""  # YYYY-MM-DD that chat templates print, pinned for the whole run


class ModelInfo(_Value, frozen=True, kw_only=True):
    """A loaded model, told by the engine itself."""

    name: str
    path: str
    architecture: str = ""
    parameters: int = 0
    size_bytes: int = 0
    vocabulary: int = 0
    train_context: int = 0
    context: int = 0  # tokens per slot as really granted
    slots: int = 0
    engine: str = ""
    engine_version: str = ""
    device: str = ""  # "CPU" or the GPU's name
    gpu_offload: bool = False
    harmony: bool = False
    template_digest: str = ""
    warnings: list[str] = []  # e.g. a GPU is there and the library can't use it


class EngineStats(_Value, frozen=True, kw_only=True):
    """Counters since load; the runner makes rates of them. Sent at least every HEARTBEAT_S."""

    running: int = 0  # sequences in a slot
    waiting: int = 0  # requests accepted by the worker without a slot
    slots: int = 0
    kv_used: int = 0  # cells in use
    kv_total: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    steps: int = 0
    preemptions: int = 0
    memory: dict[str, int] = {}  # bytes by owner: weights, kv, compute, …


HEARTBEAT_S = 0.5
"""Longest a living worker stays silent between two Stats, also inside a long llama_decode."""


# --- runner → worker --------------------------------------------------------------------------------------------------


class Load(_Message, frozen=True, kw_only=True):
    settings: EngineSettings


class Generate(_Message, frozen=True, kw_only=True):
    """Run one request. `key` is unique among those in flight; `seed` applies where the body has none."""

    key: int
    custom_id: str
    url: str
    body: dict[str, Any]
    seed: int = 0
    stream: bool = False


class Abort(_Message, frozen=True, kw_only=True):
    """End these requests now; each still gets its Finished, with Finish.ABORTED and the text so far."""

    keys: list[int]


class Watch(_Message, frozen=True, kw_only=True):
    """Send deltas for these requests and no others.

    What was not watched before sends its text so far first, and so do those in `fresh`, for one more viewer.
    """

    keys: list[int]
    fresh: list[int] = []


class Close(_Message, frozen=True, kw_only=True):
    """Free everything and exit 0."""


ToWorker = Load | Generate | Abort | Watch | Close


# --- worker → runner --------------------------------------------------------------------------------------------------


class Ready(_Message, frozen=True, kw_only=True, omit_defaults=False):  # as Hello
    pid: int
    version: int = WORKER_PROTOCOL


class LoadProgress(_Message, frozen=True, kw_only=True):
    fraction: float
    phase: str = "weights"


class Loaded(_Message, frozen=True, kw_only=True):
    info: ModelInfo


class LoadFailed(_Message, frozen=True, kw_only=True):
    kind: FailureKind
    message: str
    advice: str = ""


class Started(_Message, frozen=True, kw_only=True):
    """The request has a slot; its prompt has this many tokens."""

    key: int
    prompt_tokens: int


class Deltas(_Message, frozen=True, kw_only=True):
    items: list[Delta]


class Finished(_Message, frozen=True, kw_only=True):
    key: int
    completion: Completion


class Stats(_Message, frozen=True, kw_only=True):
    """`progress`: tokens generated so far of each request in a slot, by key."""

    stats: EngineStats
    progress: dict[int, int] = {}


class Fatal(_Message, frozen=True, kw_only=True):
    """The engine is broken and the process is about to exit; requests in flight have no Finished."""

    kind: FailureKind
    message: str


FromWorker = Ready | LoadProgress | Loaded | LoadFailed | Started | Deltas | Finished | Stats | Fatal


# --- what clients see -------------------------------------------------------------------------------------------------


class Counts(_Value, frozen=True, kw_only=True):
    """Requests of a job. total = succeeded + failed + running + waiting + aborted, at every moment."""

    total: int = 0
    succeeded: int = 0  # a success line is fsynced
    failed: int = 0  # an error line is fsynced, no success line
    running: int = 0
    waiting: int = 0
    aborted: int = 0  # taken out by a person; no line, can be put back
    reused: int = 0  # of succeeded + failed: found on disk when this session of the job began
    invalid: int = 0  # of failed: bad input lines under --skip-invalid
    truncated: int = 0  # of succeeded: finish_reason "length"
    retried: int = 0  # requests run again after an engine death


class Eta(_Value, frozen=True, kw_only=True):
    """Seconds to the end, estimated from tokens; None while nothing is known."""

    s: float | None = None
    low_s: float | None = None
    high_s: float | None = None


class RunSettings(_Value, frozen=True, kw_only=True):
    """What a client may choose for one job. None: the runner's configuration decides."""

    model: str | None = None
    engine: str | None = None
    slots: int | None = None
    context: int | None = None
    batch: int | None = None
    ubatch: int | None = None
    kv_unified: bool | None = None
    kv_type: str | None = None
    gpu_layers: int | None = None
    threads: int | None = None
    seed: int | None = None
    defaults: dict[str, Any] = {}  # body parameters for lines that lack them: temperature, max_tokens, …
    skip_invalid: bool = False
    limit: int | None = None  # only the first N requests


class JobView(_Value, frozen=True, kw_only=True):
    """A job as clients draw it."""

    id: str  # also the name of its folder under results/
    state: JobState
    input_path: str
    created: float
    sentence: str = ""  # why it stands where it stands, for people
    failure: str = ""  # of a FAILED job: the class name of its error (engine.errors), or "InternalError"
    order: int = 0  # place in the queue, lowest first
    counts: Counts = Counts()
    started: float | None = None
    ended: float | None = None
    active_s: float = 0.0  # time spent running, over all sessions
    model: str = ""
    engine: str = ""
    settings: RunSettings = RunSettings()
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    decode_rate: float = 0.0  # tokens a second, last RATE_WINDOW_S
    prefill_rate: float = 0.0
    eta: Eta = Eta()
    load_fraction: float | None = None  # while loading, and of validating where the size is known
    restarts: int = 0  # engine deaths survived
    taken_out: list[str] = []  # custom_ids aborted by a person, the first hundred; counts.aborted has their number
    slots: int = 0  # as planned for this job; 0 before
    context: int = 0


RATE_WINDOW_S = 10.0


class EngineView(_Value, frozen=True, kw_only=True):
    """The engine worker as clients draw it."""

    state: str = "none"  # none, starting, loading, ready, closing, dead
    pid: int | None = None
    settings: EngineSettings | None = None
    info: ModelInfo | None = None
    stats: EngineStats = EngineStats()


class DeviceReading(_Value, frozen=True, kw_only=True):
    """One memory device at one moment."""

    name: str
    kind: str  # "gpu" or "ram"
    index: int = 0
    total: int = 0
    used: int = 0
    free: int = 0
    process: int | None = None  # bytes of our own processes, where it can be told
    utilization: float | None = None  # 0..1
    temperature_c: float | None = None
    power_w: float | None = None
    owners: dict[
        str, int
    ] = {}  # bytes: weights, kv, compute, context, runner, other; sums to `used` where all is known
    estimated: list[str] = []  # owners that are a residue or a share, not a measurement
    peak_used: int = 0  # highest `used` since the runner began
    peak_t: float = 0.0  # and when
    warn_free: int = 0  # below this much free memory the gauge warns
    critical_free: int = 0  # and below this an OOM is near


class Reading(_Value, frozen=True, kw_only=True):
    """One sample of the machine. `note` says what is missing ("no GPU: process and system RAM")."""

    t: float
    devices: list[DeviceReading] = []
    runner_rss: int = 0
    worker_rss: int = 0
    note: str = ""


class IncidentView(_Value, frozen=True, kw_only=True):
    """Something that happened, for the log. Of kind "state" and "command": in no file but run.json's sessions."""

    t: float
    job: str
    kind: str  # engine_died, engine_silent, load_failed, disk_full, damage, restarted, …, state, command
    message: str
    action: str = ""  # what was done about it
    level: str = "info"  # info, warn, error


class HistoryPoint(_Value, frozen=True, kw_only=True):
    """One second of the runner's life, for graphs."""

    t: float
    decode: float = 0.0  # tokens a second in this second, measured; not the mean of a longer window
    prefill: float = 0.0
    running: int = 0
    slots: int = 0
    kv_used: int = 0
    kv_total: int = 0
    free: list[int] = []  # bytes free, by device in the order of Reading.devices


HISTORY_S = 600
"""How much of it the runner keeps for new clients."""


class AckItem(_Value, frozen=True, kw_only=True):
    custom_id: str
    request_id: str
    ok: bool
    finish: str
    completion_tokens: int = 0


class RunningRequest(_Value, frozen=True, kw_only=True):
    """A request in a slot. Nothing `generated` yet: its prompt is being prefilled."""

    key: int
    custom_id: str
    prompt_tokens: int = 0
    generated: int = 0
    started: float = 0.0
    line: int = 0  # in the batch file, from 1
    max_tokens: int | None = None  # as the request or its defaults say; None: until the context is full
    rate: float = 0.0  # tokens a second of this one, last seconds
    job: str = ""


# --- client → runner --------------------------------------------------------------------------------------------------


class Hello(_Message, frozen=True, kw_only=True, omit_defaults=False):  # a version left out would be read as one's own
    version: int = CLIENT_PROTOCOL
    client: str = ""
    pid: int = 0


class _Command(_Message, frozen=True, kw_only=True):
    """A command. `id` comes back in its Reply; sending one twice is safe unless its docstring says otherwise."""

    id: int


class Submit(_Command, frozen=True, kw_only=True):
    """Queue one file. Not idempotent: two submits are two jobs."""

    path: str
    settings: RunSettings = RunSettings()


class Pause(_Command, frozen=True, kw_only=True):
    job: str
    now: bool = False  # True: requests in flight are aborted, their text so far kept


class Resume(_Command, frozen=True, kw_only=True):
    job: str
    force: bool = False  # go on although settings changed
    settings: RunSettings | None = None  # None: as before


class AbortJob(_Command, frozen=True, kw_only=True):
    job: str


class Retry(_Command, frozen=True, kw_only=True):
    """Run the failed requests of a job again."""

    job: str


class AbortRequest(_Command, frozen=True, kw_only=True):
    job: str
    custom_id: str


class PutBack(_Command, frozen=True, kw_only=True):
    """Queue aborted requests of a job again; custom_id None means all of them."""

    job: str
    custom_id: str | None = None


class Move(_Command, frozen=True, kw_only=True):
    job: str
    by: int  # places in the queue; negative is earlier


class Remove(_Command, frozen=True, kw_only=True):
    """Take a queued or ended job off the list. Its folder under results/ stays."""

    job: str


class WatchRequests(_Command, frozen=True, kw_only=True):
    """Stream text of these requests to this client: custom_ids of one job, or the first `auto` running ones."""

    job: str = ""
    custom_ids: list[str] = []
    auto: int = 0


class GetSnapshot(_Command, frozen=True, kw_only=True):
    pass


class Stop(_Command, frozen=True, kw_only=True):
    """End the runner: running jobs are paused, the engine is unloaded."""


Command = (
    Submit
    | Pause
    | Resume
    | AbortJob
    | Retry
    | AbortRequest
    | PutBack
    | Move
    | Remove
    | WatchRequests
    | GetSnapshot
    | Stop
)
FromClient = Hello | Command


# --- runner → client --------------------------------------------------------------------------------------------------


class Welcome(_Message, frozen=True, kw_only=True):
    version: int
    pid: int
    workspace: str
    started: float
    program: str = ""


class Snapshot(_Message, frozen=True, kw_only=True):
    """Everything a new client needs. Events that follow have a higher `seq`."""

    seq: int
    jobs: list[JobView] = []
    engine: EngineView = EngineView()
    reading: Reading | None = None
    incidents: list[IncidentView] = []
    running: list[RunningRequest] = []
    history: list[HistoryPoint] = []


class JobChanged(_Message, frozen=True, kw_only=True):
    seq: int
    job: JobView


class JobRemoved(_Message, frozen=True, kw_only=True):
    seq: int
    job: str


class EngineChanged(_Message, frozen=True, kw_only=True):
    seq: int
    engine: EngineView
    running: list[RunningRequest] = []


class Sampled(_Message, frozen=True, kw_only=True):
    seq: int
    reading: Reading


class Measured(_Message, frozen=True, kw_only=True):
    """Once a second: one more point of the history."""

    seq: int
    point: HistoryPoint


class Incident(_Message, frozen=True, kw_only=True):
    seq: int
    incident: IncidentView


class Acknowledged(_Message, frozen=True, kw_only=True):
    """These lines are fsynced. Sent after the fact, never before."""

    seq: int
    job: str
    items: list[AckItem]


class Text(_Message, frozen=True, kw_only=True):
    """Text of watched requests; dropped first when a client is slow, `dropped` counts what it lost since the last."""

    seq: int
    job: str
    items: list[Delta]
    dropped: int = 0


class Goodbye(_Message, frozen=True, kw_only=True):
    reason: str


class ErrorView(_Value, frozen=True, kw_only=True):
    code: str
    message: str
    advice: str = ""
    exit_code: int = 1


class Reply(_Message, frozen=True, kw_only=True):
    """The answer to the command with this id: an error, or what the command made."""

    id: int
    error: ErrorView | None = None
    job: str | None = None
    sentence: str = ""


Event = JobChanged | JobRemoved | EngineChanged | Sampled | Measured | Incident | Acknowledged | Text
FromRunner = Welcome | Snapshot | Event | Reply | Goodbye


# --- codecs -----------------------------------------------------------------------------------------------------------

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()
_from_client = msgspec.json.Decoder(FromClient)
_from_runner = msgspec.json.Decoder(FromRunner)
_to_worker = msgspec.msgpack.Decoder(ToWorker)
_from_worker = msgspec.msgpack.Decoder(FromWorker)


def encode_line(message: FromClient | FromRunner) -> bytes:
    """One message as a line of JSON with its newline."""
    return _json.encode(message) + b"\n"


def decode_from_client(line: bytes) -> FromClient:
    """Raises msgspec.DecodeError or msgspec.ValidationError on anything else."""
    return _from_client.decode(line)


def decode_from_runner(line: bytes) -> FromRunner:
    """Raises msgspec.DecodeError or msgspec.ValidationError on anything else."""
    return _from_runner.decode(line)


def pack(message: ToWorker | FromWorker) -> bytes:
    """One message as a frame: u32 big-endian length, then msgpack."""
    payload = _msgpack.encode(message)
    return len(payload).to_bytes(4, "big") + payload


def unpack_to_worker(payload: bytes) -> ToWorker:
    return _to_worker.decode(payload)


def unpack_from_worker(payload: bytes) -> FromWorker:
    return _from_worker.decode(payload)
