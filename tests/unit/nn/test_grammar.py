"""Constrained generation: what is generated always matches, whatever the logits prefer."""

from __future__ import annotations

import json
import re

import pytest
import torch

from limosa.errors import UsageError
from limosa.nn.generate import GenerateConfig, generate
from limosa.nn.grammar import Automaton, Grammar, from_pattern, from_schema

WORDS = ["true", '": ', ", ", "12", '"a', "up", "dow", "n", '{"', "]}", "é"]
TOKENS = [*(bytes([byte]) for byte in range(256)), *(word.encode() for word in WORDS), None]
END = len(TOKENS) - 1


def grammar(node):
    return Grammar(node, TOKENS, END)


def said(constraint, seed, tokens=40, temperature=1.0):
    """A text by random logits, in which the end is unlikely."""
    generator = torch.Generator().manual_seed(seed)
    logits = lambda *_: torch.randn(1, len(TOKENS), generator=generator) * 5 - 20 * (torch.arange(len(TOKENS)) == END)  # noqa: E731
    config = GenerateConfig(tokens=tokens, temperature=temperature, seed=seed)
    made = generate(logits(), logits, END, config, constraint)
    assert made.tokens[0, -1] == END
    return b"".join(TOKENS[token] for token in made.row(0)).decode()


@pytest.mark.parametrize(
    "pattern",
    [
        "up|down|flat",
        r"-?[1-9]\d*(\.\d{1,2})?",
        "(ab?)+c{2,3}",
        "[^a-z]{3}",
        ".{2,4}!",
        r"\w+\s\[\]",
        "é|[xü]y*",
        "[-+.]",
    ],
)
def test_what_is_generated_matches_the_expression_as_a_whole(pattern):
    constraint = grammar(from_pattern(pattern))
    for seed in range(8):
        assert re.fullmatch(pattern, said(constraint, seed), re.ASCII | re.DOTALL)


SCHEMA = {
    "type": "object",
    "description": "an answer",
    "properties": {
        "answer": {"enum": ["up", "down", 'a "b"', 3]},
        "sure": {"type": "number"},
        "points": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3},
        "note": {"type": "string", "maxLength": 5},
        "more": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"yes": {"type": "boolean"}}}]},
        "day": {"type": "string", "pattern": r"^\d{4}-\d\d$"},
    },
    "required": ["answer", "points", "day"],
}


def test_what_is_generated_by_a_schema_parses_and_satisfies_it():
    seen, constraint = set(), grammar(from_schema(SCHEMA))
    for seed in range(12):
        found = json.loads(said(constraint, seed, tokens=120))
        seen |= set(found)
        assert list(found) == [name for name in SCHEMA["properties"] if name in found]
        assert set(SCHEMA["required"]) <= set(found)
        assert found["answer"] in SCHEMA["properties"]["answer"]["enum"]
        assert 1 <= len(found["points"]) <= 3
        assert all(isinstance(point, int) for point in found["points"])
        assert len(found.get("note", "")) <= 5
        assert re.fullmatch(r"\d{4}-\d\d", found["day"], re.ASCII)
    assert seen == set(SCHEMA["properties"])


def test_a_text_ends_in_time_also_where_it_could_go_on_for_ever():
    for tokens in (2, 3, 9):
        assert re.fullmatch("[ab]+", said(grammar(from_pattern("[ab]+")), 0, tokens=tokens))
    with pytest.raises(UsageError, match="more than 3 tokens"):
        said(grammar(from_pattern("[ab]{4}")), 0, tokens=3)


@pytest.mark.parametrize("pattern", ["(", "a)", "[a", "*", "a{3,2}", r"\q", "(?=a)", "[é-z]", "^a"])
def test_an_expression_that_is_not_known_is_refused(pattern):
    with pytest.raises(UsageError, match="expression"):
        from_pattern(pattern)


REFUSED = [
    {"type": "integer", "minimum": 3},
    {"$ref": "#"},
    {"type": "thing"},
    {"type": "array"},
    {"type": "string", "pattern": "a.b"},
]


@pytest.mark.parametrize("schema", REFUSED)
def test_a_schema_that_text_cannot_be_held_to_is_refused(schema):
    with pytest.raises(UsageError):
        from_schema(schema)


def test_a_grammar_that_is_too_large_is_refused():
    with pytest.raises(UsageError, match="states"):
        Automaton(from_pattern("(a|b)*a(a|b){14}"))
