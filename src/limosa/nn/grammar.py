"""Hold generated text to a regular expression or a JSON schema, over the bytes of a tokenizer's tokens.

The expression becomes a finite automaton over bytes. A token may come next if its bytes lead to a state from which an
end can be reached with the tokens that are left, so that what is generated always matches as a whole. A schema is an
expression too, as long as it is not recursive; JSON is written with one blank after a comma or colon, members in the
order of the schema.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from limosa.errors import UsageError

MOST_STATES = 5_000  # of an automaton: a transition table of 5 MB
DEAD = -1
# Node of an expression: ("set", bytes as a bit mask), ("all", nodes in order), ("one", alternatives), ("star", node)
Node = tuple[Any, ...]


def literal(text: str) -> Node:
    """The text itself."""
    return ("all", tuple(("set", 1 << byte) for byte in text.encode()))


def either(nodes: Sequence[Node]) -> Node:
    """One of some nodes."""
    return ("one", tuple(nodes))


def repeated(node: Node, least: int, most: int | None) -> Node:
    """A node `least` to `most` times; without end for None."""
    first = (node,) * least
    if most is None:
        return ("all", (*first, ("star", node)))
    rest: Node = ("all", ())
    for _ in range(most - least):
        rest = either([("all", ()), ("all", (node, rest))])
    return ("all", (*first, rest))


def _span(first: int, last: int) -> int:
    return ((1 << (last + 1)) - 1) ^ ((1 << first) - 1)


_DIGIT = _span(0x30, 0x39)
_WORD = _DIGIT | _span(0x41, 0x5A) | _span(0x61, 0x7A) | 1 << 0x5F
_SPACE = sum(1 << byte for byte in b" \t\n\r\f\v")
_ASCII = _span(0, 0x7F)
_TAIL: Node = ("set", _span(0x80, 0xBF))
_WIDE = either(  # characters of two to four bytes in UTF-8
    [
        ("all", (("set", _span(0xC2, 0xDF)), _TAIL)),
        ("all", (("set", 1 << 0xE0), ("set", _span(0xA0, 0xBF)), _TAIL)),
        ("all", (("set", _span(0xE1, 0xEF) ^ 1 << 0xED), _TAIL, _TAIL)),
        ("all", (("set", 1 << 0xED), ("set", _span(0x80, 0x9F)), _TAIL)),
        ("all", (("set", 1 << 0xF0), ("set", _span(0x90, 0xBF)), _TAIL, _TAIL)),
        ("all", (("set", _span(0xF1, 0xF3)), _TAIL, _TAIL, _TAIL)),
        ("all", (("set", 1 << 0xF4), ("set", _span(0x80, 0x8F)), _TAIL, _TAIL)),
    ]
)
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D}


class _Reader:
    """Reads a regular expression into nodes."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def read(self) -> Node:
        node = self._alternatives()
        if self.at < len(self.pattern):
            raise self._error("has a ) too many")
        return node

    def _error(self, what: str) -> UsageError:
        return UsageError(f"the expression {self.pattern!r} {what} at character {self.at + 1}")

    def _next(self) -> str:
        if self.at >= len(self.pattern):
            raise self._error("ends too early")
        self.at += 1
        return self.pattern[self.at - 1]

    def _peek(self, text: str) -> bool:
        found = self.pattern.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def _alternatives(self) -> Node:
        found = [self._sequence()]
        while self._peek("|"):
            found.append(self._sequence())
        return found[0] if len(found) == 1 else either(found)

    def _sequence(self) -> Node:
        found: list[Node] = []
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            found.append(self._repeated(self._atom()))
        return ("all", tuple(found))

    def _repeated(self, node: Node) -> Node:
        for sign, times in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
            if self._peek(sign):
                return repeated(node, *times)
        if (counted := re.compile(r"\{(\d+)(,(\d*))?\}").match(self.pattern, self.at)) is None:
            return node
        self.at = counted.end()
        least = int(counted[1])
        most = least if counted[2] is None else int(counted[3]) if counted[3] else None
        if most is not None and most < least:
            raise self._error("repeats from more to fewer times")
        return repeated(node, least, most)

    def _atom(self) -> Node:
        sign = self._next()
        if sign == "(":
            if self._peek("?") and not self._peek(":"):
                raise self._error("has a group of a kind that is not known")
            node = self._alternatives()
            if not self._peek(")"):
                raise self._error("lacks a )")
            return node
        if sign == "[":
            return self._class()
        if sign == ".":
            return either([("set", _ASCII ^ 1 << 0x0A), _WIDE])
        if sign == "\\":
            return ("set", self._escaped())
        if sign in "*+?{^$":
            raise self._error(f"has a {sign} that is not known there")
        return literal(sign)

    def _escaped(self) -> int:
        sign = self._next()
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign in _CONTROLS:
            return 1 << _CONTROLS[sign]
        if sign.isalnum() or ord(sign) > 0x7F:
            raise self._error(f"has \\{sign}, which is not known,")
        return 1 << ord(sign)

    def _class(self) -> Node:
        negated, members, wide = self._peek("^"), 0, []
        first = True
        while first or not self._peek("]"):
            first, sign = False, self._next()
            mask = self._escaped() if sign == "\\" else 1 << ord(sign) if ord(sign) < 0x80 else 0
            ranged = re.match(r"-[^\]]", self.pattern[self.at :]) is not None
            if not mask and not ranged:
                wide.append(literal(sign))
            elif ranged:
                self.at += 1
                end = self._next()
                last = self._escaped().bit_length() - 1 if end == "\\" else ord(end)
                if mask.bit_count() != 1 or not mask.bit_length() - 1 <= last < 0x80:
                    raise self._error("has a range that is not one of ASCII characters")
                mask = _span(mask.bit_length() - 1, last)
            members |= mask
        if negated and wide:
            raise self._error("excludes characters beyond ASCII, which is not known,")
        return either([("set", _ASCII & ~members), _WIDE]) if negated else either([("set", members), *wide])


# ---- JSON ----

_STRING_CHARACTER = either(
    [
        ("set", _span(0x20, 0x7F) & ~(1 << 0x22 | 1 << 0x5C)),
        _WIDE,
        _Reader(r'\\["\\/bfnrt]').read(),
    ]
)
_INTEGER = _Reader("-?(0|[1-9][0-9]*)").read()
_NUMBER = _Reader(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?").read()
_SAID = {"title", "description", "default", "examples", "$schema", "$id"}  # which hold nothing back
_KEYWORDS = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
}


def from_schema(schema: Mapping[str, Any]) -> Node:
    """The JSON texts that a schema allows.

    Raises: UsageError for what cannot be held to: references, bounds of numbers, and other keywords.
    """
    plain = {name: value for name, value in schema.items() if name not in _SAID}
    for name in ("enum", "const", "anyOf", "oneOf"):
        if name in plain:
            found = plain.pop(name)
            if set(plain) - {"type"}:
                raise _unknown(set(plain) - {"type"}, name)
            if name in ("anyOf", "oneOf"):
                return either([from_schema(one) for one in found])
            values = found if name == "enum" else [found]
            return either([literal(json.dumps(value, ensure_ascii=False)) for value in values])
    kind = plain.pop("type", None)
    if isinstance(kind, list):
        return either([from_schema({**plain, "type": one}) for one in kind])
    if more := set(plain) - _KEYWORDS.get(str(kind), set()):
        raise _unknown(more, str(kind))
    if kind == "object":
        return _object(plain)
    if kind == "array":
        return _array(plain)
    if kind == "string":
        return _string(plain)
    simple = {"integer": _INTEGER, "number": _NUMBER, "null": literal("null")}
    simple["boolean"] = either([literal("true"), literal("false")])
    if kind not in simple:
        raise UsageError(f"a JSON schema has the type {kind!r}; give object, array, string, {', '.join(simple)}")
    return simple[kind]


def _unknown(names: set[str], kind: str) -> UsageError:
    given = ", ".join(sorted(names))
    return UsageError(f"a JSON schema of {kind} has {given}, which text cannot be held to; leave it out")


def _object(schema: Mapping[str, Any]) -> Node:
    members = [
        (("all", (literal(f"{json.dumps(name)}: "), from_schema(one))), name in schema.get("required", ()))
        for name, one in schema.get("properties", {}).items()
    ]

    @functools.cache
    def rest(place: int, begun: bool) -> Node:
        if place == len(members):
            return ("all", ())
        member, required = members[place]
        here: Node = ("all", (literal(", ") if begun else ("all", ()), member, rest(place + 1, True)))
        return here if required else either([here, rest(place + 1, begun)])

    return ("all", (literal("{"), rest(0, False), literal("}")))


def _array(schema: Mapping[str, Any]) -> Node:
    if "items" not in schema:
        raise UsageError("a JSON schema of an array does not say what its items are; add items")
    item, least, most = from_schema(schema["items"]), schema.get("minItems", 0), schema.get("maxItems")
    if most == 0:
        return literal("[]")
    more = repeated(("all", (literal(", "), item)), max(least, 1) - 1, None if most is None else most - 1)
    whole: Node = ("all", (literal("["), item, more, literal("]")))
    return whole if least else either([literal("[]"), whole])


def _string(schema: Mapping[str, Any]) -> Node:
    if "pattern" in schema:
        if re.search(r'["\\]|\[\^|\.', re.sub(r"\\[dws.]", "", schema["pattern"])):
            raise UsageError('the pattern of a JSON string may hold no ", \\, . or [^; list what may stand there')
        inner = _Reader(schema["pattern"].removeprefix("^").removesuffix("$")).read()
    else:
        inner = repeated(_STRING_CHARACTER, schema.get("minLength", 0), schema.get("maxLength"))
    return ("all", (literal('"'), inner, literal('"')))


# ---- automaton ----


class Automaton:
    """A deterministic automaton: `table` [states, 256], DEAD where a byte may not come; it starts in state 0.

    `distance` [states] is the least number of bytes to an end; states from which there is none are left out.
    """

    def __init__(self, node: Node) -> None:
        self.edges: list[list[tuple[int, int]]] = []  # of the automaton with choices: bytes as a mask, next state
        self.free: list[list[int]] = []  # its edges that take no byte
        first, last = self._state(), self._state()
        self._add(node, first, last)
        self._determine(first, last)

    def _state(self) -> int:
        self.edges.append([])
        self.free.append([])
        return len(self.edges) - 1

    def _add(self, node: Node, first: int, last: int) -> None:
        kind, inner = node
        if kind == "set":
            self.edges[first].append((inner, last))
        elif kind == "one":
            for one in inner:
                self._add(one, first, last)
        elif kind == "all":
            for one in inner:
                after = self._state()
                self._add(one, first, after)
                first = after
            self.free[first].append(last)
        else:
            middle, again = self._state(), self._state()
            self.free[first].append(middle)
            self._add(inner, middle, again)
            self.free[again].append(middle)
            self.free[middle].append(last)

    def _closed(self, states: set[int]) -> frozenset[int]:
        reached, waiting = set(states), list(states)
        while waiting:
            for state in self.free[waiting.pop()]:
                if state not in reached:
                    reached.add(state)
                    waiting.append(state)
        return frozenset(state for state in reached if self.edges[state] or not self.free[state])

    def _determine(self, first: int, last: int) -> None:
        start = self._closed({first})
        masks = {mask for edges in self.edges for mask, _ in edges}
        alike: dict[tuple[bool, ...], list[int]] = {}  # bytes that no edge tells apart
        for byte in range(256):
            alike.setdefault(tuple(bool(mask >> byte & 1) for mask in masks), []).append(byte)
        number, waiting, rows, accepting = {start: 0}, [start], [], []
        for states in waiting:
            accepting.append(last in states)
            edges = [edge for state in states for edge in self.edges[state]]
            row = np.full(256, DEAD, np.int32)
            found: dict[frozenset[int], int] = {}
            for some in alike.values():
                if targets := frozenset(target for mask, target in edges if mask >> some[0] & 1):
                    if targets not in found:
                        closed = self._closed(set(targets))
                        if closed not in number:
                            if len(number) >= MOST_STATES:
                                raise UsageError(f"the grammar needs more than {MOST_STATES:,} states; make it simpler")
                            number[closed] = len(waiting)
                            waiting.append(closed)
                        found[targets] = number[closed]
                    row[some] = found[targets]
            rows.append(row)
        self.table, self.accepting = np.stack(rows), np.array(accepting)
        self.distance = np.where(self.accepting, 0, np.iinfo(np.int32).max - 1)
        while True:  # as often as the longest way is long
            ahead = np.where(self.table == DEAD, np.iinfo(np.int32).max - 1, self.distance[self.table]).min(1)
            nearer = np.minimum(self.distance, ahead + 1)
            if np.array_equal(nearer, self.distance):
                break
            self.distance = nearer


class Grammar:
    """A constraint for `nn.generate`: the tokens that keep a text within an expression.

    Args:
        node: from `from_pattern` or `from_schema`.
        token_bytes: what each token adds to a text; None for those that are no text.
        end: the token that ends a text.

    Raises: UsageError if the grammar is too large, or the tokenizer lacks single bytes that it needs.
    """

    def __init__(self, node: Node, token_bytes: Sequence[bytes | None], end: int) -> None:
        self.automaton, self.token_bytes, self.end = Automaton(node), token_bytes, end
        longest = max((len(text) for text in token_bytes if text), default=1)
        self.bytes = np.full((len(token_bytes), longest), -1, np.int16)
        for place, text in enumerate(token_bytes):
            if text:
                self.bytes[place, : len(text)] = list(text)
        single = {text[0] for text in token_bytes if text and len(text) == 1}
        needed = {int(byte) for byte in np.flatnonzero((self.automaton.table != DEAD).any(0))}
        if lacking := needed - single:
            raise UsageError(f"the tokenizer has no token for byte {min(lacking)} alone; give a byte-level one")
        self._after: dict[int, np.ndarray] = {}

    def start(self) -> int:
        """The state before the first token."""
        return 0

    def allowed(self, state: int, left: int) -> Tensor:
        """Which tokens [V] may come next when `left` are left, this one and the end included.

        Raises: UsageError if no text is as short.
        """
        automaton, after = self.automaton, self._following(state)
        short = automaton.distance[after] + 2 <= left  # a token for each byte would do, then the end
        open_to = (after != DEAD) & short
        open_to[self.end] = automaton.accepting[state]
        if not open_to.any():
            raise UsageError(f"the shortest answer of this grammar takes more than {left} tokens; give more tokens")
        return torch.from_numpy(open_to)

    def step(self, state: int, token: int) -> int:
        """The state after a token."""
        return int(self._following(state)[token])

    def _following(self, state: int) -> np.ndarray:
        """The state after each token, [V]."""
        if state not in self._after:
            table = np.vstack([self.automaton.table, np.full((1, 256), DEAD, np.int32)])  # DEAD leads to itself
            found = np.full(len(self.bytes), state, np.int32)
            for column in self.bytes.T:
                found = np.where(column >= 0, table[found, column], found)
            found[self.bytes[:, 0] < 0] = DEAD
            self._after[state] = found
        return self._after[state]


def from_pattern(pattern: str) -> Node:
    r"""The texts that a regular expression matches as a whole.

    Known are characters, `.`, classes as `[a-z]`, `\d \w \s` of ASCII, groups, `|`, `* + ?` and `{2,5}`.

    Raises: UsageError where it holds something else.
    """
    return _Reader(pattern).read()
