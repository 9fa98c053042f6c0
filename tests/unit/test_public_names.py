"""What `import limosa` offers and what it costs."""

from __future__ import annotations

import importlib.metadata
import pkgutil
import subprocess
import sys

import pytest

import limosa

NAMES = [
    "AlertConfig",
    "DataError",
    "DataWarning",
    "Forecast",
    "Forecaster",
    "LimosaError",
    "Memory",
    "ModelNotFound",
    "Panel",
    "TimeSeriesClassifier",
    "UsageError",
    "Window",
    "adapt",
    "ask",
    "backtest",
    "charts",
    "check",
    "classify",
    "detect",
    "encode",
    "events",
    "forecast",
    "list_models",
    "load",
    "plot",
    "score",
    "stream",
    "train",
    "watch",
]


def test_the_public_names_are_these():
    assert limosa.__all__ == NAMES
    for name in NAMES:
        assert getattr(limosa, name).__name__ == name


def test_every_module_can_be_imported_under_its_own_name_beside_the_verbs():
    import limosa.training.loop

    assert limosa.training.loop.TrainConfig.__module__ == "limosa.training.loop"
    assert limosa.train.__module__ == "limosa.tasks.train"
    for info in pkgutil.walk_packages(limosa.__path__, "limosa."):
        assert info.name.count(".") > 1 or info.name.partition(".")[2] not in limosa.__all__, info.name


def test_the_version_is_that_of_the_package():
    assert limosa.__version__ == importlib.metadata.version("limosa")


def test_the_models_are_a_package_and_its_verb_has_another_name():
    assert "naive" in limosa.models.names()
    assert "naive" in set(limosa.list_models()["name"])


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'forcast'; there are: .*forecast"):
        _ = limosa.forcast


@pytest.mark.parametrize("code", ["import limosa", "import limosa; limosa.forecast", "import limosa.app.cli"])
def test_importing_loads_neither_torch_nor_pandas(code):
    heavy = "import sys; sys.exit(bool({'torch', 'pandas', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=False).returncode == 0
