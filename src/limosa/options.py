"""Options of verbs, each written once in the verb's own signature: name, type, default, one line of help, checks.

    @verb(unit="series")
    def forecast(source: Source, horizon: Annotated[int, Option("How many steps.", "STEPS", least=1)], ...) -> Any: ...

`verb` makes a function check what it is given, and show every option in `help`; `app/cli.py` derives the command from
the same record. A parameter without an `Option` exists in Python only. Importing this file imports nothing heavy.
"""

from __future__ import annotations

import functools
import inspect
import json
import operator
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, Unpack, cast, get_args, get_origin, get_type_hints

from limosa.errors import UsageError, did_you_mean

F = TypeVar("F", bound=Callable[..., Any])
MISSING: Any = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """What an option says in help texts, and what it accepts beside its type."""

    help: str
    metavar: str = ""  # what a value is, in help texts
    _: KW_ONLY
    flag: str = ""  # short name on the command line, such as "-h"
    name: str = ""  # long name on the command line, where it is not that of the parameter
    also: tuple[str, ...] = ()  # names by which other libraries call it; Python accepts them
    least: float | None = None  # smallest number
    argument: bool = False  # stands without a name on the command line, as the first parameter does
    local: bool = False  # acts on the machine that runs it, so that no request over HTTP may give it
    many: bool = False  # may be repeated on the command line; `read` is then given all texts
    read: Callable[[Any], Any] | None = None  # text of the command line -> value; raises ValueError with the fix
    accept: Callable[[str, Any], Any] | None = None  # name, value -> value of the type; raises UsageError
    default: Any = MISSING  # of a key of a TypedDict, which cannot hold one


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a verb."""

    name: str
    type: Any
    default: Any
    option: Option | None = None

    @property
    def long_name(self) -> str:
        """What it is called on the command line."""
        return (self.option.name if self.option else "") or f"--{self.name.replace('_', '-')}"

    def accept(self, value: Any) -> Any:
        """`value` as the type of the parameter, where it has one meaning.

        Raises: UsageError if it has none.
        """
        if self.option is None:
            return value
        if self.option.accept is not None:
            return self.option.accept(self.name, value)
        kinds = kinds_of(self.type)
        choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
        if value is None and types.NoneType in kinds:
            return None
        if choices:
            return _choice(self.name, value, choices)
        if int in kinds or float in kinds:
            return _number(self.name, value, whole=float not in kinds, least=self.option.least)
        return Path(value) if Path in kinds and isinstance(value, str) and str not in kinds else value


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _number(name: str, value: Any, *, whole: bool, least: float | None) -> Any:
    kind = "a whole number" if whole else "a number"
    try:
        number = operator.index(value) if whole and not isinstance(value, float) else float(value)
    except (TypeError, ValueError):
        raise UsageError(f"{name} is {value!r}; give {kind}") from None
    if isinstance(value, str) or (whole and number != number // 1):
        raise UsageError(f"{name} is {value!r}; give {kind}")
    if least is not None and not number >= least:
        raise UsageError(f"{name} is {value}; it must be at least {least}")
    return int(number) if whole else number


def _choice(name: str, value: Any, choices: Sequence[Any]) -> Any:
    if value in choices:
        return value
    known = list(map(str, choices))
    hint = did_you_mean(str(value), known) or f"choose one of {', '.join(known)}"
    raise UsageError(f"{name} is {value!r}; {hint}")


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters of a function by name; those of `**words: Unpack[SomeTypedDict]` are the keys of the dict."""
    found: dict[str, Parameter] = {}
    for one in inspect.signature(function).parameters.values():
        hint = _evaluated(one.annotation, function)
        if one.kind is inspect.Parameter.VAR_KEYWORD:
            if get_origin(hint) is Unpack:
                found |= words_of(get_args(hint)[0])
        else:
            found[one.name] = _parameter(one.name, hint, one.default)
    return found


def _evaluated(annotation: Any, function: Callable[..., Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, inspect.unwrap(function).__globals__)
    except NameError:  # of a type that is imported for the type checker only
        return Any


def words_of(kind: Any) -> dict[str, Parameter]:
    """The keys of a TypedDict whose types are annotated with options."""
    hints = get_type_hints(kind, include_extras=True)
    return {name: _parameter(name, hint, MISSING) for name, hint in hints.items()}


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    options = [one for one in getattr(hint, "__metadata__", ()) if isinstance(one, Option)]
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    option = options[0] if options else None
    return Parameter(
        name=name, type=bare, default=option.default if option and default is MISSING else default, option=option
    )


def accepted(parameters: Mapping[str, Parameter], given: Mapping[str, Any], of: str) -> dict[str, Any]:
    """`given` by the parameters' own names, each as its type; `of` says whose options they are.

    Raises: UsageError if a name is unknown, offering the nearest, given twice, or a value has no meaning.
    """
    names = {
        word: one.name for one in parameters.values() for word in (one.name, *(one.option.also if one.option else ()))
    }
    values: dict[str, Any] = {}
    for word, value in given.items():
        if word not in names:
            hint = did_you_mean(word, names) or f"there are: {', '.join(parameters)}"
            raise UsageError(f"{of} has no option {word}; {hint}")
        if (name := names[word]) in values:
            raise UsageError(f"{name} is given twice, also as {word}; give it once")
        values[name] = parameters[name].accept(value)
    return values


# ---- verbs ----


class Call(Protocol):
    """One command line that was read, as a verb's own command gets it."""

    verb: Verb
    arguments: list[str]  # all words after `limosa`
    given: dict[str, Any]  # the verb's options that stand there, checked
    output: Path | None  # where a table is to be written

    def take(self, *names: str) -> dict[str, Any]:
        """Those of `names` that were given."""

    def run(self, function: Callable[..., Any] | None = None, **changes: Any) -> Any:
        """Call the verb with what was given and the `changes`, or another function with these; progress is shown."""

    def show(self, result: Any) -> None:
        """Write a result into `output`, or print it."""

    def print(self, table: Any) -> None:
        """Print a table as CSV, or as JSON where that was asked for."""

    def write(self, table: Any, path: Path) -> None:
        """Write a table into a file."""

    def share_threads(self, processes: int) -> None:
        """Start no more threads in each of several processes than this machine has room for."""


@dataclass(kw_only=True)
class Verb:
    """What a command is derived from."""

    call: Callable[..., Any]
    parameters: dict[str, Parameter]
    unit: str  # what progress counts
    table: bool  # the result is a frame, or has one: it can be written to a file
    text: Callable[[Any], str] | None  # the result for people; None: CSV
    record: Callable[[Any], Any] | None  # the result for JSON; None: the rows of its frame
    code: Callable[[Any], int] | None  # exit code; None: 0
    summary: str = ""
    command: Callable[..., Any] | None = None  # instead of `call`: command(call, **its own options)
    more: dict[str, Parameter] | None = None  # options of `command`


VERBS: dict[str, Verb] = {}  # by the module that defines it


def verb(
    *,
    unit: str = "",
    shown: bool = True,
    table: bool = True,
    text: Callable[[Any], str] | None = None,
    record: Callable[[Any], Any] | None = None,
    code: Callable[[Any], int] | None = None,
) -> Callable[[F], F]:
    """Make a function a verb: it checks its arguments, shows all of them in `help` and, if `shown`, is a command.

    Arguments that do not fit raise UsageError instead of TypeError. The first line of the docstring is the command's.
    """

    def made(function: F) -> F:
        parameters = parameters_of(function)
        positional = [
            one.name for one in inspect.signature(function).parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD
        ]
        required = [one.name for one in parameters.values() if one.default is MISSING]

        @functools.wraps(function)
        def call(*args: Any, **given: Any) -> Any:
            if len(args) > len(positional):
                raise UsageError(f"{function.__name__} takes {len(positional)} values; give the others by name")
            named = dict(zip(positional, args, strict=False))
            if twice := [name for name in named if name in given]:
                raise UsageError(f"{twice[0]} is given twice; give it once")
            values = accepted(parameters, named | given, function.__name__)
            if lacking := [name for name in required if name not in values]:
                raise UsageError(f"{function.__name__} needs {lacking[0]}: {_help(parameters[lacking[0]])}")
            return function(**values)

        call.__signature__ = _signature(parameters, positional, function)  # type: ignore[attr-defined]
        doc = inspect.cleandoc(function.__doc__ or "")
        call.__doc__ = doc + "\n\nArgs:\n" + "\n".join(f"    {name}: {_help(one)}" for name, one in parameters.items())
        if shown:
            VERBS[function.__module__] = Verb(
                call=call,
                parameters=parameters,
                unit=unit,
                table=table and text is None,
                text=text,
                record=record,
                code=code,
                summary=" ".join(doc.partition("\n\n")[0].split()),
            )
        return cast(F, call)

    return made


def command(function: F) -> F:
    """Make a function the command of the verb of its file: it is given a `Call`, and its other parameters are options.

    What it returns is the exit code; None is 0.
    """
    own = VERBS[function.__module__]
    own.command, own.more = function, {n: p for n, p in parameters_of(function).items() if p.option is not None}
    return function


def _signature(
    parameters: Mapping[str, Parameter], positional: Iterable[str], function: Callable[..., Any]
) -> inspect.Signature:
    kinds = {True: inspect.Parameter.POSITIONAL_OR_KEYWORD, False: inspect.Parameter.KEYWORD_ONLY}
    shown = [
        inspect.Parameter(one.name, kinds[one.name in positional], default=one.default, annotation=one.type)
        for one in parameters.values()
    ]
    return inspect.Signature(shown, return_annotation=inspect.signature(function).return_annotation)


def _help(parameter: Parameter) -> str:
    option = parameter.option
    if option is None:
        return "For Python only; see above."
    return option.help + (f" Also: {', '.join(option.also)}." if option.also else "")


# ---- values that have more than one spelling ----


def numbers(text: str) -> tuple[float, ...]:
    """`1,2.5` as (1, 2.5)."""
    try:
        return tuple(int(name) if name.isdecimal() else float(name) for name in names(text))
    except ValueError:
        raise ValueError("give numbers with commas between them") from None


def names(text: str) -> tuple[str, ...]:
    """`a,b` as ("a", "b")."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def pairs(texts: Sequence[str]) -> dict[str, Any]:
    """`width=64` as {"width": 64}: a value is read as JSON where it is JSON, else as text."""
    options: dict[str, Any] = {}
    for pair in texts:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError("write NAME=VALUE")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def several(name: str, value: Any, kind: type, what: str) -> tuple[Any, ...]:
    """A sequence as a tuple; one value as a tuple of one, None as an empty one.

    Raises: UsageError if an element is not of `kind`, in words `what`.
    """
    if value is None:
        return ()
    found = (value,) if isinstance(value, str | int | float) or not isinstance(value, Iterable) else tuple(value)
    if wrong := [one for one in found if not isinstance(one, kind) or isinstance(one, bool)]:
        raise UsageError(f"{name} has {wrong[0]!r}; give {what}")
    return found


def column_names(name: str, value: Any) -> tuple[str, ...]:
    """One name, or several."""
    return several(name, value, str, "names of columns")
