"""Owns the vocabulary of a loaded GGUF model: `base.Tokenizer` on llama.cpp's own functions.

The vocabulary is constant once loaded, so any thread may use it. It is a part of its model: `close` it before that is
freed.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

import llama_cpp.llama_cpp as c

_CONTROL = c.LLAMA_TOKEN_ATTR_CONTROL | c.LLAMA_TOKEN_ATTR_UNKNOWN
_USER_DEFINED = c.LLAMA_TOKEN_ATTR_USER_DEFINED
_MARKUP = re.compile(r"<\|[^|<>]+\|>")

MAX_RUN = 8_000
"""Longest run of characters without a change between white space and the rest that is tokenized as one piece: the
library matches a run by recursion, and 30 000 letters (a base64 blob) end the process on a stack of 8 MiB."""
_LONG_RUN = re.compile(rf"\S{{{MAX_RUN}}}(?=\S)|\s{{{MAX_RUN}}}(?=\s)")


class Vocabulary:
    """`base.Tokenizer` of one model."""

    def __init__(self, model: Any) -> None:
        self._handle: Any = c.llama_model_get_vocab(model)
        self._size = int(c.llama_vocab_n_tokens(self._handle))
        self._end = frozenset(t for t in range(self._size) if c.llama_vocab_is_eog(self._handle, t))
        markup = self._read_markup()
        self._control = frozenset(markup)
        # What the library would take for control tokens even in text that it is told to read as plain.
        spelled = [text for t, text in markup.items() if c.llama_vocab_get_attr(self._handle, t) & _USER_DEFINED]
        self._forged = re.compile("|".join(map(re.escape, sorted(spelled, key=len, reverse=True)))) if spelled else None
        bos = int(c.llama_vocab_bos(self._handle))
        self._bos = bos if bos >= 0 and c.llama_vocab_get_add_bos(self._handle) else None
        eos = int(c.llama_vocab_eos(self._handle))
        self._eos = eos if eos >= 0 else None
        template = c.llama_model_chat_template(model, None)
        self._template = template.decode("utf-8", errors="replace") if template else None
        self._pieces: dict[int, bytes] = {}
        self._special_ids: dict[str, int | None] = {}

    def _read_markup(self) -> dict[int, str]:
        """Control tokens and how they are spelled.

        NOTE: the library makes harmony's `<|channel|>`, `<|message|>`, `<|start|>`, `<|constrain|>` and `<|end|>` user
        defined (llama-vocab.cpp), so its own `llama_vocab_is_control` misses them. Other user-defined tokens are text.
        """
        found: dict[int, str] = {}
        for token in range(self._size):
            attributes = c.llama_vocab_get_attr(self._handle, token)
            if attributes & (_CONTROL | _USER_DEFINED):
                text = (c.llama_vocab_get_text(self._handle, token) or b"").decode("utf-8", errors="replace")
                if attributes & _CONTROL or _MARKUP.fullmatch(text):
                    found[token] = text
        return found

    @property
    def handle(self) -> Any:
        """What llama.cpp's functions take; a null one would end the process, so a closed vocabulary raises."""
        if self._handle is None:
            raise RuntimeError("the model of this vocabulary is closed")
        return self._handle

    def close(self) -> None:
        self._handle = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def end_tokens(self) -> frozenset[int]:
        return self._end

    @property
    def control_tokens(self) -> frozenset[int]:
        """Ids that are markup: never text of an answer, whatever their spelling."""
        return self._control

    @property
    def bos(self) -> int | None:
        return self._bos

    @property
    def eos(self) -> int | None:
        return self._eos

    @property
    def chat_template(self) -> str | None:
        return self._template

    def encode(self, text: str, *, special: bool) -> list[int]:
        if not special and self._forged is not None and self._forged.search(text):
            # Cut each spelled marker after its first letter: text stays text, and no one can forge a message with it.
            ids: list[int] = []
            start = 0
            for match in self._forged.finditer(text):
                ids += self._tokenize(text[start : match.start() + 1], special=False)
                start = match.start() + 1
            return ids + self._tokenize(text[start:], special=False)
        return self._tokenize(text, special=special)

    def _tokenize(self, text: str, *, special: bool) -> list[int]:
        if len(text) <= MAX_RUN:
            return self._tokenize_piece(text, special=special)
        ids: list[int] = []
        start = 0
        for match in _LONG_RUN.finditer(text):
            ids += self._tokenize_piece(text[start : match.end()], special=special)
            start = match.end()
        return ids + self._tokenize_piece(text[start:], special=special)

    def _tokenize_piece(self, text: str, *, special: bool) -> list[int]:
        data = text.encode("utf-8", errors="replace")  # a lone surrogate from JSON cannot be tokenized
        room = len(data) + 8
        while True:
            ids = (c.llama_token * room)()
            n = c.llama_tokenize(self.handle, data, len(data), ids, room, False, special)
            if n >= 0:
                return list(ids[:n])
            room = -n

    def piece(self, token: int, *, special: bool = True) -> bytes:
        if not 0 <= token < self._size:
            raise ValueError(f"token {token} is outside the vocabulary of {self._size}")
        if not special and token in self._control:
            return b""
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token)
        return piece

    def _read_piece(self, token: int) -> bytes:
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = c.llama_token_to_piece(self.handle, token, buffer, room, 0, True)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def special_id(self, text: str) -> int | None:
        if text not in self._special_ids:
            ids = self.encode(text, special=True)
            known = len(ids) == 1 and c.llama_vocab_get_attr(self.handle, ids[0]) & (_CONTROL | _USER_DEFINED)
            self._special_ids[text] = ids[0] if known else None
        return self._special_ids[text]
