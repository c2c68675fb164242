"""Damage to bytes, texts and JSON, drawn from a source of randomness."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

AWKWARD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 10**9, 10**30, -(10**12), 1e308, float("nan"), float("inf")),
    *("", " ", "a", "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "a\x00b", "${oc.env:HOME}", "${now:%Y}"),
    *("file:///etc/passwd", "s3://nowhere/x", "\ud800", "é", "0" * 64, "1e9", "[1]"),
    *([], {}, [1], {"a": 1}, [[[]]], [None], {"": None}),
)
"""Values that a field of JSON or a setting may hold instead of its own."""


def flipped(content: bytes, random: Random, most: int = 1) -> bytes:
    """The bytes with one to ``most`` flipped bits."""
    changed = bytearray(content)
    for _ in range(random.randint(1, most)):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(content: bytes, random: Random) -> bytes:
    """The first so many of the bytes."""
    return content[: random.randrange(len(content))]


def with_hole(content: bytes, random: Random) -> bytes:
    """The bytes with a run of them overwritten by zeros, by 0xFF or by others of their own."""
    size = random.randint(1, max(1, min(512, len(content) // 2)))
    begin = random.randrange(len(content) - size + 1)
    elsewhere = random.randrange(len(content) - size + 1)
    filling = random.choice([bytes(size), b"\xff" * size, content[elsewhere : elsewhere + size]])
    return content[:begin] + filling + content[begin + size :]


def spliced(content: bytes, random: Random) -> bytes:
    """The bytes with a run of them removed, or repeated."""
    begin, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return random.choice([content[:begin] + content[end:], content[:end] + content[begin:end] + content[end:]])


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (flipped, cut, with_hole, spliced)


def damaged(content: bytes, random: Random) -> bytes:
    """The bytes with damage of one kind; never the same bytes."""
    for _ in range(100):
        if (changed := random.choice(BYTES)(content, random)) != content:
            return changed
    raise AssertionError(f"no damage changes {content!r}")


def json_damaged(content: bytes, random: Random) -> bytes:
    """JSON in which one value at any depth is another one, or one key is gone, or has another name."""
    whole = json.loads(content)
    places = list(_places(whole))
    holder, key = random.choice(places)
    kind = random.random()
    if kind < 0.7:
        holder[key] = random.choice(AWKWARD)
    elif kind < 0.85 or not isinstance(holder, dict):
        del holder[key]
    else:
        holder[f"{key}x"] = holder.pop(key)
    return json.dumps(whole).encode()


def _places(value: Any) -> Any:
    """Every (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


CHARACTERS = "CcNnOoSsPpFIBHl[]()=#-+\\/@.:%0123456789*$~>|,; \t\x00\u00a0\u0421\uff23é\u200b"


def text_damaged(text: str, random: Random) -> str:
    """The text with one to three characters inserted, removed, replaced, or exchanged with their neighbour."""
    changed = list(text)
    for _ in range(random.randint(1, 3)):
        place = random.randrange(len(changed)) if changed else 0
        kind = random.choice(("insert", "remove", "replace", "exchange"))
        if kind == "insert" or not changed:
            changed.insert(place, random.choice(CHARACTERS))
        elif kind == "remove":
            del changed[place]
        elif kind == "replace":
            changed[place] = random.choice(CHARACTERS)
        elif place:
            changed[place - 1], changed[place] = changed[place], changed[place - 1]
    return "".join(changed)
