"""Owns the word material of the demo model's tasks: names, places, facts, and a generator of made-up words."""

from __future__ import annotations

import random


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Mia Tom Ana Leo Ida Max Eva Sam Zoe Ben Lily Noah Nora Finn Rosa Otto Alma Hugo Clara Oscar Stella Milo Greta Theo"
)
PLACES = _words("forest garden village harbor castle valley library desert market park meadow cave")
COLOURS = _words("red blue green golden silver white")
OBJECTS = _words("lamp key coin book stone bell shell ring box map kite drum clock mirror button feather")
CITIES = _words("Oslo Paris Rome Madrid Berlin Vienna Prague Lisbon Dublin Athens Cairo Tokyo")
WEATHER = _words("sunny rainy cloudy windy snowy foggy stormy")

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Norway": "Oslo",
    "Austria": "Vienna",
    "Portugal": "Lisbon",
    "Ireland": "Dublin",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Hungary": "Budapest",
    "Belgium": "Brussels",
    "Canada": "Ottawa",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Kenya": "Nairobi",
    "China": "Beijing",
    "Russia": "Moscow",
    "Turkey": "Ankara",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Ukraine": "Kyiv",
    "Iceland": "Reykjavik",
    "Bulgaria": "Sofia",
}
COLOUR_OF = {
    "grass": "green",
    "snow": "white",
    "blood": "red",
    "coal": "black",
    "lemons": "yellow",
    "cherries": "red",
    "milk": "white",
    "ravens": "black",
    "carrots": "orange",
    "chocolate": "brown",
}
SOUND_OF = {
    "dog": "bark",
    "cat": "meow",
    "cow": "moo",
    "sheep": "baa",
    "pig": "oink",
    "lion": "roar",
    "wolf": "howl",
    "horse": "neigh",
    "bee": "buzz",
    "snake": "hiss",
}
OPPOSITE_OF = {
    "hot": "cold",
    "big": "small",
    "day": "night",
    "up": "down",
    "fast": "slow",
    "wet": "dry",
    "old": "new",
    "open": "closed",
    "full": "empty",
    "hard": "soft",
    "early": "late",
    "left": "right",
}

REAL_WORDS = _words(
    "apple bread chair dream eagle flame grape house igloo jelly knife lemon mango night ocean piano queen "
    "river sugar table uncle violin water yellow zebra banana letter coffee butter cotton dinner garden "
    "hammer island jacket kitten ladder mirror needle orange pepper rabbit school tomato window winter "
    "planet summer spring autumn cloud storm stone metal paper glass wood iron gold silver copper bottle "
    "candle castle bridge forest desert valley meadow harbor market temple palace pocket button collar "
    "basket blanket pillow curtain carpet kitchen balloon giraffe penguin dolphin leopard buffalo hamster "
    "sparrow pelican chicken turkey lobster oyster salmon herring cat dog sun moon star tree leaf bird fish "
    "frog bear wolf lion deer goat duck cow pig hen ant bee owl fox cup pen box map hat key bag jar "
    "computer elephant mountain sandwich notebook keyboard umbrella dinosaur hospital sunshine strawberry"
)

_VOWELS, _CONSONANTS = "aeiou", "bcdfghjklmnprstvwyz"


def make_word(rng: random.Random, low: int = 3, high: int = 9) -> str:
    """A word of `low`..`high` letters: real, pronounceable, random, or full of repeated letters."""
    kind = rng.random()
    if kind < 0.15:
        fitting = [w for w in REAL_WORDS if low <= len(w) <= high]
        return rng.choice(fitting)
    size = rng.randint(low, high)
    if kind < 0.55:
        start = rng.random() < 0.5
        return "".join(rng.choice(_VOWELS if (i % 2 == 0) == start else _CONSONANTS) for i in range(size))
    letters = "abcdefghijklmnopqrstuvwxyz"
    if kind < 0.75:  # few different letters: copying must not rely on a letter being unique
        letters = "".join(rng.sample(letters, rng.randint(2, 4)))
    return "".join(rng.choice(letters) for _ in range(size))
