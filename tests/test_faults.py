"""Faults of a body are told in words that need no knowledge of our types."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import bodies
from engine.bodies import CHAT, COMPLETIONS
from engine.faults import faults

USER = [{"role": "user", "content": "hi"}]


def told(url: str, **body: object) -> str:
    base: dict[str, Any] = {"messages": USER} if url == CHAT else {"prompt": "x"}
    (fault,) = (fault for fault in faults(url, base | body) if fault.level == "error")
    return fault.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"temperature": 3}, "`temperature` is 3; it must be at most 2"),
        ({"top_p": 0}, "`top_p` is 0; it must be more than 0"),
        ({"max_tokens": 1.5}, "`max_tokens` is 1.5; it must be a whole number, not a number with a fraction"),
        ({"stop": ["a"] * 17}, "stop must have at most 16 entries"),
        ({"stop": ""}, '`stop` is ""; it must not be empty'),
        ({"logit_bias": {"x": 1}}, "logit_bias has a key that does not fit: it must be a token id in digits"),
        ({"reasoning_effort": "huge"}, '`reasoning_effort` is "huge"; it is none of the known ones'),
        ({"response_format": {"type": "json_schema"}}, "response_format lacks `json_schema`"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "x": 1}}},
            "response_format.json_schema does not take `x`",
        ),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools[0].function.name must be of 1 to 64 letters, digits and the signs _ . -",
        ),
        (
            {"messages": [{"role": "user", "content": 3}]},
            "messages[0].content must be a string or a list, not a whole number",
        ),
    ],
)
def test_a_fault_says_what_the_value_must_be(body: dict[str, object], message: str) -> None:
    assert told(CHAT, **body) == message


def test_the_place_inside_a_list_is_named() -> None:
    assert told(COMPLETIONS, prompt=[1, -1]) == "prompt[1] must be at least 0"


JARGON = re.compile(r"\b(expected|regex|str|int|bool|enum|array|msgspec|field)\b", re.IGNORECASE)

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.just("") | st.just("q!"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "q!", "7"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([*bodies.parameters(CHAT)]), VALUES)
def test_no_fault_speaks_of_types(name: str, value: object) -> None:
    for fault in faults(CHAT, {"messages": USER, name: value}):
        assert not JARGON.search(fault.message), fault.message
        assert "does not fit: Exp" not in fault.message
