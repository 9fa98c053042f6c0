"""Laws of the report: every fault is found in one go, each with its fix."""

from __future__ import annotations

import io
import json

import numpy as np

from limosa.data.check import Finding, check, inspect
from limosa.data.panel import Panel


def found(findings: tuple[Finding, ...], words: str) -> Finding:
    (one,) = [finding for finding in findings if finding.message.startswith(words)]
    assert one.fix
    return one


def test_a_clean_panel_has_numbers_and_no_findings() -> None:
    hours = np.datetime64("2024-01-01T00") + np.arange(8).astype("m8[h]")
    report = check(Panel.read({"unique_id": ["a"] * 8, "ds": hours, "y": np.arange(8.0)}))
    assert report.findings == ()
    assert report.ok
    assert (report.series, report.rows, report.freq, report.missing, report.gaps) == (1, 8, "h", 0, 0)
    assert (report.first, report.last) == ("2024-01-01 00:00:00", "2024-01-01 07:00:00")
    assert report.lines()[-1] == "nothing to mend"


def test_a_panel_can_be_inspected_like_any_source() -> None:
    panel = Panel.read({"y": [1.0, 2.0]})
    assert inspect(panel) == check(panel)


def test_each_kind_of_odd_series_is_named_once() -> None:
    rows = {
        "fine": {t: float(t) for t in range(10)},
        "stuck": dict.fromkeys(range(10), 5.0),
        "void": dict.fromkeys(range(10), np.nan),
        "one": {9: 1.0},
        "late": {t: float(t) for t in range(7)},
        "holes": {0: 1.0, 1: 2.0, 2: 4.0, 9: 3.0},
        "open": {t: float(t) if t < 9 else np.nan for t in range(10)},
    }
    table = [(name, t, y) for name, values in rows.items() for t, y in values.items()]
    ids, ds, y = zip(*table, strict=True)
    report = check(Panel.read({"unique_id": ids, "ds": ds, "y": y}))
    assert found(report.findings, "the same value").series == ("stuck",)
    assert found(report.findings, "no observed value").series == ("void",)
    assert found(report.findings, "fewer than 3").series == ("one",)
    assert found(report.findings, "ends before").series == ("late",)
    assert found(report.findings, "more than half").series == ("holes",)
    assert found(report.findings, "the last row").series == ("open",)
    assert report.ok
    assert (report.series, report.shortest, report.longest, report.gaps) == (7, 1, 10, 17)


def test_all_faults_are_found_in_one_go_and_the_rest_is_still_checked() -> None:
    lines = ("unique_id,ds,y", "a,1,5", "a,2,oops", "a,2,6", ",3,1", "a,4,inf", "a,,3", "b,x,1", "b,1,1", "b,2,2")
    report = inspect(io.StringIO("\n".join(lines)))
    assert not report.ok
    errors = [finding.message for finding in report.findings if finding.level == "error"]
    assert errors == [
        "line 5: unique_id is empty",
        "line 7, series 'a': ds is empty",
        "line 8, series 'b': ds is 'x', not an integer",
        "line 3, series 'a': y is 'oops', not a number",
        "line 6, series 'a': y is infinite",
        "line 4, series 'a': 2 is there already, on line 3",
    ]
    assert (report.series, report.rows, report.missing) == (2, 6, 3)
    assert found(report.findings, "fewer than 3 observed").series == ("a", "b")


def test_what_cannot_be_read_at_all_is_a_finding_too() -> None:
    report = inspect(io.StringIO("unique_id,ds,a,b\nx,1,2,3"))
    assert [finding.level for finding in report.findings] == ["error"]
    assert "target_col" in report.findings[0].fix
    assert report.series == 0
    assert report.lines()[0].startswith("error      no column 'y'")


def test_the_report_is_plain_json() -> None:
    report = inspect({"unique_id": [1, 1, 2], "ds": [1, 2, 1], "y": [1.0, 1.0, np.nan]})
    again = json.loads(json.dumps(report.to_dict()))
    assert again["ok"] is True
    assert again["series"] == 2
    assert again["findings"][0]["series"] == ["2"]


def test_a_long_list_of_series_is_cut_for_people_only() -> None:
    report = inspect({"unique_id": np.arange(20), "ds": np.ones(20, dtype=int), "y": np.arange(20.0)})
    line = next(line for line in report.lines() if "fewer than" in line)
    assert line.endswith("20 series (0, 1, 2, 3, 4 and 15 more)")
    assert len(found(report.findings, "fewer than").series) == 20
