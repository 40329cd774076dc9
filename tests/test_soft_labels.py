"""Soft-label alignment: what it is the mean of, and what it is above."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import kl_loss, soft_label_alignment_loss


def rows(seed, scale):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, 3, 4, generator=g, dtype=torch.float64)).unbind()


CASES = given(st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 5.0]))


@CASES
def test_it_is_the_mean_of_both_directions(seed, scale):
    scores, judge = rows(seed, scale)
    ways = [kl_loss(scores, judge, student_temperature=0.5, direction=d)
            for d in ("forward", "reverse")]  # fmt: skip
    ours = soft_label_alignment_loss(scores, judge, temperature=0.5)
    torch.testing.assert_close(ours, sum(ways) / 2)


@CASES
def test_it_is_symmetric(seed, scale):
    scores, judge = rows(seed, scale)
    there = soft_label_alignment_loss(scores, judge, temperature=0.5)
    torch.testing.assert_close(there, soft_label_alignment_loss(judge, scores, temperature=0.5))


@CASES
def test_it_is_at_least_four_times_jensen_shannon(seed, scale):
    scores, judge = rows(seed, scale)
    p, t = scores.softmax(-1), judge.softmax(-1)
    middle = (p + t) / 2
    js = ((p * (p / middle).log()).sum(-1) + (t * (t / middle).log()).sum(-1)) / 2
    ours = soft_label_alignment_loss(scores, judge, temperature=1.0, reduction="none")
    assert (ours >= 4 * js - 1e-12).all()


@CASES
def test_its_gradient_is_the_boxed_formula(seed, scale):
    scores, judge = rows(seed, scale)
    p, t = (scores / 0.5).softmax(-1), (judge / 0.5).softmax(-1)
    surprise = p.log() - t.log()
    by_hand = (p - t + p * (surprise - (p * surprise).sum(-1, keepdim=True))) / 2 / 0.5
    leaf = scores.clone().requires_grad_()
    soft_label_alignment_loss(leaf, judge, temperature=0.5, reduction="sum").backward()
    torch.testing.assert_close(leaf.grad, by_hand)
