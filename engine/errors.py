"""The errors a person can meet, each with its advice and exit code.

    GptossError
    ├── UsageError              the command, a setting or the input is wrong; nothing was started
    │   ├── SettingsError       a key or value in gptoss.toml, the environment or an option
    │   ├── BatchInvalid        lines of a batch file do not hold
    │   ├── InputChanged        the batch file is not what it was when it was read
    │   ├── JobNotFound         no such run in this workspace
    │   └── CommandRefused      the job's state does not allow this now
    ├── ResultsError            the files under results/
    │   ├── ResultsLocked       another runner owns them
    │   ├── ResultsDamaged      bytes in the middle of a journal are not what was written
    │   ├── ResultsUnwritable   disk full, read-only, or failing
    │   └── FingerprintChanged  resume would mix answers of different settings
    ├── ModelError              the model file
    │   ├── ModelNotFound
    │   └── ModelUnreadable
    ├── EngineError             the child process that holds the model
    │   ├── EngineUnavailable   its library is missing or does not work here
    │   ├── LoadFailed
    │   └── WorkerDied
    └── RunnerError             the background process
        ├── RunnerUnreachable   none answers, or it could not be started
        └── ProtocolMismatch    it is of another version than this client

A bad line of a batch is data, not an exception (`engine.batch.LineProblem`). Exceptions are for what stops a command
or a job.
"""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """What the shell sees."""

    OK = 0  # every request succeeded
    FAILED = 1  # the job or the program could not go on
    USAGE = 2  # wrong use: options, settings, input
    SOME_FAILED = 3  # the run ended, some requests have an error line
    RESUMABLE = 4  # ended early; `resume` goes on without losing anything


def exit_code_of_failure(failure: str) -> ExitCode:
    """What the shell sees of a job that failed with the error of this class name.

    Wrong use is told apart; whatever else ended a job, it could not go on.
    """
    found: object = globals().get(failure)
    if isinstance(found, type) and issubclass(found, GptossError) and found.exit_code == ExitCode.USAGE:
        return ExitCode.USAGE
    return ExitCode.FAILED


class GptossError(Exception):
    """What happened and where; `advice` says what to do next."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    @property
    def text(self) -> str:
        """Message and advice one after the other, for where there is only one place for both."""
        if not self.advice:
            return self.message
        return f"{self.message}{'' if self.message.endswith(('.', '!', '?')) else '.'} {self.advice}"

    @property
    def code(self) -> str:
        """A stable name for machines: the class name."""
        return type(self).__name__


class UsageError(GptossError):
    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """A setting with a wrong name or value; the message names the file and the nearest valid key."""


class BatchInvalid(UsageError):
    """Lines of the batch do not hold; the message counts them, the report lists each one."""


class InputChanged(UsageError):
    """The batch file is not what it was when it was read: requests would not be those that were validated."""


class JobNotFound(UsageError):
    """No run of that name in this workspace."""


class CommandRefused(UsageError):
    """The job's present state does not allow this command."""


class ResultsError(GptossError):
    exit_code = ExitCode.RESUMABLE


class ResultsLocked(ResultsError):
    """Another process writes these results."""

    exit_code = ExitCode.FAILED


class ResultsDamaged(ResultsError):
    """A journal holds bytes that nobody wrote."""


class ResultsUnwritable(ResultsError):
    """Writing or syncing a result failed: disk full, read-only, I/O error."""


class FingerprintChanged(ResultsError):
    """Resuming would mix answers made under different settings; the message names what changed."""

    exit_code = ExitCode.USAGE


class ModelError(GptossError):
    pass


class ModelNotFound(ModelError):
    exit_code = ExitCode.USAGE


class ModelUnreadable(ModelError):
    """The file is there and is not a model that can be read."""


class EngineError(GptossError):
    exit_code = ExitCode.RESUMABLE


class EngineUnavailable(EngineError):
    """The engine's library is missing or unusable on this machine."""

    exit_code = ExitCode.FAILED


class LoadFailed(EngineError):
    """The engine could not load the model; `kind` is one of protocol.FailureKind."""

    def __init__(self, message: str, *, kind: str, advice: str = "") -> None:
        super().__init__(message, advice=advice)
        self.kind = kind


class WorkerDied(EngineError):
    """The engine's process ended or fell silent."""


class RunnerError(GptossError):
    pass


class RunnerUnreachable(RunnerError):
    """No runner answers in this workspace and none could be started."""


class ProtocolMismatch(RunnerError):
    """Client and runner speak different protocol versions."""
