"""What is special about losses on orders: Plackett-Luce, ties, places, and bugs seen elsewhere."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.core import UnknownName
from rankbench.losses import (
    calibrated_softmax_loss,
    listmle_loss,
    plistmle_loss,
    poly1_softmax_loss,
    ranknet_loss,
    softmax_loss,
    unique_softmax_loss,
)
from rankbench.losses.position_aware import place_weights
from rankbench.metrics import mrr, ndcg
from rankbench.ordered_sums import (
    _through_logs,
    _through_sums,
    has_order,
    label_levels,
    rival_costs,
    tied_means,
)

number = st.integers(-40, 40).map(lambda x: x / 8)
scored = st.lists(number, min_size=2, max_size=6)
grade = st.integers(0, 3).map(float)
graded = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(number, min_size=n, max_size=n), st.lists(grade, min_size=n, max_size=n)
    )
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def gradient(fn, *data, **settings):
    scores = data[0].clone().requires_grad_()
    (g,) = torch.autograd.grad(fn(scores, *data[1:], **settings).sum(), scores)
    return g


def labels_of(order):
    """Labels that ask for an order."""
    labels = torch.empty(len(order), dtype=torch.float64)
    labels[list(order)] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return labels


# Plackett-Luce -----------------------------------------------------------------------------------


@given(st.lists(number, min_size=2, max_size=4))
def test_the_probabilities_of_all_orders_sum_to_1(scores):
    orders = itertools.permutations(range(len(scores)))
    total = sum(math.exp(-listmle_loss(double(scores), labels_of(o))) for o in orders)
    assert total == pytest.approx(1)


@given(st.lists(number, min_size=2, max_size=4))
def test_the_first_place_is_a_softmax(scores):
    n = len(scores)
    first = [0.0] * n
    for order in itertools.permutations(range(n)):
        first[order[0]] += math.exp(-listmle_loss(double(scores), labels_of(order)))
    torch.testing.assert_close(double(first), double(scores).softmax(0))


@given(scored)
def test_two_items_are_a_ranknet_pair(scores):
    pair, good = double(scores[:2]), double([1.0, 0.0])
    expected = ranknet_loss(pair, good)
    for fn in (listmle_loss, plistmle_loss, unique_softmax_loss):
        torch.testing.assert_close(fn(pair, good), expected)


@given(scored)
def test_the_first_place_alone_is_the_softmax_loss(scores):
    scores, labels = double(scores), labels_of(range(len(scores)))
    best = (labels == labels.max()).double()
    torch.testing.assert_close(listmle_loss(scores, labels, k=1), softmax_loss(scores, best))


@given(graded)
def test_all_weight_on_the_first_place_is_the_softmax_loss_of_the_best(data):
    scores, labels = map(double, data)
    if has_order(labels, labels == labels):
        first = (torch.arange(len(labels)) == 0).double()
        best = (labels == labels.max()).double()
        top = plistmle_loss(scores, labels, position_weights=first)
        torch.testing.assert_close(top, softmax_loss(scores, best))
        torch.testing.assert_close(listmle_loss(scores, labels, k=1), top)


@given(graded)
def test_uniform_weights_are_listmle(data):
    uniform = plistmle_loss(*map(double, data), position_weights="uniform")
    torch.testing.assert_close(uniform, listmle_loss(*map(double, data)))


@given(graded)
def test_every_place_asked_for_is_listmle(data):
    scores, labels = map(double, data)
    whole = listmle_loss(scores, labels)
    torch.testing.assert_close(listmle_loss(scores, labels, k=len(labels)), whole)


def test_equal_scores_cost_the_logarithm_of_the_number_of_orders():
    for n in range(2, 9):
        value = listmle_loss(torch.zeros(n).double(), labels_of(range(n)))
        assert value.item() == pytest.approx(math.lgamma(n + 1))


@given(scored)
def test_the_papers_weights_differ_by_their_sum(scores):
    scores, n = double(scores), len(scores)
    paper = plistmle_loss(
        scores, labels_of(range(n)), position_weights=lambda r: 2.0 ** (n - r) - 1
    )
    ours = plistmle_loss(scores, labels_of(range(n)))
    torch.testing.assert_close(paper, (2**n - 1 - n) * ours)


@given(graded)
def test_the_gradients_of_a_list_sum_to_0(data):
    scores, labels = map(double, data)
    for fn in (listmle_loss, plistmle_loss, unique_softmax_loss, poly1_softmax_loss):
        assert abs(gradient(fn, scores, labels).sum()) < 1e-12


@given(graded)
def test_listmle_is_never_below_what_a_measure_lost(data):
    scores, labels = map(double, data)
    worst = labels.argsort()  # ties of scores go to the worse item
    scores, labels = scores[worst], labels[worst]
    if has_order(labels, labels == labels):
        for value in (listmle_loss(scores, labels), unique_softmax_loss(scores, labels)):
            assert value >= 1 - ndcg(scores, labels) - 1e-12
            assert value >= 1 - ndcg(scores, labels, gain="linear") - 1e-12
            assert value >= 1 - mrr(scores, labels) - 1e-12


# Ties --------------------------------------------------------------------------------------------


def tie_orders(labels):
    """Labels without ties, one for every order of the tied items."""
    n = len(labels)
    for order in itertools.permutations(range(n)):
        if all(labels[a] >= labels[b] for a, b in itertools.pairwise(order)):
            yield labels_of(order)


ties = st.tuples(
    st.lists(number, min_size=4, max_size=4), st.sampled_from([[2.0, 1, 1, 0], [1.0, 0, 0, 0]])
)


@given(ties)
def test_a_group_costs_at_least_what_any_order_of_its_items_costs(data):
    scores, labels = map(double, data)
    group = listmle_loss(scores, labels)
    assert all(group >= listmle_loss(scores, y) - 1e-12 for y in tie_orders(labels))


@given(ties)
def test_stable_ties_take_the_items_as_they_stand(data):
    scores, labels = map(double, data)
    as_they_stand = labels_of(sorted(range(4), key=lambda i: -labels[i]))
    stable = listmle_loss(scores, labels, ties="stable")
    torch.testing.assert_close(stable, listmle_loss(scores, as_they_stand))


def test_random_ties_are_unbiased_for_the_mean_over_their_orders():
    scores, labels = double([0.5, 1.5, 1.0, -1.0]), double([1.0, 0.0, 0.0, 0.0])
    expected = torch.stack([listmle_loss(scores, y) for y in tie_orders(labels)])
    assert len(expected) == 6
    drawn = listmle_loss(
        scores.expand(6000, 4), labels.expand(6000, 4), ties="random", reduction="none",
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    share = (drawn[:, None] - expected).abs().lt(1e-9).double().mean(0)
    torch.testing.assert_close(share, torch.full((6,), 1 / 6).double(), rtol=0, atol=0.02)


def test_random_ties_repeat_with_their_generator():
    scores, labels = torch.randn(8, 6, generator=torch.Generator().manual_seed(1)), torch.ones(8, 6)
    labels[:, 0] = 2

    def value(seed):
        g = torch.Generator().manual_seed(seed)
        return listmle_loss(scores, labels, ties="random", generator=g)

    assert value(0) == value(0) != value(1)


def test_random_ties_leave_labels_without_ties_alone():
    scores, labels = double([0.5, 1.5, 1.0, -1.0]), double([0.0, 2.0, 1.0, -3.0])
    torch.testing.assert_close(listmle_loss(scores, labels, ties="random"),
                               listmle_loss(scores, labels))  # fmt: skip


def test_random_ties_never_see_padding():
    scores, labels = double([0.5, 1.5, 1.0, 9.0]), double([1.0, 0.0, 0.0, 0.0])
    where = torch.tensor([True, True, True, False])
    both = {round(listmle_loss(scores[:3], double(y)).item(), 9) for y in ([2, 1, 0], [2, 0, 1])}
    drawn = listmle_loss(scores.expand(99, 4), labels.expand(99, 4), where=where.expand(99, 4),
                         ties="random", reduction="none")  # fmt: skip
    assert {round(x, 9) for x in drawn.tolist()} == both


@pytest.mark.parametrize("way", ["group", "stable", "random"])
def test_labels_that_all_tie_are_not_counted(way):
    scores = double([[0.5, 1.5, 1.0], [2.0, 1.0, 0.0]])
    labels = double([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    value = listmle_loss(scores, labels, ties=way)
    torch.testing.assert_close(value, listmle_loss(scores[1], labels[1]))


def test_an_unknown_way_with_ties_is_refused():
    with pytest.raises(UnknownName, match="group"):
        listmle_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), ties="groups")


def test_a_cutoff_below_1_is_refused():
    with pytest.raises(ValueError, match="k is 0"):
        listmle_loss(torch.zeros(2), torch.tensor([1.0, 0.0]), k=0)


# Places ------------------------------------------------------------------------------------------


def test_the_weights_of_places_sum_to_1():
    for n in (2, 3, 10, 200):
        weights = place_weights("exponential", torch.ones(n, dtype=torch.bool), torch.float64)
        assert weights.sum().item() == pytest.approx(1) and (weights >= 0).all()


def test_weights_of_places_of_the_wrong_number_are_refused():
    with pytest.raises(ValueError, match="position_weights has shape"):
        plistmle_loss(torch.zeros(3), torch.arange(3.0), position_weights=torch.ones(2))


def test_weights_of_places_may_be_a_list():
    s, y = torch.tensor([0.5, 1.5, 1.0]), torch.tensor([2.0, 1.0, 0.0])
    given = plistmle_loss(s, y, position_weights=[3.0, 1.0, 0.0])
    assert given == plistmle_loss(s, y, position_weights=torch.tensor([3.0, 1.0, 0.0]))


def test_a_function_of_places_has_to_give_one_weight_each():
    with pytest.raises(ValueError, match="position_weights has shape"):
        plistmle_loss(torch.zeros(3), torch.arange(3.0), position_weights=lambda places: 1.0)


@pytest.mark.parametrize("epsilon", [-1.5, math.nan])
def test_an_epsilon_that_rewards_errors_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon is .*; expected -1 or more"):
        poly1_softmax_loss(torch.zeros(3), torch.ones(3), epsilon=epsilon)


def test_an_unknown_kind_of_weights_is_refused():
    with pytest.raises(UnknownName, match="exponential"):
        plistmle_loss(torch.zeros(3), torch.arange(3.0), position_weights="exponent")


def test_an_unknown_gain_is_refused():
    with pytest.raises(UnknownName, match="linear"):
        unique_softmax_loss(torch.zeros(3), torch.arange(3.0), gain="line")


def test_a_negative_virtual_label_is_refused():
    with pytest.raises(ValueError, match="virtual_label is -1"):
        calibrated_softmax_loss(torch.zeros(3), torch.arange(3.0), virtual_label=-1.0)


# Ordered sums ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@given(graded)
def test_sums_and_logarithms_agree(tied, data):
    scores, labels = map(double, data)
    levels, where = label_levels(labels), torch.arange(len(labels)) != 1
    values, slopes = [], []
    for fn in (_through_sums, _through_logs):
        values.append(fn(scores, levels, where, tied))
        slopes.append(gradient(lambda s, fn=fn: fn(s, levels, where, tied), scores))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*slopes)


@pytest.mark.parametrize("scale", [1.0, 24.9, 25.1, 199.0, 201.0, 1e4])
@pytest.mark.parametrize("fn", [listmle_loss, plistmle_loss, unique_softmax_loss])
def test_no_border_shows_between_the_ways_of_summing(fn, scale):
    g = torch.Generator().manual_seed(0)
    scores = torch.rand(8, 12, generator=g) * 2 - 1
    scores = scale * scores / scores.abs().max()
    labels = torch.randint(0, 4, (8, 12), generator=g).float()
    single, exact = fn(scores, labels), fn(scores.double(), labels.double())
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=1e-6)
    slopes = gradient(fn, scores, labels), gradient(fn, scores.double(), labels.double())
    torch.testing.assert_close(slopes[0].double(), slopes[1], rtol=1e-3, atol=1e-5)


def test_grades_and_other_labels_get_levels_in_one_order():
    labels = torch.tensor([[3.0, 0, 1, 1, 0], [0, 0, 0, 0, 0], [5, 4, 3, 2, 1]])
    same = [label_levels(x).argsort(dim=-1, stable=True) for x in (labels, labels / 7 - 2)]
    assert torch.equal(*same)
    ranks = label_levels(labels / 7 - 2)
    assert torch.equal(ranks[:, :, None] > ranks[:, None], labels[:, :, None] > labels[:, None])


def test_padding_takes_no_places():
    labels, values = torch.tensor([[-1.0, -2.0, 0.0, -2.0]]), torch.tensor([[8.0, 4.0, 2.0, 1.0]])
    where = torch.tensor([[True, True, False, True]])
    means = tied_means(values, label_levels(labels), where)
    assert means[0, [0, 1, 3]].tolist() == [8, 3, 3]


def test_time_grows_no_faster_than_the_list():
    scores, labels = torch.randn(1, 200_000), torch.randn(1, 200_000)  # 160 GB if it made pairs
    assert listmle_loss(scores, labels).isfinite()


# Bugs seen elsewhere -----------------------------------------------------------------------------


def test_a_settled_pair_costs_nothing():
    value = listmle_loss(torch.tensor([60.0, 0.0]), torch.tensor([1.0, 0.0])).item()
    assert value == pytest.approx(math.exp(-60))  # allRank: 36.97


def test_a_list_far_below_its_best_item_is_still_ordered():
    scores = double([80.0, 0.0, 1.0]).requires_grad_()
    value = listmle_loss(scores, double([2.0, 1.0, 0.0]))
    value.backward()
    assert value.item() == pytest.approx(math.log1p(math.e))
    assert scores.grad[1].item() == pytest.approx(-math.e / (1 + math.e))


@pytest.mark.parametrize("size", [30.0, 60.0, 1e3, 1e4])
def test_a_badly_inverted_pair_still_gets_a_gradient(size):
    for fn in (listmle_loss, plistmle_loss, unique_softmax_loss):
        slopes = gradient(fn, torch.tensor([0.0, size]), torch.tensor([1.0, 0.0]))
        torch.testing.assert_close(slopes, torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    "fn",
    [listmle_loss, plistmle_loss, unique_softmax_loss, poly1_softmax_loss, calibrated_softmax_loss],
)
def test_padding_never_enters_the_normaliser(fn):
    scores, labels = double([-3.0, -5.0, -4.0]), double([2.0, 0.0, 1.0])
    alone = fn(scores, labels)
    for width in (4, 30):
        where = torch.arange(width) < 3
        pad = torch.zeros(width - 3, dtype=torch.float64)
        padded = [torch.cat([x, pad]).requires_grad_() for x in (scores, labels)]
        value = fn(padded[0], padded[1].detach(), where=where)
        torch.testing.assert_close(value, alone)
        (g,) = torch.autograd.grad(value, padded[0])
        torch.testing.assert_close(g[:3], gradient(fn, scores, labels))


@pytest.mark.parametrize("fn", [listmle_loss, plistmle_loss])
def test_labels_are_never_ignored_for_the_order_of_the_input(fn):
    scores, labels = double([0.3, 1.2, -0.5, 0.8]), double([0.0, 2.0, 1.0, 3.0])
    assert fn(scores, labels) != fn(scores, labels.flip(0))
    torch.testing.assert_close(fn(scores, labels), fn(scores.flip(0), labels.flip(0)))


@pytest.mark.parametrize("fn", [listmle_loss, plistmle_loss, unique_softmax_loss])
def test_a_list_of_one_stays_connected_to_the_graph(fn):
    scores = torch.tensor([[3.0]], requires_grad=True)
    value = fn(scores, torch.tensor([[1.0]]))
    assert value.requires_grad and value == 0
    value.backward()
    assert scores.grad.tolist() == [[0.0]]


def test_places_are_weighed_by_the_lists_own_length():
    scores, labels = double([[0.5, 1.5, 1.0, 0.0, 0.0]]), double([[2.0, 1.0, 0.0, 0.0, 0.0]])
    where = torch.tensor([[True, True, True, False, False]])
    rounds = -scores[0, :3].log_softmax(0)[0], -scores[0, 1:3].log_softmax(0)[0]
    expected = (3 * rounds[0] + 1 * rounds[1]) / 4  # 2³⁻ʳ - 1 over 2³ - 1 - 3
    torch.testing.assert_close(plistmle_loss(scores, labels, where=where), expected)


@pytest.mark.parametrize("n", [128, 200, 2000])
def test_long_lists_do_not_overflow(n):
    scores, labels = torch.linspace(-1, 1, n), torch.arange(float(n))
    for fn in (listmle_loss, plistmle_loss):
        assert fn(scores, labels).isfinite() and gradient(fn, scores, labels).isfinite().all()


# Variants of the softmax loss --------------------------------------------------------------------


@given(graded)
def test_poly1_lies_between_the_softmax_loss_and_epsilon_more(data):
    scores, labels = map(double, data)
    plain, ours = softmax_loss(scores, labels), poly1_softmax_loss(scores, labels, epsilon=2.0)
    assert plain - 1e-12 <= ours <= plain + 2
    torch.testing.assert_close(poly1_softmax_loss(scores, labels, epsilon=0.0), plain)


@given(scored)
def test_poly1_of_one_relevant_item_is_at_most_one_plus_epsilon_softmax_losses(scores):
    scores, one = double(scores), torch.eye(len(scores), dtype=torch.float64)[0]
    ours = poly1_softmax_loss(scores, one, epsilon=2.0)
    assert ours <= 3 * softmax_loss(scores, one) + 1e-12


@given(scored)
def test_unique_softmax_of_one_relevant_item_is_the_softmax_loss(scores):
    scores, one = double(scores), torch.eye(len(scores), dtype=torch.float64)[0]
    torch.testing.assert_close(unique_softmax_loss(scores, one), softmax_loss(scores, one))


@given(scored, st.permutations(range(6)))
def test_contests_without_ties_are_the_rounds_of_listmle(scores, order):
    scores, labels = double(scores), double(order[: len(scores)])
    contests = rival_costs(scores, label_levels(labels), torch.ones(len(scores), dtype=torch.bool))
    torch.testing.assert_close(contests.sum(), listmle_loss(scores, labels))


@given(graded, st.sampled_from([0.0, 0.3, 2.0]))
def test_calibrated_softmax_is_the_softmax_loss_with_a_virtual_item(data, virtual):
    scores, labels = map(double, data)
    if labels.sum() + virtual > 0:
        longer = torch.cat([scores, double([0.0])]), torch.cat([labels, double([virtual])])
        ours = calibrated_softmax_loss(scores, labels, virtual_label=virtual)
        torch.testing.assert_close(ours, softmax_loss(*longer, normalize=False))


@given(st.lists(st.integers(1, 30).map(lambda x: x / 10), min_size=1, max_size=5),
       st.sampled_from([0.2, 1.0, 4.0]))  # fmt: skip
def test_calibrated_softmax_rests_at_the_log_ratio_of_labels(labels, virtual):
    labels = double(labels)
    slopes = gradient(calibrated_softmax_loss, (labels / virtual).log(), labels,
                      virtual_label=virtual)  # fmt: skip
    assert slopes.abs().max() < 1e-12
