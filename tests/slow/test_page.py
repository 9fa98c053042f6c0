"""The page in a real browser: Chromium without a window, driven by its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pytest
from websockets.sync.client import connect

import limosa
from limosa.app.demo import EXAMPLE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt install chromium"),
]
FIRST_PAINT, DRAWN = 1.0, 2.0  # seconds, on a machine that does nothing else
SLACK = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))  # of one that does


class Browser:
    """One tab."""

    def __init__(self, socket):
        self.socket, self.number = socket, itertools.count(1)
        self.faults, self.hosts = [], set()
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        number = next(self.number)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv(timeout=120))
            if said.get("method") == "Runtime.exceptionThrown":
                self.faults.append(said["params"]["exceptionDetails"])
            if said.get("method") == "Network.requestWillBeSent":
                address = urlsplit(said["params"]["request"]["url"])
                self.hosts |= {address.netloc} if address.scheme.startswith("http") else set()
            if said.get("id") == number:
                assert "error" not in said, said
                return said["result"]

    def run(self, script):
        """The value of a script, which may await."""
        wrapped = f"(async () => {{ {script} }})()"
        found = self.call("Runtime.evaluate", expression=wrapped, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, condition, seconds=60):
        """Wait for a condition; the seconds it took."""
        begun = time.monotonic()
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() - begun < seconds, condition
            time.sleep(0.02)
        return time.monotonic() - begun

    def drop(self, name, text):
        """Drop a file on the page."""
        packed = base64.b64encode(text.encode()).decode()
        self.run(
            f"""const text = atob("{packed}");
            const data = new DataTransfer();
            data.items.add(new File([text], "{name}"));
            document.querySelector(".rows").hidden = true;
            document.dispatchEvent(new DragEvent("drop", {{ dataTransfer: data, bubbles: true, cancelable: true }}));"""
        )

    def press(self, key, code):
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)


FORECAST = '!document.querySelector(".rows").hidden && !document.getElementById("state").classList.contains("busy")'


@pytest.fixture(scope="module")
def server():
    """The address of `limosa serve`."""
    command = [sys.executable, "-m", "limosa", "serve", "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = iter(process.stderr.readline, "")
    yield next(found[0] for line in lines if (found := re.search(r"http://[\d.:]+", line)))
    process.terminate()
    process.wait(30)
    process.stderr.close()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """A tab of Chromium."""
    folder = tmp_path_factory.mktemp("chromium")
    options = ["--headless=new", "--no-sandbox", "--remote-debugging-port=0", f"--user-data-dir={folder}", "--lang=en"]
    with (folder / "said.txt").open("w") as said:
        process = subprocess.Popen([CHROMIUM, *options], stdout=said, stderr=said)
    try:
        port = folder / "DevToolsActivePort"
        while not port.exists() or not port.read_text():
            assert process.poll() is None, (folder / "said.txt").read_text()
            time.sleep(0.1)
        with urllib.request.urlopen(f"http://127.0.0.1:{port.read_text().split()[0]}/json") as listed:
            address = next(one for one in json.load(listed) if one["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=2**28) as socket:
            yield Browser(socket)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def browser(tab, server):
    """The tab, which shows the page."""
    tab.hosts.clear()
    tab.call("Page.navigate", url=f"{server}/")
    tab.until('location.protocol === "http:" && document.getElementById("about")?.textContent')
    yield tab
    assert tab.faults == []


def numbers(text):
    return [float(one.replace(",", "")) for one in re.findall(r"-?[\d,]*\.?\d+", text)]


def test_a_dropped_file_is_forecast_with_the_numbers_of_the_library(browser, server):
    paint = browser.run('return performance.getEntriesByName("first-contentful-paint")[0].startTime / 1000')
    assert paint < FIRST_PAINT * SLACK
    browser.drop("bikes.csv", EXAMPLE.read_text())
    browser.until(FORECAST)
    rows = browser.run(
        """return [...document.querySelectorAll("#rows tbody tr")]
        .map((row) => [...row.cells].slice(1).map((cell) => cell.textContent).join(" "));"""
    )
    table = limosa.forecast(EXAMPLE, 48, level=[50, 80, 95])
    columns = [name for name in table.columns if name.startswith("limosa-small")]
    assert len(rows) == 48
    for row, (_, own) in zip(rows, table[columns].iterrows(), strict=True):
        np.testing.assert_allclose(numbers(row), own.to_numpy(), rtol=1e-2, atol=6e-4)
    assert browser.hosts == {server.removeprefix("http://")}


def test_the_keyboard_moves_along_time_and_says_the_values(browser):
    browser.drop("bikes.csv", EXAMPLE.read_text())
    browser.until(FORECAST)
    browser.run('document.getElementById("chart").focus()')
    for _ in range(3):
        browser.press("ArrowLeft", 37)
    said = browser.run('return document.getElementById("live").textContent')
    assert re.match(r"2012-10-02 \d\d:00, limosa-small [\d.]+, 50 % [\d.]+ to [\d.]+", said)


def test_the_cut_off_slider_replays_a_backtest(browser):
    browser.drop("bikes.csv", EXAMPLE.read_text())
    browser.until(FORECAST)
    browser.run(
        """document.getElementById("tab-backtest").click();
        document.getElementById("windows").value = 3;
        document.querySelector("#panel-backtest .main").click();"""
    )
    browser.until('!document.getElementById("replay").hidden')
    scores = browser.run('return document.querySelector("#scores").innerText')
    assert all(word in scores for word in ("naive", "limosa-small", "mase", "wql"))
    label = 'return document.getElementById("cutoff-label").textContent'
    last = browser.run(label)
    browser.run('document.getElementById("cutoff").focus()')
    browser.press("ArrowLeft", 37)
    assert (last, browser.run(label)) == ("2012-09-28 23:00, limosa-small", "2012-09-26 23:00, limosa-small")


def test_many_series_are_searched_and_opened(browser):
    days = pd.date_range("2024-01-01", periods=60)
    names = [f"{town} {thing}" for town in ("Oslo", "Rome") for thing in ("tea", "rice", "milk")]
    rows = [pd.DataFrame({"unique_id": name, "ds": days, "y": np.arange(60) % 7 + i}) for i, name in enumerate(names)]
    browser.drop("shops.csv", pd.concat(rows).to_csv(index=False))
    browser.until(FORECAST)
    browser.press("/", 191)
    browser.call("Input.insertText", text="rome mi")
    assert browser.run('return document.getElementById("grid").innerText') == "Rome milk"
    browser.run('document.querySelector("#grid button").click()')
    assert browser.run('return document.getElementById("title").textContent') == "Rome milk"
    browser.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=True)
    assert browser.run("return document.documentElement.scrollWidth") <= 390


def test_a_hundred_thousand_rows_are_drawn_at_once(browser):
    minutes = pd.date_range("2024-01-01", periods=100_000, freq="min")
    values = np.sin(np.arange(100_000) / 229).round(4)
    browser.drop("large.csv", pd.DataFrame({"ds": minutes, "y": values}).to_csv(index=False))
    assert browser.until('document.querySelector("#chart canvas")') < DRAWN * SLACK
    assert "100,000 rows" in browser.run('return document.getElementById("facts").textContent')


def test_what_is_wrong_with_a_file_is_said_with_its_fix(browser):
    browser.drop("bad.csv", "ds,y\n2024-01-01,1\n2024-01-02,much\n2024-01-03,3\n")
    browser.until('!document.getElementById("error").hidden || document.querySelector(".finding.bad")')
    assert "much" in browser.run('return document.getElementById("report").innerText')
