"""What `deploy/` holds fits the server: options, routes and measures that there are."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from limosa.app.cli import app
from limosa.app.serve.measures import Measures

DEPLOY = Path(__file__).parents[4] / "deploy"


def check_options(words):
    app.get_command(None, "serve").make_context("serve", list(words))


def test_the_commands_of_the_container_and_the_unit_are_understood():
    container = (DEPLOY / "Containerfile").read_text()
    words = json.loads(re.search(r"^ENTRYPOINT (.*)$", container, re.MULTILINE)[1])
    assert words[:2] == ["limosa", "serve"]
    check_options(words[2:])
    unit = (DEPLOY / "limosa.service").read_text()
    words = shlex.split(re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)[1])
    assert words[1] == "serve"
    check_options(words[2:])


def test_the_manifest_probes_routes_that_there_are(client):
    yaml = pytest.importorskip("yaml")
    deployment, claim, service = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    container = pod["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert client.get(container[probe]["httpGet"]["path"]).status_code == 200
    check_options(container["args"])
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


def test_the_dashboard_shows_measures_that_there_are():
    measures = Measures()
    measures.batch("m", 1, 1, 0.1)
    names = {
        re.sub(r"_(total|bucket|sum|count)$", "", name)
        for name in re.findall(r"^# TYPE (\w+)", measures.text().decode(), re.MULTILINE)
    }
    for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]:
        for target in panel["targets"]:
            used = re.findall(r"\b(?:limosa|process)_\w+", target["expr"])
            assert used
            assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in used} <= names, target["expr"]
