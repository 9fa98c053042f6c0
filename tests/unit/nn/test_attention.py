"""Attention, positions, and the block."""

from __future__ import annotations

import pytest
import torch

from limosa.nn.attention import Block, attend, rotary, rotate

CPU = torch.device("cpu")


@pytest.fixture
def dice():
    return torch.Generator().manual_seed(0)


def test_attention_is_softmax_of_scaled_scores(dice):
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=dice)
    weights = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
    torch.testing.assert_close(attend(q, k, v), weights @ v)


def test_a_hidden_key_has_no_weight(dice):
    q, k, v = torch.randn(3, 2, 2, 5, 8, generator=dice)
    allowed = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    allowed[..., 3] = False
    rest = [0, 1, 2, 4]
    torch.testing.assert_close(attend(q, k, v, allowed), attend(q, k[:, :, rest], v[:, :, rest]))


def test_scores_depend_on_relative_position_only(dice):
    query, key = torch.randn(2, 1, 1, 1, 16, generator=dice).expand(2, 1, 1, 12, 16)
    for start in (0, -7, 1000):
        turn = rotary(12, 16, CPU, start=start)
        scores = (rotate(query, turn) @ rotate(key, turn).transpose(-1, -2))[0, 0]  # [12, 12]
        for distance in range(-11, 12):
            along = scores.diagonal(distance)
            torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-3, atol=1e-3)
        assert scores[0].std() > 1e-2  # and on nothing less


def test_turning_keeps_lengths(dice):
    x = torch.randn(2, 3, 9, 8, generator=dice)
    torch.testing.assert_close(rotate(x, rotary(9, 8, CPU)).norm(dim=-1), x.norm(dim=-1))


def test_bf16_on_the_cpu_is_near_fp32(dice):
    q, k, v = torch.randn(3, 2, 2, 20, 16, generator=dice)
    allowed = torch.ones(20, 20, dtype=torch.bool).tril()
    half = attend(*(x.bfloat16() for x in (q, k, v)), allowed)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend(q, k, v, allowed), rtol=0.03, atol=0.03)


def test_bf16_gradients_are_near_fp32_ones(dice):
    x = torch.randn(2, 7, 16, generator=dice)
    block, turn = Block(16, 2, 24), rotary(7, 8, CPU)
    grads = {}
    for half in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            block(x, turn).float().square().mean().backward()
        grads[half] = torch.cat([p.grad.flatten() for p in block.parameters()])
    assert (grads[True] - grads[False]).norm() < 0.05 * grads[False].norm()


def test_a_causal_block_does_not_see_later_tokens(dice):
    block, turn = Block(16, 2, 24), rotary(10, 8, CPU)
    allowed = torch.ones(1, 1, 10, 10, dtype=torch.bool).tril()
    x = torch.randn(3, 10, 16, generator=dice)
    changed = x.clone()
    changed[:, 6:] += 5.0
    before, after = block(x, turn, allowed), block(changed, turn, allowed)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])
    assert not torch.allclose(block(changed, turn)[:, :6], block(x, turn)[:, :6])
