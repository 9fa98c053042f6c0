"""The docs cannot lie: their commands and examples are run, their help texts and file lists compared."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import limosa
from limosa import Window, tasks
from limosa import models as registry
from limosa.app.cli import app, main
from limosa.models import detectors
from limosa.options import VERBS
from promises.detectors import LAWS, Subject

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


LONG = "--nproc|--engine|--method auto"  # commands of several processes or fits
COMMANDS = [
    pytest.param(
        line,
        id=f"{page.name}: {line}",
        marks=[pytest.mark.slow] * bool(re.search("--nproc|--engine|--method auto", line)),
    )
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.splitlines()
    if re.match(r"(\.venv/bin/)?limosa ", line)
]
EXAMPLES = [
    pytest.param(block, id=f"{page.name} {number}")
    for page in PAGES
    for number, block in enumerate(blocks(page, "python"))
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the docs speak of, and a small model where the embedded one would be."""
    folder = tmp_path_factory.mktemp("docs")
    generator = np.random.default_rng(0)
    days = pd.date_range("2024-01-01", periods=148, freq="D")
    shops = [
        pd.DataFrame({"unique_id": shop, "ds": days, "y": generator.poisson(20, 148) + 5.0, "price": 2.5})
        for shop in ("north", "south")
    ]
    sales = pd.concat(shops)
    sales[sales["ds"] < days[120]].to_csv(folder / "sales.csv", index=False)
    (folder / "history").mkdir()
    for shop, rows in sales.groupby("unique_id"):
        rows.drop(columns="price").to_parquet(folder / "history" / f"{shop}.parquet", index=False)
    sales[sales["ds"] >= days[120]].drop(columns="y").to_csv(folder / "prices_ahead.csv", index=False)
    minutes = pd.date_range("2024-06-01", periods=900, freq="min")
    load = {name: generator.normal(size=900) for name in ("cpu", "disk", "queue")}
    metrics = pd.DataFrame({"time": minutes, **load})
    metrics[:600].to_csv(folder / "normal.csv", index=False)
    metrics[600:].to_csv(folder / "metrics.csv", index=False)
    recordings = [
        pd.DataFrame({"unique_id": i, "x": np.sin(np.arange(40) / (1 + i % 2)), "label": ("slow", "fast")[i % 2]})
        for i in range(12)
    ]
    pd.concat(recordings).to_csv(folder / "labelled.csv", index=False)
    pd.concat(recordings[:4]).drop(columns="label").to_csv(folder / "recordings.csv", index=False)
    visits = pd.DataFrame(
        {"unique_id": generator.choice(["a", "b", "c"], 90), "mark": generator.choice(["visit", "failure"], 90)}
    )
    visits["time"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(generator.exponential(3.0, 90).cumsum().round(2), "h")
    visits.to_csv(folder / "visits.csv", index=False)
    torch.manual_seed(0)
    patched = registry.card("patched")
    patched.build(patched.tiny).eval().save_pretrained(folder / "weights" / "limosa-small")
    return folder


@pytest.fixture
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(registry, "WEIGHTS", place / "weights")
    if not (place / "my-model").exists():
        registry.load("limosa-small").save_pretrained("my-model")


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_in_the_docs_runs(line, in_place):
    line = re.sub(r"--steps \d+", "--steps 2", line.partition("#")[0])  # a few steps show as much as a thousand
    assert main(shlex.split(line)[1:]) == 0


def imported(block, monkeypatch):
    """The block as a module."""
    module = types.ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    exec(compile(block, "example.py", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("block", EXAMPLES)
def test_every_python_example_in_the_docs_runs(block, in_place, monkeypatch):
    imported(block, monkeypatch)


def test_the_page_on_adding_a_model_shows_a_whole_model(monkeypatch):
    example = imported(blocks(ROOT / "docs" / "add-a-model.md", "python")[0], monkeypatch)
    model = example.CARD.build(example.CARD.tiny)
    past = torch.tensor([[[1.0], [torch.nan], [3.0], [2.0]]])
    forecast = model.forecast(Window(past=past, horizon=3))
    assert forecast.at(0.5).flatten().tolist() == [2.0, 2.0, 2.0]
    assert (forecast.values.diff(dim=1) > 0).all()
    loss = model.loss(Window(past=past, horizon=3, future=torch.tensor([[[2.0], [torch.nan], [2.5]]])))
    loss.backward()
    assert torch.isfinite(model.spread.grad)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    """Put the first example of a page as a file into a folder of the package."""
    names = []

    def put(page, package, name):
        (tmp_path / f"{name}.py").write_text(blocks(ROOT / "docs" / page, "python")[0])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
        names.append(f"{package.__name__}.{name}")

    yield put
    for name in names:
        sys.modules.pop(name, None)
        VERBS.pop(name, None)


def test_the_page_on_adding_a_verb_shows_a_whole_verb(in_folder, tmp_path, capsys):
    in_folder("add-a-verb.md", tasks, "gaps")
    holes = pd.DataFrame({"shop": "a", "ds": range(9), "y": [1, None, 1, None, None, 1, None, None, None]})
    holes.to_csv(tmp_path / "holes.csv", index=False)
    assert main(["gaps", str(tmp_path / "holes.csv"), "-n", "2", "--order", "length", "--id-col", "shop", "-q"]) == 0
    assert capsys.readouterr().out == "shop,since,rows\na,6,3\na,3,2\n"
    assert limosa.gaps(holes, id_col="shop")["rows"].tolist() == [1, 2, 3]
    with pytest.raises(limosa.UsageError, match="least is 0; it must be at least 1"):
        limosa.gaps(holes, least=0)


def test_the_page_on_adding_a_detector_shows_a_whole_detector(in_folder, tmp_path):
    in_folder("add-a-detector.md", detectors, "range")
    card = registry.card("range")
    promises = Subject(name="range", make=lambda: card.build(card.tiny), load=registry.load, scale_law=False)
    for law in LAWS:
        law(promises)
    frame = pd.DataFrame({"a": np.sin(np.arange(600.0)), "b": np.cos(np.arange(600.0))})
    frame.loc[500:510, "b"] = 9.0
    found = limosa.detect(frame, train=frame[:400], model="range")
    assert found.frame()["channels"].iloc[0].startswith("b ")


def test_the_help_texts_on_the_page_are_those_of_the_commands():
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / "help.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_option_has_a_help_text_and_every_command_is_on_the_page():
    page = (ROOT / "docs" / "cli.md").read_text()
    for name, command in ((name, app.get_command(None, name)) for name in app.list_commands(None)):
        assert command.help, name
        assert f"$ limosa {name} --help" in page
        for parameter in command.own.values():
            assert parameter.option.help, f"{name}: {parameter.name}"


def test_the_readme_names_every_folder_of_the_package():
    tree = blocks(ROOT / "README.md", "text")[0]
    folders = {path.parent.name for path in (ROOT / "src" / "limosa").glob("*/*.py")}
    assert folders <= set(re.findall(r"\b([a-z]+)/", tree))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
