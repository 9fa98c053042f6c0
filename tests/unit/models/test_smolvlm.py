"""Our own SmolVLM: it learns, answers, is adapted, held in fewer bits and talked to."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import PIL.Image
import pytest
import torch

import limosa
from limosa import adapters, models
from limosa.core import Backbone, Learner, encode, resume
from limosa.data.chat import TOKENIZER, Chat, Message, Picture, Video, train_tokenizer
from limosa.data.images import ImageConfig
from limosa.errors import DataError, ModelNotFound, UsageError
from limosa.models._assistant import Assistant
from limosa.models.smolvlm import CARD, SmolVLM
from limosa.nn.generate import GenerateConfig
from limosa.training.loop import TrainConfig, fit

ANSWERS = ["up", "down", "flat", "none"]
QUESTION = "What is the trend?"


@pytest.fixture(scope="module")
def chat():
    return Chat(train_tokenizer([QUESTION, *ANSWERS] * 3, 310), ImageConfig(tile=16, longest_edge=16), 4)


@pytest.fixture
def model(chat):
    torch.manual_seed(0)
    tokens = {"image_token": chat.image, "end_token": chat.end, "vocabulary": chat.tokenizer.get_vocab_size()}
    made = SmolVLM(dataclasses.replace(CARD.tiny, **tokens))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


def conversations():
    """Four images, each asked about and answered; one is asked about twice, so that rows differ in length."""
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    made = [
        [Message("user", [Picture(image=image), QUESTION]), Message("assistant", [answer])]
        for image, answer in zip(images, ANSWERS, strict=True)
    ]
    made[1] += [Message("user", ["Again?"]), Message("assistant", ["yes"])]
    return made


class Repeated:
    """The same batch at every step."""

    def __init__(self, prompt):
        self.prompt = prompt

    def batch(self, step):
        return self.prompt


def taught(learner, prompt, steps=60):
    fit(learner, Repeated(prompt), TrainConfig(steps=steps, learning_rate=1e-2, warmup=3, average=0.0))
    return learner


def test_it_learns_a_batch_by_heart_and_then_says_it(model, chat):
    assert isinstance(model, Learner)
    assert isinstance(model, Backbone)
    taught(model, chat.prompt(conversations(), reply=False))
    said = model.generate(chat.prompt([one[:1] for one in conversations()]), GenerateConfig(tokens=6))
    assert [chat.decode(said.row(row)) for row in range(4)] == ANSWERS


def test_a_row_alone_has_the_loss_the_logits_and_the_answer_it_has_in_a_padded_batch(model, chat):
    together = chat.prompt(conversations(), reply=False)
    assert together.padding.any()
    config = GenerateConfig(tokens=8)
    answers = model.generate(together, config)
    with torch.no_grad():
        logits = model(together)
        for row, conversation in enumerate(conversations()):
            alone = chat.prompt([conversation], reply=False)
            assert torch.allclose(model(alone)[0], logits[row, together.padding[row] :], atol=1e-4)
            assert torch.allclose(model.loss(alone), model.loss(together.rows(slice(row, row + 1))), atol=1e-5)
            single = model.generate(alone, config)
            assert single.row(0) == answers.row(row)
            length = single.tokens.shape[1]
            assert torch.allclose(single.log_probability[0], answers.log_probability[row, :length], atol=1e-4)


def test_each_token_is_the_likeliest_after_all_before_it_computed_anew(model, chat):
    prompt = chat.prompt(conversations()[:1])
    made = model.generate(prompt, GenerateConfig(tokens=10))
    whole = dataclasses.replace(prompt, tokens=torch.cat([prompt.tokens, made.tokens], 1))
    with torch.no_grad():
        logits = model(whole)[0, prompt.tokens.shape[1] - 1 : -1]
    assert torch.equal(logits.argmax(-1), made.tokens[0])
    expected = logits.log_softmax(-1).gather(1, made.tokens[0][:, None])[:, 0]
    assert torch.allclose(expected, made.log_probability[0], atol=1e-4)


def test_sampling_is_repeatable_and_top_p_leaves_out_what_is_unlikely(model, chat):
    prompt = chat.prompt(conversations()[:1])
    hot = GenerateConfig(tokens=12, temperature=3.0, seed=1)
    assert model.generate(prompt, hot).row(0) == model.generate(prompt, hot).row(0)
    assert model.generate(prompt, hot).row(0) != model.generate(prompt, dataclasses.replace(hot, seed=2)).row(0)
    narrow = dataclasses.replace(hot, top_p=1e-6)
    assert model.generate(prompt, narrow).row(0) == model.generate(prompt, GenerateConfig(tokens=12)).row(0)


def test_its_pass_can_stop_after_any_block(model, chat):
    prompt = chat.prompt(conversations())
    with torch.no_grad():
        states = encode(model, prompt)
        for after, state in enumerate(states):
            assert torch.equal(resume(model, state, prompt, after=after), model(prompt))


@pytest.mark.parametrize("method", ["lora", "sherl"])
def test_an_adapter_learns_and_leaves_the_frozen_model_alone(method, model, chat, tmp_path):
    prompt, asked = chat.prompt(conversations(), reply=False), chat.prompt([one[:1] for one in conversations()])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapter = adapters.build(method, model).eval()
    config = GenerateConfig(tokens=6)
    with torch.no_grad():
        assert torch.equal(adapter.call("forward", prompt), model(prompt))
        first = float(adapter.loss(prompt))
    taught(adapter, prompt, steps=30)
    said = adapter.call("generate", asked, config)
    assert not torch.equal(said.tokens, model.generate(asked, config).tokens)
    with torch.no_grad():
        assert float(adapter.loss(prompt)) < 0.85 * first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    adapters.save(adapter, tmp_path, base="chart-model")
    again = adapters.load(tmp_path, model)
    assert torch.equal(again.call("generate", asked, config).tokens, said.tokens)


def test_a_saved_model_is_talked_to_again_and_loaded_by_its_folder(model, chat, tmp_path):
    model.save_pretrained(tmp_path, more=chat.to_files())
    assistant, image = Assistant.from_pretrained(tmp_path), np.zeros((20, 30), np.uint8)
    answer = assistant.answer(QUESTION, [image])
    assert answer == Assistant(model, chat).answer(QUESTION, [image])
    assert answer.log_probability <= sum(chance for _, chance in answer.tokens) <= 0.0
    PIL.Image.fromarray(image).save(tmp_path / "chart.png")
    assert limosa.ask(tmp_path / "chart.png", QUESTION, model=tmp_path).text == answer.text
    loaded = limosa.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_an_answer_can_be_held_to_a_pattern_or_a_schema(model, chat):
    assistant, image = Assistant(model, chat), np.zeros((16, 16), np.uint8)
    assert assistant.answer(QUESTION, [image], pattern="up|down|flat").text in ("up", "down", "flat")
    schema = {"type": "object", "properties": {"answer": {"enum": ANSWERS}}, "required": ["answer"]}
    assert json.loads(assistant.answer(QUESTION, [image], schema=schema).text)["answer"] in ANSWERS


def test_it_looks_at_the_frames_of_a_video(model, chat):
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 16), dtype=np.uint8)
    first, second = (
        chat.prompt([[Message("user", [Video(frames=own, seconds=[0.0, 1.5], duration=3.0), "When?"])]])
        for own in frames
    )
    assert torch.equal(first.tokens, second.tokens)
    with torch.no_grad():
        assert not torch.allclose(model(first), model(second))


@pytest.mark.parametrize(("weights", "tolerance"), [("bf16", 0.02), ("int8", 0.06)])
def test_weights_held_in_fewer_bits_give_nearly_the_same_logits(weights, tolerance, model, chat, tmp_path):
    model.save_pretrained(tmp_path)
    prompt = chat.prompt(conversations())
    held = SmolVLM.from_pretrained(tmp_path, weights=weights)
    bits = {"bf16": torch.bfloat16, "int8": torch.int8}[weights]
    assert held.text_model.layers[0].mlp.up_proj.weight.dtype == bits
    with torch.no_grad():
        wanted = model(prompt)
        assert (held(prompt) - wanted).norm() <= tolerance * wanted.norm()
    assert held.generate(prompt, GenerateConfig(tokens=3)).tokens.shape == (4, 3)


def test_what_cannot_be_used_is_said(model, chat, tmp_path):
    prompt = chat.prompt(conversations())
    with pytest.raises(UsageError, match="the model reads 256"):
        model.generate(prompt, GenerateConfig(tokens=256))
    with pytest.raises(UsageError, match="tokenizer is of another model"):
        model(dataclasses.replace(prompt, tiles=prompt.tiles * 0))
    with pytest.raises(UsageError, match="reply=False"):
        model.loss(prompt)
    with pytest.raises(DataError, match="of another model"):
        Assistant(SmolVLM(dataclasses.replace(model.config, image_token=9)), chat)
    model.save_pretrained(tmp_path)
    with pytest.raises(ModelNotFound, match=TOKENIZER):
        Assistant.from_pretrained(tmp_path)
    with pytest.raises(UsageError, match="cannot forecast"):
        models.load(tmp_path, can=limosa.Forecaster)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match="holds a bert"):
        SmolVLM.from_pretrained(tmp_path)
