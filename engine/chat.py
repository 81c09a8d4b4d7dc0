"""Owns what a request means to a model: a validated body → prompt ids, sampling and the parser of its output.

One renderer and one parser for all engines: the same request means the same thing on each. Which way a chat is rendered
depends on the vocabulary (OpenAI's harmony vocabulary: `engine.harmony`; any other: the model's own template,
`engine.templates`), the way the output is read on the control tokens it has. Raw completions are neither rendered nor
parsed. Nothing here raises for a bad request: it comes back as a RequestError.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import jinja2
import msgspec

from engine.answers import CALL_OPEN, THINK_CLOSE, THINK_OPEN, Sheet, TextParser
from engine.backends.base import Generation, OutputParser, Sampling, Tokenizer
from engine.bodies import CHAT, COMPLETIONS
from engine.harmony import EFFORTS, HarmonyParser, HarmonyRenderer, Markup, is_o200k
from engine.messages import Refused, Tool, join_instructions, read_tools, read_turns
from engine.protocol import RequestError
from engine.templates import ChatTemplate

MakeParser = Callable[[int], OutputParser]


class _Prepared(msgspec.Struct):
    """What the two endpoints make of a body before limits and sampling."""

    prompt: list[int]
    make_parser: MakeParser
    stop_tokens: frozenset[int]
    max_tokens: int | None
    logprobs: int | None
    json_schema: str | None
    param: str  # the parameter that holds the prompt
    notes: list[str]


class Chat:
    """Renders prompts and parses output for one loaded model."""

    def __init__(self, tokenizer: Tokenizer, *, date: str, model_name: str) -> None:
        """`date`: YYYY-MM-DD that prompts print; a run pins it, so that its prompts don't change at midnight."""
        self._tokenizer = tokenizer
        self._model = model_name
        today = datetime.date.fromisoformat(date) if date else datetime.datetime.now(tz=datetime.UTC).date()
        self._markup = Markup.of(tokenizer)
        self._harmony: HarmonyRenderer | None = None
        self._template: ChatTemplate | None = None
        self._template_fault = ""
        source = tokenizer.chat_template
        if is_o200k(tokenizer):
            self._harmony = HarmonyRenderer(today.isoformat())
            self.template_digest = self._harmony.digest
        elif source:
            try:
                self._template = ChatTemplate(source, tokenizer, date=today, harmony=self.harmony)
                self.template_digest = self._template.digest
            except jinja2.TemplateError as e:
                self._template_fault = f"its chat template can't be read: {e}"
                self.template_digest = "unreadable"
        else:
            self._template_fault = "its file holds no chat template"
            self.template_digest = "none"

    @property
    def harmony(self) -> bool:
        """The model speaks harmony: its output has channels."""
        return self._markup is not None

    def prepare(
        self, *, key: int, url: str, body: dict[str, Any], seed: int, stream: bool, context: int
    ) -> Generation | RequestError:
        """Everything a backend needs for one request. `seed` applies where the body has none."""
        try:
            if url == COMPLETIONS:
                made = self._completion(body)
            elif url == CHAT:
                made = self._chat(body)
            else:
                return RequestError(
                    code="invalid_url", message=f"{url} is not one of {CHAT} and {COMPLETIONS}", status=400, param="url"
                )
            _check_room(len(made.prompt), made.max_tokens, context, made.param)
            return Generation(
                key=key,
                prompt=made.prompt,
                sampling=self._sampling(body, made, seed),
                max_tokens=made.max_tokens,
                stop_tokens=made.stop_tokens,
                make_parser=made.make_parser,
                n=body.get("n") or 1,
                stream=stream,
                notes=made.notes,
            )
        except Refused as e:
            return e.error
        except RecursionError:
            return RequestError(code="too_deep", message="the request's JSON is nested too deeply", status=400)

    # --- what both endpoints share ------------------------------------------------------------------------------------

    def _sampling(self, body: dict[str, Any], made: _Prepared, seed: int) -> Sampling:
        def value(name: str, default: float) -> float:
            given = body.get(name)
            return default if given is None else given

        bias: dict[int, float] = {}
        for token, amount in (body.get("logit_bias") or {}).items():
            if int(token) >= self._tokenizer.size:
                raise self._no_token("logit_bias", int(token))
            bias[int(token)] = float(amount)
        return Sampling(
            temperature=value("temperature", 1.0),
            top_p=value("top_p", 1.0),
            top_k=max(0, int(value("top_k", 0))),
            min_p=value("min_p", 0.0),
            seed=int(value("seed", seed)),
            presence_penalty=value("presence_penalty", 0.0),
            frequency_penalty=value("frequency_penalty", 0.0),
            repetition_penalty=value("repetition_penalty", value("repeat_penalty", 1.0)),
            logit_bias=bias,
            logprobs=made.logprobs,
            json_schema=made.json_schema,
        )

    def _no_token(self, param: str, token: int) -> Refused:
        return Refused(
            "invalid_token_id",
            f"{param} names token {token}; the vocabulary of {self._model} has {self._tokenizer.size:,} tokens",
            param=param,
        )

    def _stop_tokens(self, body: dict[str, Any]) -> frozenset[int]:
        asked = frozenset(body.get("stop_token_ids") or [])
        for token in asked:
            if not 0 <= token < self._tokenizer.size:
                raise self._no_token("stop_token_ids", token)
        if body.get("ignore_eos"):
            return asked
        own = self._tokenizer.end_tokens
        if self._markup:  # <|end|> closes the reasoning; the answer follows
            own -= {self._markup.end}
            own |= {t for t in (self._markup.ret, self._markup.call, self._markup.endoftext) if t >= 0}
        return own | asked

    # --- completions --------------------------------------------------------------------------------------------------

    def _completion(self, body: dict[str, Any]) -> _Prepared:
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
            prompt = prompt[0]
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError as e:
                raise Refused(
                    "invalid_text", f"prompt holds half of a surrogate pair at character {e.start + 1}", param="prompt"
                ) from None
            bos = self._tokenizer.bos
            ids = ([] if bos is None else [bos]) + self._tokenizer.encode(prompt, special=False)
        elif isinstance(prompt, list) and all(isinstance(t, int) and not isinstance(t, bool) for t in prompt):
            ids = list(prompt)
            wrong = next((t for t in ids if not 0 <= t < self._tokenizer.size), None)
            if wrong is not None:
                raise self._no_token("prompt", wrong)
        else:
            raise Refused("invalid_prompt", "prompt must be a string or a list of token ids", param="prompt")
        if not ids:
            raise Refused("invalid_prompt", "the prompt is empty", param="prompt")
        stops, end_tokens, logprobs = _stops(body), self._stop_tokens(body), body.get("logprobs")
        want_logprobs = logprobs is not None
        tokenizer = self._tokenizer

        def make_parser(index: int) -> OutputParser:
            sheet = Sheet(index, tokenizer, stops, logprobs=want_logprobs)
            return TextParser(sheet, tokenizer, end_tokens=end_tokens, raw=True)

        return _Prepared(ids, make_parser, end_tokens, body.get("max_tokens"), logprobs, None, "prompt", [])

    # --- chat ---------------------------------------------------------------------------------------------------------

    def _chat(self, body: dict[str, Any]) -> _Prepared:
        if not self._harmony and not self._template:
            raise Refused(
                "no_chat_template",
                f"{self._model} can't be asked through {CHAT}: {self._template_fault}. Send the prompt as text to "
                f"{COMPLETIONS}, or use a model with a template",
                param="messages",
            )
        notes: list[str] = []
        turns = read_turns(body.get("messages"))
        if join_instructions(turns)[2]:
            notes.append("a system message from later in the conversation was put before the first user message")
        tools, instruction = _choose_tools(body, notes)
        schema = _schema(body)
        if schema is not None and tools and not self.harmony:
            raise Refused(
                "unsupported_combination",
                "response_format and tools can't be combined with this model: its calls are part of the answer's text. "
                'Use one of them, or "tool_choice": "none"',
                param="response_format",
            )
        stops, end_tokens = _stops(body), self._stop_tokens(body)
        effort = body.get("reasoning_effort") or (body.get("reasoning") or {}).get("effort")
        kwargs = dict(body.get("chat_template_kwargs") or {})
        text = ""
        if self._harmony:
            effort = _harmony_effort(kwargs.pop("reasoning_effort", None) or effort, notes)
            notes += [f"chat_template_kwargs.{name} has no meaning for this model" for name in kwargs]
            shown = schema if schema not in (None, "{}") else ""
            prompt = self._harmony.render(
                turns, tools=tools, effort=effort, instruction=instruction, schema=shown or ""
            )
        else:
            assert self._template is not None
            variables = self._effort_variables(effort, kwargs, notes)
            prompt, text = self._template.render(
                turns, tools=tools, variables=variables, instruction=instruction, notes=notes
            )
            if not prompt:
                raise Refused("empty_prompt", "the model's chat template made an empty prompt", param="messages")
        logprobs = (body.get("top_logprobs") or 0) if body.get("logprobs") else None
        limit = body.get("max_completion_tokens")
        return _Prepared(
            prompt,
            self._parser_maker(
                stops,
                end_tokens,
                tools,
                grammar=schema is not None,
                logprobs=logprobs is not None,
                text=text,
                notes=notes,
            ),
            end_tokens,
            limit if limit is not None else body.get("max_tokens"),
            logprobs,
            schema,
            "messages",
            notes,
        )

    def _effort_variables(self, effort: str | None, kwargs: dict[str, Any], notes: list[str]) -> dict[str, Any]:
        """The template's variables of this request; an effort the template can't take is said in `notes`."""
        assert self._template is not None
        if effort is None or "reasoning_effort" in kwargs:
            return kwargs
        if self._template.mentions("reasoning_effort"):
            value = _harmony_effort(effort, notes) if self.harmony else effort
            return {"reasoning_effort": value, **kwargs}
        if effort == "none" and self._template.mentions("enable_thinking"):
            return {"enable_thinking": False, **kwargs}
        notes.append(f'reasoning_effort "{effort}" has no meaning for this model\'s template')
        return kwargs

    def _parser_maker(
        self,
        stops: list[str],
        end_tokens: frozenset[int],
        tools: list[Tool],
        *,
        grammar: bool,
        logprobs: bool,
        text: str,
        notes: list[str],
    ) -> MakeParser:
        tokenizer, markup = self._tokenizer, self._markup
        if markup is not None:
            functions = frozenset(t.name for t in tools)

            def harmony(index: int) -> OutputParser:
                sheet = Sheet(index, tokenizer, stops, logprobs=logprobs)
                return HarmonyParser(
                    sheet, tokenizer, markup, end_tokens=end_tokens, functions=functions, grammar=grammar
                )

            return harmony

        assert self._template is not None
        source = self._template.source
        thinking = _thinking(source, text)
        reads_calls = bool(tools) and CALL_OPEN in source
        if tools and not reads_calls:
            notes.append("tool calls of this model stay in the answer's text: their form is not known")
        if grammar and thinking == "maybe":
            notes.append("with response_format this model answers without reasoning")

        def plain(index: int) -> OutputParser:
            sheet = Sheet(index, tokenizer, stops, logprobs=logprobs)
            return TextParser(
                sheet, tokenizer, end_tokens=end_tokens, thinking=thinking, grammar=grammar, tools=reads_calls
            )

        return plain


def _thinking(source: str, prompt: str) -> str | None:
    """How the model's reasoning begins: None (it has none here), "maybe" (it opens it), "open" (the prompt did)."""
    if THINK_CLOSE not in source:
        return None
    end = prompt.rstrip()
    if end.endswith(THINK_OPEN):
        return "open"
    return None if end.endswith(THINK_CLOSE) else "maybe"


def _stops(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop")
    return [stop] if isinstance(stop, str) else list(stop or [])


def _harmony_effort(effort: str | None, notes: list[str]) -> str | None:
    if effort is None:
        return None
    read = EFFORTS.get(effort)
    if read is None:
        raise Refused(
            "invalid_reasoning_effort",
            f'reasoning_effort is "{effort}"; it must be one of {", ".join(EFFORTS)}',
            param="reasoning_effort",
        )
    if read != effort:
        notes.append(f'reasoning_effort "{effort}" was read as "{read}"')
    return read


def _choose_tools(body: dict[str, Any], notes: list[str]) -> tuple[list[Tool], str]:
    """The tools to render, and what to tell the model about them."""
    tools = read_tools(body.get("tools"))
    choice = body.get("tool_choice")
    if choice == "none":
        return [], ""
    if choice in (None, "auto"):
        return tools, ""
    if not tools:
        raise Refused("invalid_tool_choice", "tool_choice asks for a call and there are no tools", param="tool_choice")
    asked = "not enforced: an answer without a call stays an answer"
    if choice == "required":
        notes.append(f'tool_choice "required" is told to the model and {asked}')
        return tools, "You must call one of the tools. Do not answer without a tool call."
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in [t.name for t in tools]:
        raise Refused(
            "invalid_tool_choice", f"tool_choice names {name!r}, which is not among tools", param="tool_choice"
        )
    notes.append(f'tool_choice "{name}" is told to the model and {asked}')
    return tools, f"You must call the tool {name}. Do not answer without calling it."


def _schema(body: dict[str, Any]) -> str | None:
    wanted = body.get("response_format") or {}
    kind = wanted.get("type", "text")
    if kind == "text":
        return None
    if kind == "json_object":
        return "{}"
    schema = (wanted.get("json_schema") or {}).get("schema") if kind == "json_schema" else None
    if not isinstance(schema, dict):
        raise Refused(
            "invalid_response_format",
            "response_format must be of type text, json_object, or json_schema with a schema",
            param="response_format",
        )
    return json.dumps(schema, ensure_ascii=False)


def _check_room(prompt: int, max_tokens: int | None, context: int, param: str) -> None:
    """A request that can't fit is refused before it takes a slot."""
    if prompt >= context:
        raise Refused(
            "context_length_exceeded",
            f"the prompt has {prompt:,} tokens and a slot holds {context:,}, the answer included. Not run. "
            "Raise --context or shorten the prompt",
            param=param,
        )
    if max_tokens is not None and prompt + max_tokens > context:
        raise Refused(
            "context_length_exceeded",
            f"the prompt has {prompt:,} tokens and max_tokens asks for {max_tokens:,}, and a slot holds {context:,} of "
            f"both. Not run. Raise --context, or lower max_tokens to {context - prompt:,} or less",
            param=param,
        )
