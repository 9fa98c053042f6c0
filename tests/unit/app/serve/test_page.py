"""The page holds all that it needs, and its own route gives the series that a Panel holds."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest

from limosa import Panel
from limosa.app.serve.page import FILES

CSV = {"content-type": "text/csv"}


def mentioned():
    """The paths under /page/ that its files name, and modules imported from beside."""
    paths = set()
    for path in (*FILES.glob("*.html"), *FILES.glob("*.js"), *FILES.glob("*.css")):
        text = path.read_text()
        paths |= set(re.findall(r"/page/[\w./-]+", text))
        paths |= {f"/page/{name}" for name in re.findall(r'from "\./([\w.]+)"', text)}
    return sorted(paths)


def test_the_page_and_every_file_it_names_are_served_without_a_token(connect):
    client = connect(tokens={"a-token-of-sixteen": "a"})
    answer = client.get("/")
    assert "Drop a CSV or Excel file" in answer.text
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert len(mentioned()) > 10
    for path in mentioned():
        assert client.get(path).status_code == 200, path
    assert client.post("/v1/series", content=b"y\n1\n2\n", headers=CSV).status_code == 401


def test_the_page_asks_no_other_host():
    for path in FILES.rglob("*"):
        if path.suffix in (".html", ".js", ".css") and path.parent == FILES:
            assert not re.search(r"(https?:)?//[\w-]+\.\w", path.read_text()), path


def test_no_file_beside_the_page_is_served(client):
    for path in ("/page/../serve/api.py", "/page/%2e%2e/cli.py", "/page/..%2fcli.py"):
        assert client.get(path).status_code == 404


def test_the_page_learns_what_the_server_offers(connect, tmp_path):
    about = connect().get("/page/about.json").json()
    assert (about["demo"], about["jobs"], about["token"]) == (False, False, False)
    assert {"forecast", "backtest", "detect"} <= set(about["verbs"])
    about = connect(demo=True, state=tmp_path).get("/page/about.json").json()
    assert (about["demo"], about["jobs"]) == (True, True)


def test_series_are_those_of_the_panel(client, sales):
    sales = sales.rename(columns={"unique_id": "shop"})
    answer = client.post("/v1/series?id_col=shop", content=sales.to_csv(index=False), headers=CSV).json()
    panel = Panel.read(io.BytesIO(sales.to_csv(index=False).encode()), id_col="shop")
    assert answer["ids"] == panel.ids.tolist()
    assert answer["start"] == panel.start.tolist()
    assert answer["values"] == panel.values[:, 0].tolist()
    assert answer["stamps"] == (panel.stamps // 1000).tolist()
    assert answer["names"] == ["shop", "ds", "y"]
    assert answer["report"]["ok"]


def test_times_with_a_zone_are_those_of_the_wall_clock(client):
    rows = "ds,y\n" + "".join(f"2024-07-{day:02}T00:00:00+02:00,{day}\n" for day in range(1, 9))
    answer = client.post("/v1/series?tz=Europe/Berlin", content=rows, headers=CSV).json()
    assert np.array(answer["stamps"][:1], "M8[ms]") == np.datetime64("2024-07-01T00:00")


def test_a_gap_has_no_value(client):
    answer = client.post("/v1/series", content="ds,y\n1,1\n2,2\n4,4\n", headers=CSV).json()
    assert answer["values"] == [1, 2, None, 4]
    assert not answer["calendar"]


@pytest.mark.parametrize("rows", ["ds,y\n2024-01-01,1\n2024-01-02,x\n", "ds,y\n", "a page,of\nwords,only\n", "\0\0\0"])
def test_a_table_that_cannot_be_read_is_answered_by_findings(rows, client):
    answer = client.post("/v1/series", content=rows, headers=CSV)
    assert answer.status_code == 200
    errors = [one for one in answer.json()["report"]["findings"] if one["level"] == "error"]
    assert errors[0]["fix"]
    assert "/tmp" not in answer.text


def test_columns_that_could_be_chosen_are_named_where_none_was_found(client):
    rows = "when,sold,paid\n" + "".join(f"2024-01-0{day},{day},{2 * day}\n" for day in range(1, 9))
    answer = client.post("/v1/series", content=rows, headers=CSV).json()
    assert "ids" not in answer
    assert answer["names"] == ["when", "sold", "paid"]
    assert client.post("/v1/series?target_col=paid", content=rows, headers=CSV).json()["values"][1] == 4
