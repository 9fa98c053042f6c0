"""`limosa charts` writes a folder whose every line has its images, and nothing where it cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

import limosa
from limosa.errors import UsageError


def test_every_line_has_its_images_and_the_styled_test_asks_the_same(tmp_path):
    rng = np.random.default_rng(1)
    table = {"unique_id": np.repeat([f"s{i}" for i in range(12)], 90), "ds": np.tile(np.arange(90), 12)}
    folder = tmp_path / "qa"
    limosa.charts(table | {"y": rng.standard_normal(1080).cumsum()}, folder, items=10, size=64)
    parts = {
        part: list(map(json.loads, (folder / f"{part}.jsonl").read_text().splitlines()))
        for part in ("train", "validation", "test", "test-style")
    }
    assert {part: len(lines) for part, lines in parts.items()} == {
        "train": 10,
        "validation": 1,
        "test": 1,
        "test-style": 1,
    }
    for line in parts["train"] + parts["test-style"]:
        assert line["answer"] in line["choices"]
        assert len(line["images"]) == len(line["values"])
        assert {imread(folder / name).shape[:2] for name in line["images"]} == {(64, 64)}
    asked = [[line["question"] for line in parts[part]] for part in ("test", "test-style")]
    assert asked[0] == asked[1]
    with pytest.raises(UsageError, match="there already"):
        limosa.charts(table, folder)
