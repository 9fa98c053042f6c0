"""The decoder against the Llama of transformers, on random weights."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limosa.errors import UsageError
from limosa.nn.decoder import Decoder, DecoderConfig


def a_pair(tied):
    """A decoder and the Llama of the same weights."""
    torch.manual_seed(0)
    config = DecoderConfig(vocabulary=64, width=32, layers=2, heads=4, key_heads=2, feedforward=48, tied=tied)
    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            rms_norm_eps=config.epsilon,
            tie_word_embeddings=tied,
        )
    ).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    weights = {name.removeprefix("model."): value for name, value in other.state_dict().items()}
    if tied:
        del weights["lm_head.weight"]
    own = Decoder(config)
    own.load_state_dict(weights)
    return own, other


@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_llama_of_transformers(tied):
    own, other = a_pair(tied)
    tokens = torch.randint(64, (3, 17))
    with torch.no_grad():
        assert torch.allclose(own(tokens), other(tokens).logits, atol=2e-5)


def test_a_token_does_not_see_later_ones():
    own, _ = a_pair(True)
    tokens = torch.randint(64, (1, 12))
    changed = tokens.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 64
    with torch.no_grad():
        before, after = own(tokens), own(changed)
    assert torch.equal(before[:, :8], after[:, :8])
    assert not torch.equal(before[:, 8:], after[:, 8:])


def test_tokens_one_by_one_through_a_cache_have_the_logits_of_all_at_once():
    own, _ = a_pair(True)
    tokens = torch.randint(64, (2, 12))
    with torch.no_grad():
        wanted, embedded = own.hidden(own.embed_tokens(tokens)), own.embed_tokens(tokens)
        cache, found = own.cache(2, 12, embedded), []
        for part in torch.split(embedded, [5, 1, 3, 1, 1, 1], dim=1):  # the first are several, later ones single
            x, turn = part, own.turn(part, cache[0].length)
            for layer, kept in zip(own.layers, cache, strict=True):
                x = layer(x, turn, cache=kept)
            found.append(own.norm(x))
    assert torch.allclose(torch.cat(found, 1), wanted, atol=1e-5)


def test_says_which_heads_do_not_fit():
    with pytest.raises(UsageError, match="key_heads"):
        DecoderConfig(heads=4, key_heads=3)
