"""engine.doctor: what is said about a machine, by what the machine is made to look like."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from engine import doctor
from engine.doctor import Finding
from engine.workspace import Workspace


def test_this_machine_is_told_without_raising(tmp_path: Path) -> None:
    seen: list[Finding] = []
    found = doctor.diagnose(Workspace.at(tmp_path), on_finding=seen.append)
    assert seen == found
    names = [f.name for f in found]
    for name in ("python", "llama.cpp", "vLLM", "GPU", "demo model", "workspace", "socket", "logout", "limits"):
        assert name in names
    assert all(f.fix for f in found if f.level == "error")


def test_one_check_alone(tmp_path: Path) -> None:
    assert [f.name for f in doctor.diagnose(Workspace.at(tmp_path), only="logout")] == ["logout"]


def test_old_python() -> None:
    assert doctor.python((3, 10, 1)).level == "error"


def test_a_library_that_crashes_is_reported_with_its_signal() -> None:
    library = doctor.load_llama_cpp("import os, signal; os.kill(os.getpid(), signal.SIGILL)")
    assert not library.loads
    assert "signal 4" in library.trouble
    assert "another machine" in library.trouble


@pytest.mark.parametrize(
    ("code", "loads", "gpu", "word"),
    [
        ("raise OSError('libcudart.so.12: not found')", False, False, "libcudart"),
        ("print('noise'); print('offload 1 1.2.3 /a b/c.py')", True, True, ""),
        ("print('offload 0 1.2.3 /a b/c.py')", True, False, ""),
        ("print('offload 1 1.2.3 /a b/c.py', flush=True); raise SystemExit('at exit')", False, False, "at exit"),
        ("pass", False, False, "nothing"),
    ],
)
def test_what_loading_came_to(code: str, loads: bool, gpu: bool, word: str) -> None:
    library = doctor.load_llama_cpp(code)
    assert (library.loads, library.gpu) == (loads, gpu)
    assert (library.version, library.file) == (("1.2.3", "/a b/c.py") if loads else ("", ""))
    assert word in library.trouble


def test_a_hung_library_is_given_up() -> None:
    assert "did not end" in doctor.load_llama_cpp("import threading; threading.Event().wait()", limit_s=0.3).trouble


FAKE_MODULE = "__version__ = '{version}'\ndef llama_supports_gpu_offload(): return False\n"


@pytest.mark.parametrize(
    ("module", "level", "word"),
    [
        (FAKE_MODULE.format(version=doctor.LLAMA_CPP_VERSION), "ok", "loads, built for the CPU"),
        (FAKE_MODULE.format(version="0.2.90"), "error", "version 0.2.90"),
        ("import os; os.abort()", "error", "SIGABRT"),
        ("raise RuntimeError('Failed to load shared library')", "error", "Failed to load shared library"),
        ("", "error", "no attribute 'llama_supports_gpu_offload'"),
        ("import threading; threading.Event().wait()", "error", "did not end within 1 s"),
    ],
)
def test_a_library_is_judged_by_loading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, level: str, word: str
) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text(module)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (finding,) = doctor.llama_cpp(limit_s=1 if "wait" in module else 60)
    assert (finding.level, word in finding.sentence) == (level, True), finding
    assert bool(finding.fix) is (level == "error")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["llama_cpp"]  # a crash leaves no core file


def test_a_library_of_another_version_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "llama_cpp_python-0.2.90.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.2.90\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "load_llama_cpp", lambda **_: pytest.fail("loaded"))
    (finding,) = doctor.llama_cpp()
    assert finding.level == "error"
    assert "0.2.90" in finding.sentence
    assert doctor.LLAMA_CPP_VERSION in finding.fix


def test_a_machine_without_the_library(tmp_path: Path) -> None:
    """A real process whose packages are all of ours but one."""
    for entry in Path(sysconfig.get_paths()["purelib"]).iterdir():
        if not entry.name.lower().startswith("llama_cpp"):
            (tmp_path / entry.name).symlink_to(entry)
    done = subprocess.run(
        [sys.executable, "-S", "-m", "engine.offline", "doctor", "--only", "llama.cpp"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (1, "")
    assert [x["kind"] for x in lines] == ["finding", "summary"]
    assert lines[0]["level"] == "error"
    assert "is not installed" in lines[0]["sentence"]
    assert "make install" in lines[0]["fix"]


def test_half_an_installation_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "demo_model", lambda: importlib.import_module("no_such_reader"))
    (finding,) = doctor.diagnose(Workspace.at(tmp_path), only="demo model")
    assert finding.level == "warn"
    assert "no_such_reader" in finding.sentence


@pytest.mark.parametrize(
    ("names", "built", "level"),
    [([], False, None), (["RTX 4080"], True, None), (["RTX 4080"], False, "error"), (["RTX 4080"], None, None)],
)
def test_a_gpu_the_library_cannot_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch, names: list[str], built: bool | None, level: str | None
) -> None:
    monkeypatch.setattr(doctor, "gpu_names", lambda: names)
    monkeypatch.setattr(doctor, "built_for_gpu", lambda: built)
    finding = doctor.gpu_unusable()
    assert (finding.level if finding else None) == level
    if finding:
        assert "RTX 4080" in finding.sentence
        assert "GGML_CUDA=on" in finding.fix
    said = list(doctor.gpu())
    assert any("no GPU" in f.sentence for f in said) is (not names)


def test_the_workspace_must_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [f.level for f in doctor.folder(Workspace.at(tmp_path / "none"))] == ["error"]
    assert next(iter(doctor.folder(Workspace.at(tmp_path)))).level == "ok"
    assert list(tmp_path.iterdir()) == []

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor.tempfile, "NamedTemporaryFile", refuse)
    (finding,) = doctor.folder(Workspace.at(tmp_path))
    assert finding.level == "error"
    assert "Read-only" in finding.sentence


def test_results_that_are_no_folder_are_told(tmp_path: Path) -> None:
    results = Workspace.at(tmp_path).results
    results.write_text("")
    (finding,) = doctor.folder(Workspace.at(tmp_path))
    assert finding.level == "error"
    assert f"{results} is a file" in finding.sentence
    results.unlink()
    results.symlink_to(tmp_path / "gone")
    (finding,) = doctor.folder(Workspace.at(tmp_path))
    assert "a link to nowhere" in finding.sentence


@pytest.mark.parametrize(("kind", "level"), [("nfs4", "warn"), ("tmpfs", "warn"), ("ext4", "ok"), ("", "ok")])
def test_file_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, level: str) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda _: kind)
    found = {f.name: f for f in doctor.folder(Workspace.at(tmp_path))}
    assert found["file system"].level == level


def test_the_file_system_is_that_of_the_longest_mount() -> None:
    mounts = "a / ext4 rw\nb /home nfs rw\nc /home/u\\040x 9p rw\nd /home xfs rw\nbroken\n"
    assert doctor.file_system(Path("/homes"), mounts) == "ext4"
    assert doctor.file_system(Path("/home/u"), mounts) == "xfs"
    assert doctor.file_system(Path("/home/u x/y"), mounts) == "9p"


def test_socket_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    workspace = Workspace.at(tmp_path)
    assert doctor.socket_folder(workspace).level == "ok"
    workspace.socket_folder.mkdir(parents=True)
    workspace.socket_folder.chmod(0o755)
    finding = doctor.socket_folder(workspace)
    assert (finding.level, finding.fix) == ("warn", f"chmod 700 {workspace.socket_folder}")
    workspace.socket_folder.chmod(0o700)
    assert doctor.socket_folder(workspace).level == "ok"
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert str(long) not in doctor.socket_folder(workspace).sentence  # the folder for temporary files is shorter
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    finding = doctor.socket_folder(workspace)
    assert (finding.level, "TMPDIR" in finding.fix) == ("error", True)


@pytest.mark.parametrize(
    ("files", "kills"),
    [
        ({}, False),
        ({"b/logind.conf": "[Login]\n#KillUserProcesses=yes\n"}, False),
        ({"b/logind.conf": "[Login]\nKillUserProcesses=yes\n"}, True),
        ({"a/logind.conf": "[Login]\nKillUserProcesses=yes\n", "b/logind.conf": "[Login]\n"}, False),
        (
            {
                "b/logind.conf": "[Login]\nKillUserProcesses=yes\n",
                "a/logind.conf.d/9.conf": "[Login]\nKillUserProcesses=no",
            },
            False,
        ),
        ({"a/logind.conf.d/1.conf": "[Login]\nKillUserProcesses=1", "b/logind.conf.d/1.conf": "[Login]\n"}, False),
        ({"b/logind.conf": "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=root me\n"}, False),
        ({"b/logind.conf": "[Login]\nKillUserProcesses=yes\nKillOnlyUsers=you\n"}, False),
        ({"b/logind.conf": "no section"}, False),
    ],
)
def test_logind(tmp_path: Path, files: dict[str, str], kills: bool) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert doctor.kills_user_processes((tmp_path / "a", tmp_path / "b"), user="me") is kills


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    def say(nofile: int, size: int, memory: int) -> Finding:
        values = {
            doctor.resource.RLIMIT_NOFILE: (nofile, 4096),
            doctor.resource.RLIMIT_FSIZE: (size, size),
            doctor.resource.RLIMIT_AS: (memory, memory),
        }
        monkeypatch.setattr(doctor.resource, "getrlimit", lambda which: values[which])
        return doctor.limits()

    free = doctor.resource.RLIM_INFINITY
    assert say(4096, free, free).level == "ok"
    assert say(100, free, free).level == "warn"
    assert say(4096, 10**6, free).level == "warn"
    assert say(4096, free, 2**30).level == "warn"


def test_the_version_is_the_pinned_one() -> None:
    pinned = f"{doctor.LLAMA_CPP}=={doctor.LLAMA_CPP_VERSION}"
    assert pinned in (Path(__file__).parents[1] / "pyproject.toml").read_text()


def test_linger_is_asked_of_loginctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/bin/loginctl")
    monkeypatch.setattr(doctor.Path, "exists", lambda _: False)
    for answer, expected in (("yes\n", True), ("no\n", False), ("", False)):
        done = subprocess.CompletedProcess([], 0, stdout=answer)
        monkeypatch.setattr(doctor.subprocess, "run", lambda *_, done=done, **__: done)
        assert doctor.lingers() is expected
