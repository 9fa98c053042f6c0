"""A process alone, and what is refused before others are started; `tests/ranks` holds the laws of several."""

from __future__ import annotations

import socket
from dataclasses import fields
from pathlib import Path

import pytest

from limosa.errors import UsageError
from limosa.training.distributed import ranks
from limosa.training.distributed.data_parallel import DataParallelConfig, HierarchicalConfig
from limosa.training.distributed.local_sgd import CO2Config, LocalSGDConfig, Round
from limosa.training.strategy import choose, strategies


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_a_process_without_a_launcher_is_the_only_one():
    with ranks.joined() as here:
        assert here == ranks.Rank(rank=0, world_size=1, local_world_size=1)
    assert ranks.first()
    assert not ranks.launched()
    assert ranks.lowest(7) == 7
    assert ranks.name() == "limosa"


def test_only_rank_0_speaks_and_the_others_say_who_they_are(monkeypatch):
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.launched()
    assert not ranks.first()
    assert ranks.name() == "limosa, rank 2"


def test_gloo_listens_where_it_is_told_else_where_the_name_of_this_host_leads(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert ranks.address() == "eth7"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: [(2, 1, 6, "", ("10.1.2.3", 0))])
    assert ranks.address() == "10.1.2.3"

    def unknown(name, *_, **__):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert ranks.address() == "loopback"


def test_fewer_than_one_process_is_refused():
    with pytest.raises(UsageError, match="number of processes is 0"):
        ranks.launch(0, [])
    with pytest.raises(UsageError, match="max_restarts is -1"):
        ranks.launch(2, [], -1)


def test_a_process_that_was_started_anew_knows_how_often(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    assert ranks.restarts() == 0  # not by a launcher
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    assert ranks.restarts() == 3


@pytest.mark.parametrize("name", strategies())
def test_every_strategy_is_found_by_name_with_options(name):
    option = {"comm_dtype": "bf16"} if name in ("data-parallel", "hierarchical", "zero") else {"tau": 3}
    (key, value), *_ = option.items()
    assert getattr(choose(name, option).config, key) == value
    with pytest.raises(UsageError, match=r"no such option.*colour"):
        choose(name, {"colour": 1})


@pytest.mark.parametrize(
    ("name", "option", "found"),
    [
        ("co2", {"penalty": "False"}, "penalty of strategy co2 is 'False'; it must be true or false"),
        ("co2", {"tau": 2.5}, "tau .* a whole number"),
        ("co2", {"clip": True}, "clip .* a number"),
        ("zero", {"bucket": "large"}, "bucket .* a number"),
        ("zero", {"comm_dtype": 16}, "comm_dtype .* a word"),
    ],
)
def test_an_option_of_another_kind_is_named(name, option, found):
    with pytest.raises(UsageError, match=found):
        choose(name, option)
    assert choose("co2", {"clip": 2}).config.clip == 2


def test_an_unknown_strategy_is_named():
    with pytest.raises(UsageError, match=r"'gossip'.*co2"):
        choose("gossip", {})


@pytest.mark.parametrize(
    ("config", "options"),
    [
        *((DataParallelConfig, option) for option in ({"comm_dtype": "int8"}, {"bucket": 0.0})),
        *((HierarchicalConfig, option) for option in ({"comm_dtype": "int8"}, {"group": -1}, {"form": "ring"})),
        (LocalSGDConfig, {"tau": 0}),
        *((CO2Config, option) for option in ({"tau": -1}, {"momentum": 1.0}, {"clip": 0.0}, {"comm_dtype": "int8"})),
        *((CO2Config, option) for option in ({"learning_rate": 0.0}, {"timeout": 0.0})),
    ],
)
def test_an_option_out_of_range_is_named(config, options):
    with pytest.raises(UsageError, match=next(iter(options))):
        config(**options)


@pytest.mark.parametrize("name", strategies())
def test_every_option_of_a_strategy_is_on_its_page(name):
    page = (Path(__file__).parents[3] / "docs" / "strategies.md").read_text()
    for option in fields(choose(name, {}).config):
        assert f"`{option.name}`" in page, option.name


def test_hidden_is_the_share_of_communicating_that_nobody_waited_for():
    told = Round(step=9, tau=3, computing=1.0, communicating=2.0, waiting=0.5)
    assert told.hidden == 0.75
    assert Round(step=9, tau=3, computing=1.0, communicating=0.0, waiting=0.0).hidden == 1.0
