"""Laws of training on several processes. Run as `python laws.py RANK WORLD FOLDER`, once for each rank.

Every function called `law_...` is a law: all ranks run all of them, in the order of this file, and each writes down
which it found broken. `test_laws.py` starts the ranks once and makes one test of each law.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from limosa.core import Window
from limosa.errors import UsageError
from limosa.training import checkpoint
from limosa.training.distributed import ranks
from limosa.training.distributed.collectives import (
    AllReduce,
    FastestAllReduce,
    Transfer,
    flat_all_reduce,
    master_all_reduce,
    sharded_all_reduce,
)
from limosa.training.distributed.data_parallel import (
    DataParallel,
    DataParallelConfig,
    Hierarchical,
    HierarchicalConfig,
    ZeRO,
)
from limosa.training.distributed.local_sgd import CO2, OUTER, CO2Config, LocalSGD, LocalSGDConfig, Round
from limosa.training.loop import Progress, Result, TrainConfig, fit, merged
from limosa.training.precision import Precision
from limosa.training.strategy import Strategy, choose

CONFIG = TrainConfig(steps=14, learning_rate=0.02, warmup=4, average=0.9, validate_every=6, checkpoint_every=5, seed=3)
SMALL = 1e-6  # MB: every parameter in a bucket of its own


class Line(nn.Module):
    """A small network, with dropout where asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 16), nn.SiLU(), nn.Dropout(dropout), nn.Linear(16, 1))

    def loss(self, batch: Window) -> Tensor:
        assert batch.future is not None
        return (self.network(batch.past[..., 0]).float() - batch.future[:, 0]).square().mean()


@dataclass(frozen=True)
class Sums:
    """Batches whose answer is the sum of the past, other ones on each rank."""

    rank: int
    burst: int = -1  # step whose answers are far too large

    def batch(self, step: int) -> Window:
        past = torch.randn(4, 6, 1, generator=torch.Generator().manual_seed(1000 * self.rank + step))
        future = past.sum(1, keepdim=True) * (1e6 if step == self.burst else 1.0)
        return Window(past=past, future=future, horizon=1)


@dataclass(frozen=True)
class Joined:
    """The batches of all ranks, or of those from `first` on, as one."""

    world: int
    first: int = 0

    def batch(self, step: int) -> Window:
        parts = [Sums(rank).batch(step) for rank in range(self.first, self.first + self.world)]
        past, future = (torch.cat([getattr(part, name) for part in parts]) for name in ("past", "future"))
        return Window(past=past, future=future, horizon=1)


def line(dropout: float = 0.0, seed: int = 0) -> Line:
    torch.manual_seed(seed)
    return Line(dropout)


def trained(
    strategy: Strategy | None, config: TrainConfig = CONFIG, batches: Any = None, dropout: float = 0.0, **options: Any
) -> tuple[list[Tensor], Result]:
    """The weights and the result of a run from the same start."""
    model = line(dropout)
    result = fit(model, batches or Sums(ranks.current_rank().rank), config, strategy=strategy, **options)
    return [p.detach().clone() for p in model.parameters()], result


def every_strategy() -> dict[str, Callable[[], Strategy]]:
    return {
        "data-parallel": lambda: choose("data-parallel", {"bucket": SMALL, "comm_dtype": "bf16"}),
        "hierarchical": lambda: choose("hierarchical", {"form": "measured", "bucket": SMALL}),
        "zero": lambda: choose("zero", {}),
        "local-sgd": lambda: choose("local-sgd", {"tau": 4}),
        "co2": lambda: choose("co2", {"tau": 4}),
        "co2 in groups": lambda: choose("co2", {"tau": 4, "group": 2, "zero": True}),
    }


def equal(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def close(first: Sequence[Tensor], second: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def same_on_all(tensors: Sequence[Tensor]) -> bool:
    """Whether every rank holds the same bits."""
    mine = torch.cat([t.detach().double().flatten() for t in tensors])
    everyone = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, mine)
    return all(torch.equal(one, mine) for one in everyone)


@contextmanager
def refused(words: str) -> Iterator[None]:
    """Inside, a UsageError that says `words` has to be raised; pytest is not here."""
    try:
        yield
    except UsageError as error:
        assert words in str(error)  # noqa: PT017
    else:
        raise AssertionError


# -- every step averaged -----------------------------------------------------------------------------------------------


def law_k_processes_are_one_process_on_the_joined_batch(folder: Path) -> None:
    world = ranks.current_rank().world_size
    strategies = [
        DataParallel(),
        DataParallel(DataParallelConfig(bucket=SMALL)),
        Hierarchical(HierarchicalConfig(group=2, bucket=SMALL)),
        Hierarchical(HierarchicalConfig(group=2, bucket=SMALL, form="masters")),
    ]
    for optimizer in ("adamw", "sgd", "lars", "lamb"):
        config = replace(CONFIG, optimizer=optimizer, accumulate=2)
        alone, _ = trained(None, config, Joined(world))
        for strategy in strategies if optimizer == "adamw" else strategies[:1]:
            together, _ = trained(strategy, config)
            assert same_on_all(together)
            close(together, alone)
        assert not equal(alone, [p.detach() for p in line().parameters()])


def law_integer_gradients_are_averaged_to_the_bit(folder: Path) -> None:
    here = ranks.current_rank()
    for strategy in (DataParallel(DataParallelConfig(bucket=SMALL)), Hierarchical(HierarchicalConfig(group=2))):
        model = line()
        strategy.attach(model, 1)
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.full_like(parameter, float(10**i + here.rank))
        strategy.before_step()
        for i, parameter in enumerate(model.parameters()):
            assert (parameter.grad == 10**i + (here.world_size - 1) / 2).all()
        strategy.finish()


def law_replicas_start_as_that_of_rank_0(folder: Path) -> None:
    for build in every_strategy().values():
        model = line(seed=ranks.current_rank().rank)
        model.register_buffer("seen", torch.tensor([ranks.current_rank().rank]))
        build().attach(model, 1)
        assert same_on_all(list(model.parameters()))
        assert equal(list(model.parameters()), list(line(seed=0).parameters()))
        assert model.seen.item() == 0


def law_what_no_rank_used_keeps_no_gradient_and_what_some_used_is_averaged(folder: Path) -> None:
    here = ranks.current_rank()
    model = nn.ParameterList([torch.ones(2), torch.ones(3), torch.ones(1)])
    strategy = DataParallel()
    strategy.attach(model, 1)
    used = model[0].sum() + (model[1].sum() if here.rank == 0 else 0.0)
    used.backward()
    strategy.before_step()
    assert torch.equal(model[0].grad, torch.ones(2))
    assert torch.equal(model[1].grad, torch.ones(3) / here.world_size)
    assert model[2].grad is None
    strategy.finish()


def law_shared_out_optimizers_move_the_weights_as_whole_ones_to_the_bit(folder: Path) -> None:
    for optimizer in ("adamw", "lars"):
        config = replace(CONFIG, optimizer=optimizer)
        assert equal(trained(ZeRO(), config)[0], trained(DataParallel(), config)[0])


def law_every_weight_is_moved_by_one_rank_and_ranks_have_about_as_much_to_move(folder: Path) -> None:
    here = ranks.current_rank()
    weights = [nn.Parameter(torch.zeros(size)) for size in (1, 9, 10, 20, 10, 2, 8)]
    mine = ZeRO().owned_parameters(weights)
    ours = gathered(sum(p.numel() for p in mine))
    assert sum(ours) == 60
    assert max(ours) <= max(20, 60 // here.world_size)
    with refused("start fewer"):
        ZeRO().owned_parameters(weights[: here.world_size - 1])


def law_full_buckets_are_sent_while_backward_goes_on(folder: Path) -> None:
    sent: list[int] = []

    class Slow(torch.autograd.Function):
        """Says how many buckets are under way when backward passes here."""

        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            sent.append(len(strategy.sent))
            return gradient

    first, last = nn.Linear(4, 4), nn.Linear(4, 4)
    strategy = DataParallel(DataParallelConfig(bucket=SMALL))
    strategy.attach(nn.ModuleList([first, last]), 2)
    for _ in range(2):
        last(Slow.apply(first(torch.ones(1, 4)))).sum().backward()
    assert sent == [0, 2]  # nothing after the first micro-batch; both of the last layer in the second
    strategy.before_step()
    strategy.finish()


def law_a_finished_strategy_lets_go_of_the_parameters(folder: Path) -> None:
    model = line()
    fit(model, Sums(0), replace(CONFIG, steps=2), strategy=DataParallel())
    model.loss(Sums(0).batch(0)).backward()  # would send a bucket, and wait for the others, if a hook were left
    assert all(not p._post_accumulate_grad_hooks for p in model.parameters())


# -- routes ------------------------------------------------------------------------------------------------------------


def routes() -> dict[str, AllReduce]:
    world = ranks.current_rank().world_size
    sizes = [size for size in (1, 2, world) if world % size == 0]
    named = {f"sharded {size}": sharded_all_reduce(size) for size in sizes}
    named |= {f"masters {size}": master_all_reduce(size) for size in sizes}
    return named | {
        "measured": FastestAllReduce(
            {"plain": flat_all_reduce(), "sharded": sharded_all_reduce(2)}, torch.device("cpu")
        )
    }


def law_every_route_gives_the_plain_average(folder: Path) -> None:
    rank = ranks.current_rank().rank
    for name, route in routes().items():
        for size in (1, 3, 1000, 65537):
            random = torch.Generator().manual_seed(1000 * rank + size)
            whole = torch.randint(-1000, 1000, (size,), generator=random).float()
            real = torch.randn(size, generator=random)
            for numbers, exact in ((whole, True), (real, False)):
                expected, found = numbers.clone(), numbers.clone()
                Transfer(expected, flat_all_reduce()).wait()
                Transfer(found, route).wait()
                assert same_on_all([found]), (name, size)
                assert torch.equal(found, expected) or (not exact and (found - expected).abs().max() < 1e-6), name


def law_buckets_under_way_together_do_not_mix(folder: Path) -> None:
    here = ranks.current_rank()
    for route in routes().values():
        flats = [torch.full((i + 1,), float(i + here.rank)) for i in range(5)]
        transfers = [Transfer(flat, route) for flat in flats]
        while transfers:
            transfers = [transfer for transfer in transfers if transfer.advance()]
        assert all((flat == i + (here.world_size - 1) / 2).all() for i, flat in enumerate(flats))


def law_low_precision_transfers_are_near_and_do_not_overflow(folder: Path) -> None:
    for comm_dtype, error in (("fp16", 2e-3), ("bf16", 2e-2)):
        numbers = torch.tensor([50_000.0, -1.5, 0.001]) * (1 + 0.1 * ranks.current_rank().rank)
        exact = numbers.clone()
        Transfer(exact, flat_all_reduce()).wait()
        Transfer(numbers, flat_all_reduce(), comm_dtype).wait()
        assert same_on_all([numbers])
        assert ((numbers - exact).abs() <= error * exact.abs()).all(), comm_dtype
        assert not torch.equal(numbers, exact)


def law_all_ranks_take_the_same_measured_route_and_keep_it_on_resume(folder: Path) -> None:
    strategy = Hierarchical(HierarchicalConfig(group=2, form="measured"))
    strategy.attach(line(), 1)
    names = ["plain", "sharded"]
    winners = strategy.state_dict()["fastest"]
    assert same_on_all([torch.tensor([names.index(name) for name in winners.values()])])
    other = {size: names[1 - names.index(name)] for size, name in winners.items()}
    strategy.load_state_dict({"fastest": other})
    assert strategy.state_dict() == {"fastest": other}


def law_groups_that_do_not_divide_the_world_are_refused(folder: Path) -> None:
    with refused("groups of 3"):
        Hierarchical(HierarchicalConfig(group=3)).attach(line(), 1)


# -- precision ---------------------------------------------------------------------------------------------------------


def law_an_overflow_on_one_rank_skips_the_step_on_all(folder: Path) -> None:
    model, strategy, precision = line(), DataParallel(), Precision("fp16", torch.device("cpu"))
    strategy.attach(model, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = [p.detach().clone() for p in model.parameters()]
    scale = precision.scale
    for burst in (True, False):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(
                parameter, torch.inf if burst and ranks.current_rank().rank == 0 else scale
            )
        strategy.before_step()
        precision.step(optimizer, model.parameters(), max_norm=1.0)
        assert equal(before, list(model.parameters())) == burst
        assert precision.scale == scale / 2
    assert same_on_all(list(model.parameters()))
    strategy.finish()


def law_a_step_skipped_on_one_rank_does_not_shift_the_round(folder: Path) -> None:
    ends: list[int] = []
    strategy = CO2(CO2Config(tau=3), on_round=lambda told: ends.append(told.step))
    norms: list[float] = []
    rank = ranks.current_rank().rank
    batches = Sums(rank, burst=7 if rank == 0 else -1)
    config = replace(CONFIG, precision="fp16")
    weights, _ = trained(strategy, config, batches, on_progress=lambda p: norms.append(p.norm))
    skipped = [step for step, norm in enumerate(norms) if not np.isfinite(norm)]
    assert (7 in skipped) == (rank == 0), skipped
    assert ends == [6, 9, 12]
    assert same_on_all(weights)


# -- rounds ------------------------------------------------------------------------------------------------------------


class Pulled(nn.Module):
    """Weights that every step pulls towards a place of its own, other ones on each rank."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
        self.second = nn.Parameter(torch.tensor([[0.3, 0.1], [4.0, -1.0]]))

    @torch.no_grad()
    def pull(self, step: int, rank: int) -> None:
        for parameter in self.parameters():
            parameter.sub_(0.2 * (parameter - torch.from_numpy(place(step, rank, parameter.shape)).float()))


def place(step: int, rank: int, shape: Sequence[int]) -> np.ndarray:
    return np.random.default_rng([step, rank]).normal(size=tuple(shape))


def by_strategy(strategy: Strategy, steps: int) -> list[np.ndarray]:
    model = Pulled()
    strategy.attach(model, 1)
    for step in range(steps):
        strategy.before_step()
        model.pull(step, ranks.current_rank().rank)
        strategy.after_step(step)
    strategy.finish()
    assert same_on_all(list(model.parameters()))
    return [p.detach().double().numpy() for p in model.parameters()]


def by_hand(config: CO2Config, steps: int) -> list[np.ndarray]:
    """The equations of CO2 in numpy, all workers in one process; each tensor by itself."""
    world = ranks.current_rank().world_size
    ends = []
    for start in Pulled().parameters():
        x = start.detach().double().numpy()
        starts, m, late, count = [x.copy() for _ in range(world)], np.zeros_like(x), None, 0
        workers = list(starts)

        def updated(m: np.ndarray, d: np.ndarray) -> np.ndarray:
            size = np.linalg.norm(d)
            penalty = (
                1 + config.learning_rate * np.linalg.norm(m) / size if config.penalty and config.stale and size else 1.0
            )
            return np.clip(config.momentum * m + d / penalty, -config.clip, config.clip)

        for step in range(steps):
            workers = [w - 0.2 * (w - place(step, rank, w.shape)) for rank, w in enumerate(workers)]
            count += 1
            if count == config.tau or step == steps - 1:
                own = [begun - w for begun, w in zip(starts, workers, strict=True)]
                d = np.mean(own, axis=0)
                if config.stale:
                    if late is not None:
                        m = updated(m, late)
                        x = x - config.learning_rate * m
                    late = d
                else:
                    m = updated(m, d)
                    x = x - config.learning_rate * m
                share = config.eager if config.stale else 0.0
                starts, count = [x - share * moved for moved in own], 0
                workers = list(starts)
        if late is not None:
            x = x - config.learning_rate * updated(m, late)
        ends.append(x)
    return ends


def law_co2_keeps_to_its_equations(folder: Path) -> None:
    configs = [
        CO2Config(tau=tau, learning_rate=0.9, momentum=0.3, clip=clip, penalty=penalty, stale=stale, eager=eager)
        for tau in (1, 3)
        for clip in (0.3, float("inf"))
        for penalty in (True, False)
        for stale in (True, False)
        for eager in (1.0, 0.5, 0.0)
    ]
    ends = []
    for config in configs:
        expected = by_hand(config, steps=8)  # with tau 3 the last round has two steps
        found = by_strategy(CO2(config), steps=8)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        ends.append(np.concatenate([part.ravel() for part in expected]).round(4).tolist())
    # Rounds, clip and delay each make a difference, and so do the penalty of what comes late and the eager start.
    assert len({tuple(end) for end in ends}) == 2 * 2 * (1 + 2 * 3)


def law_co2_without_delay_and_momentum_and_with_rounds_of_one_step_is_data_parallel_sgd(folder: Path) -> None:
    config = TrainConfig(
        steps=9, learning_rate=0.01, warmup=2, average=0.0, max_grad_norm=1e9, weight_decay=0.0, optimizer="sgd"
    )

    def run(strategy: Strategy) -> list[Tensor]:
        model = line()
        strategy.attach(model, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
        for step in range(config.steps):
            model.loss(Sums(ranks.current_rank().rank).batch(step)).backward()
            strategy.before_step()
            optimizer.step()
            optimizer.zero_grad()
            strategy.after_step(step)
        strategy.finish()
        return [p.detach() for p in model.parameters()]

    close(run(CO2(CO2Config(tau=1, momentum=0.0, clip=float("inf"), stale=False))), run(DataParallel()))
    close(run(LocalSGD(LocalSGDConfig(tau=1))), run(DataParallel()))


def law_a_group_is_one_worker_of_co2_whose_ranks_hold_a_part_each(folder: Path) -> None:
    rank = ranks.current_rank().rank
    joint = Joined(2, first=rank - rank % 2)
    for penalty in (True, False):
        expected, _ = trained(CO2(CO2Config(tau=3, penalty=penalty)), batches=joint)
        ends = []
        for zero in (False, True):
            strategy = CO2(CO2Config(tau=3, penalty=penalty, group=2, zero=zero))
            ends.append(trained(strategy)[0])
            close(ends[-1], expected)
            assert same_on_all(ends[-1])
            weights = sum(p.numel() for p in expected)
            assert {len(getattr(strategy, name)) for name in OUTER} == {-(-weights // 2)}
        assert equal(*ends)


def law_co2_in_a_narrow_wire_stays_near(folder: Path) -> None:
    exact = by_strategy(CO2(CO2Config(tau=2)), steps=8)
    for comm_dtype in ("fp16", "bf16"):
        for a, b in zip(by_strategy(CO2(CO2Config(tau=2, comm_dtype=comm_dtype)), steps=8), exact, strict=True):
            np.testing.assert_allclose(a, b, atol=0.05)


def law_local_sgd_averages_every_tau_steps_and_at_the_end(folder: Path) -> None:
    here = ranks.current_rank()
    model = Pulled()
    strategy = LocalSGD(LocalSGDConfig(tau=3))
    strategy.attach(model, 1)
    for step in range(4):
        model.pull(step, here.rank)
        strategy.after_step(step)
        assert same_on_all(list(model.parameters())) == (step == 2)
    before = model.first.detach().clone()
    strategy.finish()
    assert same_on_all(list(model.parameters()))
    assert not torch.equal(before, model.first)


def law_the_automatic_round_is_the_same_on_all_ranks(folder: Path) -> None:
    for stale in (True, False):
        model = Pulled()
        told: list[Round] = []
        strategy = CO2(CO2Config(stale=stale), on_round=told.append)
        strategy.attach(model, 1)
        for step in range(40):
            time.sleep(0.002)
            model.pull(step, ranks.current_rank().rank)
            strategy.after_step(step)
        assert strategy.tau >= 1
        assert same_on_all([torch.tensor(strategy.tau), torch.tensor(len(told))])
        assert {one.tau for one in told} <= {strategy.tau}
        assert all(one.communicating > 0 and one.computing > 0 and 0 <= one.hidden <= 1 for one in told)
        strategy.finish()
        assert same_on_all(list(model.parameters()))


# -- runs --------------------------------------------------------------------------------------------------------------


def law_replicas_end_equal_and_agree_on_when_to_stop(folder: Path) -> None:
    validation = [Sums(99).batch(0)]
    for name, build in every_strategy().items():
        config = replace(CONFIG, steps=40, validate_every=1, patience=1, learning_rate=0.1)
        weights, result = trained(build(), config, validation=validation)
        assert same_on_all(weights), name
        assert same_on_all([torch.tensor([result.step, result.best_step])]), name
        assert result.step < 40, name
        assert same_on_all([torch.tensor(result.best_validation)]), name


def law_ranks_drop_out_differently(folder: Path) -> None:
    seeds: list[int] = []
    told = {"on_progress": lambda at: seeds.append(torch.initial_seed())}
    trained(choose("local-sgd", {}), replace(CONFIG, steps=1), Sums(0), dropout=0.5, **told)
    assert len(set(gathered(seeds[0]))) == ranks.current_rank().world_size


def gathered(number: int) -> list[int]:
    everyone = [torch.zeros((), dtype=torch.int64) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, torch.tensor(number))
    return [int(one) for one in everyone]


class Stopped(Exception):
    """What ends a run in its middle."""


@contextmanager
def stopped() -> Iterator[None]:
    try:
        yield
    except Stopped:
        return
    raise AssertionError("the run was not stopped")


def law_a_resumed_run_ends_bitwise_as_if_it_had_never_stopped(folder: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.step == 12:
            raise Stopped

    for name, build in every_strategy().items():
        for precision in ("fp32", "fp16") if name == "co2" else ("fp32",):
            own = folder / name / precision / str(ranks.current_rank().rank)
            config = replace(CONFIG, precision=precision)
            whole, result = trained(build(), config, dropout=0.2)
            with stopped():
                trained(build(), config, dropout=0.2, folder=own, on_progress=stop)
            newest = checkpoint.common(own)
            assert newest is not None
            assert newest.name == "step-00000010"  # in the middle of a round of four steps
            again, resumed = trained(build(), config, dropout=0.2, folder=own, resume=True)
            assert equal(whole, again), name
            assert result == resumed


def law_a_run_goes_on_with_one_process_where_two_left_it_and_the_other_way_round(folder: Path) -> None:
    here = ranks.current_rank()
    together = [folder / "together" / str(rank) for rank in range(here.world_size)]
    config = replace(CONFIG, steps=10, average=0.0)
    left_alone = folder / "alone"
    if here.rank == 0:
        with alone():
            trained(None, config, folder=left_alone)
    dist.barrier()
    for name in ("hierarchical", "zero", "co2", "co2 in groups"):
        build = every_strategy()[name]
        left, _ = trained(build(), config, folder=together[here.rank] / name)  # ends with a checkpoint of step 10
        dist.barrier()
        others = [own / name for own in together]
        state = merged(checkpoint.shards(others))
        assert state["step"] == 10
        one = line(seed=99)
        with alone():
            state = merged(checkpoint.shards(others))
            fit(one, Sums(0), config, folder=folder / name / str(here.rank), resume=True, others=others)
        close(list(one.parameters()), state["parameters"])
        if "co2" not in name:
            assert equal(list(one.parameters()), left), name
        moved = {int(i) for i in state["optimizer"]}
        assert moved == set(range(4)), (name, moved)  # each weight's moments, also those shared out

        more = replace(CONFIG, steps=14, average=0.0)
        again, result = trained(
            build(), more, folder=folder / "more" / name / str(here.rank), resume=True, others=[left_alone]
        )
        assert same_on_all(again)
        assert result.step == 14
        fresh, _ = trained(build(), more)
        assert not equal(again, fresh)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this rank believes it is the only one."""
    here = ranks.current_rank
    ranks.current_rank = ranks.Rank  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        ranks.current_rank = here


def law_a_round_under_way_lands_where_one_process_goes_on(folder: Path) -> None:
    config = replace(CONFIG, steps=9, average=0.0, checkpoint_every=9)
    for eager in (1.0, 0.5, 0.0):
        own = folder / str(eager)
        trained(CO2(CO2Config(tau=3, eager=eager)), config, folder=own / str(ranks.current_rank().rank))
        dist.barrier()
        shards = checkpoint.shards([own / str(rank) for rank in range(ranks.current_rank().world_size)])
        late = checkpoint.load(shards[0])["strategy"]
        assert late["pending"]
        with alone():
            found = merged(shards)["parameters"]
        close([torch.cat([p.flatten() for p in found])], [late["anchor"] - late["delta"]])  # each round counts once


def law_ranks_that_would_go_on_from_different_steps_stop(folder: Path) -> None:
    here = ranks.current_rank()
    left_alone = folder / "alone"
    if here.rank == 0:
        with alone():
            trained(None, replace(CONFIG, steps=10), folder=left_alone)
    dist.barrier()
    with refused("from step 0, others from 10"):
        trained(DataParallel(), folder=folder / str(here.rank), resume=True, others=[left_alone][here.rank :])


def law_a_run_goes_on_only_by_its_own_strategy_and_optimizer(folder: Path) -> None:
    own = folder / str(ranks.current_rank().rank)
    trained(CO2(CO2Config(tau=4)), replace(CONFIG, steps=10), folder=own)
    for strategy, optimizer, found in ((DataParallel(), "adamw", "CO2"), (CO2(CO2Config(tau=4)), "sgd", "adamw")):
        with refused(f"is of a run with {found}"):
            trained(strategy, replace(CONFIG, optimizer=optimizer), folder=own, resume=True)


def law_a_group_that_shares_out_its_optimizer_is_not_broken_up_by_a_resume(folder: Path) -> None:
    own = folder / str(ranks.current_rank().rank)
    config = replace(CONFIG, steps=10)
    trained(CO2(CO2Config(tau=4, group=2, zero=True)), config, folder=own)
    with refused("lacks the optimizer's state"):
        trained(CO2(CO2Config(tau=4, group=2)), config, folder=own, resume=True)


def law_a_run_of_co2_goes_on_with_the_tau_it_is_given(folder: Path) -> None:
    own = folder / str(ranks.current_rank().rank)
    config = replace(CONFIG, steps=10)  # of rounds of four steps, two into the third
    trained(CO2(CO2Config(tau=4)), config, folder=own)
    for tau, ends in ((0, [16, 20]), (5, [18]), (1, list(range(12, 21)))):
        told: list[Round] = []
        again = shutil.copytree(own, own.with_name(f"{own.name}-{tau}"))
        trained(CO2(CO2Config(tau=tau), told.append), replace(config, steps=20), folder=again, resume=True)
        assert [one.step for one in told] == ends, tau  # of the round that the checkpoint caught nothing is told


def law_ranks_resume_from_the_newest_step_that_all_have(folder: Path) -> None:
    here = ranks.current_rank()
    own = folder / str(here.rank)
    assert checkpoint.common(own) is None
    checkpoint.save(own, 5, {"rank": here.rank})
    if here.rank == 0:
        checkpoint.save(own, 10, {"rank": 0})
    found = checkpoint.common(own)
    assert found == own / "step-00000005"


LAWS = {name.removeprefix("law_"): law for name, law in list(globals().items()) if name.startswith("law_")}


def main(rank: int, world: int, folder: Path) -> None:
    """Run all laws as `rank` of `world`; leaves {law: trace or ""} in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    broken = {}
    for name, law in LAWS.items():
        began = time.monotonic()
        try:
            law(folder / name)
            broken[name] = ""
        except Exception:
            broken[name] = traceback.format_exc()
        if "--times" in sys.argv:
            print(f"{rank} {time.monotonic() - began:6.2f} s {name}", flush=True)  # noqa: T201
    (folder / f"broken-{rank}.json").write_text(json.dumps(broken))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
