"""Model names become files, and files tell what they are before any engine starts."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import quantize

from engine.errors import ModelError, ModelNotFound, ModelUnreadable
from engine.models import known, resolve
from engine.workspace import Workspace


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder without models, whatever this machine has."""
    for name in ("GPTOSS_MODELS", "HF_HOME", "HF_HUB_CACHE", "LLAMA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def workspace(tmp_path: Path, home: Path) -> Workspace:
    assert home
    (tmp_path / "ws" / "models").mkdir(parents=True)
    return Workspace.at(tmp_path / "ws")


def write_gguf(path: Path, *, seed: int = 0, padding: int = 0, part: tuple[int, int] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "gpt-oss")
    writer.add_context_length(131_072)
    writer.add_token_list([f"token {i}" for i in range(500)])
    writer.add_token_scores([0.5] * 500)
    writer.add_chat_template("{{ messages }}")
    if part:
        writer.add_uint16("split.no", part[0])
        writer.add_uint16("split.count", part[1])
    rng = np.random.default_rng(seed)
    experts = rng.standard_normal((64, 64), dtype=np.float32)
    kind = gguf.GGMLQuantizationType.MXFP4
    writer.add_tensor("experts", quantize(experts, kind), raw_dtype=kind)
    writer.add_tensor("norm", np.ones(16 + padding, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_embedded_model_is_the_default(workspace: Workspace) -> None:
    for name in (None, "", "nano", "Nano"):
        model = resolve(name, workspace)
        assert (model.name, model.format, model.embedded, model.architecture) == ("nano", "gguf", True, "gpt-oss")
        assert model.path.is_file()
        assert model.template
        assert model.quantization == "MXFP4"
        assert 100_000 < model.parameters < 100_000_000
        assert model.why_not("llamacpp") is None
    assert [m.name for m in known(workspace)] == ["nano"]


def test_metadata_agree_with_the_gguf_package(workspace: Workspace) -> None:
    model = resolve("nano", workspace)
    reader = gguf.GGUFReader(model.path)
    sizes: dict[str, int] = {}
    for tensor in reader.tensors:
        sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_bytes)
    assert model.tensor_bytes == sizes
    assert model.parameters == sum(int(t.n_elements) for t in reader.tensors)
    tokens, context = reader.get_field("tokenizer.ggml.tokens"), reader.get_field("gpt-oss.context_length")
    assert tokens is not None
    assert context is not None
    assert model.vocabulary == len(tokens.data)
    assert model.train_context == context.contents()
    assert model.size_bytes == model.path.stat().st_size


def test_a_file_by_its_path(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gguf(workspace.root / "models" / "My-Model.gguf")
    monkeypatch.chdir(workspace.root)
    for name in (str(path), "models/My-Model.gguf"):
        model = resolve(name, workspace)
        assert (model.path, model.name, model.train_context, model.vocabulary) == (path, "My-Model", 131_072, 500)
        assert model.tensor_bytes == {"MXFP4": 64 * 64 // 32 * 17, "F32": 64}
        assert model.parameters == 64 * 64 + 16
    assert resolve("models", workspace).path == path, "a folder with one model"


def test_bare_names(workspace: Workspace, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    monkeypatch.setenv("GPTOSS_MODELS", os.pathsep.join(["", str(other)]))
    hub = home / ".cache/huggingface/hub/models--ggml-org--gpt-oss-20b-GGUF"
    blob = write_gguf(hub / "blobs" / "abc")
    for snapshot in ("1", "2"):
        (hub / "snapshots" / snapshot).mkdir(parents=True)
        (hub / "snapshots" / snapshot / "gpt-oss-20b-mxfp4.gguf").symlink_to(blob)
    places = {
        "a": write_gguf(workspace.root / "models" / "sub" / "A.gguf"),
        "b": write_gguf(other / "b.GGUF"),
        "c": write_gguf(home / ".cache/llama.cpp/org_repo_c.gguf"),
        "d": write_gguf(home / ".lmstudio/models/org/repo/d.gguf"),
        "gpt-oss-20b": hub / "snapshots" / "1" / "gpt-oss-20b-mxfp4.gguf",
        "ggml-org/gpt-oss-20b-GGUF": hub / "snapshots" / "1" / "gpt-oss-20b-mxfp4.gguf",
    }
    for name in ("a", "b", "d", "gpt-oss-20b", "ggml-org/gpt-oss-20b-GGUF"):
        assert resolve(name.upper(), workspace).path == places[name], name
    assert resolve("repo_c", workspace).path == places["c"], "a part of a name will do where only one has it"
    assert {m.name for m in known(workspace)} == {"nano", "A", "b", "org_repo_c", "d", "gpt-oss-20b-mxfp4"}


def test_an_exact_name_is_never_ambiguous(workspace: Workspace) -> None:
    path = write_gguf(workspace.root / "models" / "m.gguf")
    for name in ("m-q4", "m-q8"):
        write_gguf(workspace.root / "models" / f"{name}.gguf")
    assert resolve("m", workspace).path == path
    with pytest.raises(ModelNotFound, match="may mean 2 models") as caught:
        resolve("m-q", workspace)
    assert "m-q4.gguf" in caught.value.advice
    assert "m-q8.gguf" in caught.value.advice


def test_an_unknown_name_says_where_it_looked_and_how_to_get_one(workspace: Workspace) -> None:
    write_gguf(workspace.root / "models" / "granite.gguf")
    with pytest.raises(ModelNotFound) as caught:
        resolve("granit3", workspace)
    assert 'no model called "granit3"' in caught.value.message
    for words in ("Did you mean granite", str(workspace.root / "models"), "hf download ggml-org/gpt-oss-20b-GGUF"):
        assert words in caught.value.advice
    with pytest.raises(ModelNotFound, match="there is no file"):
        resolve("nowhere/x.gguf", workspace)


def test_parts(workspace: Workspace) -> None:
    models = workspace.root / "models"
    paths = [write_gguf(models / f"big-0000{i}-of-00003.gguf", seed=i, part=(i - 1, 3)) for i in (1, 2, 3)]
    for name in ("big", str(paths[0]), str(paths[2])):
        model = resolve(name, workspace)
        assert (model.name, model.path, model.parts) == ("big", paths[0], paths)
        assert model.size_bytes == sum(p.stat().st_size for p in paths)
        assert model.parameters == 3 * (64 * 64 + 16)
    paths[1].rename(models / "hidden.bin")
    with pytest.raises(ModelUnreadable, match=r"big-00002-of-00003\.gguf"):
        resolve("big", workspace)
    paths[0].rename(models / "alone.gguf")
    with pytest.raises(ModelUnreadable, match="one of 3 parts"):
        resolve("alone", workspace)


@pytest.mark.parametrize("content", [b"", b"GGU", b"<html>404</html>", b"GGUF" + bytes(40), b"GGUF" + b"\xff" * 60])
def test_other_files_are_not_models(workspace: Workspace, content: bytes) -> None:
    path = workspace.root / "models" / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelUnreadable, match=r"x\.gguf is not a GGUF model") as caught:
        resolve("x", workspace)
    assert caught.value.advice


def test_an_unknown_version_is_named(workspace: Workspace) -> None:
    path = workspace.root / "models" / "x.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 9, 0, 0))
    with pytest.raises(ModelUnreadable, match="version 9"):
        resolve("x", workspace)


def test_a_cut_file_is_found_wherever_it_is_cut(workspace: Workspace) -> None:
    path = write_gguf(workspace.root / "models" / "x.gguf")
    whole = path.read_bytes()
    for length in [*range(0, len(whole) - 100, 131), len(whole) - 100]:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelUnreadable, match=r"is cut|not a GGUF model"):
            resolve("x", workspace)


def test_a_spoilt_header_never_raises_anything_else(workspace: Workspace) -> None:
    path = write_gguf(workspace.root / "models" / "x.gguf")
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    for at in rng.integers(4, 700, 150):
        spoilt = bytearray(whole)
        spoilt[at] = int(rng.integers(256))
        path.write_bytes(spoilt)
        with contextlib.suppress(ModelError):  # many changes do no harm to what is read
            resolve("x", workspace)


def test_the_digest_tells_files_apart(workspace: Workspace) -> None:
    models = workspace.root / "models"
    one = resolve(str(write_gguf(models / "a.gguf")), workspace).digest
    assert resolve(str(write_gguf(models / "elsewhere" / "b.gguf")), workspace).digest == one, "the name does not count"
    assert resolve(str(write_gguf(models / "c.gguf", seed=1)), workspace).digest != one
    big = write_gguf(models / "big.gguf", padding=2_000_000)
    before = resolve(str(big), workspace).digest
    with big.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"changed")
    assert resolve(str(big), workspace).digest != before


# --- checkpoints ------------------------------------------------------------------------------------------------------


def write_checkpoint(folder: Path) -> Path:
    folder.mkdir(parents=True)
    config = {"architectures": ["GptOssForCausalLM"], "max_position_embeddings": 4096, "vocab_size": 10}
    (folder / "config.json").write_text(json.dumps(config))
    table = {"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}, "__metadata__": {"format": "pt"}}
    head = json.dumps(table).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(12))
    return folder


def test_a_checkpoint_is_known_and_says_why_it_does_not_run(workspace: Workspace) -> None:
    folder = write_checkpoint(workspace.root / "models" / "my-checkpoint")
    for name in (str(folder), "My-Checkpoint"):
        model = resolve(name, workspace)
        assert (model.format, model.path, model.architecture) == ("hf", folder, "GptOssForCausalLM")
        assert (model.train_context, model.parameters, model.quantization) == (4096, 6, "BF16")
        assert "GGUF" in (model.why_not("llamacpp") or "")
    write_gguf(workspace.root / "models" / "my-checkpoint-q4.gguf")
    assert resolve("my-check", workspace).format == "gguf", "of both forms the one that runs"


def test_the_demo_models_checkpoint(workspace: Workspace) -> None:
    embedded = resolve(None, workspace)
    model = resolve(str(embedded.path.parent / "hf"), workspace)
    assert (model.format, model.architecture, model.vocabulary) == ("hf", "GptOssForCausalLM", embedded.vocabulary)


def test_a_cut_checkpoint(workspace: Workspace) -> None:
    folder = write_checkpoint(workspace.root / "models" / "x")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for length in (0, 7, 20, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(ModelUnreadable, match=r"is cut|not a safetensors file"):
            resolve("x", workspace)
    weights.write_bytes(whole)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "other.safetensors"}}')
    with pytest.raises(ModelUnreadable, match=r"other\.safetensors"):
        resolve("x", workspace)


def test_engines_that_are_not_there(workspace: Workspace) -> None:
    model = resolve(None, workspace)
    assert "not part of this version" in (model.why_not("vllm") or "")
    assert "no engine called x" in (model.why_not("x") or "")
