"""SmolVLM beside transformers on a random model of the shape of SmolVLM-256M: logits, tokens, speed and memory.

    python benchmarks/smolvlm.py --save

One image of one tile and 16 tokens of text. Seconds are of CPU time in one thread, so that other work on the machine
does not count. Each way of holding the weights runs in a process of its own, whose peak memory is that of all it did.
`--quick` does the same on a tiny model. Needs transformers (limosa[hf]).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common import ONE_THREAD, finish, options
from limosa.data.chat import Prompt
from limosa.models.smolvlm import SmolVLM
from limosa.nn.generate import GenerateConfig

WAYS = ("limosa fp32", "limosa bf16", "limosa int8", "transformers fp32", "transformers bf16")
TOKENS = 24  # generated
IMAGE = 49190
TEXT = {
    "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49280, "max_position_embeddings": 8192,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}, "pad_token_id": 2, "eos_token_id": 49279,
}  # fmt: skip
VISION = {
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "image_size": 512, "patch_size": 16,
}  # fmt: skip
TINY = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}


def make(folder: Path, *, quick: bool) -> None:
    """An official folder with random weights in bf16."""
    from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration

    text, vision = ({**TEXT, **TINY}, {**VISION, **TINY}) if quick else (TEXT, VISION)
    torch.manual_seed(0)
    config = SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=4, image_token_id=IMAGE, eos_token_id=49279
    )
    SmolVLMForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)


def asked() -> tuple[Tensor, Tensor]:
    """Tokens [1, N] and pixels [1, 1, 3, 512, 512]."""
    dice = torch.Generator().manual_seed(1)
    text = torch.randint(3, 49000, (16,), generator=dice)
    tokens = torch.cat([text[:8], torch.full((64,), IMAGE), text[8:]])[None]
    return tokens, torch.randn(1, 1, 3, 512, 512, generator=dice).clamp(-1, 1)


def limosa_way(folder: Path, weights: Any) -> Callable[[int], tuple[Tensor, list[int]]]:
    """Logits [N, V] of the prompt for 0 tokens, else so many greedy tokens, by limosa."""
    model = SmolVLM.from_pretrained(folder, weights=weights)
    tokens, pixels = asked()
    prompt = Prompt(tokens=tokens, padding=torch.zeros(1, dtype=torch.int64), pixels=pixels, tiles=torch.ones(1).long())

    @torch.no_grad()
    def run(count: int) -> tuple[Tensor, list[int]]:
        if not count:
            return model(prompt)[0], []
        return torch.empty(0), model.generate(prompt, GenerateConfig(tokens=count), end=-1).row(0)

    return run


def transformers_way(folder: Path, weights: str) -> Callable[[int], tuple[Tensor, list[int]]]:
    """The same by transformers."""
    from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[weights]
    model = SmolVLMForConditionalGeneration.from_pretrained(folder, dtype=kind).eval()
    tokens, pixels = asked()
    inputs = {"input_ids": tokens, "pixel_values": pixels.to(kind), "attention_mask": torch.ones_like(tokens)}

    @torch.no_grad()
    def run(count: int) -> tuple[Tensor, list[int]]:
        if not count:
            return model(**inputs).logits[0].float(), []
        made = model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False, eos_token_id=None)
        return torch.empty(0), made[0, tokens.shape[1] :].tolist()

    return run


def measure(folder: Path, way: str) -> None:
    """Measure one way in this process; the last line printed is JSON, the logits are left in a file."""
    torch.set_num_threads(1)
    library, weights = way.split()
    run = (limosa_way if library == "limosa" else transformers_way)(folder, weights)
    logits, _ = run(0)  # which also warms up
    torch.save(logits, folder / f"{way}.pt")
    begun = time.process_time()
    run(1)
    first = time.process_time() - begun
    _, tokens = run(TOKENS)
    whole = time.process_time() - begun - first
    status = Path("/proc/self/status").read_text()  # getrusage would count the parent's memory too
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    figures = {"first_token_s": first, "tokens_per_s": (TOKENS - 1) / (whole - first), "peak_mb": peak}
    print(json.dumps({"figures": figures, "tokens": tokens}))


def main() -> None:
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
        return
    chosen = options(__doc__ or "")
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make(folder, quick=chosen.quick)
        for way in WAYS:
            command = [sys.executable, __file__, "measure", place, way]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | ONE_THREAD)
            rows[way] = json.loads(done.stdout.splitlines()[-1])
            print(way, rows[way]["figures"], file=sys.stderr, flush=True)
        exact = torch.load(folder / "transformers fp32.pt")
        for way, row in rows.items():
            off = torch.load(folder / f"{way}.pt") - exact
            row["figures"]["logit_error"] = float(off.norm() / exact.norm())
            same = [a == b for a, b in zip(row["tokens"], rows["transformers fp32"]["tokens"], strict=True)]
            row["figures"]["same_tokens"] = sum(same) / len(same)
        largest = float((torch.load(folder / "limosa fp32.pt") - exact).abs().max())
    bf16, int8, peer = (rows[way]["figures"] for way in ("limosa bf16", "limosa int8", "transformers bf16"))
    metrics = {
        "fp32_largest_logit_difference": largest,
        "bf16_tokens_per_s_over_transformers": bf16["tokens_per_s"] / peer["tokens_per_s"],
        "bf16_first_token_speed_over_transformers": peer["first_token_s"] / bf16["first_token_s"],
        "int8_tokens_per_s_over_bf16": int8["tokens_per_s"] / bf16["tokens_per_s"],
        "bf16_peak_mb": bf16["peak_mb"],
    }
    finish(chosen, metrics=metrics, table=[{"model": way, **row["figures"]} for way, row in rows.items()])


if __name__ == "__main__":
    main()
