"""Copies of the demo model's GGUF with something changed: all F32, or with a fault that a test must notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np


def rewrite(
    source: Path,
    target: Path,
    *,
    fields: dict[str, Any] | None = None,
    edit: Callable[[str, np.ndarray], np.ndarray] = lambda _name, values: values,
) -> Path:
    """Copy with every tensor dequantized to F32, `edit`ed, and metadata values replaced by `fields`."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "gpt-oss")
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        value = (fields or {}).get(name, field.contents())
        writer.add_key_value(name, value, kind, field.types[-1] if kind is gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(edit(tensor.name, values)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
