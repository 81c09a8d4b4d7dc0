"""What this machine has and lacks for a run: facts with a level and the command that mends. Changes nothing.

`diagnose` is the whole list, for `gptoss-tui doctor`. `gpu_unusable` and `logout_kills` are the two findings that a run
says by itself at its start; they are cheap, and read nothing that can block for long.
"""

from __future__ import annotations

import configparser
import importlib.metadata
import importlib.util
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from engine.errors import GptossError, ModelError, UsageError
from engine.workspace import SOCKET_PATH_BYTES, Workspace

LLAMA_CPP = "llama-cpp-python"
LLAMA_CPP_VERSION = "0.3.36"
"""The version whose structs engine.backends.llamacpp passes by value; pyproject.toml pins the same."""

MEND_GPU = (
    "Run `make install` again where nvcc is installed, or: "
    f'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir {LLAMA_CPP}=={LLAMA_CPP_VERSION}'
)
MEND_LOGOUT = "Run once: loginctl enable-linger"

CHILD_LIMIT_S = 60.0
"""Longest a library may take to load before it counts as hung. A CUDA start on a cold disk takes many seconds."""

LOW_DISK_BYTES = 2 * 1024**3
LOW_FILES = 1024

RISKY_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "drvfs", "vboxsf", "fuse.sshfs", "fuse.vmhgfs-fuse", "afs"}
)
"""Where flock or fsync may promise more than they keep."""

RAM_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs"})

Level = Literal["ok", "warn", "error"]


class Finding(msgspec.Struct, frozen=True):
    """One fact about this machine."""

    name: str
    level: Level
    sentence: str
    fix: str = ""


def diagnose(
    workspace: Workspace, *, only: str | None = None, on_finding: Callable[[Finding], None] | None = None
) -> list[Finding]:
    """All checks in the order a person would ask, or the one named `only`.

    A check that fails itself is a finding, not an exception.
    """
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "python": lambda: [python()],
        "llama.cpp": llama_cpp,
        "vLLM": lambda: [vllm()],
        "GPU": gpu,
        "demo model": demo_model,
        "workspace": lambda: folder(workspace),
        "socket": lambda: [socket_folder(workspace)],
        "logout": lambda: [logout()],
        "limits": lambda: [limits()],
    }
    if only is not None and only not in checks:
        raise UsageError(f"there is no check {only!r}", advice=f"The checks are: {', '.join(checks)}.")
    found: list[Finding] = []
    for name in checks if only is None else [only]:
        try:
            results = list(checks[name]())
        except (OSError, ValueError, ImportError, GptossError) as e:  # an ImportError: half an installation
            results = [Finding(name, "warn", f"this could not be checked: {e}")]
        for finding in results:
            found.append(finding)
            if on_finding is not None:
                on_finding(finding)
    return found


# --- programs and libraries -------------------------------------------------------------------------------------------


def python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Finding:
    """This interpreter."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Finding(
            "python", "error", f"Python {text} is too old", "Install Python 3.11 or newer, then make install."
        )
    return Finding("python", "ok", f"Python {text} ({sys.executable})")


_LOAD = """
import resource
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is expected here: no core file for it
import llama_cpp
print("offload", int(llama_cpp.llama_supports_gpu_offload()), llama_cpp.__version__, llama_cpp.__file__, flush=True)
"""


class Library(msgspec.Struct, frozen=True):
    """What loading llama-cpp-python in a process of its own came to."""

    loads: bool
    gpu: bool = False
    version: str = ""
    file: str = ""
    trouble: str = ""


def load_llama_cpp(code: str = _LOAD, *, limit_s: float = CHILD_LIMIT_S) -> Library:
    """Load it in a child: a library built for another processor ends the process, which must not be ours."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Library(False, trouble=f"loading did not end within {limit_s:g} s")
    except OSError as e:
        return Library(False, trouble=f"no process could be started: {e.strerror}")
    for line in done.stdout.splitlines():
        words = line.split(maxsplit=3)
        if done.returncode == 0 and len(words) == 4 and words[0] == "offload":
            return Library(True, gpu=words[1] == "1", version=words[2], file=words[3])
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "it printed nothing")
    if done.returncode < 0:
        why = f"the process died of {_signal_name(-done.returncode)}"
        if -done.returncode == signal.SIGILL:
            why += " (an instruction this processor does not have: it was built on another machine)"
        return Library(False, trouble=f"{why}; {last.strip()}")
    return Library(False, trouble=last.strip())


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:  # a real-time signal
        return f"signal {number}"


def llama_cpp(*, limit_s: float = CHILD_LIMIT_S) -> Iterable[Finding]:
    """The engine of this version: installed, of the right version, and loading."""
    try:
        version = importlib.metadata.version(LLAMA_CPP)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("llama.cpp", "error", f"{LLAMA_CPP} is not installed", "Run `make install`.")
        return
    if version != LLAMA_CPP_VERSION:
        yield Finding(
            "llama.cpp",
            "error",
            f"{LLAMA_CPP} is {version}; this program works with {LLAMA_CPP_VERSION}",
            f"pip install {LLAMA_CPP}=={LLAMA_CPP_VERSION}",
        )
        return
    library = load_llama_cpp(limit_s=limit_s)
    if not library.loads:
        yield Finding(
            "llama.cpp",
            "error",
            f"{LLAMA_CPP} {version} is installed and does not load: {library.trouble}",
            f"Build it on this machine: pip install --force-reinstall --no-cache-dir {LLAMA_CPP}=={LLAMA_CPP_VERSION}",
        )
        return
    if library.version != version:
        yield Finding(
            "llama.cpp",
            "error",
            f"another llama_cpp comes before the installed one: {library.file}, version {library.version}",
            "Take its folder out of PYTHONPATH, or start from another folder.",
        )
        return
    built = "with GPU support" if library.gpu else "for the CPU"
    yield Finding("llama.cpp", "ok", f"{LLAMA_CPP} {version} loads, built {built}")


def vllm() -> Finding:
    """Not needed: said so that nobody looks for it."""
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        return Finding("vLLM", "ok", "vLLM is not installed and not needed: this version drives llama.cpp only")
    return Finding("vLLM", "ok", f"vLLM {version} is installed; this version drives llama.cpp only and does not use it")


# --- GPU --------------------------------------------------------------------------------------------------------------


def gpu_names() -> list[str]:
    """NVIDIA GPUs that the driver tells of; empty without a driver or without its Python bindings."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        names = [
            pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i)) for i in range(pynvml.nvmlDeviceGetCount())
        ]
        return [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    except pynvml.NVMLError:
        return ["an NVIDIA GPU"]  # there is a driver with a card that does not answer
    finally:
        pynvml.nvmlShutdown()


_GPU_PARTS = ("cuda", "hip", "vulkan", "sycl")


def built_for_gpu() -> bool | None:
    """Whether llama-cpp-python has a part for GPUs, from its files alone: nothing is loaded. None: not installed."""
    try:
        spec = importlib.util.find_spec("llama_cpp")
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    libraries = [p.name for p in (Path(spec.origin).parent / "lib").glob("*ggml-*")]
    return any(f"ggml-{part}" in name for part in _GPU_PARTS for name in libraries)


def gpu_unusable() -> Finding | None:
    """A GPU is there and the engine's library can't use it. Cheap: asks the driver, loads no engine."""
    if built_for_gpu() is not False:  # absent altogether is another finding
        return None
    names = gpu_names()
    if not names:
        return None
    return Finding(
        "GPU",
        "error",
        f"{_listed(names)} is there, and {LLAMA_CPP} was built without GPU support: models run on the CPU, "
        "many times slower",
        MEND_GPU if find_nvcc() else f"Install NVIDIA's CUDA toolkit (nvcc is missing). {MEND_GPU}",
    )


def find_nvcc() -> str | None:
    """The CUDA compiler, also where it is not on the PATH."""
    usual = Path("/usr/local/cuda/bin/nvcc")
    return shutil.which("nvcc") or (str(usual) if usual.exists() else None)


def gpu() -> Iterable[Finding]:
    """Which GPUs there are, whether they are used, and what readings come from."""
    names = gpu_names()
    if not names:
        hint = "" if importlib.util.find_spec("pynvml") else "nvidia-ml-py is not installed: run `make install`."
        yield Finding("GPU", "ok", "no GPU: process and system RAM are shown instead, models run on the CPU", hint)
        return
    if (unusable := gpu_unusable()) is not None:
        yield unusable
    elif built_for_gpu():
        yield Finding("GPU", "ok", f"{_listed(names)}: readings by NVML, and {LLAMA_CPP} can use it")
    nvcc = find_nvcc()
    yield Finding(
        "nvcc", "ok", f"CUDA compiler {nvcc}" if nvcc else "no CUDA compiler (only needed to build the engine)"
    )


def _listed(names: list[str]) -> str:
    return (
        names[0] if len(set(names)) == 1 and len(names) == 1 else f"{len(names)} GPUs ({', '.join(sorted(set(names)))})"
    )


# --- files ------------------------------------------------------------------------------------------------------------


def demo_model() -> Iterable[Finding]:
    """The embedded model, read as a run would read it."""
    from engine import models  # here: it loads readers that the cheap findings can do without

    try:
        with tempfile.TemporaryDirectory() as empty:
            model = models.resolve(None, Workspace.at(empty))
    except ModelError as e:
        yield Finding("demo model", "error", e.message, e.advice or "Check out the repository again.")
        return
    yield Finding("demo model", "ok", f"{model.name}, {model.size_bytes / 1e6:.1f} MB, {model.path}")


def folder(workspace: Workspace) -> Iterable[Finding]:
    """Where results go: writable, on a file system that keeps its promises, with room."""
    place = workspace.results if workspace.results.is_dir() else workspace.root
    if place is workspace.root and os.path.lexists(workspace.results):
        what = "a link to nowhere" if workspace.results.is_symlink() else "a file"
        yield Finding(
            "workspace",
            "error",
            f"{workspace.results} is {what}, where the folder of all results must be",
            "Move it away, or name another folder with --workspace.",
        )
        return
    if not place.is_dir():
        yield Finding("workspace", "error", f"{place} is no folder", "Create it, or name another with --workspace.")
        return
    try:
        # The one honest test: permission bits say nothing of read-only mounts and quotas.
        with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as f:
            f.write(b"x")
            f.flush()
            os.fsync(f.fileno())
    except OSError as e:
        yield Finding(
            "workspace", "error", f"{place} can't be written: {e.strerror}", "Mend that, or use another --workspace."
        )
        return
    yield Finding("workspace", "ok", f"{place} can be written")
    kind = file_system(place)
    if kind in RISKY_FILE_SYSTEMS:
        yield Finding(
            "file system",
            "warn",
            f"{place} is on {kind}, where locks and fsync may not hold what a local disk does",
            "Keep the workspace on a local disk and copy finished results.",
        )
    elif kind in RAM_FILE_SYSTEMS:
        yield Finding(
            "file system", "warn", f"{place} is on {kind}: results are gone after a restart", "Use a disk instead."
        )
    else:
        yield Finding("file system", "ok", f"{place} is on {kind or 'a file system of unknown type'}")
    free = shutil.disk_usage(place).free
    if free < LOW_DISK_BYTES:
        yield Finding("disk", "warn", f"only {free / 1024**3:.1f} GiB free for results", "Make room on that disk.")
    else:
        yield Finding("disk", "ok", f"{free / 1024**3:.0f} GiB free for results")


def file_system(place: Path, mounts: str | None = None) -> str:
    """The type of the file system that holds a folder; empty where the system does not tell."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(errors="replace")
        except OSError:
            return ""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # a space in a path is written \040
        # A later mount on the same point hides the earlier one, hence >=.
        if (place == Path(point) or Path(point) in place.parents) and len(point) >= best:
            best, kind = len(point), fields[2]
    return kind


def socket_folder(workspace: Workspace) -> Finding:
    """Where the runner's socket is, or will be: ours alone."""
    place, path = workspace.socket_folder, workspace.socket
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES:
        return Finding("socket", "error", f"the socket's path is too long: {path}", "Set TMPDIR to a shorter path.")
    nearest = next(p for p in (place, *place.parents) if p.exists())
    if nearest != place:
        if os.access(nearest, os.W_OK | os.X_OK):
            return Finding("socket", "ok", f"{place} will be made when a runner starts")
        return Finding("socket", "error", f"{nearest} can't be written, where the socket goes", "Set XDG_RUNTIME_DIR.")
    facts = place.stat()
    if facts.st_uid != os.getuid():
        return Finding("socket", "error", f"{place} belongs to another user", f"Have it removed: rm -r {place}")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        return Finding("socket", "warn", f"{place} is open to other users", f"chmod 700 {place}")
    return Finding("socket", "ok", f"{place} is ours alone")


# --- the session ------------------------------------------------------------------------------------------------------

_LOGIND = (Path("/usr/lib/systemd"), Path("/run/systemd"), Path("/etc/systemd"))
"""Where logind.conf and logind.conf.d are looked for, weakest first."""


def kills_user_processes(roots: Iterable[Path] = _LOGIND, user: str | None = None) -> bool:
    """Whether logind is configured to end all processes of this user when the last session closes."""
    main: Path | None = None
    drop_ins: dict[str, Path] = {}  # a drop-in hides those of its name in weaker folders; then they apply by name
    for root in roots:
        if (root / "logind.conf").is_file():
            main = root / "logind.conf"
        for path in (root / "logind.conf.d").glob("*.conf"):
            drop_ins[path.name] = path
    chosen = {"KillUserProcesses": "no", "KillOnlyUsers": "", "KillExcludeUsers": "root"}
    for path in ([main] if main else []) + [drop_ins[name] for name in sorted(drop_ins)]:
        parser = configparser.RawConfigParser(strict=False, allow_no_value=True, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment]  # keys keep their case: the documented way to say so
        try:
            parser.read_string(path.read_text(errors="replace"))
        except (OSError, configparser.Error):
            continue
        for name in chosen:
            value = parser.get("Login", name, fallback=None)
            if value is not None:
                chosen[name] = value.strip()
    name = user if user is not None else psutil.Process().username()
    if name in chosen["KillExcludeUsers"].split():
        return False
    if chosen["KillOnlyUsers"] and name not in chosen["KillOnlyUsers"].split():
        return False
    return chosen["KillUserProcesses"].lower() in ("yes", "true", "on", "1")


def lingers() -> bool:
    """Whether this user's processes may outlive the last session."""
    name = psutil.Process().username()
    if (Path("/var/lib/systemd/linger") / name).exists():
        return True
    if shutil.which("loginctl") is None:
        return False
    try:
        done = subprocess.run(
            ["loginctl", "show-user", name, "-p", "Linger", "--value"],
            capture_output=True,
            text=True,
            timeout=2,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.stdout.strip() == "yes"


def logout_kills() -> Finding | None:
    """A detached run would end at logout. Cheap: some small files, and one short command only where it matters."""
    if not Path("/run/systemd/system").is_dir() or not kills_user_processes() or lingers():
        return None
    return Finding(
        "logout",
        "warn",
        "this system ends all your processes when you log out (KillUserProcesses), also a detached run",
        MEND_LOGOUT,
    )


def logout() -> Finding:
    """The same as a check: also says that all is well."""
    return logout_kills() or Finding("logout", "ok", "a run goes on when you log out")


def limits() -> Finding:
    """How many files may be open: sockets, journals and libraries need some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    if size != resource.RLIM_INFINITY:
        return Finding("limits", "warn", f"files may not grow past {size} bytes (ulimit -f)", "ulimit -f unlimited")
    if memory != resource.RLIM_INFINITY:
        return Finding(
            "limits",
            "warn",
            f"a process may not address more than {memory / 1024**3:.1f} GiB (ulimit -v): loading a model may fail",
            "ulimit -v unlimited",
        )
    if 0 <= soft < LOW_FILES:
        most = "" if hard < 0 or hard >= LOW_FILES else f" (at most {hard} here)"
        return Finding("limits", "warn", f"only {soft} open files are allowed", f"ulimit -n {LOW_FILES}{most}")
    return Finding(
        "limits", "ok", f"{'any number of' if soft < 0 else soft} open files, no limit on file size or memory"
    )
