"""A history of a million rows is encoded in bounded memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from limosa import models
from limosa.adapters._encoded import encode_panel
from limosa.adapters.perk import Perk, PerkConfig
from limosa.data.panel import Panel

rows = int(sys.argv[1])
torch.manual_seed(0)
base = models.card("patched").build(models.card("patched").tiny)
adapter = Perk(PerkConfig(context=32, horizon=16, rank=2, width=8, steps=2), base)
panel = Panel(
    ids=np.array(["a"], dtype=object),
    stamps=3_600_000_000 * np.arange(rows),
    values=np.sin(np.arange(rows) / 4.0)[:, None],
    known=np.zeros((rows, 0)),
    static=np.zeros((1, 0)),
    start=np.array([0, rows]),
    freq="h",
)
memory = encode_panel(adapter, panel)
assert memory.rows.tolist() == [rows]
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(rows):
    """Of a fresh process that encodes a history of so many rows."""
    done = subprocess.run([sys.executable, "-c", CODE, str(rows)], capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_a_million_rows_are_encoded_in_bounded_memory():
    # The table and its index by rows take 150 MB; the windows' hidden states, all at once, would take gigabytes.
    short, long = peak_mb(20_000), peak_mb(1_000_000)
    assert long < short + 250.0, f"{short:.0f} MB for 20,000 rows, {long:.0f} MB for a million"
