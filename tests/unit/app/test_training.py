"""What is prepared for the train loop."""

from __future__ import annotations

import json
import logging

import pytest

from limosa.app import service, training
from limosa.app.cli import main
from limosa.errors import UsageError
from limosa.train import ranks
from limosa.train.rounds import CO2, Round


@pytest.fixture
def two(monkeypatch):
    """This process as the second of two."""
    monkeypatch.setattr(ranks, "here", lambda: ranks.Here(rank=1, world=2, machine=2))


def test_the_rate_is_scaled_to_what_a_step_takes():
    assert training.scaled(0.1, None, 4096) == 0.1
    assert training.scaled(0.1, 256, 4096) == pytest.approx(1.6)
    with pytest.raises(UsageError, match="rate_batch is 0"):
        training.scaled(0.1, 0, 4096)


def test_a_single_process_has_no_strategy_and_is_told_that_one_was_left_out(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "limosa"):
        assert training.strategy("data-parallel", {}, tmp_path) is None
        assert not caplog.records
        assert training.strategy("co2", {}, tmp_path) is None
    assert "co2 is left out" in caplog.text
    with pytest.raises(UsageError, match="gossip"):
        training.strategy("gossip", {}, tmp_path)


def test_rank_0_leaves_a_line_per_round(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "here", lambda: ranks.Here(rank=0, world=2, machine=2))
    plan = training.strategy("co2", {"tau": 5}, tmp_path / "new")
    assert isinstance(plan, CO2)
    assert plan.on_round is not None
    for step in (10, 15):
        plan.on_round(Round(step=step, tau=5, computing=2.0, travelling=1.0, waiting=0.25))
    lines = [json.loads(line) for line in (tmp_path / "new" / training.ROUNDS).read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 15]
    assert lines[0]["hidden"] == 0.75


def test_other_ranks_leave_no_lines(tmp_path, two):
    plan = training.strategy("co2", {}, tmp_path)
    assert isinstance(plan, CO2)
    assert plan.on_round is None


def test_every_rank_has_its_own_checkpoints(tmp_path, two):
    assert training.checkpoints(tmp_path, resume=False) == tmp_path / "checkpoints" / "of-2" / "rank-1"


def test_a_run_is_gone_on_with_by_as_many_processes_only(tmp_path, monkeypatch):
    alone = training.checkpoints(tmp_path, resume=False)
    (alone / "step-00000005").mkdir(parents=True)
    with pytest.raises(UsageError, match="--resume"):
        training.checkpoints(tmp_path, resume=False)
    assert training.checkpoints(tmp_path, resume=True) == alone
    monkeypatch.setattr(ranks, "here", lambda: ranks.Here(rank=0, world=2, machine=2))
    with pytest.raises(UsageError, match="1 processes and this one has 2"):
        training.checkpoints(tmp_path, resume=True)
    (tmp_path / "b" / "checkpoints" / "of-2" / "rank-1" / "step-00000005").mkdir(parents=True)  # rank 0 was late
    training.checkpoints(tmp_path / "b", resume=True)
    monkeypatch.setattr(ranks, "here", lambda: ranks.Here(rank=0, world=3, machine=3))
    with pytest.raises(UsageError, match="2 processes and this one has 3"):
        training.checkpoints(tmp_path / "b", resume=True)


def test_more_processes_run_the_same_command_and_their_exit_code_is_the_commands(monkeypatch):
    seen = []
    monkeypatch.setattr(ranks, "launch", lambda processes, arguments: seen.append((processes, arguments)) or 3)
    command = ["train", "sales.csv", "-o", "joint", "--nproc", "2", "--strategy", "co2"]
    assert main(command) == 3
    assert seen == [(2, command)]


def test_a_recipe_and_the_standard_input_are_for_one_process(tmp_path, monkeypatch, two):
    with pytest.raises(UsageError, match="standard input"):
        service.train("-", tmp_path)
    monkeypatch.setattr(ranks, "launched", lambda: True)
    with pytest.raises(UsageError, match="one process"):
        service.pretrain("tiny.toml", tmp_path, data=tmp_path)
