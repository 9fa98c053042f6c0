"""The command line. Standard output carries data, standard error carries words; every command calls `service`.

Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 5 model not found, 130 interrupted. Importing this file must stay
cheap: no numpy, pandas or torch before a command needs them (`limosa --help` answers in under 300 ms).
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from limosa.alerts.incidents import AlertConfig
from limosa.app.doctor import doctor as examine
from limosa.app.doctor import fit_threads
from limosa.app.options import (
    BatchSize,
    Context,
    File,
    Freq,
    Horizon,
    IdCol,
    Json,
    KnownCols,
    Levels,
    Output,
    Plot,
    Quantiles,
    Quiet,
    StaticCols,
    TargetCol,
    TimeCol,
    aligned,
    begin,
    check_outputs,
    hand_over,
    names,
    numbers,
    pairs_of,
    plain,
    targets,
    write,
)
from limosa.app.progress import progress
from limosa.errors import LimosaError, UsageError
from limosa.tasks import adapt as verbs_adapt
from limosa.tasks import backtest as verbs_backtest
from limosa.tasks import check as verbs_check
from limosa.tasks import detect as detecting
from limosa.tasks import forecast as verbs_forecast
from limosa.tasks import models as verbs_models
from limosa.tasks import plot as verbs_plot
from limosa.tasks import pretrain as verbs_pretrain
from limosa.tasks import train as training
from limosa.tasks import train as verbs_train
from limosa.tasks import watch as watching
from limosa.tasks._shared import DEFAULT_MODEL, check_request, read
from limosa.training.distributed import ranks

app = typer.Typer(
    name="limosa",
    help="Forecast and watch time series with compact models: CSV or Parquet in, probabilities and events out.",
    epilog="Data goes to standard output, words to standard error. `limosa COMMAND --help` explains a command.",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help: a third of the time to show
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help"], "max_content_width": 110},
)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"limosa {version('limosa')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    """Options that stand before the command; `main` looks for `--debug` itself."""


@app.command(no_args_is_help=True)
def forecast(
    file: File,
    horizon: Horizon,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME|FOLDER", help="A name from `limosa models` or a folder.")
    ] = DEFAULT_MODEL,
    level: Levels = "80,95",
    quantiles: Quantiles = "",
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    known_cols: KnownCols = "",
    static_cols: StaticCols = "",
    future: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The known covariates of the steps to come, CSV or Parquet.")
    ] = None,
    context: Context = None,
    calibrate: Annotated[
        int, typer.Option(metavar="WINDOWS", help="Correct the bands on this many held-back windows per series.")
    ] = 0,
    batch_size: BatchSize = 256,
    output: Output = None,
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forecast every series of FILE."""
    begin(quiet)
    levels = numbers("--level", level)
    check_outputs(output, plot)
    check_request(horizon, model, level=levels, context=context, batch_size=batch_size)
    panel = read(
        file,
        freq=freq,
        id_col=id_col,
        time_col=time_col,
        target_col=targets(target_col),
        known_cols=names(known_cols),
        static_cols=names(static_cols),
    )
    with progress("series", quiet) as on_progress:
        table = verbs_forecast.forecast(
            panel,
            horizon,
            model=model,
            level=levels,
            quantiles=numbers("--quantiles", quantiles),
            future=future,
            context=context,
            calibrate=calibrate,
            batch_size=batch_size,
            on_progress=on_progress,
        )
    if plot:
        verbs_plot.draw(panel, table, plot)
    hand_over(table, output, as_json)


@app.command(no_args_is_help=True)
def backtest(
    file: File,
    horizon: Horizon,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME,...", help="Models to compare: names or folders, with commas.")
    ] = f"naive,{DEFAULT_MODEL}",
    windows: Annotated[int, typer.Option(metavar="NUMBER", help="How many cut-offs.")] = 1,
    step: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Steps between cut-offs; the horizon if not given.")
    ] = None,
    metric: Annotated[str, typer.Option(metavar="NAME,...", help="What to score.")] = "mase,wql",
    season: Annotated[
        int | None, typer.Option(metavar="STEPS", help="Season that scales MASE; from the frequency if not given.")
    ] = None,
    level: Levels = "80,95",
    quantiles: Quantiles = "",
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    known_cols: KnownCols = "",
    static_cols: StaticCols = "",
    context: Context = None,
    batch_size: BatchSize = 256,
    output: Output = None,
    plot: Plot = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Forecast the past of FILE and score it: prints one row per metric, `-o` keeps the forecasts."""
    begin(quiet)
    levels = numbers("--level", level)
    check_outputs(output, plot)
    check_request(horizon, names(model), level=levels, context=context, batch_size=batch_size)
    panel = read(
        file,
        freq=freq,
        id_col=id_col,
        time_col=time_col,
        target_col=targets(target_col),
        known_cols=names(known_cols),
        static_cols=names(static_cols),
    )
    with progress("windows", quiet) as on_progress:
        table = verbs_backtest.backtest(
            panel,
            horizon,
            model=names(model),
            windows=windows,
            step=step,
            level=levels,
            quantiles=numbers("--quantiles", quantiles),
            context=context,
            batch_size=batch_size,
            on_progress=on_progress,
        )
    scores = verbs_backtest.score(panel, table, metrics=names(metric), season=season)
    if plot:
        verbs_plot.draw(panel, table, plot)
    if output:
        write(table, output)
    hand_over(scores, None, as_json)


# What a recipe leaves open.
WITH_RECIPE = {"file", "out", "nproc", "strategy", "strategy_option", "device", "resume", "max_restarts", "plot"}
WITH_RECIPE |= {"data", "quiet"}


def check_recipe_names(run: typer.Context) -> None:
    """Refuse options of `train` that a recipe would silently overrule.

    Raises: UsageError, naming them.
    """
    given = [name for name in run.params if getattr(run.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if overruled := [f"--{name.replace('_', '-')}" for name in given if name not in WITH_RECIPE]:
        raise UsageError(f"a recipe says itself what {', '.join(overruled)} would; change it there, or leave it out")


@app.command(no_args_is_help=True)
def train(
    run: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="A table as for forecast, or a recipe, .toml, which names the rest.")
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the model and its checkpoints go.")
    ],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", metavar="NAME|FOLDER", help="A model file to build anew, or a model to train on."
        ),
    ] = "patched",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of a model built anew; may be repeated.")
    ] = None,
    horizon: Annotated[
        int | None, typer.Option("--horizon", "-h", metavar="STEPS", help="Steps answered in one pass.")
    ] = None,
    context: Context = None,
    steps: Annotated[int, typer.Option(metavar="NUMBER", help="Optimizer steps.")] = 1000,
    rate: Annotated[float, typer.Option(metavar="NUMBER", help="Peak learning rate.")] = 1e-3,
    rate_batch: Annotated[
        int | None,
        typer.Option(metavar="WINDOWS", help="Windows per step that --rate is meant for; scales it to those taken."),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="WINDOWS", help="Windows at once in every process.")
    ] = 64,
    accumulate: Annotated[int, typer.Option(metavar="NUMBER", help="Batches per step.")] = 1,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Arithmetic of the forward pass.")
    ] = "fp32",
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train; auto is a GPU where every process has one.")
    ] = "auto",
    optimizer: Annotated[
        Literal["adamw", "sgd", "lars", "lamb"],
        typer.Option(help="What moves the weights; lars and lamb for large batches."),
    ] = "adamw",
    schedule: Annotated[
        Literal["cosine", "polynomial"], typer.Option(help="How the rate falls after the warm-up.")
    ] = "cosine",
    nproc: Annotated[int, typer.Option(metavar="NUMBER", help="Processes on this machine that train together.")] = 1,
    strategy: Annotated[
        Literal["data-parallel", "hierarchical", "zero", "local-sgd", "co2"],
        typer.Option(help="How several processes stay one model: docs/strategies.md."),
    ] = "data-parallel",
    strategy_option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of the strategy; may be repeated.")
    ] = None,
    patience: Annotated[
        int, typer.Option(metavar="NUMBER", help="Stop after so many validations without gain; 0 for never.")
    ] = 5,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Same seed, same model.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")] = False,
    max_restarts: Annotated[
        int,
        typer.Option(metavar="NUMBER", help="How often the processes of --nproc begin anew when one of them fails."),
    ] = 0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of the loss and the hidden exchange, .png or .svg.")
    ] = None,
    data: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the corpus of a recipe lies.")] = Path(),
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    known_cols: KnownCols = "",
    quiet: Quiet = False,
) -> None:
    """Train a model on FILE, or train a pretrained one further; forecast with -m FOLDER."""
    if file.endswith(".toml"):
        check_recipe_names(run)
    if (nproc != 1 or max_restarts) and not ranks.launched():
        if not resume:
            training.check_unused(out)  # here, for processes that begin anew resume what they find
        fit_threads(nproc)
        raise typer.Exit(ranks.launch(nproc, run.obj, max_restarts))
    quiet = quiet or not ranks.first()
    begin(quiet)
    with progress("steps", quiet) as on_progress:
        if file.endswith(".toml"):
            verbs_pretrain.pretrain(
                file,
                out,
                data=data,
                strategy=strategy,
                strategy_options=pairs_of("--strategy-option", strategy_option or ()),
                device=device,
                resume=resume,
                plot=plot,
                on_progress=on_progress,
            )
            return
        verbs_train.train(
            file,
            out,
            model=model,
            options=pairs_of("--option", option or ()),
            horizon=horizon,
            context=context,
            steps=steps,
            rate=rate,
            rate_batch=rate_batch,
            batch_size=batch_size,
            accumulate=accumulate,
            precision=precision,
            device=device,
            optimizer=optimizer,
            schedule=schedule,
            strategy=strategy,
            strategy_options=pairs_of("--strategy-option", strategy_option or ()),
            patience=patience,
            seed=seed,
            resume=resume,
            plot=plot,
            freq=freq,
            id_col=id_col,
            time_col=time_col,
            target_col=targets(target_col),
            known_cols=names(known_cols),
            on_progress=on_progress,
        )


@app.command(no_args_is_help=True)
def adapt(
    file: File,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the adapter goes.")],
    base: Annotated[
        str,
        typer.Option("--base", "-b", metavar="NAME|FOLDER", help="The frozen model: fracast and chronos:FOLDER too."),
    ] = DEFAULT_MODEL,
    method: Annotated[
        Literal["memory", "full", "head", "lora", "retrieval", "auto"],
        typer.Option(help="How to adapt; auto tries all and keeps the best that does no harm."),
    ] = "memory",
    horizon: Annotated[
        int | None, typer.Option("--horizon", "-h", metavar="STEPS", help="Steps ahead that are adapted.")
    ] = None,
    context: Context = None,
    windows: Annotated[int, typer.Option(metavar="NUMBER", help="Windows times channels to learn from.")] = 8192,
    steps: Annotated[int, typer.Option(metavar="NUMBER", help="Optimizer steps.")] = 600,
    batch_size: Annotated[
        int, typer.Option("--batch-size", metavar="NUMBER", help="Windows times channels at once.")
    ] = 256,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="A memory learns from similar pasts too, not from the answers alone.")
    ] = False,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Same seed, same adapter.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    known_cols: KnownCols = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Adapt a frozen model to FILE and print what it brought; forecast with -m FOLDER."""
    begin(quiet)
    with progress("done", quiet) as on_progress:
        done = verbs_adapt.adapt(
            file,
            out,
            base=base,
            method=method,
            horizon=horizon,
            context=context,
            windows=windows,
            steps=steps,
            batch_size=batch_size,
            teacher=teacher,
            seed=seed,
            resume=resume,
            freq=freq,
            id_col=id_col,
            time_col=time_col,
            target_col=targets(target_col),
            known_cols=names(known_cols),
            on_progress=on_progress,
        )
    typer.echo(json.dumps({"table": done.table, "report": done.report}) if as_json else aligned(done.table))


@app.command(no_args_is_help=True)
def detect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="Table of channels, CSV or Parquet, wide or long; - for a stream of CSV on stdin."
        ),
    ],
    normal: Annotated[
        Path | None,
        typer.Option("--train", metavar="FILE", help="Normal rows to learn from; FILE itself if not given."),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="NAME|FOLDER", help="A detector to fit, or the folder of a saved one."),
    ] = detecting.DEFAULT_DETECTOR,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Option of a detector to fit; may be repeated.")
    ] = None,
    risk: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of normal rows that may raise an alarm.")
    ] = AlertConfig.risk,
    cooldown: Annotated[
        int, typer.Option(metavar="ROWS", help="Rows without an alarm that close an incident.")
    ] = AlertConfig.cooldown,
    settle: Annotated[
        int, typer.Option(metavar="ROWS", help="Rows after which a change is the new normal.")
    ] = AlertConfig.settle,
    steps: Annotated[int, typer.Option(metavar="NUMBER", help="Optimizer steps of a detector to fit.")] = 500,
    save: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Keep the fitted detector there.")] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep the state of a stream there; a restart goes on.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the score of every row, .csv or .parquet.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="NUMBER", help="Same seed, same detector.")] = 0,
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: Annotated[
        str, typer.Option("--time-col", metavar="NAME", help="Column of time; guessed if not given.")
    ] = "",
    target_col: Annotated[
        str, typer.Option("--target-col", metavar="NAME,...", help="Columns to watch; all if not given.")
    ] = "",
    output: Output = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Picture of the incidents, .png or .svg.")] = None,
    graph: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Picture of which channels go together, after ten refits.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find incidents in the channels of FILE: since when, how sure, which channels. Prints one row per incident."""
    begin(quiet)
    check_outputs(output, plot)
    check_outputs(scores, graph)
    if file == "-":
        if output or scores or plot or graph:
            raise UsageError("a stream has no end; its incidents go to standard output, one line each")
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="replace")  # a broken byte costs its line, not the stream
        with progress("steps", quiet) as on_progress:
            news = watching.detect_stream(
                sys.stdin,
                train=normal,
                model=model,
                options=pairs_of("--option", option or ()),
                risk=risk,
                cooldown=cooldown,
                settle=settle,
                steps=steps,
                save=save,
                state=state,
                seed=seed,
                freq=freq,
                id_col=id_col,
                time_col=time_col,
                target_col=names(target_col),
                on_progress=on_progress,
            )
        for incident in news:
            typer.echo(json.dumps(incident.to_dict()))
        return
    if state:
        raise UsageError("--state keeps the state of a stream, and FILE is a table; give - for FILE, or leave it out")
    with progress("steps", quiet) as on_progress:
        found = detecting.detect(
            file,
            train=normal,
            model=model,
            options=pairs_of("--option", option or ()),
            risk=risk,
            cooldown=cooldown,
            settle=settle,
            steps=steps,
            save=save,
            seed=seed,
            freq=freq,
            id_col=id_col,
            time_col=time_col,
            target_col=names(target_col),
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(json.dumps([incident.to_dict() for incident in found.incidents]))
    if output or not as_json:
        hand_over(found.frame(), output, False)
    if scores:
        write(found.scores_frame(), scores)
    if plot:
        found.plot(plot)
    if graph:  # last, for it refits: the incidents are not kept waiting for it, nor lost with it
        found.plot_graph(graph, steps=max(1, steps // 10), seed=seed)


@app.command(no_args_is_help=True)
def check(
    file: File,
    freq: Freq = None,
    id_col: IdCol = "unique_id",
    time_col: TimeCol = "ds",
    target_col: TargetCol = "y",
    known_cols: KnownCols = "",
    static_cols: StaticCols = "",
    as_json: Json = False,
) -> None:
    """Say what FILE holds and what is wrong with it, each with its fix. Exit code 3 if it cannot be forecast."""
    report = verbs_check.check(
        file,
        freq=freq,
        id_col=id_col,
        time_col=time_col,
        target_col=targets(target_col),
        known_cols=names(known_cols),
        static_cols=names(static_cols),
    )
    typer.echo(json.dumps(report.to_dict()) if as_json else "\n".join(report.lines()))
    if not report.ok:
        raise typer.Exit(3)


@app.command()
def models(as_json: Json = False) -> None:
    """List the models that come with limosa."""
    rows = verbs_models.models()
    typer.echo(json.dumps(rows) if as_json else aligned(rows))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine offers and whether the installation is whole. Exit code 1 if it is not."""
    fit_threads()
    found = examine()
    typer.echo(
        json.dumps(found) if as_json else "\n".join(f"{name:<18}{plain(value)}" for name, value in found.items())
    )
    if found["problems"]:
        raise typer.Exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; an error is one line on standard error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app(args=arguments, prog_name="limosa", obj=arguments)  # for commands that start themselves anew
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 0
        if code == 130:
            typer.echo("limosa: interrupted", err=True)
        return code
    except LimosaError as error:
        if "--debug" in arguments:
            raise
        typer.echo(f"{ranks.name()}: {error}", err=True)
        return error.exit_code
    except Exception as error:
        if "--debug" in arguments:
            raise
        typer.echo(f"{ranks.name()}: {type(error).__name__}: {error} (limosa --debug ... shows the trace)", err=True)
        return 1
    finally:
        logging.getLogger("limosa").handlers.clear()
    return 0
