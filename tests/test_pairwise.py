"""What other libraries get wrong about pairs, and identities between pairwise losses."""

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rankbench import losses
from rankbench.cards import cards, find
from rankbench.core import UnknownName
from rankbench.losses.ranklist import levels
from rankbench.squared_gaps import mean_squared_difference, sum_squared_errors

PAIRWISE = [card.name for card in cards(family="pairwise") if card.signature == "scores"]
MARGINS = ["hinge", "squared_hinge", "constant_margin_mse"]
# Losses of the mean over pairs with yᵢ > yⱼ, or of relevant against other items.
ORDERED = [name for name in PAIRWISE if name != "pairwise_mse"]
# Pairs that cost next to nothing once they are won.
SATURATING = ["ranknet", "hinge", "squared_hinge", "soft_zero_one", "bpr", "macro_auc", "psl",
              "ranklist"]  # fmt: skip


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def value(name, scores, labels, **settings):
    return find(name).fn(torch.as_tensor(scores).double(), torch.as_tensor(labels), **settings)


def gradient(name, scores, labels, **settings):
    scores = torch.as_tensor(scores).clone().requires_grad_()
    find(name).fn(scores, torch.as_tensor(labels), **settings).backward()
    return scores.grad


@st.composite
def graded_lists(draw, highest=3, fewest=2):
    """Scores and labels of one list, with ties."""
    n = draw(st.integers(fewest, 6))
    scores = draw(st.lists(st.integers(-40, 40).map(lambda x: x / 8), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, highest).map(float), min_size=n, max_size=n))
    return double(*scores), double(*labels)


def pairs_of(scores, labels):
    """The leads of the better items."""
    return double(
        *(si - sj for si, yi in zip(scores, labels, strict=True)
          for sj, yj in zip(scores, labels, strict=True) if yi > yj)
    )  # fmt: skip


def close(a, b, atol=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(a, dtype=torch.float64), torch.as_tensor(b, dtype=torch.float64),
        rtol=1e-9, atol=atol,
    )  # fmt: skip


# Bugs of other libraries ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ORDERED)
def test_a_batch_without_any_pair_is_zero_and_has_a_graph(name):
    """Lightning IR and allRank answer NaN."""
    scores = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    result = find(name).fn(scores, torch.ones(2, 3))
    result.backward()
    assert result == 0 and scores.grad is not None and not scores.grad.any()


@pytest.mark.parametrize("name", ORDERED)
def test_a_list_without_a_pair_is_not_averaged_over(name):
    scores, labels = double([0.5, -1.0], [0.3, 2.0]), double([1.0, 0.0], [1.0, 1.0])
    close(value(name, scores, labels), value(name, scores[0], labels[0]))


@pytest.mark.parametrize("name", MARGINS)
def test_a_whole_number_is_a_margin(name, without_shape_checks):
    """Lightning IR's MarginMSE refuses the integer 1."""
    scores, labels = double(0.5, -1.0, 0.2), double(2.0, 1.0, 0.0)
    close(value(name, scores, labels, margin=2), value(name, scores, labels, margin=2.0))


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_margin_of_minus_200_neither_overflows_nor_is_nan(name):
    """pytorchltr's logistic loss is inf there, with a NaN gradient."""
    scores, labels = torch.tensor([0.0, 200.0]), torch.tensor([1.0, 0.0])
    assert (
        value(name, scores, labels).isfinite() and gradient(name, scores, labels).isfinite().all()
    )


def test_a_badly_inverted_pair_still_gets_its_full_gradient():
    scores, labels = torch.tensor([0.0, 200.0]), torch.tensor([1.0, 0.0])
    for name in ("ranknet", "hinge", "bpr", "macro_auc", "ranklist"):
        assert gradient(name, scores, labels).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("name", ORDERED)
def test_tied_labels_are_not_pulled_together(name):
    """ptranking trains tied pairs towards a probability of one half."""
    far = gradient(name, double(50.0, 0.0, -50.0), double(1.0, 1.0, 1.0))
    assert not far.any()


@pytest.mark.parametrize("name", ["ranknet", "hinge", "squared_hinge", "soft_zero_one", "ranklist"])
def test_two_tied_items_that_both_lead_are_left_where_they_are(name):
    push = gradient(name, double(80.0, 50.0, 0.0), double(1.0, 1.0, 0.0))
    assert push.abs().max() < 1e-9


@pytest.mark.parametrize("name", PAIRWISE)
def test_a_long_list_counts_no_more_than_a_short_one(name):
    """Averages over all pairs of a batch are averages over its long lists."""
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 40, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 2, (2, 40), generator=g).double()
    labels[1, :2] = double(1.0, 0.0)
    where = torch.arange(40) < torch.tensor([[40], [2]])
    long, short = value(name, scores[0], labels[0]), value(name, scores[1, :2], labels[1, :2])
    close(value(name, scores, labels, where=where), (long + short) / 2)


def test_the_steepness_multiplies_and_the_temperature_divides():
    """Lightning IR multiplies by what it calls temperature."""
    scores, labels = double(0.5, -1.0, 0.2), double(2.0, 1.0, 0.0)
    close(value("ranknet", scores, labels, sigma=4.0), value("ranknet", 4 * scores, labels))
    for name in ("soft_zero_one", "psl"):
        labels = double(1.0, 0.0, 0.0)
        close(value(name, scores, labels, temperature=4.0), value(name, scores / 4, labels))


@pytest.mark.parametrize("name", SATURATING)
def test_a_pair_won_by_a_hundred_points_costs_nothing(name):
    assert value(name, [100.0, 0.0], [1.0, 0.0]) < 1e-9


@pytest.mark.parametrize("name", MARGINS)
@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_a_margin_that_asks_for_nothing_is_refused(name, margin):
    with pytest.raises(ValueError, match=f"margin is {margin}; expected a number above 0"):
        value(name, [1.0, 0.0], [1.0, 0.0], margin=margin)


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_a_steepness_that_turns_the_order_around_is_refused(sigma):
    with pytest.raises(ValueError, match=f"sigma is {sigma}; expected a number above 0"):
        value("ranknet", [1.0, 0.0], [1.0, 0.0], sigma=sigma)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ranknet", {"pair_weights": "labeldiff"}),
        ("macro_auc", {"surrogate": "hing"}),
        ("macro_auc", {"surrogate": "hing", "weighting": "univariate"}),
        ("macro_auc", {"weighting": "pair"}),
        ("psl", {"activation": "tan"}),
    ],
)
def test_an_unknown_choice_is_refused(name, settings, without_shape_checks):
    argument, choice = next(iter(settings.items()))
    with pytest.raises(UnknownName, match=f"unknown {argument} '{choice}'; did you mean"):
        value(name, [1.0, 0.0], [1.0, 0.0], **settings)


# Identities -------------------------------------------------------------------------------------


@given(graded_lists(), st.floats(0.1, 10))
def test_hinge_scores_and_margin_share_a_unit(data, c):
    scores, labels = data
    close(value("hinge", c * scores, labels, margin=c), c * value("hinge", scores, labels))


@given(graded_lists(), st.floats(0.1, 5))
def test_a_hinge_bounds_the_share_of_wrong_pairs(data, margin):
    scores, labels = data
    leads = pairs_of(scores, labels)
    assume(len(leads))
    wrong = (leads <= 0).double().mean()
    for name, scale in (("hinge", margin), ("squared_hinge", margin**2)):
        assert value(name, scores, labels, margin=margin) / scale >= wrong - 1e-12
    assert value("constant_margin_mse", scores, labels, margin=margin) / margin**2 >= wrong - 1e-9


@given(graded_lists(), st.floats(0.1, 5))
def test_a_squared_hinge_is_at_least_the_square_of_the_hinge(data, margin):
    hinge, squared = (value(n, *data, margin=margin) for n in ("hinge", "squared_hinge"))
    assert hinge**2 <= squared + 1e-9


@given(graded_lists(), st.floats(0.05, 2), st.booleans())
def test_a_hinge_is_zero_exactly_where_every_pair_leads_by_the_margin(data, margin, perfect):
    scores, labels = data
    scores = 2 * labels if perfect else scores
    leads = pairs_of(scores, labels)
    assume(len(leads))
    for name in ("hinge", "squared_hinge"):
        assert (value(name, scores, labels, margin=margin) == 0) == bool((leads >= margin).all())


@given(graded_lists())
def test_no_item_is_pushed_harder_than_one_by_a_hinge(data):
    assert gradient("hinge", *data).abs().max() <= 1 + 1e-12


@pytest.mark.parametrize("name", [n for n in PAIRWISE if "shift_invariant" in find(n).laws])
def test_what_pushes_one_item_up_pushes_others_down(name):
    push = gradient(name, double(0.5, 1.5, 1.0, -1.0), double(2.0, 1.0, 0.0, 0.0))
    assert push.abs().max() > 0.01 and abs(push.sum()) < 1e-12


@given(graded_lists(), st.floats(0.01, 3))
def test_a_narrow_hinge_is_the_perceptron(data, margin):
    leads = pairs_of(*data)
    assume(len(leads))
    gap = value("hinge", *data, margin=margin) - (-leads).clamp(min=0).mean()
    assert -1e-9 <= gap <= margin + 1e-9


@given(graded_lists(), st.floats(0.05, 5))
def test_soft_zero_one_is_near_the_share_of_wrong_pairs(data, temperature):
    scores, labels = data
    leads = pairs_of(scores, labels)
    assume(len(leads) and (leads != 0).all())
    distance = (value("soft_zero_one", scores, labels, temperature=temperature)
                - (leads < 0).double().mean()).abs()  # fmt: skip
    assert distance <= (-leads.abs() / temperature).exp().mean() + 1e-12


@given(graded_lists(), st.floats(0.1, 5))
def test_soft_zero_one_is_below_ranknet(data, temperature):
    soft = value("soft_zero_one", *data, temperature=temperature)
    assert soft <= value("ranknet", *data, sigma=1 / temperature) + 1e-12


@given(graded_lists(), st.floats(0.1, 10))
def test_a_steep_ranknet_is_the_perceptron(data, sigma):
    leads = pairs_of(*data)
    assume(len(leads))
    gap = value("ranknet", *data, sigma=sigma) / sigma - (-leads).clamp(min=0).mean()
    assert -1e-9 <= gap <= math.log(2) / sigma + 1e-9


@given(graded_lists(), st.sampled_from(["none", "label_diff", "squared_label_diff"]))
def test_tied_scores_cost_log_2_times_the_mean_weight(data, kind):
    _, labels = data
    power = {"none": 0, "label_diff": 1, "squared_label_diff": 2}[kind]
    weights = pairs_of(labels**power, labels) if power else torch.ones_like(pairs_of(*data))
    assume(len(weights))
    tied = value("ranknet", torch.zeros_like(labels), labels, pair_weights=kind)
    close(tied, math.log(2) * weights.mean())


@given(graded_lists())
def test_pairwise_mse_is_twice_the_variance_and_margin_mse_over_all_pairs(data):
    scores, labels = data
    close(value("pairwise_mse", scores, labels), 2 * (scores - labels).var())
    close(value("pairwise_mse", scores, labels), value("margin_mse", scores, labels))


@given(graded_lists())
def test_margin_losses_are_margin_mse_over_ordered_pairs(data):
    """So the golden values of Lightning IR, kept with margin_mse, hold for these as well."""
    scores, labels = data
    ordered = value("margin_mse", scores, labels, pairs="ordered")
    close(value("supervised_margin_mse", scores, labels), ordered)
    ordered = value("margin_mse", scores, labels, pairs="ordered", margin=1.5)
    close(value("constant_margin_mse", scores, labels, margin=1.5), ordered)


@given(graded_lists(highest=1))
def test_with_two_grades_the_supervised_margin_is_one(data):
    close(value("supervised_margin_mse", *data), value("constant_margin_mse", *data))


@given(graded_lists(highest=30))
def test_without_ties_the_supervised_margin_is_pairwise_mse(data):
    scores, labels = data
    assume(len(set(labels.tolist())) == len(labels))
    close(value("supervised_margin_mse", scores, labels), value("pairwise_mse", scores, labels))


@given(st.floats(0.1, 5), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_three_grades_cannot_be_one_margin_apart(margin, moves):
    scores = margin * double(4 / 3, 2 / 3, 0.0)
    labels = double(2.0, 1.0, 0.0)
    least = value("constant_margin_mse", scores, labels, margin=margin)
    close(least, margin**2 / 9)
    moved = value("constant_margin_mse", scores + double(*moves), labels, margin=margin)
    assert moved >= least - 1e-9


@given(graded_lists())
def test_bpr_is_ranknet_on_relevant_or_not(data):
    scores, labels = data
    close(value("bpr", scores, labels), value("ranknet", scores, (labels > 0).double()))
    close(value("macro_auc", scores, labels), value("bpr", scores, labels))


@given(graded_lists(highest=1))
def test_macro_auc_against_a_threshold_is_cross_entropy(data):
    scores, labels = data
    assume(0 < labels.sum() < len(labels))
    univariate = value("macro_auc", scores, labels, weighting="univariate")
    close(univariate, value("bce", scores, labels))
    relevant, rest = labels.sum().item(), (1 - labels).sum().item()
    reweighted = value("macro_auc", scores, labels, weighting="reweighted")
    balanced = value("bce", scores, labels, pos_weight=rest / relevant)
    close(reweighted, balanced * len(labels) / rest)


@given(graded_lists(highest=1), st.sampled_from(["logistic", "hinge", "squared_hinge", "sigmoid"]))
def test_every_surrogate_bounds_the_share_of_wrong_pairs(data, surrogate):
    leads = pairs_of(*data)
    assume(len(leads))
    scale = {"logistic": math.log(2), "sigmoid": 0.5}.get(surrogate, 1.0)
    wrong = (leads <= 0).double().mean()
    for weighting in ("pairwise", "reweighted"):
        cost = value("macro_auc", *data, surrogate=surrogate, weighting=weighting)
        assert cost / scale >= wrong - 1e-12


@given(graded_lists(highest=1), st.floats(0.2, 5))
def test_psl_with_exp_and_one_relevant_item_is_softmax(data, temperature):
    scores, labels = data
    assume(labels.sum() == 1)
    ours = value("psl", scores, labels, activation="exp", temperature=temperature)
    close(ours, value("softmax", scores, labels, temperature=temperature))


@given(graded_lists(highest=1), st.sampled_from(["tanh", "atan", "relu"]), st.floats(0.5, 3))
def test_psl_lies_between_counting_and_softmax(data, activation, robust):
    scores, labels = data
    relevant, rest = scores[labels > 0], scores[labels == 0]
    assume(len(relevant) and len(rest))
    ours = value("psl", scores, labels, activation=activation, dro_temperature=robust)
    assert ours <= value("psl", scores, labels, activation="exp", dro_temperature=robust) + 1e-12
    above = (rest >= relevant[:, None]).sum(1)
    assert ours >= (1 + above).log().mean() - 1e-6


@given(graded_lists(highest=1), st.floats(0.2, 5))
def test_tanh_psl_is_the_logarithm_of_a_smooth_rank(data, temperature):
    scores, labels = data
    relevant, rest = scores[labels > 0], scores[labels == 0]
    assume(len(relevant) and len(rest))
    smooth = torch.sigmoid((rest - relevant[:, None]) * 2 / temperature).sum(1)
    close(value("psl", scores, labels, temperature=temperature), (1 + 2 * smooth).log().mean())
    published = value("psl", scores, labels, temperature=temperature, include_positive=False)
    close(published, math.log(2) + smooth.log().mean())


def test_psl_without_the_positive_keeps_its_gradient_far_beyond_underflow():
    push = gradient("psl", double(1000.0, 0.0), double(1.0, 0.0), include_positive=False)
    close(push, double(-2.0, 2.0))


@pytest.mark.parametrize("activation", ["atan", "relu"])
def test_psl_refuses_the_logarithm_of_zero(activation):
    with pytest.raises(ValueError, match=f"{activation} can be 0"):
        value("psl", [1.0, 0.0], [1.0, 0.0], activation=activation, include_positive=False)


@pytest.mark.parametrize("activation", ["tanh", "atan", "relu", "exp"])
def test_psl_has_a_finite_gradient_where_negatives_drop_out(activation):
    for far in (0.999, 1.0, 1.5574, 2.0, 1e4):
        push = gradient("psl", double(far, 0.0, 0.0), double(1.0, 0.0, 0.0), activation=activation)
        assert push.isfinite().all()


@given(graded_lists())
def test_ranklist_with_all_skips_is_ranknet(data):
    close(value("ranklist", *data, skips=None), value("ranknet", *data))


@given(graded_lists(highest=1))
def test_ranklist_with_two_grades_is_ranknet(data):
    close(value("ranklist", *data, skips=(1, 4)), value("ranknet", *data))


@given(graded_lists(), st.sampled_from([(1,), (2,), (1, 2), None]))
def test_ranklist_in_one_logarithm_lies_between_the_worst_pair_and_all(data, skips):
    scores, labels = data
    level = {y: k for k, y in enumerate(sorted(set(labels.tolist())))}
    costs = [
        math.log1p(math.exp(sj - si))
        for si, yi in zip(scores.tolist(), labels.tolist(), strict=True)
        for sj, yj in zip(scores.tolist(), labels.tolist(), strict=True)
        if yi > yj and (skips is None or level[yi] - level[yj] in skips)
    ]
    assume(costs)
    ours = value("ranklist", scores, labels, skips=skips, lse=True)
    assert max(costs) - 1e-9 <= ours <= sum(costs) + 1e-9
    close(value("ranklist", scores, labels, skips=skips), sum(costs) / len(costs))


def test_a_strict_order_has_one_pair_of_neighbours_less_than_items():
    scores = double(3.0, 1.0, 2.0, 0.0)
    leads = double(3.0 - 2.0, 2.0 - 1.0, 1.0 - 0.0)
    ours = value("ranklist", scores, double(9.0, 2.0, 5.0, -4.0))
    close(ours, torch.nn.functional.softplus(-leads).mean())


def test_padding_between_two_labels_is_no_level():
    """Padding has label 0 inside the library, and labels may be negative."""
    labels, where = double([-1.0, 0.0, 1.0]), torch.tensor([[True, False, True]])
    assert levels(labels, where)[where].tolist() == [0, 1]
    scores = double([0.5, 9.0, -1.0])
    close(value("ranklist", scores, labels, where=where), math.log1p(math.exp(1.5)))
    close(value("ranklist", scores, labels, where=where, skips=None), math.log1p(math.exp(1.5)))


def test_a_negative_minimum_margin_is_refused():
    with pytest.raises(ValueError, match="min_margin is -1.0; expected 0 or more"):
        value("ranklist", [1.0, 0.0], [1.0, 0.0], min_margin=-1.0)


@pytest.mark.parametrize("skips", [(), (0,), (-1,), (1, 0), (1.5,), 2])
def test_skips_that_compare_nothing_are_refused(skips, without_shape_checks):
    with pytest.raises(ValueError, match="expected levels from 1 on"):
        value("ranklist", [1.0, 0.0], [1.0, 0.0], skips=skips)


# Squared differences ----------------------------------------------------------------------------


@given(graded_lists(fewest=1), st.floats(-3, 3))
def test_squared_errors_in_label_order_equal_the_sum_over_pairs(data, margin):
    values, labels = data
    everything = torch.ones_like(labels, dtype=torch.bool)
    ours = sum_squared_errors(values, labels, everything, margin)
    close(ours, (pairs_of(values, labels) - margin).square().sum())


@given(graded_lists())
def test_the_mean_over_all_pairs_is_that_of_both_directions(data):
    values, _ = data
    gaps = (values[:, None] - values[None, :]).square()
    n = len(values)
    ours = mean_squared_difference(values, torch.ones(n, dtype=torch.bool))
    close(ours, gaps.sum() / (n * (n - 1)))


def test_squared_errors_far_from_zero_keep_their_digits():
    g = torch.Generator().manual_seed(0)
    near = torch.randn(1000, generator=g)
    labels = torch.randint(0, 4, (1000,), generator=g).float()
    everything = torch.ones(1000, dtype=torch.bool)
    far = (near + 1e4).double()
    exact = (pairs_of(far.tolist(), labels.tolist()) - 1).square().sum()
    ours = sum_squared_errors(near + 1e4, labels, everything, 1.0)
    torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=0)


def test_every_pairwise_loss_is_exported():
    assert {find(name).fn.__name__ for name in PAIRWISE} <= set(losses.__all__)
