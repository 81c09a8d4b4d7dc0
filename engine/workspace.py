"""Where things live in a workspace: a folder with `batches/` and `results/`. Pure paths; creates nothing by itself."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import msgspec

SOCKET_NAME = "runner.sock"
SOCKET_PATH_BYTES = 100
"""sun_path holds 108 bytes on Linux, 104 elsewhere, with a closing NUL."""


class Workspace(msgspec.Struct, frozen=True):
    """`root` is absolute and resolved: two spellings of one folder are one workspace."""

    root: Path

    @classmethod
    def at(cls, folder: Path | str | None = None) -> Workspace:
        """The workspace of a folder; default: $GPTOSS_WORKSPACE, else the current one."""
        return cls(Path(folder or os.environ.get("GPTOSS_WORKSPACE") or Path.cwd()).expanduser().resolve())

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def settings_file(self) -> Path:
        return self.root / "gptoss.toml"

    @property
    def runner_folder(self) -> Path:
        """The runner's own files. Starts with a dot: it is no run."""
        return self.results / ".runner"

    @property
    def lock_file(self) -> Path:
        """flock'ed by the living runner; holds its pid for messages only."""
        return self.runner_folder / "lock"

    @property
    def runner_log(self) -> Path:
        return self.runner_folder / "runner.log"

    @property
    def socket_folder(self) -> Path:
        """0700, outside the workspace: socket paths are limited to about 100 bytes and need a local file system."""
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        base = os.environ.get("XDG_RUNTIME_DIR")
        if base and Path(base).is_dir():
            folder = Path(base) / "gptoss-tui" / digest
            if len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_BYTES:
                return folder
        return Path(tempfile.gettempdir()) / f"gptoss-tui-{os.getuid()}" / digest

    @property
    def socket(self) -> Path:
        return self.socket_folder / SOCKET_NAME

    def run_folder(self, job: str) -> Path:
        return self.results / job

    def run_names(self) -> list[str]:
        """Names of all runs on disk, sorted."""
        if not self.results.is_dir():
            return []
        return sorted(p.name for p in self.results.iterdir() if (p / "run.json").is_file())

    def new_run_name(self, input_path: Path) -> str:
        """`<stem>-<n>`: short enough to type, safe as a folder name, never used before here."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", input_path.stem).strip("-.") or "batch"
        n = 1
        while (self.results / f"{stem[:60]}-{n}").exists():
            n += 1
        return f"{stem[:60]}-{n}"
