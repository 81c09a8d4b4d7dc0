"""Owns the harmony format of gpt-oss: conversations → token ids, and generated token ids → reasoning, answer, calls.

Prompts for OpenAI's own vocabulary are rendered by the oss-harmony package, ids directly, so no text of a request can
become a control token. Output is read by `HarmonyParser`, token by token, for every vocabulary that has harmony's
control tokens. It accepts whatever a model writes; what the package's own parser does with imperfect output (it raises,
or hands reasoning out as the answer) would cost answers in long batches.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

import msgspec

from engine.answers import Characters, Sheet
from engine.backends.base import TextPiece, Tokenizer
from engine.messages import Refused, Tool, Turn, join_instructions, last_answer, one_call_a_turn
from engine.protocol import Channel, Choice, Finish, TokenLogprob, ToolCall

O200K_SIZE = 201_088
O200K_IDS = {
    "<|endoftext|>": 199_999,
    "<|return|>": 200_002,
    "<|constrain|>": 200_003,
    "<|channel|>": 200_005,
    "<|start|>": 200_006,
    "<|end|>": 200_007,
    "<|message|>": 200_008,
    "<|call|>": 200_012,
}
"""OpenAI's harmony vocabulary. A model of another size or other ids is rendered by its own template."""

EFFORTS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}


_CHANNELS = ("analysis", "commentary", "final")


class Markup(msgspec.Struct, frozen=True):
    """The ids of harmony's control tokens in one vocabulary. -1 where it has none."""

    start: int
    end: int
    message: int
    channel: int
    constrain: int
    ret: int
    call: int
    endoftext: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Markup | None:
        """None where the vocabulary does not speak harmony."""

        def known(text: str) -> int:
            token = tokenizer.special_id(text)
            return -1 if token is None else token

        markup = cls(
            start=known("<|start|>"),
            end=known("<|end|>"),
            message=known("<|message|>"),
            channel=known("<|channel|>"),
            constrain=known("<|constrain|>"),
            ret=known("<|return|>"),
            call=known("<|call|>"),
            endoftext=known("<|endoftext|>"),
        )
        needed = (markup.start, markup.end, markup.message, markup.channel, markup.ret)
        return None if -1 in needed else markup


def is_o200k(tokenizer: Tokenizer) -> bool:
    return tokenizer.size == O200K_SIZE and all(tokenizer.special_id(t) == i for t, i in O200K_IDS.items())


class HarmonyRenderer:
    """Conversations → ids of OpenAI's harmony vocabulary."""

    def __init__(self, date: str) -> None:
        import openai_harmony  # half a second and a vocabulary: only where such a model is loaded

        self._lib = openai_harmony
        self._encoding = openai_harmony.load_harmony_encoding("HarmonyGptOss")
        self._date = date
        self.digest = "harmony:" + importlib.metadata.version("oss-harmony")

    def render(
        self, turns: list[Turn], *, tools: list[Tool], effort: str | None, instruction: str = "", schema: str = ""
    ) -> list[int]:
        """`instruction` and `schema` are added to the developer message."""
        lib = self._lib
        role = lib.Role
        system = lib.SystemContent.new().with_conversation_start_date(self._date)
        if effort:
            system = system.with_reasoning_effort(lib.ReasoningEffort[effort.upper()])
        messages = [lib.Message.from_role_and_content(role.SYSTEM, system)]

        text, turns, _ = join_instructions(turns)
        # NOTE: harmony's own form for wanted formats; the grammar enforces it, this tells the model.
        formats = f"# Response Formats\n\n## answer\n\n{schema}" if schema else ""
        text = "\n\n".join(t for t in (text, instruction, formats) if t)
        if text or tools:
            developer = lib.DeveloperContent.new()
            if text:
                developer = developer.with_instructions(text)
            if tools:
                developer = developer.with_function_tools(
                    [lib.ToolDescription.new(t.name, t.description, t.parameters) for t in tools]
                )
            messages.append(lib.Message.from_role_and_content(role.DEVELOPER, developer))

        turns = one_call_a_turn(turns)
        answered = last_answer(turns)
        for i, turn in enumerate(turns):
            messages += self._messages(turn, keep_reasoning=i > answered)
        # Done above, by the same rule for every conversation: the package only looks at the last assistant message.
        keep_all = lib.RenderConversationConfig(auto_drop_analysis=False)
        conversation = lib.Conversation.from_messages(messages)
        try:
            return self._encoding.render_conversation_for_completion(conversation, role.ASSISTANT, keep_all)
        except Exception as e:  # noqa: BLE001 - foreign code over a request's schemas: its faults are the request's
            raise Refused(
                "rendering_failed", f"this conversation can't be written in harmony: {e}", param="messages"
            ) from None

    def _messages(self, turn: Turn, *, keep_reasoning: bool) -> list[Any]:
        lib = self._lib
        role = lib.Role
        new = lib.Message.from_role_and_content
        if turn.role == "user":
            return [new(role.USER, turn.text)]
        if turn.role == "tool":
            author = lib.Author.new(role.TOOL, f"functions.{turn.name}")
            result = lib.Message.from_author_and_content(author, turn.text)
            return [result.with_channel("commentary").with_recipient("assistant")]
        out = []
        if turn.reasoning and keep_reasoning:
            out.append(new(role.ASSISTANT, turn.reasoning).with_channel("analysis"))
        if turn.text or not turn.calls:
            out.append(new(role.ASSISTANT, turn.text).with_channel("commentary" if turn.calls else "final"))
        for call in turn.calls:
            message = new(role.ASSISTANT, call.arguments).with_channel("commentary")
            out.append(message.with_recipient(f"functions.{call.name}").with_content_type("<|constrain|>json"))
        return out


class _Goal(msgspec.Struct):
    """Where the text of the open message goes."""

    channel: Channel | None  # None: nowhere; only `raw` keeps it
    grammar: bool = False  # a response format holds for it
    call: str = ""  # the function it calls
    written: bool = False  # it has text


class HarmonyParser:
    """Reads one sequence that began after `<|start|>assistant`. Never raises, whatever the tokens.

    A sequence is broken (`PARSE_ERROR`) if the model ended it by itself and it holds neither a message for the reader
    nor a call of a function.
    """

    def __init__(
        self,
        sheet: Sheet,
        tokenizer: Tokenizer,
        markup: Markup,
        *,
        end_tokens: frozenset[int],
        functions: frozenset[str] = frozenset(),
        grammar: bool = False,
    ) -> None:
        self._sheet = sheet
        self._tokenizer = tokenizer
        self._m = markup
        self._markup = frozenset(i for i in msgspec.structs.astuple(markup) if i >= 0)
        self._end_tokens = end_tokens
        self._functions = functions
        self._grammar = grammar
        self._characters = Characters()
        self._goal: _Goal | None = None  # of the open message; None: in a header
        self._opened = False  # there was a message, or is one
        self._started = False  # this header began with <|start|>; the first one's begin is in the prompt
        self._role: list[str] = []  # header text before <|channel|>
        self._channel: list[str] | None = None  # header text after <|channel|>
        self._in_type = False  # header text after <|constrain|>: a content type, of no use here
        self._loose: list[str] = []  # text that belongs to no message
        self._arguments: list[str] = []
        self._answers = 0  # messages for the reader
        self._ended: set[Channel] = set()  # channels with text whose last message has ended
        self._done = False
        self._foreign = False  # the model began to write somebody else's turn

    @property
    def stopped(self) -> bool:
        return self._sheet.stopped or self._foreign

    @property
    def in_answer(self) -> bool:
        return self._goal is not None and self._goal.grammar and not self._done

    @property
    def reasoning_tokens(self) -> int:
        return self._sheet.reasoning_tokens

    def so_far(self) -> dict[Channel, str]:
        calling = self._goal is not None and self._goal.channel is Channel.TOOL
        return self._sheet.so_far(arguments="".join(self._arguments) if calling else "")

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> list[TextPiece]:
        if self._done or self.stopped:
            return []
        data = self._sheet.saw(token)
        m = self._m
        if token in self._end_tokens:
            self._done = True
            return self._close()
        if token in (m.end, m.ret, m.call, m.endoftext):
            return self._close()
        if token == m.start:  # inside a message too: the model forgot <|end|>
            out = self._close()
            self._drop_header()
            self._started = True
            return out
        if self._goal is None:
            self._read_header(token, data)
            return []
        if token in self._markup or not (data := self._tokenizer.piece(token, special=False)):
            return []  # a stray control token inside a message is no text
        return self._write(token, data, logprob)

    def _read_header(self, token: int, data: bytes) -> None:
        m = self._m
        if token in self._markup:
            self._characters.flush()
        if token == m.channel:
            # A second one takes the first one's place: gpt-oss-20b writes "commentary" before "analysis" at times.
            self._channel, self._in_type = [], False
        elif token == m.constrain:
            self._in_type = True
        elif token == m.message:
            self._open()
        elif token not in self._markup and not self._in_type:
            part = self._role if self._channel is None else self._channel
            part.append(self._characters.feed(data))

    def _drop_header(self) -> None:
        """Begin a new header; text that led to no message is kept as loose text."""
        self._role.append(self._characters.flush())
        if self._channel is None:
            role = "".join(self._role)
            self._loose.append(role.removeprefix("assistant") if self._started else role)
        self._role, self._channel, self._in_type, self._started = [], None, False, False

    def _open(self) -> None:
        roles, channels = "".join(self._role).split(), "".join(self._channel or []).split()
        to = next((w[3:] for w in (*channels, *roles) if w.startswith("to=")), "assistant")
        author, *rest = [w for w in roles if not w.startswith("to=")] or ["assistant"]
        names = [w for w in channels if not w.startswith("to=")]
        if self._channel is None:  # <|channel|> forgotten, its name written
            names = [w for w in (author, *rest) if w in _CHANNELS]
        self._foreign = self._started and author != "assistant" and author not in _CHANNELS
        self._role, self._channel, self._in_type, self._started = [], None, False, False
        self._arguments = []
        self._opened = True
        self._goal = self._goal_of(names[0] if names else "", to)

    def _goal_of(self, channel: str, to: str) -> _Goal:
        if self._foreign:
            return _Goal(None)
        function = to.removeprefix("functions.")
        if (to.startswith("functions.") and self._functions and function) or function in self._functions:
            return _Goal(Channel.TOOL, call=function)
        if to not in ("assistant", "user", "all"):
            return _Goal(None)  # a built-in tool that nobody offered
        if channel == "analysis":
            return _Goal(Channel.REASONING)
        if channel in ("final", ""):
            self._answers += 1
            return _Goal(Channel.ANSWER, grammar=True)
        if channel == "commentary":
            # A preamble. With a response format the answer must hold nothing else than that format.
            if self._grammar:
                return _Goal(Channel.REASONING)
            self._answers += 1
            return _Goal(Channel.ANSWER)
        return _Goal(None)

    def _write(self, token: int, data: bytes, logprob: TokenLogprob | None) -> list[TextPiece]:
        channel = self._goal.channel if self._goal else None
        if channel is Channel.REASONING:
            self._sheet.reasoning_tokens += 1
        elif channel is Channel.ANSWER:
            self._sheet.score(token, logprob)
        return self._put(self._characters.feed(data))

    def _put(self, text: str) -> list[TextPiece]:
        goal = self._goal
        if goal is None or not text:
            return []
        if goal.channel is None:
            self._loose.append(text)
            return []
        if goal.channel is Channel.TOOL:
            self._arguments.append(text)
            return [TextPiece(Channel.TOOL, text)]
        out: list[TextPiece] = []
        if goal.channel in self._ended:  # another message before this one: a line between them
            self._ended.remove(goal.channel)
            out += self._sheet.write(goal.channel, "\n")
        goal.written = True
        return out + self._sheet.write(goal.channel, text)

    def _close(self) -> list[TextPiece]:
        """End the open message, if there is one."""
        goal = self._goal
        if goal is None:
            return []
        out = self._put(self._characters.flush())
        self._goal = None
        if goal.channel is Channel.TOOL:
            self._sheet.calls.append(ToolCall(name=goal.call, arguments="".join(self._arguments)))
        elif goal.channel is not None:
            if goal.channel is Channel.ANSWER:
                out += self._sheet.close()
            if goal.written:
                self._ended.add(goal.channel)
        return out

    def finish(self, finish: Finish) -> Choice:
        self._close()
        in_header = self._channel is not None
        self._drop_header()
        loose = "".join(self._loose)
        if finish is Finish.LENGTH and not self._opened and not in_header and loose:
            finish = Finish.STOP  # text without any header is broken, however it ended
        broken = finish is Finish.STOP and not self._answers and not self._sheet.calls
        return self._sheet.choice(finish, broken=broken, loose=loose)
