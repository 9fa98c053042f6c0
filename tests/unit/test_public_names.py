"""What `import limosa` offers and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import limosa

NAMES = [
    "DataError",
    "Forecast",
    "Forecaster",
    "LimosaError",
    "ModelNotFound",
    "Panel",
    "UsageError",
    "Window",
    "adapt",
    "backtest",
    "check",
    "detect",
    "forecast",
    "load",
    "stream",
    "train",
    "watch",
]


def test_the_public_names_are_these():
    assert limosa.__all__ == NAMES
    for name in NAMES:
        assert getattr(limosa, name).__name__ == name


def test_the_verb_train_stays_in_sight_when_the_package_train_is_imported():
    from limosa.train.loop import TrainConfig

    assert TrainConfig.__module__ == "limosa.train.loop"
    assert limosa.train.__module__ == "limosa.app.service"


def test_a_name_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(AttributeError, match=r"no attribute 'forcast'; there are: .*forecast"):
        _ = limosa.forcast


@pytest.mark.parametrize("code", ["import limosa", "import limosa; limosa.forecast", "import limosa.app.cli"])
def test_importing_loads_neither_torch_nor_pandas(code):
    heavy = "import sys; sys.exit(bool({'torch', 'pandas', 'numpy', 'matplotlib', 'rich'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], check=False).returncode == 0
