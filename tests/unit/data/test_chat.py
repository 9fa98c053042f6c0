"""Prompts of conversations about images: their text, what is learnt of them, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from limosa.data import images
from limosa.data.chat import Chat, Message, Picture, Video, in_words, sampled, train_tokenizer
from limosa.data.images import ImageConfig, duration, read_frames, read_image
from limosa.errors import DataError, UsageError


@pytest.fixture(scope="module")
def chat():
    return Chat(train_tokenizer(["What is it?"] * 3, 300), ImageConfig(tile=16, longest_edge=32, split=True), 2)


WIDE = np.zeros((8, 32), np.uint8)


def test_a_conversation_is_written_in_the_grammar_of_smolvlm(chat):
    conversation = [
        Message("user", [Picture(image=WIDE), "What?"]),
        Message("assistant", ["A line."]),
        Message("user", ["Why?"]),
    ]
    around = "<fake_token_around_image>"
    assert chat.text(conversation) == (
        f"<|im_start|>User:{around}<row_1_col_1><image><image>{around}<row_1_col_2><image><image>\n\n"
        f"{around}<global-img><image><image>{around}What?<end_of_utterance>\n"
        "Assistant: A line.<end_of_utterance>\nUser: Why?<end_of_utterance>\nAssistant:"
    )


def test_a_video_says_how_many_frames_it_has_and_when_they_are_shown(chat):
    video = Video(frames=[WIDE, WIDE], seconds=[1.0, 61.5], duration=3671.0)
    assert chat.text([Message("user", [video, "What?"])], reply=False) == (
        "<|im_start|>User: You are provided the following series of two frames from a 1:01:11 [H:MM:SS] video.\n"
        + "".join(
            f"\nFrame from {at}:<fake_token_around_image><global-img><image><image><fake_token_around_image>"
            for at in ("00:01", "01:01")
        )
        + "\n\nWhat?<end_of_utterance>\n"
    )


def test_only_answers_and_their_ends_are_learnt(chat):
    conversation = [
        Message("user", [Picture(image=WIDE), "What?"]),
        Message("assistant", ["A line."]),
        Message("user", ["And?"]),
    ]
    prompt = chat.prompt([conversation, [Message("assistant", ["up"])]], reply=False)
    learnt = [[int(t) for t in row[own]] for row, own in zip(prompt.tokens, prompt.learnt, strict=True)]
    assert [chat.tokenizer.decode(row, skip_special_tokens=False) for row in learnt] == [
        " A line.<end_of_utterance>",
        " up<end_of_utterance>",
    ]
    assert prompt.tiles.tolist() == [3, 0]
    assert prompt.pixels.shape == (2, 3, 1, 16, 16)
    assert not prompt.pixels[1].any()
    assert prompt.rows(torch.tensor([1])).padding.tolist() == [
        prompt.tokens.shape[1] - int((prompt.tokens[1] != chat.end).sum()) - 1
    ]


def test_tokens_give_their_text_back_byte_by_byte(chat):
    text = "What is it? 42 °C – \n"
    ids = chat.tokenizer.encode(text).ids
    assert b"".join(chat.token_bytes[token] for token in ids) == text.encode()
    assert chat.token_bytes[chat.end] is None


def test_frames_are_sampled_evenly_and_the_ends_of_a_long_video_are_left_out():
    assert sampled(30, 10.0, most=64) == [0, 14, 29]
    long = sampled(10_000, 10.0, most=5)
    assert (long[0], long[-1], len(long)) == (10, 9990, 5)
    assert sampled(1, 25.0) == [0]
    with pytest.raises(DataError, match="shows nothing"):
        sampled(0, 25.0)


def test_numbers_are_written_in_words():
    assert [in_words(n) for n in (0, 13, 20, 45, 100, 364)] == [
        "zero", "thirteen", "twenty", "forty-five", "one hundred", "three hundred and sixty-four",
    ]  # fmt: skip


def test_the_grammar_of_prompts_cannot_be_forged_by_a_question(chat):
    with pytest.raises(UsageError, match="<image>"):
        chat.prompt([[Message("user", ["What is <image>?"])]])


def test_an_image_that_cannot_be_read_is_refused(tmp_path, monkeypatch, chat):
    with pytest.raises(DataError, match="no image"):
        read_image(tmp_path / "none.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(tmp_path / "broken.png")
    Image.new("L", (64, 64)).save(tmp_path / "large.png")
    whole = (tmp_path / "large.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(tmp_path / "short.png")
    monkeypatch.setattr(images, "MOST_PIXELS", 4000)
    with pytest.raises(DataError, match="64 by 64 pixels"):
        read_image(tmp_path / "large.png")
    with pytest.raises(DataError, match="do not split"):
        Chat(chat.tokenizer, ImageConfig(tile=2, longest_edge=32, split=True), 1).prompt(
            [[Message("user", [Picture(image=WIDE)])]]
        )


def test_a_video_is_read_at_the_times_asked_for(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=1000)
    assert duration(tmp_path / "a.gif") == 3.0
    read = read_frames(tmp_path / "a.gif", [0.5, 2.2])
    assert [image.getpixel((0, 0)) for image in read] == [(255, 0, 0), (0, 0, 255)]
    frames[0].save(tmp_path / "still.gif")
    with pytest.raises(DataError, match="zero seconds"):
        duration(tmp_path / "still.gif")
    with pytest.raises(DataError, match="shows nothing"):
        read_frames(tmp_path / "still.gif", [1.0])
