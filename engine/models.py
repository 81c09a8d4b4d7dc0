"""Owns finding models: a name → a local file.

Nothing is loaded and nothing is downloaded. What a file says is read by `engine.modelfiles`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.resources
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engine.errors import ModelNotFound, ModelUnreadable
from engine.modelfiles import PART, ModelFile, names_of, read_checkpoint, read_gguf
from engine.workspace import Workspace

EMBEDDED = "nano"
"""Name of the demo model inside the package."""

_HOW_TO_GET = (
    "To get gpt-oss-20b (12 GB) into this workspace: "
    "hf download ggml-org/gpt-oss-20b-GGUF --include '*.gguf' --local-dir models"
)


def resolve(name: str | None, workspace: Workspace) -> ModelFile:
    """The model that a person means. Raises ModelNotFound, or ModelUnreadable with the reason."""
    if name is None or not name.strip() or name.strip().lower() == EMBEDDED:
        return _embedded()
    name = name.strip()
    for path in (Path(name).expanduser(), workspace.root / name):
        if path.is_dir() or path.is_file():
            return _read(path)
    if name.lower().endswith(".gguf") and len(Path(name).parts) > 1:
        raise ModelNotFound(
            f"there is no file {Path(name).expanduser()}",
            advice="Check the path. " + _not_found_advice(name, workspace),
        )
    found = _matching(name, list(_candidates(workspace)))
    if not found:
        raise ModelNotFound(f'no model called "{name}" is on this machine', advice=_not_found_advice(name, workspace))
    if len(found) > 1:
        raise ModelNotFound(
            f'"{name}" may mean {len(found)} models',
            advice="Name one by its path: " + ", ".join(str(p) for p in found[:8]) + (", …" if len(found) > 8 else ""),
        )
    return _read(found[0])


def known(workspace: Workspace) -> list[ModelFile]:
    """Every model that can be named here and read, the embedded one first."""
    found: list[ModelFile] = []
    with contextlib.suppress(ModelNotFound, ModelUnreadable):  # a list shows what is there; resolve says what is wrong
        found.append(_embedded())
    for path in _candidates(workspace):
        with contextlib.suppress(ModelUnreadable):
            model = _read(path)
            if model.architecture != "clip":
                found.append(model)
    return found


def _embedded() -> ModelFile:
    path = Path(str(importlib.resources.files("engine") / "nano" / "nano.gguf"))
    if not path.is_file():
        raise ModelNotFound(
            "the embedded demo model is missing from this installation",
            advice=f"Install again (make install), or name a model. Looked for {path}.",
        )
    return msgspec.structs.replace(read_gguf(path), name=EMBEDDED, embedded=True)


def _folders(workspace: Workspace) -> list[Path]:
    """Where bare names are looked up, in this order."""
    env = os.environ
    home = Path.home()
    cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(env.get("HF_HUB_CACHE") or Path(env.get("HF_HOME") or cache / "huggingface") / "hub")
    folders = [workspace.root / "models"]
    folders += [Path(p).expanduser() for p in env.get("GPTOSS_MODELS", "").split(os.pathsep) if p]
    folders += [
        hub,
        Path(env.get("LLAMA_CACHE") or cache / "llama.cpp"),
        home / ".lmstudio" / "models",
        cache / "lm-studio" / "models",
    ]
    return folders


def _candidates(workspace: Workspace) -> Iterator[Path]:
    """GGUF files (of split ones the first part) and checkpoint folders, each once whatever links lead to it."""
    seen: set[Path] = set()
    for folder in _folders(workspace):
        for root, dirs, files in os.walk(folder, followlinks=False):
            dirs.sort()
            here = Path(root)
            if "config.json" in files and any(f.endswith(".safetensors") for f in files) and here not in seen:
                seen.add(here)
                yield here
            for file in sorted(files):
                part = PART.search(Path(file).stem)
                if not file.lower().endswith(".gguf") or "mmproj" in file.lower() or (part and int(part[1]) != 1):
                    continue
                path = here / file
                real = path.resolve()
                if real not in seen and real.is_file():
                    seen.add(real)
                    yield path


def _matching(name: str, candidates: list[Path]) -> list[Path]:
    """Exact names first, then beginnings (gpt-oss-20b → gpt-oss-20b-mxfp4.gguf), then any part of a name."""
    wanted = name.lower().removesuffix(".gguf")
    by_path = [(p, [n.lower() for n in names_of(p)]) for p in candidates]
    for fits in (
        lambda n: n == wanted,
        lambda n: n.startswith(wanted),
        lambda n: wanted in n,
    ):
        found = [p for p, names in by_path if any(fits(n) for n in names)]
        if found:
            # The same name as GGUF and as a checkpoint: the file that runs.
            return [p for p in found if p.suffix.lower() == ".gguf"] or found
    return []


def _not_found_advice(name: str, workspace: Workspace) -> str:
    names = {n for p in _candidates(workspace) for n in names_of(p)[:1]} | {EMBEDDED}
    near = difflib.get_close_matches(Path(name).stem, sorted(names), n=3, cutoff=0.5)
    looked = ", ".join(str(f) for f in _folders(workspace))
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}Looked in {looked}. Name a file by its path, or nothing for the embedded demo model. {_HOW_TO_GET}"


def _read(path: Path) -> ModelFile:
    path = path.absolute()
    if path.is_dir():
        if (path / "config.json").is_file():
            return read_checkpoint(path)
        files = [p for p in sorted(path.glob("*.gguf")) if "mmproj" not in p.name.lower()]
        firsts = [p for p in files if not (m := PART.search(p.stem)) or int(m[1]) == 1]
        if len(firsts) == 1:
            return read_gguf(firsts[0])
        if firsts:
            raise ModelNotFound(
                f"{path} holds {len(firsts)} models", advice="Name one: " + ", ".join(p.name for p in firsts[:8])
            )
        raise ModelUnreadable(
            f"{path} is a folder with neither a .gguf file nor a checkpoint's config.json", advice="Name a model file."
        )
    return read_gguf(path)
