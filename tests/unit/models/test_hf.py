"""Encoders and decoders of transformers, tiny and random, as backbones: equal to the library, and hosts of SHERL."""

from __future__ import annotations

import sys

import pytest
import torch

import limosa
from limosa import adapters
from limosa.core import Backbone, Learner, encode, resume
from limosa.errors import LimosaError, ModelNotFound, UsageError
from limosa.models.foreign.hf import HuggingFace, InputBatch
from limosa.training.loop import TrainConfig, fit

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
MAKE = {
    "bert": lambda t: t.BertModel(t.BertConfig(vocab_size=64, max_position_embeddings=32, **SIZES)),
    "t5": lambda t: t.T5Model(t.T5Config(**T5)),
    "t5 encoder": lambda t: t.T5EncoderModel(t.T5Config(**T5)),
    "llama": lambda t: t.LlamaModel(t.LlamaConfig(vocab_size=64, num_key_value_heads=2, **SIZES)),
    "vit": lambda t: t.ViTModel(t.ViTConfig(image_size=16, patch_size=4, num_channels=1, **SIZES)),
}


def host(shape, **options):
    torch.manual_seed(0)
    return HuggingFace(MAKE[shape](transformers), classes=3, **options).eval()


def batch(shape, rows=6):
    """Rows of three classes that can be told apart; texts of different lengths."""
    torch.manual_seed(1)
    label = torch.arange(rows) % 3
    if shape == "vit":
        return InputBatch(
            inputs={"pixel_values": torch.randn(rows, 1, 16, 16) + label[:, None, None, None]}, label=label
        )
    ids, mask = torch.randint(10, 60, (rows, 9)), torch.ones(rows, 9, dtype=torch.int64)
    ids[:, 1], mask[::2, 6:] = 3 + label, 0
    return InputBatch(inputs={"input_ids": ids, "attention_mask": mask}, label=label)


def noisy(adapter):
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return adapter.eval()


@pytest.mark.parametrize("shape", MAKE)
def test_stopped_between_blocks_it_is_the_model_of_the_library(shape):
    model, given = host(shape), batch(shape)
    assert isinstance(model, Backbone)
    assert isinstance(model, Learner)
    with torch.no_grad():
        states = encode(model, given)
        theirs = model.model(**given.inputs).last_hidden_state
        assert len(states) == 4
        assert torch.equal(model.features(states[-1]), theirs)
        for after, state in enumerate(states):
            assert torch.equal(resume(model, state, given, after=after), model(given))


@pytest.mark.parametrize("shape", MAKE)
def test_sherl_on_it_begins_as_the_frozen_model_learns_and_leaves_it_alone(shape):
    model, given = host(shape), batch(shape)
    adapter = adapters.build("sherl", model, width=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        first = float(adapter.loss(given))
        assert first == float(model.loss(given))

    class Same:
        def batch(self, _):
            return given

    fit(adapter, Same(), TrainConfig(steps=25, warmup=4, learning_rate=0.02, average=0.0, weight_decay=0.0))
    with torch.no_grad():
        assert float(adapter.loss(given)) < 0.6 * first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("shape", ["bert", "t5", "llama"])
def test_what_is_hidden_by_the_mask_does_not_reach_the_answer(shape):
    adapter, given = noisy(adapters.build("sherl", host(shape, pool="last"), width=16)), batch(shape)
    other = {name: value.clone() for name, value in given.inputs.items()}
    other["input_ids"][::2, 6:] = 7
    with torch.no_grad():
        one, two = (adapter.loss(InputBatch(inputs=i, label=given.label)) for i in (given.inputs, other))
    torch.testing.assert_close(one, two)


def test_a_causal_decoder_stays_causal():
    adapter, given = noisy(adapters.build("sherl", host("llama"), width=16)), batch("llama")
    full = {"input_ids": given.inputs["input_ids"]}
    later = {"input_ids": full["input_ids"].clone()}
    later["input_ids"][:, 6:] = 7
    with torch.no_grad():
        one, two = (encode(adapter.view, InputBatch(inputs=i))[-1].hidden for i in (full, later))
    assert torch.equal(one[:, :6], two[:, :6])
    assert not torch.equal(one, two)


@pytest.mark.parametrize("shape", ["bert", "vit"])
def test_a_saved_adapter_comes_back_on_its_host(shape, tmp_path):
    model, given = host(shape), batch(shape)
    adapter = noisy(adapters.build("sherl", model, width=16))
    adapters.save(adapter, tmp_path, base="mine")
    again = adapters.load(tmp_path, model)
    with torch.no_grad():
        assert torch.equal(again.loss(given), adapter.loss(given))
        scores = again.output(given)
        torch.testing.assert_close(torch.nn.functional.cross_entropy(scores, given.label), adapter.loss(given))


def test_a_folder_of_the_library_is_loaded_by_name_and_says_what_it_can_do(tmp_path):
    model, given = host("bert"), batch("bert")
    model.model.save_pretrained(tmp_path / "bert")
    again = limosa.load(f"hf:{tmp_path / 'bert'}")
    with torch.no_grad():
        assert torch.equal(again.features(encode(again, given)[-1]), model.features(encode(model, given)[-1]))
        assert again(given).shape == (6, 32)  # pooled tokens, for it has no classes
    with pytest.raises(UsageError, match="can learn and show its hidden states but cannot forecast"):
        limosa.forecast([1.0, 2.0, 3.0] * 9, 2, model=f"hf:{tmp_path / 'bert'}")
    with pytest.raises(UsageError, match="needs classes"):
        again.loss(given)


def test_pooling_takes_visible_tokens_alone():
    given = batch("bert")
    for pool in ("mean", "first", "last"):
        model = host("bert", pool=pool)
        with torch.no_grad():
            tokens = model.features(encode(model, given)[-1])
            expected = {"mean": tokens[0, :6].mean(0), "first": tokens[0, 0], "last": tokens[0, 5]}[pool]
            torch.testing.assert_close(model(given)[0], model.to_classes(expected))
    with pytest.raises(UsageError, match="pool is 'most'"):
        host("bert", pool="most")


def test_a_batch_can_be_cut_and_moved():
    given = batch("bert")
    assert len(given) == 6
    few = given.rows(torch.tensor([4, 1])).to("cpu")
    assert few.label.tolist() == [1, 1]
    assert torch.equal(few.inputs["input_ids"][0], given.inputs["input_ids"][4])


def test_without_the_library_or_the_folder_it_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ModelNotFound, match="download one first"):
        HuggingFace.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="no single list of 3 blocks"):
        HuggingFace(torch.nn.Module.__new__(_Odd))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(LimosaError, match=r"pip install 'limosa\[hf\]'"):
        HuggingFace.from_pretrained(tmp_path)


class _Odd(torch.nn.Module):
    """Something that transformers would not make."""

    config = transformers.BertConfig(**SIZES)

    def named_modules(self, *_, **__):
        return iter(())
