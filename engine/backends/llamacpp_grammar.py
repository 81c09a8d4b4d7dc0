"""Owns answers bound to a JSON schema: schema → GBNF (llama-cpp-python's converter) → llama.cpp's grammar.

What llama.cpp does with bad input is to abort the process, so everything is checked here first: the schema before its
request takes a slot, and each token before the grammar is told of it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import re
from typing import Any

import llama_cpp.llama_cpp as c
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf

from engine.backends.llamacpp_sampling import Row
from engine.backends.llamacpp_vocab import Vocabulary

MAX_GBNF_BYTES = 1_000_000
MAX_NESTING = 2_000
"""Deepest nesting of brackets in a grammar: llama.cpp parses them by recursion on a stack of 8 MiB."""

MAX_COUNT = 100_000
"""Highest count of repetitions that is converted at all: the converter writes each one out, in memory."""

# What the converter turns into rules, and what has no meaning for generation. Anything else is reported, not dropped.
_ENFORCED = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "prefixItems", "minItems", "maxItems", "enum"}
    | {"const", "anyOf", "oneOf", "allOf", "$ref", "pattern", "format", "minLength", "maxLength"}
)
_ANNOTATIONS = frozenset(
    {"title", "description", "$schema", "$id", "$comment", "$defs", "definitions", "default", "examples", "deprecated"}
    | {"readOnly", "writeOnly"}
)
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid", "uuid1", "uuid2", "uuid3", "uuid4", "uuid5"})

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class SchemaUnusable(Exception):
    """This schema can't be made a grammar; the message says why."""


class Compiled:
    """GBNF of one schema, and the keywords it does not hold to."""

    def __init__(self, gbnf: str, unenforced: tuple[str, ...]) -> None:
        self.gbnf = gbnf
        self.unenforced = unenforced


@functools.lru_cache(maxsize=256)
def compile_schema(schema: str) -> Compiled:
    """Raises SchemaUnusable. Cached: a batch usually repeats one schema on every line."""
    try:
        tree = json.loads(schema)
    except ValueError as error:
        raise SchemaUnusable(f"the schema is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise SchemaUnusable("the schema must be a JSON object")
    if "$ref" in tree:
        # The converter resolves nothing inside $defs when the root itself is a reference, as Pydantic writes trees.
        definitions = {key: tree[key] for key in ("$defs", "definitions") if key in tree}
        schema = json.dumps({"anyOf": [{"$ref": tree["$ref"]}], **definitions})
    unenforced: set[str] = set()
    try:
        _inspect(tree, unenforced)
        # NOTE: the converter's strings may hold raw control characters, which JSON forbids.
        gbnf = json_schema_to_gbnf(schema).replace('[^"\\\\]', '[^"\\\\\\x7F\\x00-\\x1F]')
        size = len(gbnf.encode())
    except RecursionError:
        raise SchemaUnusable("it is nested or repeated too deeply") from None
    except SchemaUnusable:
        raise
    except KeyError as error:
        raise SchemaUnusable(f"it leads to {error} in a way that the converter does not follow") from None
    except Exception as error:  # noqa: BLE001 - foreign code that asserts, indexes and recurses over user data
        raise SchemaUnusable(str(error) or type(error).__name__) from None
    if size > MAX_GBNF_BYTES or _nesting(gbnf) > MAX_NESTING:
        raise SchemaUnusable("it allows too many repetitions; lower maxItems, maxLength or the counts in its patterns")
    return Compiled(gbnf, tuple(sorted(unenforced)))


def _nesting(gbnf: str) -> int:
    """An upper bound of the bracket depth: brackets inside literals count too."""
    marks = np.frombuffer(gbnf.encode(), np.uint8)
    steps = (marks == ord("(")).astype(np.int64) - (marks == ord(")"))
    depth = np.cumsum(steps)
    return int(depth.max() - min(0, depth.min())) if len(depth) else 0


def _inspect(schema: Any, unenforced: set[str]) -> None:
    """Walk all subschemas: note what the converter would leave out, refuse what would hang it."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in ("properties", "$defs", "definitions") and isinstance(value, dict):
            for sub in value.values():
                _inspect(sub, unenforced)
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            for sub in value:
                _inspect(sub, unenforced)
        elif key in ("items", "additionalProperties"):
            for sub in value if isinstance(value, list) else [value]:
                _inspect(sub, unenforced)
        elif key == "pattern" and isinstance(value, str):
            _check_pattern(value)
        elif key in _COUNTS:
            if not isinstance(value, int) or not 0 <= value <= MAX_COUNT:
                raise SchemaUnusable(f"{key} is {str(value)[:40]}; it must be a whole number from 0 to {MAX_COUNT:,}")
        elif key == "format" and value not in _FORMATS:
            unenforced.add(f"format {value!r}")
        elif key not in _ENFORCED and key not in _ANNOTATIONS:
            unenforced.add(key)


def _check_pattern(pattern: str) -> None:
    """Refuse a stray `]` or `}`, on which the converter would loop for ever, and counts that would fill the memory."""
    if any(int(count) > MAX_COUNT for count in re.findall(r"[{,]([0-9]{1,18})", pattern)):
        raise SchemaUnusable(f"a pattern counts to more than {MAX_COUNT:,}")
    closer = ""
    escaped = False
    for char in pattern:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif closer:
            closer = "" if char == closer else closer
        elif char in "[{":
            closer = "]" if char == "[" else "}"
        elif char in "]}":
            raise SchemaUnusable(f"the pattern {pattern!r} has a {char!r} without its opening bracket")


class Grammar:
    """The state of one sequence under a grammar: `llamacpp_sampling.Constraint`.

    The grammar knows the end of generation only as the model's own end ids; other stop ids of the request are allowed
    exactly where those are. All other control tokens are forbidden: llama.cpp would take them for the text they are
    spelled with, and let `<|end|>` into a JSON string.
    """

    def __init__(self, vocabulary: Vocabulary, gbnf: str, stop_tokens: frozenset[int]) -> None:
        self._sampler: Any = c.llama_sampler_init_grammar(vocabulary.handle, gbnf.encode(), b"root")
        if not self._sampler:
            raise SchemaUnusable("llama.cpp does not accept the grammar made from it")
        self._stop = stop_tokens | vocabulary.end_tokens
        self._probe_end = min(vocabulary.end_tokens, default=None)
        self._control = vocabulary.control_tokens - self._stop
        self._control_ids = np.array(sorted(self._control), np.int64)
        self._stop_ids = np.array(sorted(self._stop), np.int64)
        self._one = np.zeros(1, _CANDIDATE)

    @property
    def complete(self) -> bool:
        """What stands is a whole document: generation may end here."""
        return self._probe_end is not None and self._passes(self._probe_end)

    def _passes(self, token: int) -> bool:
        self._one[0] = (token, 0.0, 0.0)
        self._apply(self._one)
        return bool(np.isfinite(self._one["logit"][0]))

    def _apply(self, candidates: np.ndarray) -> None:
        array: Any = c.llama_token_data_array(
            candidates.ctypes.data_as(c.llama_token_data_p), len(candidates), -1, False
        )
        reference: Any = ctypes.byref(array)  # the binding's hint says array; C takes a pointer to one
        c.llama_sampler_apply(self._sampler, reference)

    def allows(self, token: int) -> bool:
        if token in self._stop:
            return self.complete
        return token not in self._control and self._passes(token)

    def mask(self, row: Row) -> None:
        complete = self.complete
        row[self._control_ids] = -np.inf
        stops = row[self._stop_ids]
        row[self._stop_ids] = -np.inf
        ids = np.flatnonzero(row > -np.inf)
        candidates = np.zeros(len(ids), _CANDIDATE)
        candidates["id"] = ids
        candidates["logit"] = row[ids]
        self._apply(candidates)
        row[ids] = candidates["logit"]
        if complete:
            row[self._stop_ids] = stops

    def accept(self, token: int) -> None:
        if token not in self._stop:
            c.llama_sampler_accept(self._sampler, token)

    def close(self) -> None:
        if self._sampler:
            c.llama_sampler_free(self._sampler)
            self._sampler = None
