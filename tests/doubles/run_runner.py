"""The real runner process with the scripted worker: `python run_runner.py WORKSPACE SCRIPT.json`."""

from __future__ import annotations

import sys
from pathlib import Path

from engine.runner import Config, serve
from engine.workspace import Workspace
from tests.runner_kit import DOUBLE, model

if __name__ == "__main__":
    root, script = sys.argv[1:]
    config = Config(idle_exit_s=20, worker_command=(sys.executable, str(DOUBLE), script))
    sys.exit(serve(Workspace.at(Path(root)), config, resolve_model=model))
