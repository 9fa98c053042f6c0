"""A table is read in memory bounded by its rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import re, sys
from limosa.data.panel import Panel

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

Panel.read({"ds": ["2024-01-01", "2024-01-02"], "y": [1.0, 2.0]})
before = peak()
panel = Panel.read(sys.argv[1])
print(peak() - before, len(panel.stamps))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the peak of memory")
def test_a_row_of_a_large_table_takes_at_most_200_bytes_while_it_is_read(tmp_path: Path) -> None:
    days = [f"2020-{1 + i // 28 % 12:02}-{1 + i % 28:02} {i // 336:02}:00:00" for i in range(8_000)]
    days = sorted(set(days))
    table = tmp_path / "long.csv"
    with table.open("w") as file:
        file.write("unique_id,ds,y\n")
        for i in range(200):
            file.writelines(f"series-{i:03},{day},{i + j % 97}.{j % 10}\n" for j, day in enumerate(days))
    done = subprocess.run([sys.executable, "-c", CODE, str(table)], capture_output=True, text=True, check=True)
    taken, _ = map(int, done.stdout.split())
    assert taken < 200 * 200 * len(days)
