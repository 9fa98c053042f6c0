"""The command line: every file of `tasks/` that exports a verb is a command, its options derived from the signature.

Standard output carries data, standard error carries words. Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 5 model
not found, 130 interrupted. Importing this file must stay cheap: no numpy, pandas or torch before a command needs them
(`limosa --help` answers in under 300 ms).
"""

from __future__ import annotations

import fnmatch
import importlib
import json
import logging
import pkgutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from limosa import tasks
from limosa.app import ray
from limosa.app.doctor import fit_threads
from limosa.app.progress import progress
from limosa.errors import DataWarning, Interrupted, LimosaError, UsageError
from limosa.options import MISSING, VERBS, Call, Option, Parameter, Verb, kinds_of
from limosa.tasks._options import OutputFile, OutputFolder
from limosa.training.distributed import ranks

if TYPE_CHECKING:
    import pandas as pd

OUTPUT = Parameter(name="output_file", type=Path | None, default=None, option=get_args(OutputFile)[1])
FOLDER = Parameter(name="output_file", type=Path, default=None, option=get_args(OutputFolder)[1])
JSON = Parameter(
    name="as_json",
    type=bool,
    default=False,
    option=Option("Write JSON instead of a table to standard output.", name="--json"),
)
OWN = ("doctor", "serve")  # commands of `app/`, beside the verbs of `tasks/`
QUIET = Parameter(name="quiet", type=bool, default=False, option=Option("Say only warnings and errors.", flag="-q"))


# ---- from a verb to a command ----


class Commands(click.Group):
    """The commands, each imported when it is asked for."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names of all commands, sorted."""
        names = [info.name for info in pkgutil.iter_modules(tasks.__path__) if not info.name.startswith("_")]
        return sorted([*(name for name in names if verb_of(name)), *OWN])

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """The command of that name, if there is one."""
        found = verb_of(name)
        return None if found is None else Command(name, found)


def verb_of(name: str) -> Verb | None:
    """The verb that the command `name` stands for, if there is one."""
    module = f"limosa.app.{name}" if name in OWN else f"{tasks.__name__}.{name}"
    try:
        return VERBS.get(importlib.import_module(module).__name__)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None


class Command(click.Command):
    """A verb with the options that are in its signature, and those of its result."""

    def __init__(self, name: str, verb: Verb) -> None:
        self.verb = verb
        own = [one for one in (*verb.parameters.values(), *(verb.more or {}).values()) if one.option is not None]
        if name in ray.COMMANDS:
            own += ray.OPTIONS.values()
        if verb.table and verb.unit:
            own.append(OUTPUT)
        if verb.table or verb.text:
            own.append(JSON)
        if verb.unit:
            own.append(QUIET)
        self.own = {one.name: one for one in own}
        super().__init__(
            name,
            params=[_click_parameter(one, argument=_is_argument(one, own)) for one in own],
            help=verb.summary,
            no_args_is_help=any(one.default is MISSING for one in own),
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Arguments have help texts too."""
        arguments = [one for one in self.params if isinstance(one, click.Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(
                    [(one.make_metavar(ctx), _option(self.own[str(one.name)]).help) for one in arguments]
                )
        super().format_options(ctx, formatter)

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb with what stands on the command line, checked; `Exit` carries the code."""
        source = click.core.ParameterSource.COMMANDLINE
        on_ray = ctx.params.get("engine") == "ray" and not ranks.launched()
        own = self.own | ({OUTPUT.name: FOLDER} if on_ray else {})
        given = {
            name: _value(own[name], value)
            for name, value in ctx.params.items()
            if ctx.get_parameter_source(name) is source
        }
        cluster = {name: given[name] for name in ("address", "workers") if name in given}
        if cluster and given.get("engine") != "ray":
            raise UsageError(f"--{next(iter(cluster))} is an option of --engine ray; give both, or neither")
        call, verb = CommandLine(self.verb, given, ctx.obj), self.verb
        more = {name: given[name] for name in verb.more or {} if name in given}
        code = None
        try:
            if on_ray:
                found = ray.run(str(self.name), call, more, quiet=call.quiet, **cluster)
                if call.as_json:
                    click.echo(json.dumps(found))
            elif verb.command is not None:
                code = verb.command(call, **more)
            else:
                result = call.run()
                call.show(result)
                code = verb.code(result) if verb.code else None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None
        if code:
            raise click.exceptions.Exit(code)


def _is_argument(one: Parameter, own: Sequence[Parameter]) -> bool:
    """Whether a parameter stands without a name."""
    required = one.default is MISSING
    return (one is own[0] and (required or _option(one).many)) or (required and _option(one).argument)


def _option(parameter: Parameter) -> Option:
    assert parameter.option is not None
    return parameter.option


def _click_parameter(one: Parameter, *, argument: bool) -> click.Parameter:
    own = _option(one)
    if argument:
        return click.Argument([one.name], metavar=own.metavar, nargs=-1 if own.many else 1, required=not own.many)
    names = [*([own.flag] if own.flag else []), one.long_name, one.name]
    if one.type is bool:
        if one.default is True:
            names[-2] += f"/--no-{one.long_name[2:]}"
        return click.Option(names, is_flag=True, default=one.default, help=own.help)
    return click.Option(
        names,
        type=_click_type(one),
        metavar=own.metavar or None,
        required=one.default is MISSING,
        multiple=own.many,
        default=_shown(one.default),
        show_default=_shown(one.default) is not None,
        help=own.help,
    )


def _click_type(one: Parameter) -> Any:
    if _option(one).read is not None:
        return str
    kinds = kinds_of(one.type)
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    if choices:
        return click.Choice(choices)
    return float if float in kinds else int if int in kinds and str not in kinds else str


def _shown(default: Any) -> str | None:
    """A default as help texts show it."""
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return None if default in (None, MISSING) or not text else text


def _value(one: Parameter, text: Any) -> Any:
    """What stands on the command line, as the type of the parameter. Raises: UsageError."""
    own = _option(one)
    if own.read is not None:
        try:
            text = own.read(text)
        except ValueError as error:
            raise UsageError(f"{one.long_name} is {', '.join(text) if own.many else text!r}; {error}") from None
    return one.accept(text)


# ---- one command line ----


class CommandLine(Call):
    """A command line that was read; what its methods do is said in `Call`."""

    def __init__(self, verb: Verb, given: dict[str, Any], arguments: list[str]) -> None:
        self.verb, self.arguments = verb, arguments
        self.given = {name: value for name, value in given.items() if name in verb.parameters}
        self.output: Path | None = given.get(OUTPUT.name)
        self.as_json = JSON.name in given
        self.quiet = QUIET.name in given or not ranks.first()
        _log_to_stderr(logging.WARNING if self.quiet else logging.INFO)
        _refuse_to_overwrite(self.output, given)

    def take(self, *names: str) -> dict[str, Any]:
        return {name: self.given[name] for name in names if name in self.given}

    def share_threads(self, processes: int) -> None:
        fit_threads(processes)

    def run(self, function: Callable[..., Any] | None = None, **changes: Any) -> Any:
        fit_threads()
        if not self.verb.unit:
            return self.verb.call(**self.given, **changes)
        with progress(self.verb.unit, self.quiet) as on_progress:
            if function is not None:
                return function(**changes, on_progress=on_progress)
            return self.verb.call(**(self.given | changes), on_progress=on_progress)

    def show(self, result: Any) -> None:
        if self.output is not None:
            self.write(_frame(result), self.output)
        if self.as_json and self.verb.record is not None:
            click.echo(json.dumps(self.verb.record(result), default=str))
        elif self.verb.text is not None and not self.as_json:
            click.echo(self.verb.text(result))
        elif self.as_json or (self.verb.table and self.output is None):
            self.print(_frame(result))

    def print(self, table: pd.DataFrame) -> None:
        if self.as_json:
            rows = table.astype(dict.fromkeys(table.select_dtypes(["datetime", "datetimetz"]), str)).astype(object)
            click.echo(json.dumps(rows.where(table.notna(), None).to_dict("records")))
        else:
            table.to_csv(sys.stdout, index=False)

    def write(self, table: pd.DataFrame, path: Path) -> None:
        from limosa.data.table import write_table

        write_table(table, path)
        logging.getLogger("limosa").info(f"wrote {len(table):,} rows to {path}")


def _log_to_stderr(level: int) -> None:
    """Let what the library has to say go to standard error."""
    log = logging.getLogger("limosa")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("limosa: %(message)s"))
    log.handlers = [handler]
    log.setLevel(level)
    warnings.showwarning = _show_guess  # type: ignore[assignment]


def _show_guess(message: Warning | str, category: type[Warning], *_: object) -> None:
    """What a table was taken for goes to standard error; warnings of libraries are not for who runs a command."""
    if issubclass(category, DataWarning):
        logging.getLogger("limosa").warning(str(message))


def _refuse_to_overwrite(output: Path | None, given: Mapping[str, Any]) -> None:
    """Raises: UsageError if the file to be written is one of those to be read."""
    for name, value in given.items():
        read = name != OUTPUT.name and isinstance(value, str | Path) and Path(value).is_file()
        if read and output is not None and output.exists() and output.samefile(value):
            raise UsageError(f"-o is {output}, which is the input; give another name")
        several = name == "source" and isinstance(value, str | Path) and not read
        if several and output is not None and _among(output, Path(value)):
            raise UsageError(f"-o is {output}, which is among the files to be read; write it elsewhere")


def _among(output: Path, source: Path) -> bool:
    """Whether a file lies in a folder, or is one that a pattern such as data/*.csv names."""
    own, where = output.resolve(), source.expanduser().resolve()
    return where in own.parents if source.is_dir() else fnmatch.fnmatch(str(own), str(where))


def _frame(result: Any) -> pd.DataFrame:
    """Every result is a frame or has one."""
    import pandas as pd

    return result if isinstance(result, pd.DataFrame) else result.frame()


# ---- the program ----


def _print_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        click.echo(f"limosa {version('limosa')}")
        ctx.exit()


app = Commands(
    name="limosa",
    help="Forecast and watch time series with compact models: CSV or Parquet in, probabilities and events out.",
    epilog="Data goes to standard output, words to standard error. `limosa COMMAND --help` explains a command.",
    context_settings={"max_content_width": 110},
    params=[
        click.Option(
            ["--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Print the version and leave.",
        ),
        click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the trace of an error."),
    ],
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; an error is one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    words = [*arguments[:-1], "--help"] if arguments[-1:] == ["-h"] else arguments  # with a value, -h is the horizon
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", DataWarning)
            return int(app.main(args=words, prog_name="limosa", standalone_mode=False, obj=arguments) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except Exception as error:
        if "--debug" in arguments:
            raise
        message, code = _in_words(error)
        click.echo(f"{ranks.name()}: {message}", err=True)
        return code
    finally:
        logging.getLogger("limosa").handlers.clear()


def _in_words(error: Exception) -> tuple[str, int]:
    """What to say of an error, and the exit code."""
    if isinstance(error, LimosaError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        fix = "; put a pattern of files in quotes: 'data/*.csv'" if "extra argument" in error.format_message() else ""
        return " ".join(error.format_message().split()) + fix, error.exit_code
    return f"{type(error).__name__}: {error} (limosa --debug ... shows the trace)", 1
