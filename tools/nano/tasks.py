"""Owns the task families: how a request is phrased, how its answer is worked out, how an answer is checked.

Everything is made from a seeded `random.Random`. Whether a request is held out depends only on a hash of
its content, so no held-out request can ever be drawn for training.
Each worked step is a copy or a look-up close by, because that is what a very small transformer can learn.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import words
from .harmony import CHANNEL, END, MESSAGE, RETURN, START, call_text, render

EFFORTS = ("low", "medium", "high")
DEVELOPER_TEXTS = (
    "Answer briefly.",
    "Be helpful.",
    "You are a helpful assistant.",
    "Answer the question.",
    "Keep it short.",
    "Reply in English.",
)


@dataclass(frozen=True)
class Item:
    """One request with its worked analysis and its answer, before the conversation around it is chosen."""

    family: str
    key: str
    prompt: str
    restate: str
    steps: str
    answer: str
    tools: tuple[dict[str, Any], ...] = ()
    call: tuple[str, str] | None = None
    history: tuple[dict[str, Any], ...] = ()
    held_out: bool = False


@dataclass(frozen=True)
class Example:
    """One conversation: the rendered prompt and the assistant's whole output."""

    item: Item
    effort: str
    messages: tuple[dict[str, Any], ...]
    prompt: str = field(repr=False)
    target: str = field(repr=False)


def hashed(text: str) -> int:
    """A stable number from a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _item(family: str, key: str, prompt: str, restate: str, steps: str, answer: str, **more: Any) -> Item:
    held = more.pop("held_out", hashed(f"{family}|{key}") % 100 < 8)
    return Item(family, key, prompt, restate, steps, answer, held_out=held, **more)


# ---- arithmetic -----------------------------------------------------------------------------------

ADD_PHRASES = (
    "What is {a} + {b}?",
    "{a}+{b}",
    "{a} + {b} = ?",
    "Add {a} and {b}.",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "Please compute {a} + {b}.",
    "How much is {a} plus {b}?",
)
SUB_PHRASES = (
    "What is {a} - {b}?",
    "{a}-{b}",
    "{a} - {b} = ?",
    "Calculate {a} - {b}.",
    "Please compute {a} - {b}.",
    "How much is {a} minus {b}?",
    "Take {a} minus {b}.",
)


def _number(rng: random.Random) -> int:
    return rng.randrange(10 ** rng.choice((1, 2, 2, 3, 3, 3)))


def add_steps(a: int, b: int) -> str:
    """Columns from the right: digit + digit + carry = two digits; then all result digits."""
    x, y, carry, out, digits = f"{a:03}", f"{b:03}", 0, "", ""
    for i in (2, 1, 0):
        total = int(x[i]) + int(y[i]) + carry
        out += f"{x[i]}+{y[i]}+{carry}={total:02},"
        carry, digits = total // 10, str(total % 10) + digits
    return f"{x}+{y}:{out[:-1]}>{carry}{digits}"


def sub_steps(a: int, b: int) -> str:
    """Columns from the right: digit - digit - borrow = digit, new borrow; then all result digits."""
    x, y, borrow, out, digits = f"{a:03}", f"{b:03}", 0, "", ""
    for i in (2, 1, 0):
        total = int(x[i]) - int(y[i]) - borrow
        out += f"{x[i]}-{y[i]}-{borrow}={total % 10}b{int(total < 0)},"
        borrow, digits = int(total < 0), str(total % 10) + digits
    return f"{x}-{y}:{out[:-1]}>{digits}"


def make_add(rng: random.Random) -> Item:
    a, b = _number(rng), _number(rng)
    prompt = rng.choice(ADD_PHRASES).format(a=a, b=b)
    return _item("add", f"{a}+{b}", prompt, f"Compute {a}+{b}.", add_steps(a, b), str(a + b))


def make_sub(rng: random.Random) -> Item:
    a, b = sorted((_number(rng), _number(rng)), reverse=True)
    prompt = rng.choice(SUB_PHRASES).format(a=a, b=b)
    return _item("sub", f"{a}-{b}", prompt, f"Compute {a}-{b}.", sub_steps(a, b), str(a - b))


# ---- letters --------------------------------------------------------------------------------------

REVERSE_PHRASES = (
    'Reverse the word "{w}".',
    'Reverse "{w}"',
    'Spell "{w}" backwards.',
    'What is "{w}" backwards?',
    'Please reverse the letters of "{w}".',
    'Write the word "{w}" in reverse.',
)
UPPER_PHRASES = (
    'Write "{w}" in capital letters.',
    'Upper-case the word "{w}".',
    'Write "{w}" in upper case.',
    'Please capitalize all letters of "{w}".',
    'Make "{w}" upper case.',
    'Convert "{w}" to upper case.',
)
COUNT_PHRASES = (
    'How many times does the letter "{c}" appear in "{w}"?',
    'Count the letter "{c}" in "{w}".',
    'How many "{c}" are in "{w}"?',
    'How often does "{c}" occur in "{w}"?',
    'Count how many times "{c}" is in the word "{w}".',
)


def reverse_steps(word: str) -> str:
    """Letters with their index, then the same pairs from the last to the first."""
    pairs = [f"{i}{c}" for i, c in enumerate(word, 1)]
    return "".join(pairs) + "|" + "".join(reversed(pairs))


def upper_steps(word: str) -> str:
    """Each letter with its index and its capital."""
    return "".join(f"{i}{c}{c.upper()}" for i, c in enumerate(word, 1))


def count_steps(word: str, letter: str) -> str:
    """Each letter with its index, the wanted letter, + or - for equal or not, and the count so far."""
    out, total = f"{letter}:", 0
    for i, c in enumerate(word, 1):
        total += c == letter
        out += f"{i}{c}{letter}{'+' if c == letter else '-'}{total},"
    return out[:-1]


def make_reverse(rng: random.Random) -> Item:
    w = words.make_word(rng)
    prompt = rng.choice(REVERSE_PHRASES).format(w=w)
    return _item("reverse", w, prompt, f'Reverse "{w}".', reverse_steps(w), w[::-1])


def make_upper(rng: random.Random) -> Item:
    w = words.make_word(rng)
    prompt = rng.choice(UPPER_PHRASES).format(w=w)
    return _item("upper", w, prompt, f'Capitals for "{w}".', upper_steps(w), w.upper())


def make_count(rng: random.Random) -> Item:
    w = words.make_word(rng)
    c = rng.choice(w) if rng.random() < 0.8 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    prompt = rng.choice(COUNT_PHRASES).format(w=w, c=c)
    return _item("count", f"{c}|{w}", prompt, f'Count "{c}" in "{w}".', count_steps(w, c), str(w.count(c)))


# ---- sorting --------------------------------------------------------------------------------------

SORT_PHRASES = (
    "Sort these numbers: {n}",
    "Sort {n}",
    "Sort the numbers {n} from small to large.",
    "Please sort {n} in ascending order.",
    "Put these numbers in order: {n}",
    "Order these numbers: {n}.",
)


def sort_steps(numbers: list[int]) -> str:
    """The numbers in two digits; then for each tens digit 0..9 the numbers that begin with it, rising."""
    out = ",".join(f"{n:02}" for n in numbers) + "|"
    for tens in range(10):
        inside = sorted(n for n in numbers if n // 10 == tens)
        out += str(tens) + (":" + ",".join(f"{n:02}" for n in inside) if inside else "") + ";"
    return out[:-1]


def make_sort(rng: random.Random) -> Item:
    numbers = rng.sample(range(100), rng.randint(3, 6))
    text = ", ".join(map(str, numbers))
    prompt = rng.choice(SORT_PHRASES).format(n=text)
    answer = ", ".join(map(str, sorted(numbers)))
    return _item("sort", text, prompt, f"Sort {text}.", sort_steps(numbers), answer)


# ---- facts ----------------------------------------------------------------------------------------

FACT_KINDS: tuple[tuple[dict[str, str], str, tuple[str, ...]], ...] = (
    (
        words.CAPITALS,
        "capital of {x}",
        (
            "What is the capital of {x}?",
            "Which city is the capital of {x}?",
            "Name the capital of {x}.",
            "Tell me the capital of {x}.",
            "Capital of {x}?",
            "Do you know the capital of {x}?",
            "Please name the capital city of {x}.",
            "I want to know the capital of {x}.",
        ),
    ),
    (
        words.COLOUR_OF,
        "colour of {x}",
        (
            "What is the colour of {x}?",
            "Which colour is the colour of {x}?",
            "Name the colour of {x}.",
            "Tell me the colour of {x}.",
            "Colour of {x}?",
            "Do you know the colour of {x}?",
            "Please name the usual colour of {x}.",
            "I want to know the colour of {x}.",
        ),
    ),
    (
        words.SOUND_OF,
        "sound of a {x}",
        (
            "What is the sound of a {x}?",
            "Which sound is the sound of a {x}?",
            "Name the sound of a {x}.",
            "Tell me the sound of a {x}.",
            "Sound of a {x}?",
            "Do you know the sound of a {x}?",
            "Please name the usual sound of a {x}.",
            "I want to know the sound of a {x}.",
        ),
    ),
    (
        words.OPPOSITE_OF,
        "opposite of {x}",
        (
            "What is the opposite of {x}?",
            "Which word is the opposite of {x}?",
            "Name the opposite of {x}.",
            "Tell me the opposite of {x}.",
            "Opposite of {x}?",
            "Do you know the opposite of {x}?",
            "Please name the opposite word of {x}.",
            "I want to know the opposite of {x}.",
        ),
    ),
)
_FACTS = [(x, y, about, phrases) for table, about, phrases in FACT_KINDS for x, y in table.items()]


def make_fact(rng: random.Random) -> Item:
    x, y, about, phrases = rng.choice(_FACTS)
    i = rng.randrange(len(phrases))
    about = about.format(x=x)
    # facts can't be guessed, so what is held out is the phrasing; the first phrasing of each fact is trained
    held = i > 0 and hashed(f"facts|{about}|{i}") % 100 < 48
    return _item("facts", f"{about}|{i}", phrases[i].format(x=x), f"Asked: {about}.", f"{x}: {y}.", y, held_out=held)


# ---- stories --------------------------------------------------------------------------------------

STORY_PHRASES = (
    "Write a story about {name}, a {colour} {object} and a {place}.",
    "Tell me a story about {name} and a {colour} {object} in a {place}.",
    "Please write a short story: {name} finds a {colour} {object} in a {place}.",
    "I want a story about {name} in a {place} with a {colour} {object}.",
    "Make up a story in which {name} finds a {colour} {object} in a {place}.",
)
_WONDER = {
    "lamp": "it gave a warm light",
    "key": "it opened an old door",
    "coin": "it was very old",
    "book": "it was full of songs",
    "stone": "it was warm like bread",
    "bell": "it rang like a song",
    "shell": "it sang like the sea",
    "ring": "it gave a small light",
    "box": "it was full of letters",
    "map": "it showed a long road",
    "kite": "it flew over the trees",
    "drum": "it rang like the rain",
    "clock": "it was very old",
    "mirror": "it showed a warm light",
    "button": "it opened an old box",
    "feather": "it was warm like bread",
}
_MORNING = ("One cold morning", "One warm morning", "One quiet evening", "One rainy day")


def story_text(name: str, colour: str, thing: str, place: str) -> str:
    """The story: every word follows from the four details; place and colour come back only at the end."""
    when = _MORNING[len(name) % len(_MORNING)]
    return (
        f"{when} {name} went to the {place}. There, under an old tree, {name} saw a {colour} {thing}. "
        f"It was small, but {_WONDER[thing]}. "
        f"An old woman came down the road and said: I lost something long ago, and now I am sad. "
        f"{name} gave the {thing} to the old woman, and she began to smile. "
        f"Then the wind came and the rain fell, and they sat under the tree until it was over. "
        f"The old woman told a long story about the sea, about a ship with many friends, and about the way home. "
        f"When the sun came out again, she gave the {thing} back and said: keep it, you have a good heart. "
        f"In the evening {name} walked home and told everyone about the day. "
        f"Years later {name} still kept the {colour} {thing} and never forgot the {place}. The end."
    )


def make_story(rng: random.Random) -> Item:
    name, colour = rng.choice(words.NAMES), rng.choice(words.COLOURS)
    thing, place = rng.choice(words.OBJECTS), rng.choice(words.PLACES)
    prompt = rng.choice(STORY_PHRASES).format(name=name, colour=colour, object=thing, place=place)
    details = f"{name}, {colour} {thing}, {place}."
    return _item(
        "story",
        f"{name}|{colour}|{thing}|{place}",
        prompt,
        "Write a story.",
        details,
        story_text(name, colour, thing, place),
    )


# ---- tool calls -----------------------------------------------------------------------------------


def _tool(name: str, description: str, **properties: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {k: {"type": v} for k, v in properties.items()},
                "required": list(properties),
            },
        },
    }


TOOLS: dict[str, dict[str, Any]] = {
    "add": _tool("add", "Add two numbers.", a="number", b="number"),
    "get_weather": _tool("get_weather", "The weather in a city.", city="string"),
    "reverse": _tool("reverse", "Reverse a word.", word="string"),
}
WEATHER_PHRASES = (
    "What is the weather in {x}?",
    "How is the weather in {x}?",
    "Tell me the weather in {x}.",
    "Weather in {x}?",
    "Please get the weather in {x}.",
)


def make_tool(rng: random.Random) -> Item:
    name = rng.choice(tuple(TOOLS))
    offered = {name, *rng.sample(tuple(TOOLS), rng.randrange(3))}
    order = rng.sample(sorted(offered), len(offered)) if rng.random() < 0.5 else [t for t in TOOLS if t in offered]
    tools = tuple(TOOLS[t] for t in order)
    if name == "add":
        a, b = _number(rng), _number(rng)
        prompt = rng.choice(ADD_PHRASES).format(a=a, b=b)
        arguments: dict[str, Any] = {"a": a, "b": b}
        result, key = str(a + b), f"{a}+{b}"
        answer = f"The result is {result}."
    elif name == "reverse":
        w = words.make_word(rng)
        prompt = rng.choice(REVERSE_PHRASES).format(w=w)
        arguments, result, key = {"word": w}, w[::-1], w
        answer = f'The result is "{result}".'
        result = f'"{result}"'
    else:
        x = rng.choice(words.CITIES)
        i = rng.randrange(len(WEATHER_PHRASES))
        prompt = WEATHER_PHRASES[i].format(x=x)
        result = rng.choice(words.WEATHER)
        arguments, key = {"city": x}, f"{x}|{i}|{result}"
        answer = f"It is {result} in {x}."
    compact = json.dumps(arguments, separators=(",", ":"))
    if rng.random() < 0.55:
        return _item(
            "tool",
            f"call|{key}",
            prompt,
            "A tool can do this.",
            f"Use {name}.",
            compact,
            tools=tools,
            call=(name, compact),
        )
    stored: Any = compact if rng.random() < 0.7 else arguments
    history = (
        {"role": "user", "content": prompt},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": name, "arguments": stored}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    )
    return _item(
        "tool",
        f"result|{key}|{result}",
        prompt,
        "The tool has answered.",
        f"Result: {result}.",
        answer,
        tools=tools,
        history=history,
    )


FAMILIES: dict[str, Callable[[random.Random], Item]] = {
    "add": make_add,
    "sub": make_sub,
    "reverse": make_reverse,
    "sort": make_sort,
    "count": make_count,
    "upper": make_upper,
    "facts": make_fact,
    "story": make_story,
    "tool": make_tool,
}

# ---- conversations --------------------------------------------------------------------------------


def analysis(item: Item, effort: str) -> str:
    """Low: the steps. Medium: what is asked, then the steps. High: the same and the steps once more."""
    if effort == "low":
        return item.steps
    text = f"{item.restate}\n{item.steps}"
    return text if effort == "medium" else f"{text}\nCheck: {item.steps}"


def target_text(item: Item, effort: str) -> str:
    """All that the assistant writes after `<|start|>assistant`."""
    out = f"{CHANNEL}analysis{MESSAGE}{analysis(item, effort)}{END}{START}assistant"
    if item.call:
        return out + call_text(*item.call)
    return out + f"{CHANNEL}final{MESSAGE}{item.answer}{RETURN}"


def draw(family: str, rng: random.Random, held_out: bool) -> Item:
    """A random item of a family, from the training or from the held-out side."""
    while True:
        item = FAMILIES[family](rng)
        if item.held_out == held_out:
            return item


def make_example(
    family: str, rng: random.Random, *, held_out: bool = False, effort: str | None = None, plain: bool = False
) -> Example:
    """One conversation. Unless `plain`, a few have instructions, an earlier turn, or tools of no use to them."""
    item = draw(family, rng, held_out)
    effort = effort or rng.choices(EFFORTS, (0.3, 0.5, 0.2))[0]
    messages = list(item.history) or [{"role": "user", "content": item.prompt}]
    tools = item.tools
    if not plain:
        if rng.random() < 0.05:
            other = draw(rng.choice(("add", "sub", "reverse", "facts", "upper")), rng, False)
            messages = [
                {"role": "user", "content": other.prompt},
                {"role": "assistant", "content": other.answer},
                *messages,
            ]
        if rng.random() < 0.08:
            messages.insert(0, {"role": "system", "content": rng.choice(DEVELOPER_TEXTS)})
        if not tools and family in ("sub", "upper", "facts") and rng.random() < 0.06:
            tools = tuple(TOOLS[t] for t in rng.sample(tuple(TOOLS), rng.randint(1, 2)))
    return Example(item, effort, tuple(messages), render(messages, tools, effort), target_text(item, effort))


def check(item: Item, answer: str) -> bool:
    """Whether a final answer (for a call: its arguments) is right."""
    if item.call:
        try:
            return json.loads(answer) == json.loads(item.answer)
        except ValueError:
            return False
    if item.family != "story":
        return answer.strip() == item.answer
    name, colour, thing, place = item.key.split("|")
    last = answer.strip().removesuffix("The end.").strip().rsplit(". ", 1)[-1]
    return (
        answer.strip().endswith("The end.")
        and f"the {place}." in answer[: len(answer) // 3]
        and all(part in last for part in (name, f"{colour} {thing}", f"the {place}."))
        and 110 <= len(answer.split()) <= 220
    )
