"""Derive a route from a verb's signature: which options a request may give, how they are written, and their schema.

A file of `tasks/` that exports a verb has a route at once. An option that names a place on the disk has none: what a
request says of data stands in its body, and models are named among those that are served.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from limosa import tasks
from limosa.app.cli import verb_of
from limosa.errors import UsageError
from limosa.options import MISSING, Option, Parameter, Verb, accepted, kinds_of
from limosa.tasks._options import Table

Role = Literal["table", "model", "output", "value"]

LISTING = "models"  # the verb that lists models has a route of its own, with what is served


@dataclass(frozen=True, kw_only=True)
class Route:
    """A verb as a request sees it."""

    name: str
    verb: Verb

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The options that a request may give, by name."""
        own = self.verb.parameters | ({} if self.job else self.verb.more or {})
        return {name: one for name, one in own.items() if role_of(one) is not None}

    @cached_property
    def roles(self) -> dict[str, Role]:
        """What each of these options holds."""
        found = {name: role_of(one) for name, one in self.parameters.items()}
        return {name: role for name, role in found.items() if role is not None}

    @property
    def job(self) -> bool:
        """Whether the result is a folder: the request is answered at once, and the work goes on."""
        return "out" in self.verb.parameters

    @property
    def panel(self) -> bool:
        """Whether the first option is a table of series, which the verb takes as a `Panel` too."""
        source = self.verb.parameters.get("source")
        return bool(self.verb.unit) and source is not None and source.option is get_args(Table)[1]

    @property
    def required(self) -> list[str]:
        """Options that a request has to give."""
        return [name for name, one in self.parameters.items() if one.default is MISSING]

    def read(self, given: Mapping[str, Any], texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """Options of a body and texts of a query, checked as in Python and as on the command line.

        Raises: UsageError in the same words.
        """
        names = {word: one for one in self.parameters.values() for word in (one.name, *_option(one).also)}
        read = {word: from_text(names[word], many) if word in names else many for word, many in texts.items()}
        given = {name: value for name, value in given.items() if value is not None}  # null: as if it was left out
        for name, value in given.items():
            one = names.get(name)
            if one is not None and self.roles[one.name] == "table" and isinstance(value, str):
                raise UsageError(f"{name} is a text; give its rows: a request names no file of the server")
            if one is not None and self.roles[one.name] in ("value", "output"):
                _check_kind(one, name, value)
        if twice := [name for name in read if name in given]:
            raise UsageError(f"{twice[0]} is given twice, in the body and in the query; give it once")
        values = accepted(self._without_tables, {**given, **read}, self.name)
        if lacking := [name for name in self.required if name not in values]:
            raise UsageError(f"{self.name} needs {lacking[0]}: {_option(self.parameters[lacking[0]]).help}")
        outputs = [name for name, role in self.roles.items() if role == "output"]
        marked = {name: Path(name) for name in outputs if values.get(name)}
        return {name: value for name, value in values.items() if name not in outputs} | marked

    @cached_property
    def _without_tables(self) -> dict[str, Parameter]:
        """The parameters, of which only values are checked here: names of models are by who serves them."""
        return {
            name: one
            if self.roles[name] == "value"
            else replace(one, type=Any, option=replace(_option(one), accept=None))
            for name, one in self.parameters.items()
        }

    def schema(self) -> dict[str, Any]:
        """JSON schema of a body."""
        own = {name: _schema(one, self.roles[name]) for name, one in self.parameters.items()}
        return {"type": "object", "properties": own, "required": self.required, "additionalProperties": False}


def routes() -> dict[str, Route]:
    """The verbs that have a route, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(tasks.__path__) if not info.name.startswith("_"))
    found = {name: verb_of(name) for name in names if name != LISTING}
    return {name: Route(name=name, verb=verb) for name, verb in found.items() if verb is not None}


def role_of(one: Parameter) -> Role | None:
    """What a request gives for an option; None: nothing, it is for Python or this machine."""
    option, kinds = one.option, kinds_of(one.type)
    if option is None or option.local or one.name in ("device", "resume"):  # the server says where, and goes on
        return None
    if "FOLDER" in option.metavar or Path in kinds:
        if one.name == "model" or "NAME" in option.metavar or Any in kinds:
            return "model"
        return "output" if option.metavar == "FILE" and _takes_table(option, one.name) else None
    return "table" if Any in kinds and option.metavar == "FILE" else "value"


def _takes_table(option: Option, name: str) -> bool:
    """Whether an option that names a file to write takes one for a table, not a picture."""
    try:
        return option.accept is not None and option.accept(name, "/tmp/one.csv") is not None
    except UsageError:
        return False


def _check_kind(one: Parameter, name: str, value: Any) -> None:
    """Refuse a value of JSON of a kind that the option never has; the option checks the rest. Raises: UsageError."""
    kinds = [get_origin(kind) or kind for kind in kinds_of(one.type)]
    own = [kind for kind in kinds if isinstance(kind, type)]
    several = any(issubclass(kind, Sequence) and kind is not str for kind in own)
    number = several or int in own or float in own
    fits = {
        dict: any(issubclass(kind, Mapping) for kind in own),
        list: several and all(type(part) in (str, int, float) for part in (value if isinstance(value, list) else ())),
        bool: bool in own or role_of(one) == "output",
        str: several or str in own or Literal in kinds or number,  # a number in a text is refused by the option
        int: number or Literal in kinds,
        float: number,
    }
    large = isinstance(value, int | float) and int in own and abs(value) >= 2**63
    if Any not in kinds and (large or not fits[type(value)]):
        shown = repr(value) if len(repr(value)) < 50 else f"{repr(value)[:50]}…"
        raise UsageError(f"{name} is {shown}; give {_option(one).metavar or 'true or false'}")


def _option(one: Parameter) -> Option:
    assert one.option is not None
    return one.option


def from_text(one: Parameter, texts: Sequence[str]) -> Any:
    """A value of a query as the command line reads it. Raises: UsageError."""
    own, kinds, text = _option(one), kinds_of(one.type), texts[-1]
    if own.read is not None:
        try:
            return own.read(list(texts) if own.many else text)
        except ValueError as error:
            raise UsageError(f"{one.name} is {', '.join(texts)!r}; {error}") from None
    if bool in kinds or role_of(one) == "output":
        if text.lower() not in ("true", "false", "1", "0", ""):
            raise UsageError(f"{one.name} is {text!r}; give true or false")
        return text.lower() not in ("false", "0")
    convert: list[Callable[[str], Any]] = [kind for kind in (int, float) if kind in kinds and str not in kinds]
    for number in convert:
        try:
            return number(text)
        except ValueError:
            continue
    return text  # what should have been a number is refused by the parameter itself


# ---- schemas ----

_TABLE = {"$ref": "#/components/schemas/Table"}
_KINDS: dict[Any, dict[str, Any]] = {
    int: {"type": "integer"},
    float: {"type": "number"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def _schema(one: Parameter, role: Role) -> dict[str, Any]:
    option = _option(one)
    about: dict[str, Any] = {"description": option.help}
    if role == "table":
        return _TABLE | about
    if role == "output":
        return {"type": "boolean", "description": f"{option.help.split(',')[0]}: return it beside the result."}
    kinds = [_kind(kind) for kind in kinds_of(one.type)]
    known = [kind for kind in kinds if kind]
    about |= known[0] if len(known) == 1 else {"anyOf": known} if known else {}
    if option.least is not None:
        about["minimum"] = option.least
    if one.default not in (MISSING, None):
        about["default"] = list(one.default) if isinstance(one.default, tuple) else one.default
    return about


def _kind(kind: Any) -> dict[str, Any]:
    origin = get_origin(kind)
    if origin is Literal:
        return {"enum": list(get_args(kind))}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object"}
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        items = {"anyOf": [one for one in (_kind(part) for part in kinds_of(get_args(kind)[0])) if one]}
        return {"type": "array", "items": items["anyOf"][0] if len(items["anyOf"]) == 1 else items}
    return _KINDS.get(kind, {})


TABLE_SCHEMA: dict[str, Any] = {
    "description": "A table: columns, rows, series side by side, the values of one series, or CSV as text.",
    "anyOf": [
        {
            "title": "Series",
            "type": "object",
            "required": ["ids", "sizes"],
            "properties": {
                "ids": {"type": "array", "items": {"type": ["string", "integer"]}},
                "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                "y": {"type": "array", "items": {"type": ["number", "null"]}},
            },
            "additionalProperties": {"type": "array"},
        },
        {"title": "Columns", "type": "object", "additionalProperties": {"type": "array"}},
        {"title": "Rows", "type": "array", "items": {"type": "object"}},
        {"title": "Values", "type": "array", "items": {"type": ["number", "null"]}},
        {"title": "CSV", "type": "object", "required": ["csv"], "properties": {"csv": {"type": "string"}}},
    ],
}
