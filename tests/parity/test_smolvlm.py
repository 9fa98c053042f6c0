"""SmolVLM against that of transformers: logits, tokens, images and prompts, on random weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers.models.smolvlm.configuration_smolvlm import SmolVLMConfig as TheirConfig
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.smolvlm.modeling_smolvlm import SmolVLMForConditionalGeneration
from transformers.models.smolvlm.processing_smolvlm import get_image_prompt_string

from limosa.data.chat import Prompt, image_text
from limosa.data.images import ImageConfig, cut
from limosa.models.smolvlm import SmolVLM
from limosa.nn.generate import GenerateConfig

IMAGE = 90


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request, tmp_path_factory):
    """Our model and theirs, of the same folder."""
    torch.manual_seed(0)
    text = {
        "model_type": "llama",
        "hidden_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "vocab_size": 96,
        "max_position_embeddings": 256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 273768.0},
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 4,
    }
    config = TheirConfig(
        text_config=text,
        vision_config=vision,
        scale_factor=4,
        image_token_id=IMAGE,
        tie_word_embeddings=request.param,
        eos_token_id=2,
    )
    theirs = SmolVLMForConditionalGeneration(config).eval()
    for name, parameter in theirs.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if "norm" not in name else 1.0)
    folder = tmp_path_factory.mktemp("official")
    theirs.save_pretrained(folder)
    return SmolVLM.from_pretrained(folder), theirs, folder


def prompts(padding, tiles):
    """Rows of tokens with places for images, and their pixels; those of their model too."""
    generator = torch.Generator().manual_seed(1)
    length = 4 * max(tiles) + 12
    tokens = torch.randint(3, 80, (len(padding), length), generator=generator)
    for row, (pad, count) in enumerate(zip(padding, tiles, strict=True)):
        tokens[row, :pad] = 0
        tokens[row, pad + 2 : pad + 2 + 4 * count] = IMAGE
    pixels = torch.randn(len(padding), max(tiles), 3, 32, 32, generator=generator)
    for row, count in enumerate(tiles):
        pixels[row, count:] = 0.0
    ours = Prompt(tokens=tokens, padding=torch.tensor(padding), pixels=pixels, tiles=torch.tensor(tiles))
    mask = (torch.arange(length) >= torch.tensor(padding)[:, None]).long()
    return ours, {"input_ids": tokens, "pixel_values": pixels, "attention_mask": mask}


@torch.no_grad()
def test_logits_of_a_prompt_with_images_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    prompt, inputs = prompts([0], [3])
    wanted = theirs(**inputs).logits
    assert (ours(prompt) - wanted).abs().max() <= 1e-5 * wanted.abs().max()


@torch.no_grad()
def test_logits_of_a_padded_batch_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    prompt, inputs = prompts([0, 5], [3, 1])
    inputs["position_ids"] = torch.arange(prompt.tokens.shape[1]).expand(2, -1)
    seen = inputs["attention_mask"].bool()
    wanted = theirs(**inputs).logits[seen]
    assert (ours(prompt)[seen] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_greedy_tokens_through_the_cache_are_those_of_transformers(pair):
    ours, theirs, _ = pair
    prompt, inputs = prompts([0], [2])
    wanted = theirs.generate(**inputs, max_new_tokens=64, do_sample=False, eos_token_id=2, pad_token_id=2)[0]
    found = ours.generate(prompt, GenerateConfig(tokens=64)).tokens[0]
    assert found.tolist() == wanted[prompt.tokens.shape[1] :].tolist()


def test_the_older_spelling_of_rotary_positions_and_several_files_are_read(pair, tmp_path):
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    content = json.loads((tmp_path / "config.json").read_text())
    content["text_config"]["rope_theta"] = content["text_config"].pop("rope_parameters")["rope_theta"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"model_type": "idefics3"}))
    again = SmolVLM.from_pretrained(tmp_path)
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), ours.parameters(), strict=True))


def processed(array, tile, longest, split):
    processor = SmolVLMImageProcessorPil(
        size={"longest_edge": longest},
        max_image_size={"longest_edge": tile},
        do_image_splitting=split,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        return_row_col_info=True,
    )
    return processor.preprocess(array, return_tensors="np")


@pytest.mark.parametrize("size", [(40, 40), (48, 64), (30, 100), (120, 30), (37, 53), (16, 16)])
@pytest.mark.parametrize("split", [True, False])
def test_tiles_are_those_of_their_processor_bit_by_bit(size, split):
    array = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    wanted = processed(array, 32, 128, split)
    found = cut(array, ImageConfig(tile=32, longest_edge=128, split=split, channels=3))
    assert (found.rows, found.columns) == (wanted["rows"][0][0], wanted["cols"][0][0])
    assert np.array_equal(found.pixels.numpy(), wanted["pixel_values"][0])


@pytest.mark.parametrize(("rows", "columns"), [(0, 0), (1, 2), (3, 4)])
def test_the_text_of_an_image_is_that_of_their_processor(rows, columns):
    special = ("<fake_token_around_image>", "<image>", "<global-img>")
    assert image_text(rows, columns, 9) == get_image_prompt_string(rows, columns, 9, *special)
