"""What holds for the correlation losses beyond the contract and the references."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_values import double

from rankbench.losses import pearson_loss, rank_cosine_loss, z_loss

numbers = st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=3, max_size=6)


@given(numbers, st.randoms(use_true_random=False))
def test_pearson_is_twice_the_rank_cosine_of_centred_lists(scores, random):
    labels = [random.randrange(5) for _ in scores]
    s, y = double(scores), double(labels)
    if len(set(labels)) > 1 and len(set(scores)) > 1:
        expected = 2 * rank_cosine_loss(s - s.mean(), y - y.mean())
        torch.testing.assert_close(pearson_loss(s, y), expected)


@given(numbers)
def test_pearson_is_half_the_squared_distance_of_standardised_lists(scores):
    s, y = double(scores), torch.arange(len(scores), dtype=torch.float64)
    if len(set(scores)) > 1:
        z = [(x - x.mean()) / x.std(correction=0) for x in (s, y)]
        torch.testing.assert_close(pearson_loss(s, y), (z[0] - z[1]).square().mean() / 2)


@given(numbers)
def test_one_relevant_item_cannot_beat_the_floor_of_the_z_loss(scores):
    s = double(scores)
    y = torch.zeros_like(s)
    y[0] = 1
    best = torch.zeros_like(s)
    best[0] = 1
    assert z_loss(s, y) >= z_loss(best, y) - 1e-12


@pytest.mark.parametrize("fn", [rank_cosine_loss, pearson_loss, z_loss])
def test_constant_scores_get_no_gradient(fn):
    scores = torch.full((5,), 0.1, requires_grad=True)
    if fn is rank_cosine_loss:
        scores = torch.zeros(5, requires_grad=True)
    fn(scores, torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0])).backward()
    assert not scores.grad.any()


@pytest.mark.parametrize("label", [0.1, 0.3, 7.7])
def test_constant_labels_do_not_count_whatever_their_rounding(label):
    for n in range(1, 30):
        assert pearson_loss(torch.randn(n), torch.full((n,), label)) == 0


@pytest.mark.parametrize("fn", [rank_cosine_loss, pearson_loss, z_loss])
def test_tiny_spreads_are_told_apart(fn):
    scores = double([0.0, 2.0, -1.0, 0.5])
    labels = double([1.0, 2.0, 0.0, 0.0])
    torch.testing.assert_close(fn(1e-100 * scores, labels), fn(scores, labels))


def test_the_sharpness_has_to_be_positive():
    with pytest.raises(ValueError, match="a is 0"):
        z_loss(torch.zeros(2), torch.ones(2), a=0.0)
