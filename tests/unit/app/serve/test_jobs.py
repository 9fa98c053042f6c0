"""Jobs: accepted at once, followed by events, cancelled, served when done, and not lost when the server is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import limosa
from limosa.app.serve import Limits
from limosa.app.serve import jobs as serving
from limosa.app.serve.jobs import ENDED, Jobs
from limosa.app.serve.served import Served
from limosa.app.serve.worker import work

TINY = {"width": 16, "heads": 2, "layers": 1, "feedforward": 16, "longest_lag": 16, "patch": 8, "latent": 4}

WORKER = """
import json, pathlib, sys, time
folder, again = pathlib.Path(sys.argv[1]), "again" in sys.argv
job = json.loads((folder / "job.json").read_text())
if job["given"].get("fails"):
    print(json.dumps({"error": {"code": "data", "detail": "no number"}}))
    sys.exit(1)
for done in range(job["given"]["steps"]):
    print(json.dumps({"done": done + 1, "total": job["given"]["steps"], "note": ""}), flush=True)
    time.sleep(0.01)
pathlib.Path(job["out"]).mkdir(exist_ok=True)
print(json.dumps({"result": {"again": again}}), flush=True)
"""

SERVER = """
import sys, time
from pathlib import Path
from limosa.app.serve.jobs import Jobs
class Served:
    def names(self): return []
    def add(self, model): pass
jobs = Jobs(Path(sys.argv[1]), Served(), "cpu", lambda states: None, [sys.executable, sys.argv[2]])
for line in sys.stdin:
    folder = jobs.new_folder()
    print(jobs.add(folder, "train", {"steps": int(line)}, "")["id"], flush=True)
"""


@pytest.fixture
def worker(tmp_path):
    """A worker that counts its steps and learns nothing."""
    (tmp_path / "worker.py").write_text(WORKER)
    return [sys.executable, str(tmp_path / "worker.py")]


@pytest.fixture
def keep(tmp_path, worker):
    made = []

    def start():
        served = Served((), Limits(), lambda *_: None)
        made.append(Jobs(tmp_path / "state", served, "cpu", lambda _: None, worker))
        return made[-1]

    yield start
    for one in made:
        one.close()


def ended(jobs, job_id, within=30.0):
    until = time.monotonic() + within
    while (job := jobs.get(job_id))["state"] not in ENDED:
        assert time.monotonic() < until, job
        time.sleep(0.02)
    return job


def test_a_job_is_run_and_its_model_served(keep):
    jobs = keep()
    first = jobs.add(jobs.new_folder(), "train", {"steps": 3}, "mine")
    second = jobs.add(jobs.new_folder(), "train", {"fails": True}, "")
    assert (first["state"], second["state"]) in [("queued", "queued"), ("running", "queued")]
    done = ended(jobs, first["id"])
    assert (done["state"], done["done"], done["total"], done["result"]) == ("done", 3, 3, {"again": False})
    assert "mine" in jobs.served.names()
    assert ended(jobs, second["id"])["error"] == {"code": "data", "detail": "no number"}
    assert len(jobs.served.folders) == 1


def test_a_job_that_waits_or_runs_can_be_cancelled(keep):
    jobs = keep()
    running, waiting = (jobs.add(jobs.new_folder(), "train", {"steps": 10**6}, "") for _ in range(2))
    assert jobs.cancel(waiting["id"])["state"] == "cancelled"
    while jobs.get(running["id"])["done"] < 2:
        time.sleep(0.01)
    assert jobs.cancel(running["id"])["state"] == "cancelled"
    after = jobs.add(jobs.new_folder(), "train", {"steps": 1}, "")
    assert ended(jobs, after["id"])["state"] == "done"
    assert jobs.get(running["id"])["state"] == "cancelled"


def killed(folder, worker, times):
    """Add jobs to a server that is killed so many times; the ids of those that were accepted."""
    accepted = []
    for _ in range(times):
        command = [sys.executable, "-c", SERVER, str(folder), worker[1]]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        with process:
            for _ in range(3):
                process.stdin.write("20\n")
                process.stdin.flush()
                accepted.append(process.stdout.readline().strip())
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
    return accepted


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_loses_no_job_that_was_accepted(keep, tmp_path, worker, times):
    accepted = killed(tmp_path / "state", worker, times)
    jobs = keep()
    assert sorted(accepted) == sorted(job["id"] for job in jobs.all())
    for job_id in accepted:
        assert ended(jobs, job_id, within=120.0)["state"] == "done"
    assert set(jobs.served.folders) == {job["name"] for job in jobs.all()}
    jobs.close()
    again = keep()
    assert [job["state"] for job in again.all()] == ["done"] * len(accepted)
    assert set(again.served.folders) == {job["name"] for job in again.all()}


ROWS = {"ds": list(range(80)), "y": [float(i % 7) for i in range(80)]}
TRAIN = {"source": ROWS, "model": "patched", "options": TINY, "horizon": 4, "context": 16, "steps": 2, "name": "mine"}


def test_a_request_to_train_is_a_job_that_is_followed_by_events(connect, tmp_path, worker, monkeypatch):
    monkeypatch.setattr(serving, "WORKER", worker)
    client = connect(state=tmp_path / "state")
    answer = client.post("/v1/train", json=TRAIN)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert client.post("/v1/train", json=TRAIN).json()["code"] == "taken"
    assert client.post("/v1/train", json=TRAIN | {"name": "../x"}).status_code == 400
    assert (
        client.post("/v1/train", json=TRAIN | {"optimizer": "adamm"}).json()["detail"].endswith("did you mean adamw?")
    )
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        lines = [line for line in events.iter_lines() if line]
    assert lines[0].startswith("event: ")
    last = json.loads(lines[-1].removeprefix("data: "))
    assert (lines[-2], last["state"], last["error"], last["done"]) == ("event: done", "done", None, 2)
    assert client.delete(f"/v1/jobs/{job['id']}").json()["code"] == "ended"
    assert [one["name"] for one in client.get("/v1/jobs").json()["jobs"]] == ["mine"]
    assert client.get("/v1/jobs/none").json()["code"] == "no-job"
    kept = {path.name for path in (tmp_path / "state" / "jobs").iterdir()}
    assert kept == {job["id"]}  # what was refused left nothing


def test_a_worker_trains_what_the_job_says(tmp_path, capsys):
    pd.DataFrame(ROWS).to_parquet(tmp_path / "source.parquet")
    given = {name: value for name, value in TRAIN.items() if name != "name"} | {
        "source": str(tmp_path / "source.parquet")
    }
    (tmp_path / "job.json").write_text(json.dumps({"verb": "train", "given": given, "out": str(tmp_path / "out")}))
    work(tmp_path, "cpu", again=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1] == {"result": {}}
    assert limosa.forecast(pd.DataFrame(ROWS), 2, model=tmp_path / "out").shape[0] == 2
    (tmp_path / "job.json").write_text(json.dumps({"verb": "train", "given": given | {"horizon": 60}, "out": "x"}))
    with pytest.raises(limosa.DataError):
        work(tmp_path, "cpu", again=False)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"]["code"] == "data"


@pytest.mark.slow
def test_a_model_that_was_trained_over_http_answers(connect, tmp_path):
    client = connect(state=tmp_path / "state")
    job = client.post("/v1/train", json=TRAIN).json()
    with client.stream("GET", f"/v1/jobs/{job['id']}/events") as events:
        assert [line for line in events.iter_lines() if line][-2] == "event: done"
    answer = client.post("/v1/forecast", json={"source": ROWS, "horizon": 2, "model": "mine"}).json()
    assert "mine" in answer["result"]
    assert answer["model"]["mine"].startswith("sha256-")


def test_a_server_without_a_folder_says_that_it_keeps_no_jobs(client):
    answer = client.post("/v1/adapt", json={"source": [1, 2, 3]})
    assert (answer.status_code, answer.json()["code"]) == (501, "no-state")
    assert "--state FOLDER" in answer.json()["detail"]


def test_two_servers_do_not_share_a_folder(keep, connect, tmp_path):
    from limosa.errors import UsageError

    keep()
    with pytest.raises(UsageError, match="another server holds"):
        connect(state=tmp_path / "state")
