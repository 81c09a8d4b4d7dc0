"""Owns the way from generated tokens to text: whole characters, stop strings, channels, log-probabilities, tool calls.

`Sheet` collects what one sequence wrote and decides how it ended; `TextParser` reads models that write plain text with
`<think>` and `<tool_call>` tags, and raw completions. Models that speak harmony are read by `engine.harmony`.
"""

from __future__ import annotations

import codecs
import json

import msgspec

from engine.backends.base import TextPiece, Tokenizer
from engine.protocol import Channel, Choice, Finish, TokenLogprob, ToolCall


class Characters:
    """Bytes → text that never ends inside a character; what can't become one is U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def flush(self) -> str:
        """End of the text: half a character becomes U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class StopStrings:
    """Cuts text before the stop string that is complete first; holds text back only while it may still become one."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = [s for s in stops if s]
        self._held = ""
        self.found: str | None = None

    def feed(self, text: str) -> str:
        """Return the text that is certain."""
        if self.found is not None:
            return ""
        if not self._stops:
            return text
        self._held += text
        # The one that ends first wins, so that the result does not depend on where tokens begin.
        hits = [(at + len(s), at, s) for s in self._stops if (at := self._held.find(s)) >= 0]
        if hits:
            _, at, self.found = min(hits)
            out, self._held = self._held[:at], ""
            return out
        sure = len(self._held) - partial_tail(self._held, self._stops)
        out, self._held = self._held[:sure], self._held[sure:]
        return out

    def flush(self) -> str:
        """End of the text: what was held back is certain now."""
        out, self._held = self._held, ""
        return out


def partial_tail(text: str, marks: list[str]) -> int:
    """Length of the longest end of `text` that is a true beginning of one of `marks`."""
    for n in range(min(len(text), max(map(len, marks), default=1) - 1), 0, -1):
        tail = text[-n:]
        if any(len(m) > n and m.startswith(tail) for m in marks):
            return n
    return 0


class Sheet:
    """What one sequence has written: the texts by channel, calls, log-probabilities.

    `write` returns the pieces that became certain; `close` ends a message for the reader and gives the rest.
    """

    def __init__(self, index: int, tokenizer: Tokenizer, stops: list[str], *, logprobs: bool) -> None:
        self._index = index
        self._tokenizer = tokenizer
        self._stops = StopStrings(stops)
        self._answer: list[str] = []
        self._reasoning: list[str] = []
        self._raw = bytearray()
        self._logprobs: list[tuple[int, TokenLogprob]] | None = [] if logprobs else None
        self._seen = 0  # characters of the answer fed to the stop matcher
        self.calls: list[ToolCall] = []
        self.reasoning_tokens = 0

    @property
    def stopped(self) -> bool:
        return self._stops.found is not None

    def saw(self, token: int) -> bytes:
        """Note a token with its markup; return its bytes as they are written."""
        data = self._tokenizer.piece(token)
        self._raw += data
        return data

    def score(self, token: int, logprob: TokenLogprob | None, *, ahead: int = 0) -> None:
        """Keep the log-probability of a token whose text is about to go into the answer, `ahead` characters on."""
        if self._logprobs is None or logprob is None or self.stopped:
            return
        if logprob.bytes is None:
            logprob = msgspec.structs.replace(logprob, bytes=list(self._tokenizer.piece(token)))
        self._logprobs.append((self._seen + ahead, logprob))

    def unscore(self) -> None:
        """The tokens scored since the last written text turned out to be a tag."""
        if self._logprobs is not None:
            self._logprobs = [(at, p) for at, p in self._logprobs if at < self._seen]

    def write(self, channel: Channel, text: str) -> list[TextPiece]:
        if not text:
            return []
        if channel is Channel.REASONING:
            self._reasoning.append(text)
            return [TextPiece(channel, text)]
        self._seen += len(text)
        return self._certain(self._stops.feed(text))

    def close(self) -> list[TextPiece]:
        """The message for the reader has ended: nothing can complete a stop string any more."""
        return self._certain(self._stops.flush())

    def _certain(self, text: str) -> list[TextPiece]:
        if not text:
            return []
        self._answer.append(text)
        return [TextPiece(Channel.ANSWER, text)]

    def so_far(self, *, arguments: str = "") -> dict[Channel, str]:
        """All pieces given away, by channel. `arguments`: of a call that is still being written."""
        return {
            Channel.REASONING: "".join(self._reasoning),
            Channel.ANSWER: "".join(self._answer),
            Channel.TOOL: "".join(call.arguments for call in self.calls) + arguments,
        }

    def choice(self, finish: Finish, *, broken: bool = False, loose: str = "") -> Choice:
        """End the sequence. `broken`: its format does not hold; `loose` is the text it wrote outside of any message."""
        self.close()
        content = "".join(self._answer)
        if broken and not content:
            content = loose
        if finish is Finish.STOP and not self.stopped:
            if self.calls:
                finish = Finish.TOOL_CALLS
            elif broken:
                finish = Finish.PARSE_ERROR
        logprobs = None
        if self._logprobs is not None:
            logprobs = [p for at, p in self._logprobs if at < len(content) or not self.stopped]
        return Choice(
            index=self._index,
            finish=finish,
            content=None if self.calls and not content.strip() else content,
            reasoning="".join(self._reasoning) or None,
            tool_calls=list(self.calls),
            logprobs=logprobs,
            raw=self._raw.decode(errors="replace") if broken else None,
        )


THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
CALL_OPEN, CALL_CLOSE = "<tool_call>", "</tool_call>"


class _HermesCall(msgspec.Struct):
    """A call as Hermes and Qwen models write it. Raw keeps the arguments as generated."""

    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"")  # Llama's name for them


def read_call(text: str) -> ToolCall | None:
    """The JSON between `<tool_call>` tags, None where it isn't a call."""
    try:
        call = msgspec.json.decode(text.strip().encode(), type=_HermesCall)
        arguments = (bytes(call.arguments) or bytes(call.parameters) or b"{}").decode()
        if arguments.startswith('"'):  # some models write the arguments as a JSON string, as OpenAI's form has them
            arguments = json.loads(arguments)
    except (msgspec.DecodeError, ValueError):
        return None
    return ToolCall(name=call.name, arguments=arguments) if call.name else None


class TextParser:
    """Reads text with `<think>` and `<tool_call>` tags, or (with neither) any text as it is.

    `thinking`: None (no tags), "maybe" (the model may open the tag itself), "open" (the prompt ends inside it).
    `raw` keeps control tokens in the text: what a completion wrote is its answer, markup and all.
    White space around tags belongs to the tags.
    """

    def __init__(
        self,
        sheet: Sheet,
        tokenizer: Tokenizer,
        *,
        end_tokens: frozenset[int],
        thinking: str | None = None,
        grammar: bool = False,
        tools: bool = False,
        raw: bool = False,
    ) -> None:
        self._sheet = sheet
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._tags = {t.encode() for t in ((THINK_OPEN, THINK_CLOSE) if thinking else ())}
        self._tags |= {t.encode() for t in ((CALL_OPEN, CALL_CLOSE) if tools else ())}
        self._tools = tools
        self._raw = raw
        self._characters = Characters()
        # With a grammar a model that has not opened its reasoning yet may not: its first token is the answer's.
        begin = "answer" if grammar else "start"
        self._state = {None: "answer", "maybe": begin, "open": "think"}[thinking]
        self._text = ""  # not given away yet: may become a tag, or is white space before one
        self._trim = thinking == "open"  # white space that comes now belongs to the tag before it
        self._broken = False
        self._done = False

    @property
    def stopped(self) -> bool:
        return self._sheet.stopped

    @property
    def in_answer(self) -> bool:
        return self._state == "answer" and not self._done

    @property
    def reasoning_tokens(self) -> int:
        return self._sheet.reasoning_tokens

    def so_far(self) -> dict[Channel, str]:
        return self._sheet.so_far()

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> list[TextPiece]:
        if self._done or self.stopped:
            return []
        written = self._sheet.saw(token)
        if token in self._end_tokens:
            return self._end()
        tag = written in self._tags
        data = written if self._raw or tag else self._tokenizer.piece(token, special=False)
        if not data:
            return []
        if not tag:
            if self._state == "think":
                self._sheet.reasoning_tokens += 1
            elif self._state != "call" and not (self._trim and data.isspace()):
                self._sheet.score(token, logprob, ahead=len(self._text))
        return self._read(self._characters.feed(data))

    def _end(self) -> list[TextPiece]:
        """No more tokens: give away what was held back."""
        if self._done:
            return []
        out = self._read(self._characters.flush())
        self._done = True
        rest, self._text = self._text, ""
        if self._state == "call":
            out += self._take_call(rest)
        elif self._state == "think":
            out += self._sheet.write(Channel.REASONING, rest.rstrip())
        elif not self._trim:
            out += self._sheet.write(Channel.ANSWER, rest)
        return out + self._sheet.close()

    def _read(self, text: str) -> list[TextPiece]:
        self._text += text
        out: list[TextPiece] = []
        while not self.stopped and self._step(out):
            pass
        return out

    def _step(self, out: list[TextPiece]) -> bool:
        """Give away what is certain in the present state; True where the state changed and there may be more."""
        if self._state == "start":
            begin = self._text.lstrip()
            if begin.startswith(THINK_OPEN):
                self._text, self._state, self._trim = begin[len(THINK_OPEN) :], "think", True
                self._sheet.unscore()
                return True
            if THINK_OPEN.startswith(begin):
                return False
            self._state = "answer"
            return True
        if self._state == "think":
            return self._step_part(out, THINK_CLOSE, Channel.REASONING, "answer")
        if self._state == "answer":
            return self._step_part(out, CALL_OPEN if self._tools else "", Channel.ANSWER, "call")
        at = self._text.find(CALL_CLOSE)
        if at < 0:
            return False
        call, self._text = self._text[:at], self._text[at + len(CALL_CLOSE) :]
        out += self._take_call(call)
        self._state, self._trim = "answer", True
        return True

    def _step_part(self, out: list[TextPiece], mark: str, channel: Channel, after: str) -> bool:
        if self._trim:
            self._text = self._text.lstrip()
            if not self._text:
                return False
            self._trim = False
        at = self._text.find(mark) if mark else -1
        if at >= 0:
            part, self._text = self._text[:at], self._text[at + len(mark) :]
            out += self._sheet.write(channel, part.rstrip())
            if channel is Channel.ANSWER:
                out += self._sheet.close()
                self._sheet.unscore()
            self._state, self._trim = after, True
            return True
        sure = len(self._text)
        if mark:
            sure -= partial_tail(self._text, [mark])
            sure = len(self._text[:sure].rstrip())
        out += self._sheet.write(channel, self._text[:sure])
        self._text = self._text[sure:]
        return False

    def _take_call(self, text: str) -> list[TextPiece]:
        call = read_call(text)
        if call is None:
            self._broken = True
            return []
        self._sheet.calls.append(call)
        return [TextPiece(Channel.TOOL, call.arguments)]

    def finish(self, finish: Finish) -> Choice:
        if self._state == "call" and finish is not Finish.STOP and not self._done:
            self._text = ""  # half a call is no call; `raw` holds it
        self._end()
        unclosed = self._state == "think" and finish is Finish.STOP
        return self._sheet.choice(finish, broken=self._broken or unclosed)
