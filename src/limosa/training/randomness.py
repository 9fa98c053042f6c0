"""Seed torch's global random generators for a while, and give them back to the caller as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Inside, the generators of the CPU and of the GPUs in use begin at `seed`; afterwards they go on as before."""
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        if gpus:  # asked for only then: seeding GPUs that nobody uses would seed them for the caller, later
            torch.cuda.manual_seed_all(seed)
        yield
