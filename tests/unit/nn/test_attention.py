"""Attention, positions, and the block."""

from __future__ import annotations

import math

import pytest
import torch

from limosa.nn.attention import Block, attend, rotary, rotate

ONE = torch.ones(())  # float32


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
        turn = rotary(12, 16, ONE, start=start)
        scores = (rotate(query, turn) @ rotate(key, turn).transpose(-1, -2))[0, 0]  # [12, 12]
        for distance in range(-11, 12):
            along = scores.diagonal(distance)
            torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-3, atol=1e-3)
        assert scores[0].std() > 1e-2  # and on nothing less


def test_positions_in_float64_are_exact_to_float64():
    wanted = [[math.cos(1000 * 1000.0 ** (-i / 16)) for i in range(0, 16, 2)] for _ in range(1)]
    found = rotary(1, 16, ONE.double(), start=1000)[0]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0.0, atol=1e-10)


def test_dropped_weights_leave_the_mean(dice):
    q, k, v = torch.randn(3, 1, 2, 5, 8, generator=dice)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril()
    torch.manual_seed(0)
    many = torch.cat([attend(q, k, v, allowed, probability=0.25) for _ in range(4000)])
    torch.testing.assert_close(many.mean(0, keepdim=True), attend(q, k, v, allowed), rtol=0.0, atol=0.06)


def test_turning_keeps_lengths(dice):
    x = torch.randn(2, 3, 9, 8, generator=dice)
    torch.testing.assert_close(rotate(x, rotary(9, 8, ONE)).norm(dim=-1), x.norm(dim=-1))


def test_bf16_on_the_cpu_is_near_fp32(dice):
    q, k, v = torch.randn(3, 2, 2, 20, 16, generator=dice)
    allowed = torch.ones(20, 20, dtype=torch.bool).tril()
    half = attend(*(x.bfloat16() for x in (q, k, v)), allowed)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), attend(q, k, v, allowed), rtol=0.03, atol=0.03)


def test_bf16_gradients_are_near_fp32_ones(dice):
    x = torch.randn(2, 7, 16, generator=dice)
    block, turn = Block(16, 2, 24), rotary(7, 8, ONE)
    grads = {}
    for half in (False, True):
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            block(x, turn).float().square().mean().backward()
        grads[half] = torch.cat([p.grad.flatten() for p in block.parameters()])
    assert (grads[True] - grads[False]).norm() < 0.05 * grads[False].norm()


def test_a_causal_block_does_not_see_later_tokens(dice):
    block, turn = Block(16, 2, 24), rotary(10, 8, ONE)
    allowed = torch.ones(1, 1, 10, 10, dtype=torch.bool).tril()
    x = torch.randn(3, 10, 16, generator=dice)
    changed = x.clone()
    changed[:, 6:] += 5.0
    before, after = block(x, turn, allowed), block(changed, turn, allowed)
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert not torch.allclose(after[:, 6:], before[:, 6:])
    assert not torch.allclose(block(changed, turn)[:, :6], block(x, turn)[:, :6])
