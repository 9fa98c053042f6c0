"""A model cut across ranks by torch's FSDP2, in bf16, trained by the same loop.

Run as `python sharded.py RANK WORLD FOLDER` on each rank. FSDP moves weights and gradients itself, so there is no
strategy; `loss` is made one of its entries. Every rank leaves what it found in the folder, beside the same of an uncut
model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from limosa import models
from limosa.data.synthetic import Synthetic
from limosa.training.distributed.data_parallel import DataParallel
from limosa.training.loop import TrainConfig, fit

CONFIG = TrainConfig(steps=30, learning_rate=2e-3, warmup=5, average=0.0, precision="bf16", seed=0)


def trained(rank: int, *, cut: bool) -> dict[str, float]:
    """Held-out loss before and after, and the share of the weights that this rank holds."""
    torch.manual_seed(0)
    model = models.build("patched", **vars(models.card("patched").tiny))
    whole = sum(p.numel() for p in model.parameters())
    if cut:
        formats = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        for part in (*model.layers, model):
            fully_shard(part, mp_policy=formats, reshard_after_forward=True)
        register_fsdp_forward_method(model, "loss")
    batches = Synthetic(batch_size=16, context=96, horizon=16, seed=5, rank=rank)
    held = Synthetic(batch_size=64, context=96, horizon=16, seed=6).batch(0)

    def loss() -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return float(model.loss(held))

    before = loss()
    fit(model, batches, CONFIG, strategy=None if cut else DataParallel())
    own = sum((p.to_local() if cut else p).numel() for p in model.parameters())
    return {"before": before, "after": loss(), "share": own / whole}


def main(rank: int, world: int, folder: Path) -> None:
    """Both runs, as `rank` of `world`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {"cut": trained(rank, cut=True), "uncut": trained(rank, cut=False)}
    (folder / f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
