"""Owns a small batched greedy decoder over llama.cpp's C interface, for evaluation only."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llama_cpp as ll
import numpy as np


class Decoder:
    """A loaded GGUF and one context with `slots` sequences."""

    def __init__(
        self,
        path: Path,
        slots: int = 16,
        length: int = 1024,
        threads: int = 1,
        exact_kv: bool = False,
        batch: int = 512,
    ) -> None:
        ll.llama_backend_init()
        self._quiet = ll.llama_log_callback(lambda _level, _text, _data: None)  # llama.cpp keeps the pointer
        ll.llama_log_set(self._quiet, ctypes.c_void_p(0))
        settings = ll.llama_model_default_params()
        settings.n_gpu_layers = 0
        model = ll.llama_model_load_from_file(str(path).encode(), settings)
        if not model:
            raise OSError(f"{path}: not a model that llama.cpp can load")
        self.model = model
        self.vocab: Any = ll.llama_model_get_vocab(model)
        self.size = ll.llama_vocab_n_tokens(self.vocab)
        options = ll.llama_context_default_params()
        options.n_ctx = slots * length
        options.n_batch = options.n_ubatch = max(batch, slots)
        options.n_seq_max = slots
        options.n_threads = options.n_threads_batch = threads
        if exact_kv:
            options.type_k = options.type_v = ll.GGML_TYPE_F32
            options.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED  # flash attention rounds to F16
        context = ll.llama_init_from_model(model, options)
        if not context:
            raise OSError(f"{path}: no context")
        self.context, self.slots, self.capacity = context, slots, max(batch, slots)
        self.memory: Any = ll.llama_get_memory(context)
        self.batch = ll.llama_batch_init(self.capacity, 0, 1)

    def _run(self, entries: list[tuple[int, int, int, bool]]) -> list[np.ndarray]:
        """Decode (token, position, sequence, logits wanted); the wanted logits in order."""
        rows: list[np.ndarray] = []
        for start in range(0, len(entries), self.capacity):
            part = entries[start : start + self.capacity]
            b = self.batch
            b.n_tokens = len(part)
            for i, (token, position, sequence, wanted) in enumerate(part):
                b.token[i], b.pos[i], b.n_seq_id[i], b.logits[i] = token, position, 1, wanted
                b.seq_id[i][0] = sequence
            if ll.llama_decode(self.context, b) != 0:
                raise RuntimeError("llama_decode failed")
            for i, entry in enumerate(part):
                if entry[3]:
                    row = ll.llama_get_logits_ith(self.context, i)
                    rows.append(np.ctypeslib.as_array(row, (self.size,)).copy())
        return rows

    def clear(self) -> None:
        """Forget all sequences."""
        ll.llama_memory_clear(self.memory, True)

    def logits(self, tokens: list[int], positions: list[int]) -> np.ndarray:
        """Logits [positions, vocabulary] of one sequence."""
        self.clear()
        return np.stack(self._run([(t, i, 0, i in positions) for i, t in enumerate(tokens)]))

    def generate(
        self, prompts: list[list[int]], limit: int, tick: Callable[[int], None] | None = None
    ) -> list[list[int]]:
        """Greedy outputs, each with its end token; slots are filled again as they come free."""
        outputs: list[list[int]] = [[] for _ in prompts]
        waiting = list(range(len(prompts)))[::-1]
        self.clear()
        active: dict[int, int] = {}
        while waiting or active:
            entries: list[tuple[int, int, int, bool]] = []
            owners: list[int] = []
            for slot in range(self.slots):
                if slot in active:
                    n = active[slot]
                    position = len(prompts[n]) + len(outputs[n]) - 1
                    entries.append((outputs[n][-1], position, slot, True))
                    owners.append(slot)
                elif waiting:
                    n = waiting.pop()
                    active[slot] = n
                    last = len(prompts[n]) - 1
                    entries += [(t, i, slot, i == last) for i, t in enumerate(prompts[n])]
                    owners.append(slot)
            for slot, row in zip(owners, self._run(entries), strict=True):
                n, token = active[slot], int(row.argmax())
                outputs[n].append(token)
                if ll.llama_vocab_is_eog(self.vocab, token) or len(outputs[n]) >= limit:
                    del active[slot]
                    ll.llama_memory_seq_rm(self.memory, slot, -1, -1)
                    if tick:
                        tick(n)
        return outputs
