"""Owns Jinja chat templates: rendering one in a sandbox, and tokenising the result so that no text of a request forges
a control token.

A template is a program out of a downloaded file: it runs sandboxed, sees the pinned date instead of the clock, and an
error in it is an error of the request.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from engine.backends.base import Tokenizer
from engine.messages import Refused, Tool, Turn, join_instructions, last_answer, one_call_a_turn, strings_of

_RESERVED = frozenset(
    {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "strftime_now", "raise_exception"}
)
"""What a request may not set through chat_template_kwargs."""


class _TemplateSaysNo(Exception):
    """The template called raise_exception: a verdict on the conversation."""


class _Generation(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks training data; for prompts it is only its content."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own interface

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node | list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes for HTML; templates mean plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> str:
    raise _TemplateSaysNo(str(message))


class ChatTemplate:
    """One model's template. Raises jinja2.TemplateError where it can't be compiled."""

    def __init__(self, source: str, tokenizer: Tokenizer, *, date: datetime.date, harmony: bool) -> None:
        self.source = source
        self.digest = hashlib.sha256(source.encode()).hexdigest()
        self._tokenizer = tokenizer
        self._harmony = harmony
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        env.filters["tojson"] = _tojson
        self._template = env.from_string(source)
        self._names = jinja2.meta.find_undeclared_variables(env.parse(source))
        moment = datetime.datetime.combine(date, datetime.time())
        self._fixed: dict[str, Any] = {
            "add_generation_prompt": True,
            "bos_token": self._text(tokenizer.bos),
            "eos_token": self._text(tokenizer.eos),
            "strftime_now": moment.strftime,
            "raise_exception": _raise_exception,
        }
        self._controls: list[str] | None = None

    def mentions(self, name: str) -> bool:
        """Whether the template reads this variable."""
        return name in self._names

    def _text(self, token: int | None) -> str:
        return "" if token is None else self._tokenizer.piece(token).decode(errors="replace")

    @property
    def controls(self) -> list[str]:
        """The texts of all control tokens, longest first. Read once, on first use: it asks for every token."""
        if self._controls is None:
            piece = self._tokenizer.piece
            found = {piece(i) for i in range(self._tokenizer.size) if not piece(i, special=False)}
            self._controls = sorted((t.decode(errors="replace") for t in found if t), key=len, reverse=True)
        return self._controls

    # --- messages -----------------------------------------------------------------------------------------------------

    def _messages(self, turns: list[Turn]) -> list[dict[str, Any]]:
        instructions, turns, _ = join_instructions(turns)
        if self._harmony:
            turns = one_call_a_turn(turns)
        out: list[dict[str, Any]] = []
        if instructions:
            out.append({"role": "system", "content": instructions})
        answered = last_answer(turns)
        for i, turn in enumerate(turns):
            message: dict[str, Any] = {"role": turn.role}
            # No key instead of a null: templates take the length of what is there.
            if turn.text or not turn.calls:
                message["content"] = turn.text
            elif not self._harmony:
                message["content"] = ""
            if turn.name:
                message["name"] = turn.name
            if turn.call_id:
                message["tool_call_id"] = turn.call_id
            if turn.calls:
                message["tool_calls"] = [
                    {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": _arguments(c.arguments)}}
                    for c in turn.calls
                ]
            if turn.reasoning:
                if not self._harmony:
                    message["reasoning_content"] = turn.reasoning
                elif turn.calls and not turn.text and i > answered:
                    message["thinking"] = turn.reasoning
            out.append(message)
        return out

    # --- rendering ----------------------------------------------------------------------------------------------------

    def render(
        self,
        turns: list[Turn],
        *,
        tools: list[Tool],
        variables: dict[str, Any],
        instruction: str = "",
        notes: list[str],
    ) -> tuple[list[int], str]:
        """The prompt's ids and text. What is worth a word is added to `notes`. Raises Refused."""
        if instruction:
            turns = [*turns, Turn(role="system", text=instruction)]
        reserved = _RESERVED & variables.keys()
        if reserved:
            raise Refused(
                "invalid_chat_template_kwargs",
                f"chat_template_kwargs may not set {', '.join(sorted(reserved))}: the request itself gives that",
                param="chat_template_kwargs",
            )
        if tools and not self.mentions("tools"):
            raise Refused(
                "unsupported_tools", "the chat template of this model has no place for tools; send none", param="tools"
            )
        values: dict[str, Any] = {"messages": self._messages(turns)}
        values["tools"] = [t.source for t in tools] or None
        for name, value in variables.items():
            if self.mentions(name):
                values[name] = value
            else:
                notes.append(f"chat_template_kwargs.{name} has no meaning for this model's template")
        text = self._render(values)
        self._note_dropped(values["messages"], text, notes)
        return self._tokenize(values, text), text

    def _render(self, values: dict[str, Any]) -> str:
        try:
            return self._template.render(**self._fixed, **values)
        except _TemplateSaysNo as e:
            raise Refused(
                "template_refused", f"the model's chat template refuses this conversation: {e}", param="messages"
            ) from None
        except Exception as e:  # noqa: BLE001 - a template is foreign code: whatever it raises is this request's error
            raise Refused(
                "template_error",
                f"the model's chat template failed on this conversation: {type(e).__name__}: {e}",
                param="messages",
            ) from None

    def _note_dropped(self, messages: list[dict[str, Any]], text: str, notes: list[str]) -> None:
        for message in messages:
            content = message.get("content", "").strip()
            if message["role"] in ("system", "user") and content and content not in text:
                notes.append(f"the model's template does not print a {message['role']} message word for word")

    def _tokenize(self, values: dict[str, Any], text: str) -> list[int]:
        """Control tokens only where the template wrote them.

        Ordinary text is encoded as one piece, since cutting it would change how words at the cuts are split. Only where
        a request holds the text of a control token, that text alone is cut out and encoded as plain characters: each
        place is rendered as a mark, and the prompt is cut at the marks. Putting the texts back for the marks must give
        the plain rendering again; where a template changes what it prints, it does not, and the request is refused.
        """
        encode = self._tokenizer.encode
        inside = strings_of(values)
        held = [c for c in self.controls if any(c in s for s in inside)]
        if not held:
            return encode(text, special=True)
        open_mark = next(
            (chr(c) for c in range(0xE000, 0xF8FF, 2) if chr(c) not in text and chr(c + 1) not in text), ""
        )
        if not open_mark:
            raise self._control_refused(held)
        close_mark = chr(ord(open_mark) + 1)
        taken: list[str] = []

        def mark(match: re.Match[str]) -> str:
            taken.append(match.group())
            return f"{open_mark}{len(taken) - 1}{close_mark}"

        controls = re.compile("|".join(map(re.escape, held)))
        marked = self._render(_replace_strings(values, lambda s: controls.sub(mark, s)))
        parts = re.split(f"{open_mark}([0-9]+){close_mark}", marked)
        if any(int(n) >= len(taken) for n in parts[1::2]):
            raise self._control_refused(held)
        parts[1::2] = [taken[int(n)] for n in parts[1::2]]
        if "".join(parts) != text:
            raise self._control_refused(held)
        ids: list[int] = []
        for i, part in enumerate(parts):
            if part:
                ids += encode(part, special=i % 2 == 0)
        return ids

    def _control_refused(self, held: list[str]) -> Refused:
        return Refused(
            "control_token_in_content",
            f"the request's text holds {', '.join(held[:3])}, a control token of this model, and the model's template "
            "changes that text, so that it can't be kept apart from real control tokens; remove it from the text",
            param="messages",
        )


def _replace_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(k): _replace_strings(v, change) for k, v in value.items()}
    if isinstance(value, list):
        return [_replace_strings(v, change) for v in value]
    return value


def _arguments(text: str) -> Any:
    """Templates print arguments with tojson: a string would come out encoded twice."""
    try:
        return json.loads(text)
    except ValueError:
        return text
