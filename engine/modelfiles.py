"""What a model's files say about themselves: GGUF headers, safetensors checkpoints. Nothing is loaded.

A GGUF file's header is read by a small reader of our own, since the gguf package builds an object for every one of the
650 000 strings of a large vocabulary (seconds); names of types come from that package.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from engine.errors import ModelUnreadable

PART = re.compile(r"-(\d{5})-of-(\d{5})$")
_SAMPLES = 64
_SAMPLE_BYTES = 65_536
"""The digest reads this many blocks, spread over a file's data: 4 MiB instead of 12 GB, in milliseconds."""


class ModelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this disk, from its own metadata. Sizes in bytes, over all parts of a split file."""

    path: Path  # the first part, or the checkpoint's folder
    name: str
    format: str  # "gguf" or "hf"
    embedded: bool = False
    architecture: str = ""
    train_context: int = 0
    size_bytes: int = 0
    quantization: str = ""  # the type that most of the weights have
    tensor_bytes: dict[str, int] = {}  # by type
    parameters: int = 0
    vocabulary: int = 0
    template: bool = False  # it brings a chat template
    parts: list[Path] = []
    digest: str = ""  # see `_digest`

    def why_not(self, engine: str) -> str | None:
        """Why this engine can't run it, None where it can."""
        if engine == "llamacpp":
            if self.format != "gguf":
                return f"{self.name} is a safetensors checkpoint; llama.cpp reads GGUF files. Name a .gguf file instead"
            if self.architecture == "clip":
                return f"{self.name} is the image part of another model; name the model's own file"
            return None
        if engine == "vllm":
            return "vLLM is not part of this version yet; use the engine llamacpp with a GGUF file"
        return f"there is no engine called {engine}; this version has llamacpp"


def names_of(path: Path) -> list[str]:
    """What a model may be called, the plainest first: the file's stem, and the repository it was downloaded from."""
    names = [PART.sub("", path.stem) if path.suffix.lower() == ".gguf" else path.name]
    for part in path.parts:
        if part.startswith("models--"):
            owner, _, repo = part.removeprefix("models--").partition("--")
            if names[0] == path.name and path.is_dir():
                names = []  # a snapshot's folder is called by a commit's hash
            names += [repo, f"{owner}/{repo}"]
    return names


# --- GGUF -------------------------------------------------------------------------------------------------------------

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_MAX_HEADER = 1 << 30
"""More than this is no header: gpt-oss's is 12 MB, nearly all of it vocabulary."""


class _Broken(Exception):
    """The header does not hold."""


class _Header(msgspec.Struct):
    values: dict[str, Any]  # arrays only as their length
    tensors: list[tuple[int, int, int]]  # type, elements, offset
    data_start: int


class _HeaderReader:
    """Reads a GGUF header front to back; arrays are passed over."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._data = b""
        self._at = 0

    def _need(self, count: int) -> int:
        """Have `count` more bytes at hand; return where they begin and step over them."""
        at = self._at
        end = at + count
        if end > min(self._size, _MAX_HEADER):
            raise _Broken("its header ends in the middle")
        if end > len(self._data):
            self._data += self._file.read(max(end - len(self._data), 8 << 20))
            if end > len(self._data):
                raise _Broken("its header ends in the middle")
        self._at = end
        return at

    def _scalar(self, form: str) -> Any:
        return struct.unpack_from(form, self._data, self._need(struct.calcsize(form)))[0]

    def _string(self) -> str:
        count = self._scalar("<Q")
        at = self._need(count)
        return self._data[at : at + count].decode(errors="replace")

    def _skip_array(self) -> int:
        kind, count = self._scalar("<I"), self._scalar("<Q")
        if kind in _SCALARS:
            self._need(struct.calcsize(_SCALARS[kind]) * count)
        elif kind == _STRING:
            if count > self._size // 8:
                raise _Broken("its header holds an impossible length")
            # Inlined, without a call a string: a large vocabulary has 650 000 of them.
            read = struct.Struct("<Q").unpack_from
            data, at = self._data, self._at
            for _ in range(count):
                if at + 8 > len(data):
                    self._at = at
                    self._need(8)
                    data = self._data
                at += 8 + read(data, at)[0]
            if at > self._size:
                raise _Broken("its header ends in the middle")
            self._need(at - self._at if at > self._at else 0)
            self._at = at
        elif kind == _ARRAY:
            for _ in range(count):
                self._skip_array()
        else:
            raise _Broken(f"its header holds a value of the unknown type {kind}")
        return count

    def _value(self) -> Any:
        kind = self._scalar("<I")
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._skip_array()
        if kind not in _SCALARS:
            raise _Broken(f"its header holds a value of the unknown type {kind}")
        return self._scalar(_SCALARS[kind])

    def read(self) -> _Header:
        self._need(4)
        if self._data[:4] != b"GGUF":
            raise _Broken("it does not begin with GGUF")
        version = self._scalar("<I")
        if version not in (2, 3):
            raise _Broken(f"it is of GGUF version {version}; 2 and 3 can be read")
        tensor_count, value_count = self._scalar("<Q"), self._scalar("<Q")
        if max(tensor_count, value_count) > self._size:
            raise _Broken("its header holds an impossible count")
        values = {}
        for _ in range(value_count):
            key = self._string()
            values[key] = self._value()
        tensors = []
        for _ in range(tensor_count):
            self._string()
            elements = 1
            for _ in range(self._scalar("<I")):
                elements *= self._scalar("<Q")
            tensors.append((self._scalar("<I"), elements, self._scalar("<Q")))
        align = values.get("general.alignment")
        align = align if isinstance(align, int) and align > 0 else 32
        return _Header(values, tensors, -(-self._at // align) * align)


def read_gguf(path: Path) -> ModelFile:
    parts = _parts(path)
    headers = [_read_header(p) for p in parts]
    values = headers[0].values
    split = values.get("split.count")
    if isinstance(split, int) and split > 1 and split != len(parts):
        raise ModelUnreadable(
            f"{path} is one of {split} parts and the others are not found by its name",
            advice="Give all parts their original names (…-00001-of-0000N.gguf) in one folder.",
        )
    by_type: dict[str, int] = {}
    weights: dict[str, int] = {}
    sizes = [_check_tensors(p, h, by_type, weights) for p, h in zip(parts, headers, strict=True)]
    architecture = str(values.get("general.architecture") or "")

    def number(key: str) -> int:
        value = values.get(key)
        return value if isinstance(value, int) else 0

    return ModelFile(
        path=parts[0],
        name=PART.sub("", parts[0].stem),
        format="gguf",
        architecture=architecture,
        train_context=number(f"{architecture}.context_length"),
        size_bytes=sum(sizes),
        quantization=max(weights, key=lambda t: weights[t], default=""),
        tensor_bytes=by_type,
        parameters=sum(weights.values()),
        vocabulary=number("tokenizer.ggml.tokens"),
        template=bool(values.get("tokenizer.chat_template")),
        parts=parts if len(parts) > 1 else [],
        digest=_digest([(p, h.data_start) for p, h in zip(parts, headers, strict=True)]),
    )


def _parts(path: Path) -> list[Path]:
    match = PART.search(path.stem)
    if not match:
        return [path]
    count, stem = int(match[2]), path.stem[: match.start()]
    parts = [path.with_name(f"{stem}-{i:05}-of-{count:05}{path.suffix}") for i in range(1, count + 1)]
    missing = [p.name for p in parts if not p.is_file()]
    if missing:
        raise ModelUnreadable(
            f"{len(missing)} of the {count} parts of {stem} are missing from {path.parent}: {', '.join(missing[:4])}",
            advice="Download the missing parts into the same folder.",
        )
    return parts


def _read_header(path: Path) -> _Header:
    try:
        with path.open("rb") as file:
            return _HeaderReader(file, path.stat().st_size).read()
    except _Broken as e:
        raise ModelUnreadable(
            f"{path} is not a GGUF model that can be read: {e}",
            advice="If it was downloaded, download it again; it may be cut or a web page.",
        ) from None
    except OSError as e:
        raise ModelUnreadable(f"{path} can't be read: {e.strerror}", advice="Check the path and its rights.") from None


def _check_tensors(path: Path, header: _Header, by_type: dict[str, int], weights: dict[str, int]) -> int:
    """Count bytes and weights by type; return the file's size. Raises ModelUnreadable where data lie beyond its end."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType  # loads much; only needed where a model is named

    size = path.stat().st_size
    end = header.data_start
    for kind, elements, offset in header.tensors:
        try:
            known_type = GGMLQuantizationType(kind)
            block, block_bytes = GGML_QUANT_SIZES[known_type]
        except (ValueError, KeyError):
            raise ModelUnreadable(
                f"{path} holds weights of the type {kind}, which this version does not know",
                advice="Use a newer gguf package, or a file with other weights.",
            ) from None
        count = elements // block * block_bytes
        by_type[known_type.name] = by_type.get(known_type.name, 0) + count
        weights[known_type.name] = weights.get(known_type.name, 0) + elements
        end = max(end, header.data_start + offset + count)
    if end > size:
        raise ModelUnreadable(
            f"{path} is cut: its tensors reach to byte {end:,} and it has {size:,}",
            advice="The download did not finish; download it again.",
        )
    return size


def _digest(files: list[tuple[Path, int]]) -> str:
    """sha256 over each file's size, its head (metadata, vocabulary, tensor table) and a sample of the rest.

    The sample is _SAMPLES blocks at equal distances, the last bytes among them; small files are read whole. It tells
    models, quantizations and retrained versions apart. It is no proof against a changed bit somewhere in 12 GB.
    """
    total = hashlib.sha256()
    for path, head in files:
        size = path.stat().st_size
        total.update(f"{size}:{head}:".encode())
        with path.open("rb") as file:
            left = min(head, size)
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                total.update(block)
                left -= len(block)
            rest = max(0, size - head)
            if rest <= _SAMPLES * _SAMPLE_BYTES:
                total.update(file.read())
                continue
            for i in range(_SAMPLES):
                file.seek(head + (rest - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
                total.update(file.read(_SAMPLE_BYTES))
    return "sha256:" + total.hexdigest()


# --- safetensors checkpoints ------------------------------------------------------------------------------------------


def read_checkpoint(folder: Path) -> ModelFile:
    config = _read_json(folder / "config.json")
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index).get("weight_map")
        wanted = set(weight_map.values()) if isinstance(weight_map, dict) else set()
        missing = sorted(str(w) for w in wanted - {f.name for f in files})
        if missing:
            raise ModelUnreadable(
                f"{len(missing)} weight files are missing from {folder}: {', '.join(missing[:4])}",
                advice="Download the missing files into the same folder.",
            )
    if not files:
        raise ModelUnreadable(f"{folder} holds no .safetensors files", advice="Name a folder with weights, or a .gguf.")
    by_type: dict[str, int] = {}
    parameters = 0
    heads: list[tuple[Path, int]] = []
    for file in files:
        head, counted = _check_safetensors(file, by_type)
        heads.append((file, head))
        parameters += counted
    quantized = config.get("quantization_config")
    method = quantized.get("quant_method") if isinstance(quantized, dict) else None
    architectures = config.get("architectures")
    context = config.get("max_position_embeddings")
    vocabulary = config.get("vocab_size")
    name = next((n for n in names_of(folder)), folder.name)
    return ModelFile(
        path=folder,
        name=name,
        format="hf",
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else "",
        train_context=context if isinstance(context, int) else 0,
        size_bytes=sum(f.stat().st_size for f in files),
        quantization=str(method or max(by_type, key=lambda t: by_type[t], default="")).upper(),
        tensor_bytes=by_type,
        parameters=parameters,
        vocabulary=vocabulary if isinstance(vocabulary, int) else 0,
        template=(folder / "chat_template.jinja").is_file(),
        digest=_digest([(folder / "config.json", (folder / "config.json").stat().st_size), *heads]),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as e:
        raise ModelUnreadable(f"{path} can't be read: {e}", advice="Download the checkpoint again.") from None
    if not isinstance(value, dict):
        raise ModelUnreadable(f"{path} is not a JSON object", advice="Download the checkpoint again.")
    return value


def _check_safetensors(path: Path, by_type: dict[str, int]) -> tuple[int, int]:
    """Where the data begin, and the parameters. Raises ModelUnreadable for a cut file."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            count = int.from_bytes(file.read(8), "little")
            if not 2 <= count <= min(size, _MAX_HEADER):
                count = 0  # no JSON text is that short: refused below
            table = json.loads(file.read(count))
        head = 8 + count
        end = head
        parameters = 0
        for name, tensor in table.items():
            if name == "__metadata__":
                continue
            begin, stop = tensor["data_offsets"]
            end = max(end, head + stop)
            by_type[tensor["dtype"]] = by_type.get(tensor["dtype"], 0) + stop - begin
            elements = 1
            for n in tensor["shape"]:
                elements *= n
            # MXFP4 in checkpoints: two values a byte in "_blocks", their exponents in "_scales".
            parameters += 0 if name.endswith("_scales") else elements * (2 if name.endswith("_blocks") else 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise ModelUnreadable(
            f"{path} is not a safetensors file that can be read: {e}", advice="Download it again."
        ) from None
    if end > size:
        raise ModelUnreadable(
            f"{path} is cut: its tensors reach to byte {end:,} and it has {size:,}",
            advice="The download did not finish; download it again.",
        )
    return head, parameters
