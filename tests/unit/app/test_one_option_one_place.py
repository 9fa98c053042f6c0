"""A verb's options stand in its signature alone: the command, `help` and `import limosa` follow from it."""

from __future__ import annotations

import inspect
import sys

import pytest

import limosa
from limosa import tasks
from limosa.app.cli import app, main
from limosa.options import VERBS, parameters_of

COMMANDS = app.list_commands(None)

GREET = '''"""Say hello to each series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Unpack

import pandas as pd

from limosa.data.layout import Layout
from limosa.options import Option, names, verb
from limosa.tasks._options import Table
from limosa.tasks._shared import read


@verb(unit="series")
def greet(
    source: Table,
    *,
    times: Annotated[int, Option("How often.", "NUMBER", flag="-t", least=1)] = 1,
    words: Annotated[Sequence[str], Option("What to say.", "WORD,...", read=names)] = ("hello",),
    tone: Annotated[Literal["soft", "loud"], Option("How to say it.")] = "soft",
    polite: Annotated[bool, Option("Say please.")] = True,
    on_progress: Any = None,
    **layout: Unpack[Layout],
) -> pd.DataFrame:
    """Say hello to each series of a table."""
    panel = read(source, **layout)
    said = [" ".join(words * times) + "!" * (tone == "loud") + " please" * polite for _ in range(len(panel))]
    return pd.DataFrame({"unique_id": panel.ids, "said": said})
'''


@pytest.fixture
def greet(tmp_path, monkeypatch):
    """A folder with one more verb."""
    (tmp_path / "greet.py").write_text(GREET)
    (tmp_path / "data.csv").write_text("shop,ds,y\na,1,1\na,2,1\nb,1,1\nb,2,1\n")
    monkeypatch.setattr(tasks, "__path__", [*tasks.__path__, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("limosa.tasks.greet", None)
    VERBS.pop("limosa.tasks.greet", None)


def test_a_new_file_is_a_command_and_a_public_function(greet, capsys):
    assert "greet" in app.list_commands(None)
    file = str(greet / "data.csv")
    assert (
        main(["greet", file, "--id-col", "shop", "-t", "2", "--words", "hi,you", "--tone", "loud", "--no-polite", "-q"])
        == 0
    )
    assert capsys.readouterr().out == "unique_id,said\na,hi you hi you!\nb,hi you hi you!\n"
    table = limosa.greet(file, id_col="shop", times=2.0)
    assert table["said"].tolist() == ["hello hello please"] * 2
    assert main(["greet", file, "-t", "0"]) == 2
    assert "times is 0; it must be at least 1" in capsys.readouterr().err
    with pytest.raises(limosa.UsageError, match=r"tone is 'lout'; did you mean loud?"):
        limosa.greet(file, tone="lout")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_verb_is_an_option_of_its_command_and_has_a_line_of_help(name):
    command = app.get_command(None, name)
    own = {**command.verb.parameters, **(command.verb.more or {})}
    shown = {one.name for one in own.values() if one.option is not None}
    assert shown <= {one.name for one in command.params}
    for one in own.values():
        assert one.option is None or one.option.help, one.name


def test_help_of_a_verb_names_the_options_of_its_table_with_their_defaults():
    for function in (limosa.forecast, limosa.backtest, limosa.train, limosa.adapt, limosa.check, limosa.detect):
        shown = inspect.signature(function).parameters
        assert {"freq", "id_col", "time_col"} <= set(shown)
        assert shown["id_col"].default == "unique_id"
        assert "Step: h, 15min" in function.__doc__
    assert inspect.signature(limosa.forecast).parameters["horizon"].annotation is int


def test_h_alone_shows_the_help_and_with_a_value_it_is_the_horizon(capsys):
    for words in (["forecast", "-h"], ["forecast", "sales.csv", "-h"], ["check", "-h"], ["-h"]):
        assert main(words) == 0
        assert capsys.readouterr().out.startswith("Usage: limosa")
    assert main(["forecast", "sales.csv", "-h", "3"]) == 3  # there is no such file


def test_a_parameter_of_a_type_that_only_the_checker_knows_is_no_obstacle():
    def function(one: Unknown, two: int = 2) -> None:  # noqa: F821
        """Nothing."""

    assert list(parameters_of(function)) == ["one", "two"]


def test_wrong_options_are_one_line_with_the_nearest(capsys):
    assert main(["forecast", "x.csv", "--horizn", "3"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("limosa: No such option")
    assert "--horizon" in error
    assert error.count("\n") == 1


def test_options_that_a_recipe_would_overrule_are_named_as_they_were_given(tmp_path, capsys):
    assert (
        main(["train", "a.toml", "-o", str(tmp_path / "x"), "--option", "width=3", "--learning-rate-batch", "4"]) == 2
    )
    assert "a recipe says itself what --option, --learning-rate-batch would" in capsys.readouterr().err
