"""Install gptoss-tui into .venv: build llama-cpp-python for this machine, then the program and its tools.

Run by `make install`. Needs only CPython 3.11 or newer, its venv module, a C++ compiler and the network or a package
mirror that pip is set up for.

llama-cpp-python is the slow part: it compiles llama.cpp. It is built here on its own, so that
  - only what this program uses is compiled (see llama_cpp_slim.cmake),
  - a card that nvcc and the driver can serve gets a CUDA build, everything else a CPU build, and it says which,
  - progress is visible,
  - the wheel is kept, in a folder of its own. pip's cache can't do that: its key is the source file alone, so it would
    hand a CPU build to a machine that has got a GPU meanwhile, and a build for this processor to another one that
    shares the home folder.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SLIM = ROOT / "tools" / "install" / "llama_cpp_slim.cmake"
CONSTRAINTS = ROOT / "constraints.txt"


class Build(NamedTuple):
    """What to compile for, and the sentence that says so."""

    kind: str  # "cpu" or "cuda"
    cmake_args: list[str]
    sentence: str


def output_of(command: list[str]) -> str | None:
    """Standard output of a short command, None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def find_nvcc() -> str | None:
    for candidate in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if candidate and Path(candidate).exists():
            return candidate
    return None


def choose_build(wanted: str) -> Build:
    """CUDA where both nvcc and a working NVIDIA driver are found, else the CPU; `wanted` is auto, cpu or cuda."""
    slim = [f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={SLIM}", "-DLLAVA_BUILD=OFF"]
    nvcc = find_nvcc()
    cards = output_of(["nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"])
    if wanted == "cpu":
        return Build("cpu", slim, "building for the CPU, as asked for with GPTOSS_BUILD=cpu")
    if nvcc and cards:
        names, capabilities = zip(*(line.rsplit(", ", 1) for line in cards.splitlines()), strict=True)
        architectures = ";".join(sorted({c.replace(".", "") for c in capabilities}))
        cuda = ["-DGGML_CUDA=on", f"-DCMAKE_CUDA_ARCHITECTURES={architectures}", f"-DCMAKE_CUDA_COMPILER={nvcc}"]
        return Build("cuda", slim + cuda, f"building with CUDA for {', '.join(names)} (sm_{architectures})")
    if wanted == "cuda":
        missing = "nvcc (the CUDA toolkit)" if not nvcc else "a working NVIDIA driver (nvidia-smi does not answer)"
        raise SystemExit(f"GPTOSS_BUILD=cuda: {missing} is missing. Install it, or leave GPTOSS_BUILD out.")
    if cards:
        return Build(
            "cpu",
            slim,
            "building for the CPU. An NVIDIA card is here, but not nvcc: install the CUDA toolkit and run "
            "`make install` again to use it",
        )
    why = "nvcc is here, but no NVIDIA driver answers" if nvcc else "no NVIDIA driver and no CUDA toolkit found"
    return Build("cpu", slim, f"building for the CPU: {why}")


def processor_features() -> str:
    """What -march=native would use: a wheel built for one processor must not reach another."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return sysconfig.get_platform()
    found = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return found.group(1) if found else sysconfig.get_platform()


def llama_requirement() -> str:
    """The exact requirement of pyproject.toml, e.g. llama-cpp-python==0.3.36."""
    found = re.search(r'"(llama-cpp-python==[^"]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if not found:
        raise SystemExit("pyproject.toml names no llama-cpp-python==VERSION")
    return found.group(1)


def wheelhouse(requirement: str, build: Build) -> Path:
    """The folder that keeps the wheel of this version, build, processor and Python."""
    key = "\n".join(
        [
            requirement,
            SLIM.read_text(encoding="utf-8"),
            *(arg for arg in build.cmake_args if str(ROOT) not in arg),
            processor_features(),
            sys.implementation.cache_tag or "",
            sysconfig.get_platform(),
        ]
    )
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "gptoss-tui" / "wheels" / hashlib.sha256(key.encode()).hexdigest()[:16]


def build_llama(python: Path, requirement: str, build: Build, house: Path) -> None:
    """Compile the wheel into `house`, drawing the compiler's progress; the whole log is kept beside it."""
    house.mkdir(parents=True, exist_ok=True)
    log = house / "build.log"
    environment = os.environ | {"CMAKE_ARGS": shlex.join(build.cmake_args)}
    with tempfile.TemporaryDirectory(dir=house) as fresh, log.open("w", encoding="utf-8", errors="replace") as kept:
        command = [
            str(python), "-m", "pip", "wheel", "-v", "--no-deps", "--no-cache-dir",
            "--no-binary", "llama-cpp-python", "-w", fresh, "-c", str(CONSTRAINTS), requirement,
        ]  # fmt: skip
        started = time.monotonic()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        if process.stdout is None:
            raise SystemExit("the build could not be started")
        shown = 0.0
        for line in process.stdout:
            kept.write(line)
            step = re.match(r"\s*\[(\d+)/(\d+)\]", line)
            now = time.monotonic()
            if step and (now - shown > (0.5 if sys.stdout.isatty() else 15) or step[1] == step[2]):
                shown = now
                text = f"  compiling llama.cpp: {step[1]} of {step[2]} files, {now - started:.0f} s"
                print(f"\r{text}" if sys.stdout.isatty() else text, end="" if sys.stdout.isatty() else "\n", flush=True)
        if sys.stdout.isatty():
            print()
        if process.wait() != 0:
            kept.flush()
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()
            errors = [line for line in tail if re.search(r"error:|Error:|CMake Error|No such file", line)][:10]
            print("\n".join(errors or tail[-20:]), file=sys.stderr)
            raise SystemExit(f"llama-cpp-python could not be built. The whole log: {log}")
        for wheel in Path(fresh).glob("*.whl"):
            wheel.replace(house / wheel.name)
        print(f"  built in {time.monotonic() - started:.0f} s")


def pip(python: Path, *arguments: str) -> None:
    """Run pip quietly; its output is shown when it fails."""
    done = subprocess.run(
        [str(python), "-m", "pip", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if done.returncode:
        print(done.stdout[-4000:], file=sys.stderr)
        raise SystemExit(f"`pip {' '.join(arguments)}` failed")


def main() -> None:
    parser = argparse.ArgumentParser(description="Install gptoss-tui into a virtual environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv")
    parser.add_argument("--extras", default="dev")
    parser.add_argument("--build", choices=["auto", "cpu", "cuda"], default=os.environ.get("GPTOSS_BUILD") or "auto")
    options = parser.parse_args()
    if sys.version_info < (3, 11):  # noqa: UP036  the message must reach people who run it with an older Python
        raise SystemExit(f"gptoss-tui needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    started = time.monotonic()
    python = options.venv / "bin" / "python"
    if not python.exists():
        print(f"environment: {options.venv.name}")
        venv.create(options.venv, with_pip=True, symlinks=True)
    requirement, build = llama_requirement(), choose_build(options.build)
    house = wheelhouse(requirement, build)
    print(f"{requirement}: {build.sentence}", flush=True)
    if not any(house.glob("llama_cpp_python-*.whl")):
        print("  takes about 3 minutes on 2 cores (CPU), longer with CUDA; kept for the next time", flush=True)
        build_llama(python, requirement, build, house)
    else:
        print("  built before on this machine: used again", flush=True)
    wheel = str(next(house.glob("llama_cpp_python-*.whl")))
    print("packages: installing", flush=True)
    marker = options.venv / ".llama-wheel"  # which build is installed: pip compares versions only, not builds
    if not marker.exists() or marker.read_text(encoding="utf-8") != wheel:
        pip(python, "install", "--no-input", "-c", str(CONSTRAINTS), "--force-reinstall", "--no-deps", wheel)
    marker.write_text(wheel, encoding="utf-8")
    extras = f"[{options.extras}]" if options.extras else ""
    pip(python, "install", "--no-input", "-c", str(CONSTRAINTS), "-e", f"{ROOT}{extras}")
    print(f"installed in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
