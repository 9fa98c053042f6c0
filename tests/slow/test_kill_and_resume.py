"""A training run killed without warning goes on from its newest checkpoint and ends with the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

STEPS, EVERY = 40, 10
RUN = f'''
"""Train a tiny patched model on generated series; print a line per step."""
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)

from limosa import models
from limosa.data.synthetic.mixture import Augmentation, Mixture, Pool
from limosa.data.synthetic.recipes import SyntheticConfig
from limosa.training.loop import TrainConfig, fit

out, precision = Path(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
model = models.build("patched", **vars(models.card("patched").tiny))
source = Pool(SyntheticConfig(), lengths=[160], series=32, steps=3, seed=5)
batches = Mixture(
    sources=[source], rows=[16], short_rows=[16], contexts={{48: 1.0, 96: 1.0}}, horizons={{8: 1.0, 16: 1.0}}, seed=5,
    augmentation=Augmentation(blend=0.3),
)
config = TrainConfig(
    steps={STEPS}, warmup=5, average=0.99, accumulate=2, precision=precision, validate_every=15,
    checkpoint_every={EVERY}, seed=1,
)
validation = [batches.batch(10_000)]
fit(
    model, batches, config, validation=validation, folder=out / "run", resume=True,
    on_progress=lambda p: print(p.step, flush=True),
)
model.save_pretrained(out / "model")
'''


def start(script: Path, out: Path, precision: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(out), precision]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def steps_until_the_end(script: Path, out: Path, precision: str) -> list[int]:
    """Run to the end; the steps it told."""
    with start(script, out, precision) as running:
        assert running.stdout is not None
        told = [int(line) for line in running.stdout]
    assert running.returncode == 0
    return told


def kill_at(script: Path, out: Path, precision: str, step: int) -> None:
    """Run until `step` is told, then kill without warning."""
    with start(script, out, precision) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if int(line) == step:
                running.send_signal(signal.SIGKILL)
                break
    assert running.returncode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_killed_run_resumed_ends_bitwise_equal_to_an_undisturbed_one(tmp_path, precision):
    script = tmp_path / "train.py"
    script.write_text(RUN)
    assert steps_until_the_end(script, tmp_path / "whole", precision) == list(range(1, STEPS + 1))

    kill_at(script, tmp_path / "cut", precision, 3)  # before any checkpoint
    kill_at(script, tmp_path / "cut", precision, EVERY + 7)
    kill_at(script, tmp_path / "cut", precision, 3 * EVERY - 1)  # about when one is written
    resumed = steps_until_the_end(script, tmp_path / "cut", precision)
    assert resumed[0] in (2 * EVERY + 1, 3 * EVERY + 1)
    assert resumed[-1] == STEPS

    whole, cut = (tmp_path / name / "model" for name in ("whole", "cut"))
    assert (whole / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
