"""Owns the harmony form of a conversation: what the chat template renders, as plain Python for training.

`tests/nano` checks that the Jinja template shipped with the model renders the very same text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
RETURN, CALL, CONSTRAIN = "<|return|>", "<|call|>", "<|constrain|>"
SPECIAL_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    RETURN,
    CONSTRAIN,
    CHANNEL,
    START,
    END,
    MESSAGE,
    CALL,
)
Message = Mapping[str, Any]


def _type_name(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if not isinstance(kind, str):
        return "any"
    return {"integer": "number", "array": "any[]"}.get(kind, kind)


def tool_namespace(tools: Sequence[Message]) -> str:
    """The `# Tools` part of the developer message: a TypeScript namespace."""
    out = "# Tools\n\n## functions\n\nnamespace functions {\n"
    for tool in tools:
        function = tool["function"]
        if function.get("description"):
            out += f"\n// {function['description']}"
        schema = function.get("parameters") or {}
        properties = schema.get("properties") or {}
        if properties:
            required = schema.get("required") or []
            inner = ""
            for name, prop in properties.items():
                inner += f"\n{name}{'' if name in required else '?'}: {_type_name(prop)},"
            out += f"\ntype {function['name']} = (_: {{{inner}\n}}) => any;\n"
        else:
            out += f"\ntype {function['name']} = () => any;\n"
    return out + "\n} // namespace functions"


def call_text(name: str, arguments: Any) -> str:
    """A tool call as the assistant writes it, after `<|start|>assistant`."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return f"{CHANNEL}commentary to=functions.{name} {CONSTRAIN}json{MESSAGE}{text}{CALL}"


def render(messages: Sequence[Message], tools: Sequence[Message] = (), effort: str = "medium") -> str:
    """The prompt for `messages`, up to and including `<|start|>assistant`."""
    out = f"{START}system{MESSAGE}You are nano.\nReasoning: {effort}\n"
    out += "# Valid channels: analysis, commentary, final."
    if tools:
        out += "\nCalls to these tools must go to the commentary channel: 'functions'."
    out += END
    instructions = "\n\n".join(m["content"] for m in messages if m["role"] in ("system", "developer"))
    parts = [f"# Instructions\n\n{instructions}"] if instructions else []
    if tools:
        parts.append(tool_namespace(tools))
    if parts:
        out += f"{START}developer{MESSAGE}" + "\n\n".join(parts) + END
    last_call = ""
    for m in messages:
        if m["role"] == "user":
            out += f"{START}user{MESSAGE}{m['content']}{END}"
        elif m["role"] == "assistant":
            if m.get("content"):
                out += f"{START}assistant{CHANNEL}final{MESSAGE}{m['content']}{END}"
            for call in m.get("tool_calls") or ():
                last_call = call["function"]["name"]
                out += f"{START}assistant" + call_text(last_call, call["function"]["arguments"])
        elif m["role"] == "tool":
            out += f"{START}functions.{last_call} to=assistant{CHANNEL}commentary{MESSAGE}{m['content']}{END}"
    return out + f"{START}assistant"
