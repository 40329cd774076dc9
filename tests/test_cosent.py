"""What holds for CoSENT, AnglE and Conan beyond the contract and the references."""

import math

import pytest
import torch
from families.cosent import cosent
from hypothesis import given
from hypothesis import strategies as st
from strategies import BINARY, GRADES, lists
from test_values import close, double

from rankbench.losses import (
    angle_loss,
    cosent_loss,
    infonce_loss,
    mse_loss,
    ranknet_loss,
    softmax_loss,
)
from rankbench.losses.angle import angle_similarity
from rankbench.losses.conan import conan_loss, stale_negatives
from rankbench.metrics import ndcg

LISTS = lists(GRADES, smallest=2)
REAL = st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))


def pairs_of(y):
    return y[:, None] < y[None, :]


def violations(s, y):
    return (s[:, None] - s[None, :])[pairs_of(y)]


# CoSENT -----------------------------------------------------------------------------------------


@given(lists(REAL, smallest=1, largest=12))
def test_any_real_labels_need_no_table_of_pairs(data):
    for temperature in (0.05, 1.0):
        expected = cosent(*data, temperature)
        ours = cosent_loss(*map(double, data), temperature=temperature)
        close(ours, 0.0 if expected is None else expected)


def test_long_lists_of_distinct_labels_equal_the_table():
    g = torch.Generator().manual_seed(0)
    s, y = torch.randn(2, 500, generator=g, dtype=torch.float64)
    s.requires_grad_()
    table = torch.where(pairs_of(y), s[:, None] - s[None, :], -torch.inf).flatten() / 0.05
    expected = torch.nn.functional.softplus(table.logsumexp(0), threshold=1e9)
    value = cosent_loss(s, y)
    torch.testing.assert_close(value, expected)
    ours, theirs = (torch.autograd.grad(x, s)[0] for x in (value, expected))
    torch.testing.assert_close(ours, theirs)


@given(LISTS)
def test_the_gradient_is_a_softmax_over_pairs(data):
    s, y = map(double, data)
    x = ((s[:, None] - s[None, :]) / 0.5).exp() * pairs_of(y)
    w = x / (1 + x.sum())
    s.requires_grad_()
    (gradient,) = torch.autograd.grad(cosent_loss(s, y, temperature=0.5), s)
    torch.testing.assert_close(gradient, (w.sum(1) - w.sum(0)) / 0.5)
    assert gradient.clamp(min=0).sum() <= 1 / 0.5 + 1e-12  # all pairs share one force


@given(LISTS)
def test_a_low_temperature_leaves_the_largest_violation(data):
    s, y = map(double, data)
    found = violations(s, y)
    if found.numel():
        excess = 1e-3 * cosent_loss(s, y, temperature=1e-3) - found.max().relu()
        assert -1e-9 <= excess <= 1e-3 * math.log(1 + found.numel()) + 1e-9


@given(LISTS)
def test_tied_scores_cost_the_logarithm_of_the_number_of_pairs(data):
    y = double(data[1])
    count = pairs_of(y).sum().item()
    zero = torch.zeros_like(y)
    close(cosent_loss(zero, y), math.log1p(count))
    close(cosent_loss(zero, y, normalize="pairs"), 0.0)


@given(LISTS)
def test_the_number_of_pairs_moves_the_value_and_not_the_gradient(data):
    s, y = map(double, data)
    s.requires_grad_()
    plain, even = cosent_loss(s, y), cosent_loss(s, y, normalize="pairs")
    torch.testing.assert_close(plain - even, pairs_of(y).sum().double().log1p())
    ours, theirs = (torch.autograd.grad(x, s)[0] for x in (plain, even))
    torch.testing.assert_close(ours, theirs)


@given(LISTS)
def test_ranknet_times_the_number_of_pairs_bounds_it(data):
    s, y = map(double, data)
    rank, value = ranknet_loss(s, y, sigma=20.0), cosent_loss(s, y)
    assert rank - 1e-9 <= value <= pairs_of(y).sum() * rank + 1e-9


@given(lists(GRADES, smallest=2, largest=2))
def test_two_items_are_ranknet(data):
    s, y = map(double, data)
    torch.testing.assert_close(cosent_loss(s, y), ranknet_loss(s, y, sigma=20.0))


@given(lists(BINARY, smallest=2))
def test_one_item_above_all_others_is_the_softmax(data):
    s, y = map(double, data)
    if y.sum() == 1:
        expected = softmax_loss(s, y, temperature=0.5)
        torch.testing.assert_close(cosent_loss(s, y, temperature=0.5), expected)


@given(lists(BINARY, smallest=2))
def test_binary_labels_factor_into_two_sums(data):
    s, y = map(double, data)
    if 0 < y.sum() < len(y):
        z = (s[y == 0] / 0.5).logsumexp(0) + (-s[y > 0] / 0.5).logsumexp(0)
        expected = torch.nn.functional.softplus(z, threshold=1e9)
        torch.testing.assert_close(cosent_loss(s, y, temperature=0.5), expected)


@given(LISTS)
def test_it_counts_inverted_pairs(data):
    s, y = map(double, data)
    inverted = (violations(s, y) >= 0).sum()
    assert cosent_loss(s, y) >= inverted.double().log1p() - 1e-9
    if y.min() < y.max():
        assert cosent_loss(s, y) >= 1 - ndcg(s, y) - 1e-9 or inverted == 0


@pytest.mark.parametrize("spread", [1.0, 30.0, 400.0, 1e4, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_finite_for_any_spread(spread, dtype):
    g = torch.Generator().manual_seed(0)
    s = (spread * torch.randn(3, 40, generator=g)).to(dtype).requires_grad_()
    y = torch.randint(0, 4, (3, 40), generator=g)
    for labels in (y, torch.randn(3, 40, generator=g), s.detach(), -s.detach()):
        value = cosent_loss(s, labels)
        (gradient,) = torch.autograd.grad(value, s)
        assert value.isfinite() and gradient.isfinite().all()
        if spread <= 1e4:  # float32 has no digits left for larger differences
            assert gradient.abs().max() <= 20 * 1.05 / 3


def test_a_badly_inverted_pair_keeps_its_value_and_its_gradient():
    s = torch.tensor([0.0, 500.0], requires_grad=True)
    value = cosent_loss(s, torch.tensor([1.0, 0.0]))
    value.backward()
    assert value.item() == 1e4 and s.grad.tolist() == [-20.0, 20.0]


def test_a_settled_pair_still_has_a_small_value():
    value = cosent_loss(double([2.0, 0.0]), double([1.0, 0.0]))
    assert value.item() == pytest.approx(math.exp(-40), rel=1e-12)


def test_padding_between_the_levels_is_no_rival():
    s, y = double([0.2, 9.0, 0.5, -9.0]), double([1.0, 0.0, 0.0, 2.0])
    where = torch.tensor([True, False, True, False])
    torch.testing.assert_close(cosent_loss(s, y, where=where), cosent_loss(s[::2], y[::2]))


def test_a_temperature_may_be_learned():
    s, y = double([0.2, 0.9, 0.5]), double([1.0, 0.0, 0.5])
    t = double(0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: cosent_loss(s, y, temperature=t), (t,))


def test_an_unknown_normalization_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="unknown normalization 'pair'; did you mean pairs"):
        cosent_loss(torch.zeros(2), torch.ones(2), normalize="pair")


@pytest.mark.parametrize("loss", [cosent_loss, lambda s, y, **k: angle_loss(s, s, y, **k)])
def test_a_temperature_of_0_is_refused(loss):
    with pytest.raises(ValueError, match="temperature is 0.0; expected a number above 0"):
        loss(torch.zeros(2, 2), torch.ones(2, 2) if loss is cosent_loss else torch.ones(2),
             temperature=0.0)  # fmt: skip


def test_the_squared_error_pulls_what_is_in_order():
    s, y = double([0.9, 0.2]).requires_grad_(), double([1.0, 0.0])
    (there,) = torch.autograd.grad(mse_loss(s, y), s)
    (here,) = torch.autograd.grad(cosent_loss(s, y), s)
    assert there[1] > 0.1 and here.abs().max() < 1e-4


# AnglE ------------------------------------------------------------------------------------------

VECTORS = st.integers(0, 10_000).map(
    lambda seed: torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(seed)).double()
)


def turned(y):
    return torch.cat([y[:, :3] - y[:, 3:], y[:, 3:] + y[:, :3]], -1)


@given(VECTORS)
def test_the_angle_lies_between_0_and_the_root_of_2(xy):
    x, y = xy
    theta = angle_similarity(x, y)
    assert (theta >= 0).all() and (theta <= math.sqrt(2) + 1e-12).all()


@given(VECTORS)
def test_equal_texts_score_1_and_the_maximum_is_elsewhere(xy):
    _, y = xy
    one = torch.ones(5, dtype=torch.float64)
    torch.testing.assert_close(angle_similarity(y, y), one)
    torch.testing.assert_close(angle_similarity(turned(y), y), math.sqrt(2) * one)


@given(VECTORS)
def test_the_angle_is_blind_to_signs_and_lengths_and_not_symmetric(xy):
    x, y = xy
    theta = angle_similarity(x, y)
    torch.testing.assert_close(angle_similarity(-x, y), theta)
    torch.testing.assert_close(angle_similarity(3 * x, y / 7), theta)
    assert (angle_similarity(y, x) - theta).abs().max() > 1e-3


@given(VECTORS)
def test_the_angle_loss_is_cosent_of_angles(xy):
    y = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.25])
    torch.testing.assert_close(angle_loss(*xy, y), cosent_loss(angle_similarity(*xy), y))


def test_the_angle_gradient_is_the_boxed_formula():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 5, 6, generator=g, dtype=torch.float64)
    labels = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.25])
    unit = torch.nn.functional.normalize(x)
    v = turned(y) / y.norm(dim=-1, keepdim=True)
    along = (unit * v).sum(-1, keepdim=True)
    theta = along[:, 0].abs().requires_grad_()
    (slopes,) = torch.autograd.grad(cosent_loss(theta, labels, temperature=0.5), theta)
    expected = slopes[:, None] * along.sign() * (v - along * unit) / x.norm(dim=-1, keepdim=True)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(angle_loss(x, y, labels, temperature=0.5), x)
    torch.testing.assert_close(gradient, expected)


def test_equal_vectors_get_a_gradient_from_the_angle():
    x = double([[1.0, 2.0], [0.5, -1.0]]).requires_grad_()
    (gradient,) = torch.autograd.grad(angle_loss(x, x.detach(), double([1.0, 0.0])), x)
    lengths = gradient.norm(dim=-1) * x.detach().norm(dim=-1)
    torch.testing.assert_close(lengths, double([10.0, 10.0]))  # 1/τ, and half of the weight


def test_a_kink_and_a_zero_vector_get_no_gradient():
    x = double([[0.0, 0.0], [1.0, -1.0], [1.0, 0.3]]).requires_grad_()
    y = double([[1.0, 0.0]] * 3)
    angle_loss(x, y, double([1.0, 0.5, 0.0])).backward()
    assert x.grad.isfinite().all() and not x.grad[:2].any() and x.grad[2].any()


def test_the_reduction_of_one_list_changes_nothing():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 4, generator=g)
    values = {angle_loss(x, y, torch.tensor([0.0, 1.0, 0.5]), reduction=r).item()
              for r in ("mean", "sum", "none")}  # fmt: skip
    assert len(values) == 1


@pytest.mark.parametrize("fn", [angle_similarity, lambda x, y: angle_loss(x, y, torch.ones(2))])
def test_an_odd_number_of_coordinates_is_refused(fn):
    with pytest.raises(ValueError, match="queries has 3 coordinates; expected an even number"):
        fn(torch.ones(2, 3), torch.ones(2, 3))


def test_labels_of_another_length_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) but the batch needs \(2,\)"):
        angle_loss(torch.ones(2, 4), torch.ones(2, 4), torch.ones(3))


# Conan ------------------------------------------------------------------------------------------


@pytest.fixture
def batches():
    g = torch.Generator().manual_seed(0)
    queries, documents, left, right = torch.randn(4, 5, 6, generator=g, dtype=torch.float64)
    labels = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.25])
    return (queries, documents, left[:4], right[:4], labels[:4]), torch.randn(
        5, 2, 6, generator=g, dtype=torch.float64
    )


def parts(data, **keywords):
    queries, documents, left, right, labels = data
    cosines = torch.nn.functional.cosine_similarity(left, right)
    return infonce_loss(queries, documents, **keywords), cosent_loss(cosines, labels)


def test_conan_is_a_weighted_sum(batches):
    data, negatives = batches
    data = [x.requires_grad_() if i < 4 else x for i, x in enumerate(data)]
    retrieval, graded = parts(data, negatives=negatives)
    value = conan_loss(*data, negatives=negatives)
    torch.testing.assert_close(value, retrieval + 0.8 * graded)
    ours = torch.autograd.grad(value, data[:4])
    torch.testing.assert_close(ours, torch.autograd.grad(retrieval + 0.8 * graded, data[:4]))


def test_every_setting_of_conan_reaches_its_part(batches):
    data, negatives = batches
    real = torch.tensor([[True, False]] * 5)
    ids = torch.tensor([0, 1, 1, 2, 3])
    value = conan_loss(*data, negatives=negatives, negatives_where=real, exclude=ids, beta=0.3,
                       temperature=0.5, chunk_size=2, gather=True)  # fmt: skip
    retrieval, _ = parts(data, negatives=negatives, negatives_where=real, exclude=ids,
                         temperature=0.5)  # fmt: skip
    cosines = torch.nn.functional.cosine_similarity(*data[2:4])
    graded = cosent_loss(cosines, data[4], temperature=0.5)
    torch.testing.assert_close(value, retrieval + 0.3 * graded)


def test_hard_negatives_of_other_queries_count(batches):
    data, negatives = batches
    only_first = torch.zeros(5, 2, dtype=torch.bool)
    only_first[0] = True
    queries, documents = data[:2]
    plain = infonce_loss(queries, documents, reduction="none")
    mined = infonce_loss(
        queries, documents, negatives=negatives, negatives_where=only_first, reduction="none"
    )
    assert (mined > plain).all()
    value = conan_loss(*data, negatives=negatives, negatives_where=only_first, beta=0.0)
    torch.testing.assert_close(value, mined.mean())


def test_a_graded_batch_without_an_order_leaves_retrieval(batches):
    data, negatives = batches
    value = conan_loss(*data[:4], torch.ones(4), negatives=negatives)
    torch.testing.assert_close(value, parts(data, negatives=negatives)[0])


@pytest.mark.parametrize(
    ("now", "first", "stale"),
    [
        (0.5, 0.6, True),  # 1.15 · 0.5 < 0.6
        (0.53, 0.6, False),
        (0.79, 0.95, True),
        (0.81, 0.95, False),  # still hard
        (0.0, 0.1, True),
        (0.6, 0.6, False),
    ],
)
def test_a_negative_is_replaced_when_it_has_become_easy(now, first, stale):
    assert stale_negatives(torch.tensor([now]), torch.tensor([first])).item() is stale


def test_ratio_and_ceiling_of_stale_negatives_are_settings():
    now, first = torch.tensor([0.5, 0.81]), torch.tensor([0.6, 0.95])
    assert stale_negatives(now, first, ratio=1.3).tolist() == [False, False]
    assert stale_negatives(now, first, ceiling=0.9).tolist() == [True, True]


def test_scores_of_negatives_have_to_match(without_shape_checks):
    with pytest.raises(ValueError, match="first has shape"):
        stale_negatives(torch.zeros(2), torch.zeros(1))


def test_the_angle_refuses_documents_of_another_shape(without_shape_checks):
    with pytest.raises(ValueError, match=r"documents has shape \(3, 5\) but queries has \(3, 6\)"):
        angle_similarity(torch.ones(3, 6), torch.ones(3, 5))


def test_conan_refuses_a_negative_weight(batches):
    data, _ = batches
    with pytest.raises(ValueError, match="beta is -1.0; expected a number that is not negative"):
        conan_loss(*data, beta=-1.0)
