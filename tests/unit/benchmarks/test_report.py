"""The page of results is what the saved results say."""

import importlib.util
import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def _script(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their types up
    spec.loader.exec_module(module)
    return module


report = _script("report")


def _save(folder, **changes):
    record = {
        "name": "speed",
        "command": "python benchmarks/speed.py",
        "seeds": [0, 1],
        "commit": "abc1234",
        "date": "2026-01-02",
        "machine": "an abacus",
        "quick": False,
        "metrics": {"swiftness": 1 / 3, "rows": 1_000_000},
        "table": [{"model": "a", "score": 0.5}, {"model": "b", "note": "no score"}],
    } | changes
    (folder / f"{record['name']}.json").write_text(json.dumps(record))


def test_the_page_of_results_is_not_stale():
    assert report.PAGE.read_text() == report.page(report.RESULTS), "run: python benchmarks/report.py"


def test_the_page_says_everything_a_record_holds(tmp_path):
    _save(tmp_path)
    page = report.page(tmp_path)
    said = ["speed.py", "0, 1", "abc1234", "2026-01-02", "an abacus", "swiftness", "0.3333", "1000000", "no score"]
    assert [word for word in said if word not in page] == []


def test_a_changed_figure_makes_the_page_stale(tmp_path, monkeypatch):
    _save(tmp_path)
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "results.md")
    monkeypatch.setattr("sys.argv", ["report.py", "--check"])
    assert report.main() == 1  # there is no page yet
    monkeypatch.setattr("sys.argv", ["report.py"])
    assert report.main() == 0
    monkeypatch.setattr("sys.argv", ["report.py", "--check"])
    assert report.main() == 0
    _save(tmp_path, metrics={"swiftness": 0.4})
    assert report.main() == 1


def test_a_reduced_run_is_marked(tmp_path):
    _save(tmp_path)
    assert "Reduced run" not in report.page(tmp_path)
    _save(tmp_path, quick=True)
    assert "Reduced run" in report.page(tmp_path)


def test_the_order_of_saving_does_not_change_the_page(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, "ab"), (other, "ba")):
        folder.mkdir()
        for name in names:
            _save(folder, name=name)
    assert report.page(one) == report.page(other)


def test_a_row_without_a_column_has_an_empty_cell():
    lines = report.markdown([{"model": "a", "score": 0.5}, {"model": "b"}]).splitlines()
    assert [cell.strip() for cell in lines[-1].strip("|").split("|")] == ["b", ""]


def test_the_summary_shows_the_headline_figures_that_were_measured(tmp_path):
    _save(tmp_path)
    assert "## Summary" not in report.page(tmp_path)
    _save(tmp_path, name="adapt", metrics={"mean_mse_change": -0.0619}, table=[])
    assert "| memory adapter, squared error, mean of 24 cells | -6.2 %" in report.page(tmp_path)


def test_every_headline_is_a_metric_that_was_saved():
    records = {path.stem: json.loads(path.read_text()) for path in report.RESULTS.glob("*.json")}
    assert [one for one in report.HEADLINES if one.metric not in records[one.part]["metrics"]] == []


def test_no_table_is_wider_than_the_page_or_has_a_column_with_holes():
    for path in report.RESULTS.glob("*.json"):
        lines = report.narrow(json.loads(path.read_text())["table"]).splitlines()
        table = [line for line in lines if line.startswith("|")]
        assert max(map(len, table), default=0) <= report.WIDTH + 2, path.name
        assert not [line for line in table if any(not cell.strip() for cell in line.strip("|").split("|"))], path.name


def test_what_all_rows_share_is_said_once_above_their_table():
    page = report.narrow(
        [{"commit": "abc", "model": "a", "score": 0.5}, {"commit": "abc", "model": "b", "score": 0.25}]
    )
    assert page.count("abc") == 1
    assert "| b     | 0.25  |" in page
