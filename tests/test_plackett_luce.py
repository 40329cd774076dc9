"""What is special about losses on the orders that a teacher draws.

Statistical bounds are Hoeffding's: a mean of S numbers from a range r is further than ε from its
expectation with probability at most 2 exp(-2 S ε² / r²). A test allows 1e-9 for a false alarm,
shared out among its comparisons. The seeds are fixed, so a test that passed once passes always.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.losses import (
    coupled_rank_distil_loss,
    kl_loss,
    listmle_loss,
    listnet_loss,
    pld_loss,
    plistmle_loss,
    ranknet_loss,
    softmax_loss,
)
from rankbench.losses.plackett_luce import teacher_levels
from rankbench.losses.rank_distil import drawn_levels, mixed, own_uniforms

number = st.integers(-24, 24).map(lambda x: x / 8)
FALSE_ALARM = 1e-9


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def lists(n=None, distinct=True):
    """Scores and a teacher's scores of one list."""
    sizes = st.integers(2, 6) if n is None else st.just(n)
    return sizes.flatmap(
        lambda n: st.tuples(
            st.lists(number, min_size=n, max_size=n).map(double),
            st.lists(number, min_size=n, max_size=n, unique=distinct).map(double),
        )
    )


def close(a, b, **more):
    torch.testing.assert_close(a, b, **more)


def gradient(fn, scores):
    scores = scores.clone().requires_grad_()
    return torch.autograd.grad(fn(scores).sum(), scores)[0]


def probability(order, scores):
    w = scores[list(order)].exp()
    return (w / w.flip(0).cumsum(0).flip(0)).prod().item()


def orders(n):
    return list(itertools.permutations(range(n)))


def labels_of(order):
    """Labels that ask for an order."""
    labels = torch.empty(len(order), dtype=torch.float64)
    labels[list(order)] = torch.arange(len(order), 0, -1, dtype=torch.float64)
    return labels


def deviation(samples, width, comparisons=1):
    return width * math.sqrt(math.log(2 * comparisons / FALSE_ALARM) / (2 * samples))


# Plackett-Luce distillation -----------------------------------------------------------------------


@given(lists())
def test_a_sure_teacher_is_the_softmax_loss_of_its_choice(data):
    scores, teacher = data
    best = (teacher == teacher.max()).double()
    close(pld_loss(scores, teacher, teacher_temperature=1e-3), softmax_loss(scores, best))


@given(lists())
def test_a_sure_teacher_against_the_label_leaves_one_round(data):
    scores, teacher = data
    best, true = teacher.argmax(), (teacher == teacher.min()).double()
    left = scores[true == 0].logsumexp(0) - scores[best]
    close(pld_loss(scores, teacher, relevance=true, teacher_temperature=1e-3), left)


@given(lists(distinct=False))
def test_a_teacher_without_confidence_is_listmle_over_n(data):
    scores, teacher = data
    flat = pld_loss(scores, teacher, teacher_temperature=1e12)
    close(flat, listmle_loss(scores, teacher) / len(scores), rtol=1e-9, atol=1e-9)


@given(lists(2))
def test_two_items_are_a_ranknet_pair_with_the_teachers_confidence(data):
    scores, teacher = data
    expected = teacher.softmax(0).max() * ranknet_loss(scores, teacher)
    close(pld_loss(scores, teacher), expected)


@given(lists(), st.integers(0, 5))
def test_the_first_round_is_a_weighted_softmax_loss_and_the_rest_a_shorter_list(data, true):
    scores, teacher = data
    true = true % len(scores)
    relevance = torch.zeros_like(scores)
    relevance[true] = 1
    q, rest = teacher.softmax(0)[true], relevance == 0
    first = q * softmax_loss(scores, relevance)
    others = (1 - q) * pld_loss(scores[rest], teacher[rest])
    close(pld_loss(scores, teacher, relevance=relevance), first + others)


@given(lists())
def test_the_teachers_confidence_by_place_makes_plistmle(data):
    scores, teacher = data
    by_place = teacher.softmax(0).sort(descending=True).values
    close(pld_loss(scores, teacher), plistmle_loss(scores, teacher, position_weights=by_place))


@given(lists(distinct=False))
def test_it_is_never_above_the_cross_entropy_with_the_same_weights(data):
    scores, teacher = data
    cross_entropy = -(teacher.softmax(0) * scores.log_softmax(0)).sum()
    assert pld_loss(scores, teacher) <= cross_entropy + 1e-12


@given(lists(distinct=False))
def test_the_gradients_of_a_list_sum_to_0(data):
    scores, teacher = data
    for fn in (pld_loss, coupled_rank_distil_loss):
        assert abs(gradient(lambda s, fn=fn: fn(s, teacher), scores).sum()) < 1e-12


@given(lists(distinct=False))
def test_the_gradient_is_the_boxed_one(data):
    scores, teacher = data
    q = teacher.softmax(0)
    draw = torch.where(teacher <= teacher[:, None], scores, -torch.inf).softmax(-1)
    ordered = float(teacher.min() < teacher.max())
    expected = ordered * ((q[:, None] * draw).sum(0) - q)
    close(gradient(lambda s: pld_loss(s, teacher), scores), expected)


@given(lists())
def test_the_right_order_goes_to_0_with_growing_margins(data):
    _, teacher = data
    order = teacher.argsort().argsort().double()
    values = [pld_loss(c * order, teacher).item() for c in (1, 10, 100)]
    assert values[0] > values[1] > values[2] >= 0 and values[2] < 1e-12


@given(lists())
def test_the_first_item_is_never_pushed_down(data):
    scores, teacher = data
    assert gradient(lambda s: pld_loss(s, teacher), scores)[teacher.argmax()] <= 0


@given(lists(), number)
def test_the_teachers_zero_means_nothing(data, shift):
    scores, teacher = data
    close(pld_loss(scores, teacher + shift), pld_loss(scores, teacher))
    scaled = pld_loss(scores, 4 * (teacher + shift), teacher_temperature=4.0)
    close(scaled, pld_loss(scores, teacher))


@given(lists(), st.permutations(range(6)))
def test_relevance_counts_through_its_order_only(data, grades):
    scores, teacher = data
    relevance = double(grades[: len(scores)]) // 2
    expected = pld_loss(scores, teacher, relevance=relevance)
    assert pld_loss(scores, teacher, relevance=relevance**3 / 7 - 1) == expected
    assert pld_loss(scores, teacher, relevance=relevance.long()) == expected


def test_relevance_that_ties_everywhere_changes_nothing():
    scores, teacher = double([0.5, 1.5, 1.0]), double([4.0, 2.0, 1.0])
    assert pld_loss(scores, teacher, relevance=torch.ones(3)) == pld_loss(scores, teacher)


def test_relevance_gives_an_order_to_a_teacher_without_one():
    scores, true = double([0.5, 1.5, 1.0]), double([0.0, 1.0, 0.0])
    assert pld_loss(scores, torch.zeros(3)) == 0
    tail = (scores[[0, 2]].logsumexp(0) * 2 - scores[0] - scores[2]) / 3
    expected = softmax_loss(scores, true) / 3 + tail
    close(pld_loss(scores, torch.zeros(3), relevance=true), expected)


def test_a_label_that_the_teacher_finds_unlikely_nearly_vanishes():
    scores, teacher = double([0.5, 1.5, 1.0]), double([9.0, 2.0, 0.0])
    true = double([0.0, 0.0, 1.0])
    q, p = teacher.softmax(0)[2], scores.softmax(0)[2]
    push = gradient(lambda s: pld_loss(s, teacher, relevance=true), scores)[2]
    close(push, -q * (1 - p))
    assert -1e-3 < push < 0


def test_the_order_of_two_keys_holds_for_long_lists():
    n = 5000
    g = torch.Generator().manual_seed(0)
    teacher = torch.randperm(n, generator=g).float()
    relevance = torch.randint(0, 2, (n,), generator=g)
    levels = teacher_levels(teacher, relevance, torch.ones(n, dtype=torch.bool))
    expected = sorted(range(n), key=lambda i: (relevance[i].item(), teacher[i].item()))
    assert levels.argsort().tolist() == expected


@given(lists(4), st.permutations(range(4)))
def test_tied_items_may_stand_anywhere(data, order):
    scores, _ = data
    teacher, order = double([1.0, 0.0, 0.0, -1.0]), list(order)
    close(pld_loss(scores[order], teacher[order]), pld_loss(scores, teacher))


@given(lists(4))
def test_a_group_costs_at_least_what_either_order_of_its_items_costs(data):
    scores, _ = data
    teacher = double([1.0, 0.0, 0.0, -1.0])
    q = teacher.softmax(0).tolist()
    for order in ((0, 1, 2, 3), (0, 2, 1, 3)):
        one = plistmle_loss(scores, labels_of(order), position_weights=q)
        assert pld_loss(scores, teacher) >= one - 1e-12


def test_a_forbidden_item_has_no_round_of_its_own():
    scores = double([0.5, 1.5, 1.0]).requires_grad_()
    value = pld_loss(scores, double([2.0, 1.0, -math.inf]))
    value.backward()
    assert value.isfinite() and scores.grad.isfinite().all() and scores.grad[2] > 0


# RankDistil ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 3, 4])
def test_all_orders_together_are_an_entropy_and_a_divergence(n):
    g = torch.Generator().manual_seed(n)
    scores, teacher = torch.randn(2, n, generator=g, dtype=torch.float64)
    p = {o: probability(o, teacher) for o in orders(n)}
    cost = {o: listmle_loss(scores, labels_of(o)).item() for o in orders(n)}
    expected = sum(p[o] * cost[o] for o in p)
    entropy = -sum(p[o] * math.log(p[o]) for o in p)
    divergence = sum(p[o] * math.log(p[o] / probability(o, scores)) for o in p)
    assert expected == pytest.approx(entropy + divergence) and divergence > 0


@pytest.mark.parametrize("noise", ["own", "drawn"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("topk", [None, 1, 2])
def test_the_loss_is_unbiased(noise, ties, topk):
    g = torch.Generator().manual_seed(0)
    scores, teacher = torch.randn(2, 3, generator=g, dtype=torch.float64)
    teacher = double([1.0, 0.0, 1.0]) if ties else teacher
    cost = {o: listmle_loss(scores, labels_of(o), k=topk).item() for o in orders(3)}
    expected = sum(probability(o, teacher / 0.7) * cost[o] for o in cost)
    samples, width = 100_000, max(cost.values()) - min(cost.values())
    ours = coupled_rank_distil_loss(scores, teacher, samples=samples, topk=topk, temperature=0.7,
                                    generator=None if noise == "own" else g)  # fmt: skip
    assert abs(ours.item() - expected) < deviation(samples, width)


@pytest.mark.parametrize("noise", ["own", "drawn"])
@pytest.mark.parametrize("teacher", [[1.0, 0.0, -1.0, 0.5], [0.0, 0.0, 0.0, 0.0], [1.0, 0, 1, 0]])
def test_every_order_is_drawn_as_often_as_the_teacher_would(noise, teacher):
    teacher, samples = double(teacher), 100_000
    g = None if noise == "own" else torch.Generator().manual_seed(0)
    levels = drawn_levels(teacher, torch.ones(4, dtype=torch.bool), samples, 1.0, g)
    code = (levels.argsort(-1, descending=True) * torch.tensor([64, 16, 4, 1])).sum(-1)
    for o in orders(4):
        share = (code == 64 * o[0] + 16 * o[1] + 4 * o[2] + o[3]).double().mean().item()
        assert abs(share - probability(o, teacher)) < deviation(samples, 1, comparisons=24)


def test_a_few_samples_of_many_lists_are_unbiased_too():
    g, count = torch.Generator().manual_seed(0), 50_000
    scores = double([0.5, -0.5, 0.0]).expand(count, 3)
    shift = torch.randn(count, 1, generator=g, dtype=torch.float64)  # other bits, same draws
    teacher = double([1.0, 0.0, -1.0]) + shift
    cost = {o: listmle_loss(scores[0], labels_of(o)).item() for o in orders(3)}
    expected = sum(probability(o, teacher[0]) * cost[o] for o in cost)
    width = max(cost.values()) - min(cost.values())
    ours = coupled_rank_distil_loss(scores, teacher, samples=2).item()
    assert abs(ours - expected) < deviation(2 * count, width)


def test_the_expected_gradient_is_0_at_the_teachers_scores():
    teacher = double([1.0, 0.0, -1.0])
    slopes = sum(
        probability(o, teacher)
        * gradient(lambda s, o=o: listmle_loss(s, labels_of(o)), teacher)
        for o in orders(3)
    )  # fmt: skip
    assert slopes.abs().max() < 1e-12


@given(lists(distinct=False))
def test_one_place_in_expectation_is_the_cross_entropy_of_listnet(data):
    scores, teacher = data
    exact = coupled_rank_distil_loss(scores, teacher, samples=None, topk=1, temperature=0.5)
    q = (teacher / 0.5).softmax(0)
    close(exact, listnet_loss(scores, teacher / 0.5))
    close(exact, kl_loss(scores, teacher, teacher_temperature=0.5) - (q * q.log()).sum())


@given(lists(), st.integers(1, 6))
def test_a_cold_teacher_is_listmle_of_its_order(data, k):
    scores, teacher = data
    cold = coupled_rank_distil_loss(scores, teacher, temperature=1e-4, samples=2, topk=k)
    close(cold, listmle_loss(scores, teacher, k=k))


@given(lists(distinct=False))
def test_the_last_place_is_no_choice(data):
    scores, teacher = data
    whole = coupled_rank_distil_loss(scores, teacher)
    for k in (len(scores) - 1, len(scores), len(scores) + 3):
        close(coupled_rank_distil_loss(scores, teacher, topk=k), whole)


def test_equal_scores_pay_for_every_order_alike():
    for n in range(2, 9):
        value = coupled_rank_distil_loss(torch.zeros(n).double(), torch.arange(n).double())
        assert value.item() == pytest.approx(math.lgamma(n + 1))


def test_the_documented_number_of_tensorflow_ranking():
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]]).log()
    drawn = torch.tensor([[1.0, 0.0, 2.0], [1.0, 0.0, 2.0]])  # third, first, second
    value = coupled_rank_distil_loss(scores, drawn, samples=1, topk=2, temperature=1e-4)
    assert value.item() == pytest.approx(2.138333, abs=1e-6)


# Noise --------------------------------------------------------------------------------------------


def random_lists(count=1000, n=4, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, count, n, generator=g, dtype=dtype)


def test_without_a_generator_every_call_gives_the_same():
    scores, teacher = random_lists()
    state = torch.get_rng_state()
    first = coupled_rank_distil_loss(scores, teacher, reduction="none")
    assert torch.equal(coupled_rank_distil_loss(scores, teacher, reduction="none"), first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def test_a_generator_gives_fresh_orders_and_its_seed_the_same_again():
    scores, teacher = random_lists(20)
    g = torch.Generator().manual_seed(3)
    one, two = (coupled_rank_distil_loss(scores, teacher, generator=g) for _ in range(2))
    again = coupled_rank_distil_loss(
        scores, teacher, generator=torch.Generator().manual_seed(3)
    )  # fmt: skip
    assert one != two and one == again


def test_no_gradient_flows_through_the_draws():
    scores, teacher = random_lists(20)
    teacher.requires_grad_()
    for more in ({}, {"samples": None, "topk": 1}, {"generator": torch.Generator()}):
        value = coupled_rank_distil_loss(scores.requires_grad_(), teacher, **more)
        value.backward()
        assert teacher.grad is None and scores.grad.isfinite().all()


def test_tied_items_win_equally_often_and_the_value_goes_by_position():
    teacher, n = torch.zeros(4), 100_000
    levels = drawn_levels(teacher, torch.ones(4, dtype=torch.bool), n, 1.0, None)
    first = (levels == 3).double().mean(0)
    assert (first - 0.25).abs().max() < deviation(n, 1, comparisons=4)
    scores = double([0.0, 1.0, 2.0, 3.0])
    values = [coupled_rank_distil_loss(s, teacher, samples=1) for s in (scores, scores.flip(0))]
    assert values[0] != values[1]


def test_minus_zero_is_zero():
    scores = double([0.5, -1.0, 2.0])
    values = [coupled_rank_distil_loss(scores, double([1.0, z, 2.0])) for z in (0.0, -0.0)]
    assert values[0] == values[1]


def test_float32_and_float64_draw_the_same_orders():
    _, teacher = random_lists(dtype=torch.float32)
    where = torch.ones_like(teacher, dtype=torch.bool)
    single, double_ = (drawn_levels(t, where, 8, 1.0, None) for t in (teacher, teacher.double()))
    assert torch.equal(single, double_)


def test_lists_samples_and_items_have_noise_of_their_own():
    _, teacher = random_lists(20_000)
    uniforms = own_uniforms(teacher, torch.ones_like(teacher, dtype=torch.bool), 3)
    columns = uniforms.movedim(0, -1).flatten(1)  # [lists, items × samples]
    count = len(columns)
    assert 0 < columns.min() and columns.max() < 1
    assert (columns.mean(0) - 0.5).abs().max() < deviation(count, 1, comparisons=12)
    products = (columns - 0.5).T @ (columns - 0.5) / count  # each between -1/4 and 1/4
    off = products - torch.diag(torch.diag(products))
    assert off.abs().max() < deviation(count, 0.5, comparisons=66)
    neighbours = ((columns[1:] - 0.5) * (columns[:-1] - 0.5)).mean(0)
    assert neighbours.abs().max() < 2 * deviation(count // 2, 0.5, comparisons=24)


def test_lists_of_one_teacher_get_the_same_orders():
    teacher = double([[3.0, 1.0, 2.0], [2.0, 3.0, 1.0]])
    scores = double([[0.3, 0.1, 0.2], [0.2, 0.3, 0.1]])
    values = coupled_rank_distil_loss(scores, teacher, reduction="none")
    close(values[0], values[1])


def test_the_hash_is_a_permutation_of_whole_numbers():
    numbers = torch.arange(2**20)
    hashed = mixed(numbers)
    assert len(hashed.unique()) == len(numbers) and 0 <= hashed.min() and hashed.max() < 2**32
    assert torch.equal(mixed(numbers + 2**32), hashed)
    assert torch.equal(mixed(numbers - 2**32), hashed)


# Refusals and extremes ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": None}, "samples=None is exact for topk=1 and topk is None; set samples=8."),
        ({"samples": None, "topk": 2}, "topk is 2"),
        ({"samples": 0}, "samples is 0; expected a whole number from 1 on"),
        ({"samples": 2.5}, "samples is 2.5; expected a whole number"),
        ({"samples": 2.0}, "samples is 2.0; expected a whole number"),
        ({"samples": float("inf")}, "samples is inf; expected a whole number"),
        ({"samples": "8"}, "samples is '8'; expected a whole number"),
        ({"topk": 0}, "topk is 0; expected a whole number from 1 on"),
        ({"topk": 1.5}, "topk is 1.5; expected a whole number"),
        ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(wrong, said, without_shape_checks):
    with pytest.raises(ValueError) as error:
        coupled_rank_distil_loss(torch.zeros(3), torch.zeros(3), **wrong)
    assert said in str(error.value)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="teacher_temperature is 0"):
        pld_loss(torch.zeros(3), torch.zeros(3), teacher_temperature=0.0)


def test_relevance_of_another_shape_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"relevance has shape \(2,\) but scores has \(3,\)"):
        pld_loss(torch.zeros(3), torch.zeros(3), relevance=torch.zeros(2))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_huge_scores_of_student_and_teacher_are_finite(size):
    scores = (size * torch.tensor([1.0, -1.0, 0.5, 0.0])).requires_grad_()
    for teacher in (1e4 * torch.tensor([1.0, -1.0, 0.0, 0.5]), torch.zeros(4)):
        for fn in (pld_loss, coupled_rank_distil_loss):
            value = fn(scores, teacher)
            (slopes,) = torch.autograd.grad(value, scores)
            assert value.isfinite() and slopes.isfinite().all()
