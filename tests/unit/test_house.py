"""The shape of the house: how long files may be, and what a new part touches."""

from __future__ import annotations

from pathlib import Path

import limosa

SOURCE = Path(limosa.__file__).parent
LONGEST = 450  # lines at which a file asks to be two


def test_no_module_is_longer_than_a_reader_can_hold():
    lengths = {path.relative_to(SOURCE): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST} == {}


def test_every_module_says_first_what_it_does():
    for path in SOURCE.rglob("*.py"):
        text = path.read_text()
        assert not text or text.startswith('"""'), path
