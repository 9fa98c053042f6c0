"""Train a model on a table: build it, hold back the newest rows to choose the best step, refit on all rows."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Unpack

from limosa import models as registry
from limosa.core import Classifier, Detector, EventModel, Forecaster, Learner, OnProgress, Window
from limosa.data.layout import Layout
from limosa.errors import DataError, UsageError
from limosa.files import PICTURES
from limosa.options import Call, Option, command, pairs, verb
from limosa.tasks import _runs
from limosa.tasks._options import Context, Device, ModelOptions, OutputFolder, Resume, writable
from limosa.tasks._shared import keep_columns, parameter_count, read
from limosa.training.distributed import ranks

if TYPE_CHECKING:
    from limosa.data.panel import Panel
    from limosa.training.loop import Progress, Result, TrainConfig
    from limosa.training.strategy import Strategy

VALIDATION_WINDOWS = 64  # at least, over all series, where there are rows enough
VALIDATION_SHARE = 0.2  # of a series, at most, where that is more than one window

log = logging.getLogger("limosa")


def build_learner(model: str | Path, options: Mapping[str, Any], panel: Panel, seed: int) -> Any:
    """The model to train: a new one from a model file's name, or a pretrained one, which keeps the options it has.

    A new model that reads several channels or covariates gets their numbers from the panel.

    Raises: UsageError if the options do not fit or the model has nothing to learn, ModelNotFound; DataError if no
    series is long enough for it both to learn and to validate.
    """
    from limosa.training.randomness import own_randomness

    if str(model) in registry.names():
        sizes = {"channels": panel.values.shape[1], "known": panel.known.shape[1]}
        fields = {field.name for field in dataclasses.fields(registry.card(str(model)).config)}
        with own_randomness(seed):
            built = registry.build(str(model), **{k: v for k, v in sizes.items() if k in fields} | dict(options))
    else:
        built = registry.load(model)
        if options:
            raise UsageError(f"{model} is trained already; its options {', '.join(options)} cannot change")
    if isinstance(built, Detector):
        raise UsageError(
            f"{model} is a detector; fit it by: limosa detect FILE --train FILE --model NAME --save FOLDER"
        )
    if isinstance(built, Classifier):
        raise UsageError(
            f"{model} is a classifier; fit it by: limosa classify FILE --train FILE --model NAME --save FOLDER"
        )
    if isinstance(built, EventModel):
        raise UsageError(f"{model} is a model of events; fit it by: limosa events FILE --model NAME --save FOLDER")
    if not isinstance(built, Learner):
        raise UsageError(f"{model} has nothing to learn; forecast with it at once")
    if not isinstance(built, Forecaster):
        raise UsageError(f"{model} does not learn from a table; train it from Python: docs/smolvlm.md")
    horizon = built.horizon
    if (longest := int(panel.lengths.max())) <= 2 * horizon:
        raise DataError(
            f"the longest series has {longest} rows; {model} answers {horizon} steps at once and needs more than "
            "twice as many to learn and to validate: give longer series, or a model with a shorter horizon (--horizon)"
        )
    return built


def run(
    learner: Any,
    panel: Panel,
    config: TrainConfig,
    *,
    batch_size: int,
    strategy: Callable[[int], Strategy | None],
    out: Path,
    folders: tuple[Path, list[Path]],
    resume: bool,
    refit: bool,
    on_progress: Callable[[Progress], None],
) -> Result:
    """Train `learner` in place; validation on the newest rows chooses the best step, a refit learns those rows as well.

    The refit goes on from the best weights, for as many steps as led to them, on all rows; so it costs at most as much
    again. Each part has its own checkpoints, and a run that is resumed in the refit goes on in it.

    Args:
        batch_size: windows per batch, on each rank.
        strategy: makes a strategy for a run that begins after so many steps.
        folders: this rank's checkpoints, and those of other ranks to go on from, as `checkpoints` gives them.
    """
    from limosa.data.windows import Windows
    from limosa.training.loop import fit

    rank, context, horizon = ranks.current_rank(), learner.context, learner.horizon

    def fit_on(rows: Panel, config: TrainConfig, done: int, held: Sequence[Window] = ()) -> Result:
        """Fit on windows of `rows`, after `done` steps on others."""
        sizes = {"context": context, "horizon": horizon, "batch_size": batch_size}
        own, others = _runs.checkpoints(out / "checkpoints" / f"refit-from-{config.steps}", resume) if done else folders
        return fit(
            learner,
            Windows(rows, **sizes, seed=config.seed, rank=rank.rank, world=rank.world_size),
            config,
            validation=held,
            strategy=strategy(done),
            folder=own,
            resume=resume,
            others=others,
            on_progress=lambda at: on_progress(dataclasses.replace(at, step=at.step + done, steps=at.steps + done)),
        )

    past, validation = held_back(panel, context, horizon, batch_size)
    chosen = fit_on(past, config, 0, validation)
    if not (refit and chosen.best_step):
        return chosen
    steps, done = chosen.best_step, chosen.step
    log.info(f"best validation loss at step {steps:,}; going on from there for {steps:,} steps on all rows (refit)")
    more = dataclasses.replace(config, steps=steps, warmup=min(config.warmup, steps // 10), seed=config.seed + 1)
    after = fit_on(panel, more, done)
    waited = (chosen.waited * done + after.waited * steps) / (done + steps)
    return dataclasses.replace(chosen, step=done + steps, loss=after.loss, waited=waited)


def held_back(panel: Panel, context: int, horizon: int, batch_size: int) -> tuple[Panel, list[Window]]:
    """The rows to train on, and windows of the newest rows to validate on, in batches.

    There are `VALIDATION_WINDOWS` windows or more, as far as the last `VALIDATION_SHARE` of each series has room for
    them, where they may overlap; and at least one of each series that is longer than `horizon`. No answer among them
    is a row that is trained on, and each holds something observed: rows that are blank at the end do not count.

    Raises: DataError if nothing was observed, at all or in the rows to hold back.
    """
    import numpy as np
    import torch

    from limosa.data.windows import enumerate_windows

    seen = np.isfinite(panel.values).any(axis=1)
    if not seen.any():
        raise DataError("no row of the target holds a number; name the column to learn from (--target-col)")
    until = np.maximum.reduceat(np.where(seen, np.arange(len(seen)) + 1, 0), panel.start[:-1]) - panel.start[:-1]
    lengths = np.maximum(until, 0)  # [S] rows up to the last one observed
    most = (lengths * VALIDATION_SHARE).astype(np.int64)  # [S] rows to hold back, unless one window needs more
    for each in range(1, VALIDATION_WINDOWS + 1):  # windows of a series
        rows = np.clip(most, horizon, each * horizon)
        cut = np.maximum(lengths - rows, 0)
        stride = np.maximum(1, (rows - horizon) // max(1, each - 1))
        grid = enumerate_windows(lengths, horizon=horizon, stride=stride, origin=cut, last=each, from_end=True)
        if len(grid) >= VALIDATION_WINDOWS:
            break
    if grid.counts.any():
        held = rows[grid.counts > 0]
        span = f"{held.min():,}" if held.min() == held.max() else f"{held.min():,} to {held.max():,}"
        log.info(f"validating on {len(grid):,} windows of the last {span} rows{' of each series' * (len(panel) > 1)}")
    batches = [
        panel.window(part.series, part.cutoff, context=context, horizon=horizon, dtype=torch.float32)
        for part in grid[:].batches(batch_size)
    ]
    answered = [(one, one.future.isfinite().flatten(1).any(1)) for one in batches if one.future is not None]
    batches = [one if known.all() else one.rows(known) for one, known in answered if known.any()]
    if grid.counts.any() and not batches:
        raise DataError(
            "nothing was observed in the newest rows, which are held back to validate; give rows with values"
        )
    return panel.first_rows(cut), batches


StrategyName = Annotated[
    Literal["data-parallel", "hierarchical", "zero", "local-sgd", "co2"],
    Option("How several processes stay one model: docs/strategies.md."),
]
StrategyOptions = Annotated[
    Mapping[str, Any] | None,
    Option("Option of the strategy; may be repeated.", "NAME=VALUE", name="--strategy-option", many=True, read=pairs),
]
TrainOn = Annotated[Device, Option("Where to train; auto is a GPU where every process has one.")]
Curves = Annotated[
    Path | None,
    Option("Picture of the loss and the hidden exchange, .png or .svg.", "FILE", accept=writable(PICTURES)),
]


@verb(unit="steps", table=False)
@ranks.joined()
def train(
    source: Annotated[Any, Option("A table as for forecast, or a recipe, .toml, which names the rest.", "FILE")],
    out: OutputFolder,
    *,
    model: Annotated[
        str | Path, Option("A model file to build anew, or a model to train on.", "NAME|FOLDER", flag="-m")
    ] = "patched",
    options: ModelOptions = None,
    horizon: Annotated[int | None, Option("Steps answered in one pass.", "STEPS", flag="-h", also=("h",))] = None,
    context: Context = None,
    steps: Annotated[int, Option("Optimizer steps.", "NUMBER")] = 1000,
    learning_rate: Annotated[float, Option("Peak of the schedule.", "NUMBER")] = 1e-3,
    learning_rate_batch: Annotated[
        int | None,
        Option("Windows per step that --learning-rate is meant for; scales it to those taken.", "WINDOWS"),
    ] = None,
    batch_size: Annotated[int, Option("Windows at once in every process.", "WINDOWS")] = 64,
    accumulate: Annotated[int, Option("Batches per step.", "NUMBER")] = 1,
    precision: Annotated[Literal["fp32", "bf16", "fp16"], Option("Arithmetic of the forward pass.")] = "fp32",
    device: TrainOn = "auto",
    optimizer: Annotated[
        Literal["adamw", "sgd", "lars", "lamb"],
        Option("What moves the weights; lars and lamb for large batches."),
    ] = "adamw",
    schedule: Annotated[
        Literal["cosine", "polynomial"], Option("How the learning rate falls after the warm-up.")
    ] = "cosine",
    strategy: StrategyName = "data-parallel",
    strategy_options: StrategyOptions = None,
    patience: Annotated[int, Option("Stop after so many validations without gain; 0 for never.", "NUMBER")] = 5,
    refit: Annotated[bool, Option("Go on from the best weights for as many steps as led to them, on all rows.")] = True,
    seed: Annotated[int, Option("Same seed, same model.", "NUMBER")] = 0,
    resume: Resume = False,
    plot: Curves = None,
    on_progress: OnProgress | None = None,
    **layout: Unpack[Layout],
) -> Any:
    """Train a model on a table, or train a pretrained one further, and save it: forecast with `-m FOLDER`.

    A model file is built anew with `options`, `horizon` and `context`. Windows of the newest rows, 64 or more where a
    fifth of the rows allows, are held back and choose the best weights; the `refit` costs at most as much again. With
    `resume` a run goes on from its last checkpoint in `out`, also that of another number of processes, and so it does
    when a launcher starts it anew. Rank 0 leaves `steps.jsonl`, and of co2 `rounds.jsonl`, in `out`; `plot` draws them.

    A step takes `batch_size` windows `accumulate` times in every process; with `learning_rate_batch` the rate grows in
    proportion to what a step takes in all. Processes that `torchrun` started train one model together by `strategy`;
    rank 0 saves it. The model is returned on the CPU.

    Raises: UsageError, DataError, ModelNotFound; Interrupted on Ctrl-C, saying how to go on.
    """
    rank, out = ranks.current_rank(), Path(out)
    settings = _runs.config(
        steps=steps,
        learning_rate=_runs.scaled(learning_rate, learning_rate_batch, batch_size * accumulate * rank.world_size),
        accumulate=accumulate,
        precision=precision,
        optimizer=optimizer,
        schedule=schedule,
        patience=patience,
        seed=seed,
    )
    plan = functools.cache(functools.partial(_runs.choose_strategy, strategy, strategy_options or {}, out))
    plan(0)  # raises before the work
    resume = resume or ranks.restarts() > 0
    folders = _runs.checkpoints(out, resume)
    if rank.world_size > 1 and source == "-":
        raise UsageError("several processes cannot share the standard input; write it to a file first")
    panel = read(source, **layout)
    sizes = {name: size for name, size in (("horizon", horizon), ("context", context)) if size is not None}
    learner = _runs.placed(build_learner(model, {**(options or {}), **sizes}, panel, seed), device)
    log.info(f"training {model} with {parameter_count(learner):,} parameters on {len(panel):,} series, {steps:,} steps")
    with _runs.resumable(out):
        result = run(
            learner,
            panel,
            settings,
            batch_size=batch_size,
            strategy=plan,
            out=out,
            folders=folders,
            resume=resume,
            refit=refit,
            on_progress=_runs.logging_steps(out, on_progress),
        )
    learner = learner.cpu()
    _runs.save(learner, result, out, plot)
    if ranks.current_rank().rank == 0:
        keep_columns(panel, out)
    return learner


@command
def _train_or_pretrain(
    call: Call,
    *,
    data: Annotated[Path, Option("Where the corpus of a recipe lies.", "FOLDER")] = Path(),
    nproc: Annotated[int, Option("Processes on this machine that train together.", "NUMBER")] = 1,
    max_restarts: Annotated[
        int, Option("How often the processes of --nproc begin anew when one of them fails.", "NUMBER")
    ] = 0,
) -> int | None:
    """Start several processes of this command, or train, or pretrain from a recipe."""
    from limosa.tasks.pretrain import pretrain

    recipe = call.given["source"].endswith(".toml")
    own = inspect.signature(pretrain).parameters
    if recipe and (overruled := [name for name in call.given if name not in own and name != "source"]):
        words = ", ".join(call.verb.parameters[name].long_name for name in overruled)
        raise UsageError(f"a recipe says itself what {words} would; change it there, or leave it out")
    if (nproc != 1 or max_restarts) and not ranks.launched():
        if not call.given.get("resume"):
            _runs.check_unused(Path(call.given["out"]))  # here, for processes that begin anew resume what they find
        call.share_threads(nproc)
        return ranks.launch(nproc, call.arguments, max_restarts)
    if recipe:
        call.run(pretrain, recipe=call.given["source"], data=data, **call.take(*own))
    else:
        call.run()
    return None
