"""Sums over pairs: the fast ways against loops over all pairs."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rankbench import pair_sums
from rankbench.core import UnknownName
from rankbench.pair_sums import count_pairs, cross_pair_sum, hinge_ranks, soft_ranks, sum_pairs

COSTS = ("logistic", "sigmoid", "hinge", "squared_hinge")
PAIR_WEIGHTS = ("none", "label_diff", "squared_label_diff")
SPREADS = (0.0, 1e-3, 1.0, 30.0, 1e4)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6}
LABELS = {
    "binary": lambda g, shape: (torch.rand(shape, generator=g) > 0.8).double(),
    "grades": lambda g, shape: torch.randint(0, 5, shape, generator=g).double(),
    "signed grades": lambda g, shape: torch.randint(-2, 3, shape, generator=g).double(),
    "teacher": lambda g, shape: torch.randn(shape, generator=g, dtype=torch.float64),
    "many levels with ties": lambda g, shape: torch.randint(-40, 40, shape, generator=g) / 4.0,
    "all equal": lambda g, shape: torch.ones(shape, dtype=torch.float64),
}


# Loops ------------------------------------------------------------------------------------------


def cost_and_slope(cost, margin):
    """A pair's cost and its derivative, by functions of one float that lose no digits."""
    z = math.exp(-abs(margin))
    worse = z / (1 + z) if margin > 0 else 1 / (1 + z)
    if cost == "logistic":
        return max(-margin, 0.0) + math.log1p(z), -worse
    if cost == "sigmoid":
        return worse, -z / (1 + z) ** 2
    if cost == "hinge":
        return max(1 - margin, 0.0), -1.0 if margin < 1 else 0.0
    return max(1 - margin, 0.0) ** 2, -2 * max(1 - margin, 0.0)


def loop(cost, scores, weight):
    """Σᵢ Σⱼ weight(i, j) cost(sᵢ - sⱼ) for one list, with its gradient."""
    terms, slopes = [], [[] for _ in scores]
    for i in range(len(scores)):
        for j in range(len(scores)):
            w = weight(i, j)
            if w:
                value, slope = cost_and_slope(cost, scores[i] - scores[j])
                terms.append(w * value)
                slopes[i].append(w * slope)
                slopes[j].append(-w * slope)
    return math.fsum(terms), [math.fsum(s) for s in slopes]


def loops(cost, scores, weight):
    """`loop` for each of the lists; `weight` takes the list first."""
    rows = [
        loop(cost, row, lambda i, j, r=r: weight(r, i, j)) for r, row in enumerate(scores.tolist())
    ]
    value, slope = zip(*rows, strict=True)
    return torch.tensor(value, dtype=torch.float64), torch.tensor(slope, dtype=torch.float64)


def label_weight(pair_weights, labels, where):
    def weight(r, i, j):
        y, x = labels[r][i], labels[r][j]
        if not (where[r][i] and where[r][j] and y > x):
            return 0.0
        return {"none": 1.0, "label_diff": y - x, "squared_label_diff": abs(y * y - x * x)}[
            pair_weights
        ]

    return weight


# Setting ----------------------------------------------------------------------------------------


@pytest.fixture
def fast(monkeypatch):
    """The fast ways for short lists as well, with several blocks."""
    monkeypatch.setattr(pair_sums, "BORDER", 0)
    monkeypatch.setattr(pair_sums, "BLOCK", 5)
    monkeypatch.setattr(pair_sums, "FEW", 0)


def make(items, spread=1.0, dtype=torch.float64, seed=0):
    """Scores of three lists with a few ties, and a mask; the last list is padding alone."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(3, items, generator=g, dtype=torch.float64) * spread
    if items > 4:
        scores[:, 3] = scores[:, 1]
    where = torch.rand(3, items, generator=g) > 0.3
    where[2] = False
    return scores.to(dtype).requires_grad_(), where, g


def agree(found, expected, tolerance):
    """Equal up to rounding, relative to the largest."""
    assert torch.isfinite(found).all()
    gap = (found.detach().double() - expected).abs().max()
    assert gap <= tolerance * expected.abs().max(), (gap, expected.abs().max())


# Values and gradients ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("signed", [False, True])
def test_cross_sums_are_those_of_a_loop(fast, cost, spread, dtype, signed):
    scores, where, g = make(43, spread, dtype)
    left, right = torch.randn(2, 3, 43, generator=g) * where
    if not signed:
        left, right = left.abs(), right.abs()
    left, right = (x.to(dtype).requires_grad_() for x in (left, right))
    value = cross_pair_sum(cost, scores, left, right)
    slopes = torch.autograd.grad(value.sum(), (scores, left, right))
    a, b = left.tolist(), right.tolist()
    expected = loops(cost, scores.detach().double(), lambda r, i, j: a[r][i] * b[r][j])
    # Weights of both signs cancel: the digits that are left are those of the sum without signs.
    size = loops(cost, scores.detach().double(), lambda r, i, j: abs(a[r][i] * b[r][j]))[0].max()
    assert value.dtype == dtype and value.shape == (3,)
    assert (value.double() - expected[0]).abs().max() <= TOLERANCE[dtype] * size
    agree(slopes[0], expected[1], TOLERANCE[dtype])
    total = expected[0][:2]  # The sum is linear in either weight.
    for weights, slope in ((left, slopes[1]), (right, slopes[2])):
        again = (weights * slope).sum(-1)[:2].double()
        assert (again - total).abs().max() <= TOLERANCE[dtype] * size


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("pair_weights", PAIR_WEIGHTS)
@pytest.mark.parametrize("cost", COSTS)
def test_label_sums_are_those_of_a_loop(fast, monkeypatch, cost, pair_weights, labels, dtype):
    scores, where, g = make(37, 2.0, dtype)
    labels = LABELS[labels](g, (3, 37)).to(dtype)
    weight = label_weight(pair_weights, labels.double().tolist(), where.tolist())
    expected = loops(cost, scores.detach().double(), weight)
    for way in ("level", "halving", "plain"):
        monkeypatch.setattr(pair_sums, "_way", lambda *_, way=way: way)
        monkeypatch.setattr(pair_sums, "BORDER", 0)
        value = sum_pairs(cost, scores, labels, where, pair_weights)
        (slope,) = torch.autograd.grad(value.sum(), scores)
        assert value.dtype == dtype and value.shape == (3,)
        agree(value, expected[0], TOLERANCE[dtype])
        agree(slope, expected[1], TOLERANCE[dtype])


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("labels", ["grades", "teacher"])
@pytest.mark.parametrize("cost", COSTS)
def test_label_sums_hold_for_scores_of_any_size(fast, cost, labels, spread):
    scores, where, g = make(37, spread)
    labels = LABELS[labels](g, (3, 37))
    value = sum_pairs(cost, scores, labels, where, "squared_label_diff")
    (slope,) = torch.autograd.grad(value.sum(), scores)
    weight = label_weight("squared_label_diff", labels.tolist(), where.tolist())
    expected = loops(cost, scores.detach(), weight)
    agree(value, expected[0], 1e-12)
    agree(slope, expected[1], 1e-12)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("spread", (0.0, 1e-2, 1.0, 30.0, 3e3))
def test_soft_ranks_are_those_of_a_loop(fast, spread, dtype):
    scores, where, g = make(43, spread, dtype)
    among = torch.rand(3, 43, generator=g) > 0.4
    pull = torch.randn(3, 43, generator=g).to(dtype)
    ranks = soft_ranks(scores, where, 0.5, among)
    (slope,) = torch.autograd.grad((pull * ranks).sum(), scores)
    scaled = scores.detach().double() / 0.5
    rivals, has, pulls = (where & among).tolist(), where.tolist(), pull.double().tolist()
    for i in range(43):
        row = loops("sigmoid", scaled, lambda r, k, j, i=i: float(
            k == i != j and has[r][i] and rivals[r][j]))[0]  # fmt: skip
        agree(ranks[:, i], 1 + row, TOLERANCE[dtype])
    expected = loops(
        "sigmoid", scaled, lambda r, i, j: pulls[r][i] * (has[r][i] and rivals[r][j] and i != j)
    )
    agree(slope, expected[1] / 0.5, 3 * TOLERANCE[dtype])


@pytest.mark.parametrize("spread", (0.0, 1e-2, 1.0, 30.0, 1e4))
def test_hinge_ranks_are_those_of_a_loop(fast, spread):
    scores, where, g = make(43, spread)
    pull = torch.randn(3, 43, generator=g, dtype=torch.float64)
    ranks = hinge_ranks(scores, where, 0.7)
    value = (pull * (ranks - 1)).sum(-1)
    (slope,) = torch.autograd.grad(value.sum(), scores)
    has, pulls = where.tolist(), pull.tolist()
    expected = loops(
        "hinge",
        scores.detach() / 0.7,
        lambda r, i, j: pulls[r][i] * (has[r][i] and has[r][j] and i != j),
    )
    agree(value, expected[0], 1e-11)
    agree(slope, expected[1] / 0.7, 1e-12)
    assert (ranks[~where] == 1).all()


@pytest.mark.parametrize("labels", LABELS)
def test_pairs_are_counted_as_in_a_loop(labels):
    _, where, g = make(41)
    labels = LABELS[labels](g, (3, 41))
    weight = label_weight("none", labels.tolist(), where.tolist())
    expected = [sum(weight(r, i, j) for i in range(41) for j in range(41)) for r in range(3)]
    assert count_pairs(labels, where).tolist() == expected


# The border -------------------------------------------------------------------------------------


@pytest.mark.parametrize("items", (511, 512, 513, 600))
def test_nothing_changes_where_the_border_is_crossed(items, monkeypatch):
    scores, where, g = make(items)
    scores, where = scores[:1].detach().requires_grad_(), where[:1]
    labels = LABELS["grades"](g, (1, items))
    mine, grades = where.double(), labels * where
    sums = {
        **{cost: lambda c=cost: cross_pair_sum(c, scores, mine, grades) for cost in COSTS},
        **{f"labels {cost}": lambda c=cost: sum_pairs(c, scores, labels, where) for cost in COSTS},
        "soft": lambda: (soft_ranks(scores, where) * labels).sum(-1),
        "hinge": lambda: (hinge_ranks(scores, where) * labels).sum(-1),
    }
    for name, fn in sums.items():
        found = fn()
        found = found, *torch.autograd.grad(found.sum(), scores)
        with monkeypatch.context() as context:
            context.setattr(pair_sums, "BORDER", 2**40)
            expected = fn()
            expected = expected, *torch.autograd.grad(expected.sum(), scores)
        for a, b in zip(found, expected, strict=True):
            assert (a - b).abs().max() <= 1e-12 * b.abs().max(), name


@pytest.mark.parametrize("items", (1, 2, 4, 5, 6, 10, 11, 16, 17))
def test_lists_of_any_length_fit_into_blocks(fast, items):
    scores, where, g = make(items)
    where[2, 0] = True
    labels = LABELS["many levels with ties"](g, (3, items))
    expected = loops(
        "logistic", scores.detach(), label_weight("label_diff", labels.tolist(), where.tolist())
    )
    value = sum_pairs("logistic", scores, labels, where, "label_diff")
    assert torch.allclose(value, expected[0], rtol=1e-12, atol=0)


def test_there_may_be_no_list_at_all(fast):
    scores, where = torch.zeros(0, 40, requires_grad=True), torch.ones(0, 40, dtype=torch.bool)
    labels = torch.zeros(0, 40)
    assert cross_pair_sum("logistic", scores, labels, labels).shape == (0,)
    assert sum_pairs("hinge", scores, labels, where).shape == (0,)
    assert soft_ranks(scores, where).shape == hinge_ranks(scores, where).shape == (0, 40)
    assert count_pairs(labels, where).shape == (0,)


@pytest.mark.parametrize("shape", [(0,), (2, 0), (0, 0)])
def test_lists_may_have_no_item(shape):
    scores, where = torch.zeros(shape, requires_grad=True), torch.ones(shape, dtype=torch.bool)
    labels = torch.zeros(shape)
    for cost in COSTS:
        assert not cross_pair_sum(cost, scores, labels, labels).any()
        assert not sum_pairs(cost, scores, labels, where).any()
    assert soft_ranks(scores, where).shape == hinge_ranks(scores, where).shape == shape
    assert not count_pairs(labels, where).any()


def test_leading_axes_are_kept(fast):
    scores, where, g = make(12)
    labels = LABELS["grades"](g, (3, 12))
    one = sum_pairs("logistic", scores[0], labels[0], where[0])
    many = sum_pairs(
        "logistic", *(x.expand(2, 4, *x.shape).contiguous() for x in (scores, labels, where))
    )
    assert one.shape == () and many.shape == (2, 4, 3)
    assert torch.allclose(many[1, 2, 0], one, rtol=1e-14)
    assert soft_ranks(scores.expand(2, 3, 12), where.expand(2, 3, 12)).shape == (2, 3, 12)
    assert soft_ranks(scores[0], where[0]).shape == (12,)


def test_what_padding_holds_does_not_matter(fast):
    scores, where, g = make(23)
    labels = LABELS["teacher"](g, (3, 23))
    other = torch.where(where, scores, 50.0), torch.where(where, labels, -9.0), where
    for cost in COSTS:
        found, expected = sum_pairs(cost, *other), sum_pairs(cost, scores, labels, where)
        assert torch.allclose(found, expected, rtol=1e-12, atol=0)
    ranks = soft_ranks(scores, where)
    assert torch.allclose(soft_ranks(other[0], where), ranks, rtol=1e-12)
    assert (ranks[~where] == 1).all()
    assert count_pairs(*other[1:]).equal(count_pairs(labels, where))


# Derivatives ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cost", ("logistic", "sigmoid"))
def test_first_and_second_derivatives_are_those_of_finite_differences(fast, cost):
    g = torch.Generator().manual_seed(0)
    scores, left, right = (
        torch.randn(2, 7, generator=g, dtype=torch.float64).requires_grad_() for _ in range(3)
    )
    labels, where = LABELS["grades"](g, (2, 7)), torch.rand(2, 7, generator=g) > 0.2
    fns = (
        (lambda s, a, b: cross_pair_sum(cost, s, a, b), (scores, left, right)),
        (lambda s: sum_pairs(cost, s, labels, where), (scores,)),
        (lambda s, t: soft_ranks(s, where, t), (scores, torch.tensor(0.8).double())),
    )
    for fn, inputs in fns:
        inputs = [x.detach().requires_grad_() for x in inputs]
        assert torch.autograd.gradcheck(fn, inputs)
        assert torch.autograd.gradgradcheck(fn, inputs)


def test_only_what_asks_for_a_gradient_has_a_second_one(fast):
    scores, where, _ = make(9)
    right = where.double().requires_grad_()
    value = cross_pair_sum("logistic", scores.detach(), where.double(), right)
    (slope,) = torch.autograd.grad(value.sum(), right, create_graph=True)
    assert slope.shape == right.shape


def test_a_temperature_has_a_gradient_above_the_border():
    scores, where, g = make(600)
    tau = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    pull = torch.randn(3, 600, generator=g, dtype=torch.float64)

    def fn(t):
        return (soft_ranks(scores, where, t) * pull).sum()

    (slope,) = torch.autograd.grad(fn(tau), tau)
    with torch.no_grad():
        ahead, behind = fn(tau + 1e-5), fn(tau - 1e-5)
    assert torch.isclose(slope, (ahead - behind) / 2e-5, rtol=1e-7)


def test_a_settled_pair_costs_exactly_nothing(fast):
    scores = torch.arange(40.0, 0, -1).mul(1e4).requires_grad_()
    labels = torch.arange(40.0, 0, -1)
    value = sum_pairs("logistic", scores, labels, torch.ones(40, dtype=torch.bool))
    (slope,) = torch.autograd.grad(value, scores)
    assert value == 0 and not slope.any()


def test_automatic_mixed_precision_does_not_cost_digits(fast):
    scores, where, g = make(43, dtype=torch.float32)
    labels = LABELS["grades"](g, (3, 43)).float()
    expected = sum_pairs("logistic", scores, labels, where)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sum_pairs("logistic", scores, labels, where)
        ranks = soft_ranks(scores, where)
    assert found.equal(expected) and ranks.equal(soft_ranks(scores, where))


# The compiler, memory, errors -------------------------------------------------------------------


@pytest.mark.parametrize("cost", COSTS)
def test_the_fast_ways_compile_into_one_graph(fast, cost, without_shape_checks):
    scores, where, g = make(43)
    labels = LABELS["signed grades"](g, (3, 43))
    mine = torch.randn(3, 43, generator=g, dtype=torch.float64).requires_grad_()

    def fn(scores, mine):
        total = cross_pair_sum(cost, scores, mine, 1 - mine)
        total = total + sum_pairs(cost, scores, labels, where, "squared_label_diff")
        ranks = soft_ranks(scores, where, 0.5) if cost == "sigmoid" else hinge_ranks(scores, where)
        return total + (ranks * labels).sum(-1) + count_pairs(labels, where)

    torch.compiler.reset()
    expected, found = fn(scores, mine), torch.compile(fn, fullgraph=True, backend="aot_eager")
    found = found(scores, mine)
    agree(found, expected.detach(), 1e-12)
    slopes = [torch.autograd.grad(x.sum(), (scores, mine)) for x in (found, expected)]
    for slope, wanted in zip(*slopes, strict=True):
        agree(slope, wanted, 1e-12)


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        stored = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        sizes = [x.untyped_storage().nbytes() // x.element_size() for x in stored]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("items", (2000, 4000))
@pytest.mark.parametrize("labels", ["binary", "grades", "teacher"])
def test_no_table_of_all_pairs_is_ever_made(items, labels):
    scores, where, g = make(items)
    labels = LABELS[labels](g, (3, items))
    mine = where.double()
    fns = (
        lambda: cross_pair_sum("logistic", scores, mine, mine),
        lambda: sum_pairs("sigmoid", scores, labels, where),
        lambda: sum_pairs("squared_hinge", scores, labels, where, "label_diff"),
        lambda: soft_ranks(scores, where),
        lambda: hinge_ranks(scores, where),
    )
    for fn in fns:
        with Largest() as largest:
            fn().sum().backward()
        assert largest.elements <= 3 * items * 160  # Against 3 · items².
    with Largest() as largest:
        count_pairs(labels, where)
    assert largest.elements <= 3 * items * 4


def test_a_few_better_items_need_a_few_rows_only():
    scores, where, _ = make(3000)
    labels = torch.zeros(3, 3000, dtype=torch.float64)
    labels[:, 7], where[:, 7] = 1, True
    with Largest() as largest:
        sum_pairs("logistic", scores, labels, where).sum().backward()
    assert largest.elements <= 3 * 3000 * 4


@pytest.mark.parametrize("border", (0, 2**40))
def test_unknown_names_are_refused(fast, monkeypatch, border, without_shape_checks):
    monkeypatch.setattr(pair_sums, "BORDER", border)
    scores, where, _ = make(12)
    with pytest.raises(UnknownName, match="unknown cost 'logistics'; did you mean logistic"):
        cross_pair_sum("logistics", scores, scores, scores)
    with pytest.raises(UnknownName, match="unknown pair_weights 'label_dif'; did you mean label"):
        sum_pairs("logistic", scores, scores, where, "label_dif")


@pytest.mark.parametrize("shape", pair_sums.SHAPES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_series_is_right_to_the_last_digits(shape, dtype):
    z = torch.linspace(0, 1, 1001, dtype=torch.float64)
    exact = {"log": z.log1p(), "share": z / (1 + z), "slope": z / (1 + z) ** 2}[shape]
    series = pair_sums._series(shape, pair_sums.POWERS[dtype])
    found = sum(c * z**k for k, c in enumerate(series, 1))
    rounding = torch.finfo(torch.float64).eps * sum(abs(c) for c in series)
    assert ((found - exact).abs() <= (2 * torch.finfo(dtype).eps + rounding) * exact).all()


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_ranks_refuse_a_steepness_that_is_not_positive(value):
    scores, where = torch.zeros(3), torch.ones(3, dtype=torch.bool)
    with pytest.raises(ValueError, match="temperature is .*; expected a number above 0"):
        soft_ranks(scores, where, value)
    with pytest.raises(ValueError, match="margin is .*; expected a number above 0"):
        hinge_ranks(scores, where, value)
