"""Tiles against the whole matrix: value, gradient, memory, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from rankbench.bench import peak_bytes
from rankbench.candidates import Candidates
from rankbench.checks import autograd, finite_differences
from rankbench.late_interaction import maxsim
from rankbench.losses import bidirectional_infonce_loss, infonce_loss
from rankbench.scaling.tiling import (
    FEWEST,
    SMALL,
    TILE,
    product,
    reduce_rows,
    row_weights,
    rows_per_tile,
    softmax_rows,
    softmax_slopes,
)


def draw(*shape, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype).requires_grad_()


def coins(*shape, share=0.3, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < share


def agree(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# How many rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [0, -3, True, False, 2.5, 0.0, math.nan])
def test_what_is_no_number_of_rows_is_refused(chunk_size, without_shape_checks):
    with pytest.raises(ValueError) as error:
        infonce_loss(draw(3, 2), draw(3, 2), chunk_size=chunk_size)
    expected = f"chunk_size is {chunk_size!r}; expected a whole number of rows above 0, "
    assert str(error.value) == expected + "'auto' or None."


def test_another_word_than_auto_is_refused(without_shape_checks):
    with pytest.raises(ValueError) as error:
        infonce_loss(draw(3, 2), draw(3, 2), chunk_size="huge")
    assert str(error.value) == "unknown chunk_size 'huge'; did you mean auto?"


def test_none_means_no_tiles_whatever_the_size():
    assert rows_per_tile(None, 10**6, 10**6) is None


@pytest.mark.parametrize("chunk_size", [1, 7, 10**9])
def test_a_number_means_that_number(chunk_size):
    assert rows_per_tile(chunk_size, 5, 5) == chunk_size


def test_small_matrices_are_not_cut():
    side = math.isqrt(SMALL)
    assert rows_per_tile("auto", side, side) is None
    assert rows_per_tile("auto", side, side + 1) is not None


@given(st.integers(1, 2**20), st.integers(1, 2**20))
def test_a_tile_holds_no_more_than_it_should(rows, columns):
    cut = rows_per_tile("auto", rows, columns)
    if cut is not None:
        assert cut * columns <= TILE or cut == FEWEST


def test_several_matrices_share_one_tile():
    seen, batch = [], 1200

    def values(blocks, rows):
        seen.append(sum(b.numel() for b in blocks))
        return sum(b.sum(1) for b in blocks)

    x, y = draw(batch, 2).detach(), draw(batch, 2, seed=1).detach()
    reduce_rows(values, [(x, y)] * 4)
    assert len(seen) > 1 and max(seen) <= TILE


# The softmax loss of rows -----------------------------------------------------------------------


def masks(rows=6, columns=9):
    positive = coins(rows, columns) | torch.eye(rows, columns, dtype=torch.bool)
    return positive, positive | coins(rows, columns, share=0.6, seed=1)


def test_an_index_says_what_a_mask_says():
    scores, index = draw(6, 9), torch.tensor([0, 8, 3, 3, 1, 5])
    mask = torch.nn.functional.one_hot(index, 9).bool()
    agree([softmax_rows(scores, index)], [softmax_rows(scores, mask)])
    agree([softmax_rows(scores, mask)], [softmax_rows(scores, mask, torch.ones_like(mask))])


def test_the_softmax_loss_is_that_of_a_plain_loop():
    scores, (positive, where) = draw(6, 9).detach(), masks()
    for i, value in enumerate(softmax_rows(scores, positive, where).tolist()):
        row = list(zip(scores[i].tolist(), positive[i].tolist(), where[i].tolist(), strict=True))
        good = [s for s, p, _ in row if p]
        total = math.fsum(math.exp(s) for s, _, w in row if w)
        assert value == pytest.approx(math.log(total) - math.fsum(good) / len(good), rel=1e-12)


@pytest.mark.parametrize("kind", ["index", "mask", "mask without hidden columns"])
def test_slopes_are_the_gradient(kind):
    positive, where = masks()
    known = {"index": (torch.arange(6) + 2,), "mask": (positive, where)}.get(kind, (positive,))
    scores, total = draw(6, 9).detach(), lambda s: softmax_rows(s, *known).sum()
    values, slopes = softmax_slopes(scores.clone(), *known)
    agree([values, slopes], [softmax_rows(scores, *known), autograd(total, scores)], 1e-12)
    agree([slopes], [finite_differences(total, scores)], 1e-7)


def test_slopes_of_a_row_sum_to_zero():
    _, slopes = softmax_slopes(draw(6, 9).detach(), *masks())
    agree([slopes.sum(1)], [torch.zeros(6).double()], 1e-14)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_a_small_loss_beside_large_scores_keeps_its_digits(shift):
    scores = torch.tensor([[0.0, -8.0]]) + shift
    (value,), _ = softmax_slopes(scores.clone(), torch.tensor([0]))
    assert value.item() == pytest.approx(math.log1p(math.exp(-8)), rel=1e-3)


def test_a_row_without_candidates_is_finite():
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    values, slopes = softmax_slopes(draw(2, 3).detach(), nothing, nothing)
    assert values.isfinite().all() and slopes.isfinite().all()


# Tiles against the whole matrix -----------------------------------------------------------------

SETTINGS = {
    "plain": {},
    "exclusions": {"exclude": coins(11, 11)},
    "ids": {"exclude": torch.arange(11) // 2},
    "two ids": {"exclude": torch.stack([torch.arange(11) // 2, torch.arange(11) % 4], 1)},
    "positives": {"positives": coins(11, 11)},
    "positives and exclusions": {"positives": coins(11, 11), "exclude": coins(11, 11, seed=1)},
    "union": {"positives": coins(11, 11), "multi_positive": "union"},
    "isolated": {"positives": coins(11, 11), "multi_positive": "isolated"},
    "weights": {"weights": torch.arange(11.0)},
    "no weight at all": {"weights": torch.zeros(11)},
    "dot": {"similarity": "dot", "temperature": 1.0},
    "hardness": {"hardness": "all", "hardness_strength": 3.0},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "none with weights": {"reduction": "none", "weights": torch.arange(11.0)},
    "scale of 200": {"temperature": 0.005},
    "scale of 10000": {"temperature": 1e-4},
}
NEGATIVES = {
    "no hard negatives": (0, None), "hard negatives": (2, None), "ragged": (2, coins(11, 2)),
    "no real one": (1, torch.zeros(11, 1, dtype=torch.bool)),
}  # fmt: skip


def run(chunk_size, batch=11, negatives="no hard negatives", loss=infonce_loss, **settings):
    k, real = NEGATIVES[negatives]
    leaves = [draw(batch, 5), draw(batch, 5, seed=1)]
    if k:
        leaves.append(draw(batch, k, 5, seed=2))
        settings |= {"negatives": leaves[2], "negatives_where": real}
    value = loss(*leaves[:2], chunk_size=chunk_size, **settings)
    upstream = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view_as(value)
    return [value, *torch.autograd.grad(value, leaves, upstream)]


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("settings", SETTINGS)
def test_tiles_equal_the_whole_matrix(settings, negatives):
    whole = run(None, negatives=negatives, **SETTINGS[settings])
    assert all(x.isfinite().all() for x in whole)
    for chunk_size in (1, 4, 10, 11, 100):
        agree(run(chunk_size, negatives=negatives, **SETTINGS[settings]), whole)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_several_matrices_equal_the_whole(reduction):
    whole = run(None, loss=bidirectional_infonce_loss, reduction=reduction)
    for chunk_size in (1, 4, 100):
        agree(run(chunk_size, loss=bidirectional_infonce_loss, reduction=reduction), whole)


@pytest.mark.parametrize("chunk_size", [None, 1, 5])
def test_one_pair_alone_has_nothing_to_learn(chunk_size):
    value, *gradients = run(chunk_size, batch=1)
    assert value == 0 and not any(g.any() for g in gradients)


@pytest.mark.parametrize("chunk_size", [None, 5])
@pytest.mark.parametrize("temperature", [0.005, 1e-4])
def test_large_scores_do_not_overflow_in_single_precision(temperature, chunk_size):
    x, y = draw(32, 4, dtype=torch.float32), draw(32, 4, seed=1, dtype=torch.float32)
    value = infonce_loss(x, y, temperature=temperature, chunk_size=chunk_size)
    exact = infonce_loss(x.double(), y.double(), temperature=temperature, chunk_size=None)
    gradients = torch.autograd.grad(value, (x, y))
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    assert all(g.isfinite().all() for g in gradients)


def test_auto_cuts_a_large_batch_and_changes_nothing():
    x, y = (draw(1600, 4, seed=s, dtype=torch.float32) for s in (0, 1))
    assert rows_per_tile("auto", 1600, 1600) < 1600
    both = [infonce_loss(x, y, chunk_size=c) for c in ("auto", None)]
    found = [(v.detach(), *torch.autograd.grad(v, (x, y))) for v in both]
    agree(*found, tolerance=1e-5)


def slow_softmax(scores, positive, where, rows):
    return softmax_rows(scores, positive, where)


def test_the_gradient_that_is_brought_along_is_that_of_autograd():
    positive, where = masks(6, 6)
    x, y = draw(6, 3), draw(6, 3, seed=1)
    lists = Candidates(x, y, lambda rows: (positive[rows], where[rows]))
    weights, both = torch.arange(6.0), []
    for apply in (lists.cross_entropy, lambda **k: lists.reduce(slow_softmax, **k)):
        value = apply(weights=weights, chunk_size=4)
        both.append([value.detach(), *torch.autograd.grad(value, (x, y))])
    agree(*both)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_rows_that_do_not_count_have_no_part(reduction):
    counted, positive = torch.tensor([True, False, True]), torch.eye(3, dtype=torch.bool)
    both = []
    for chunk_size in (None, 1, 2):
        x, y = draw(3, 2), draw(3, 2, seed=1)
        where = torch.ones(3, 3, dtype=torch.bool)
        lists = Candidates(x, y, lambda rows, w=where: (positive[rows], w[rows]))
        value = lists.cross_entropy(counted, reduction=reduction, chunk_size=chunk_size)
        both.append([value.detach(), *torch.autograd.grad(value.sum(), (x, y))])
    agree(both[0], both[1])
    agree(both[0], both[2])
    assert not both[0][1][1].any() and both[0][1][0].any()


def test_weights_of_rows_may_be_learned():
    slopes = []
    for chunk_size in (None, 3):
        weights = torch.linspace(1, 2, 8, dtype=torch.float64, requires_grad=True)
        value = infonce_loss(draw(8, 3), draw(8, 3, seed=1), weights=weights, chunk_size=chunk_size)
        slopes += torch.autograd.grad(value, weights)
    assert slopes[0].any()
    agree(slopes[:1], slopes[1:])


@pytest.mark.parametrize("wanted", [0, 1])
def test_only_one_side_may_ask_for_a_gradient(wanted):
    slopes = []
    for chunk_size in (None, 3):
        sides = [draw(8, 3, seed=s).detach() for s in (0, 1)]
        sides[wanted].requires_grad_()
        slopes += torch.autograd.grad(infonce_loss(*sides, chunk_size=chunk_size), sides[wanted])
    agree(slopes[:1], slopes[1:])


def test_one_tensor_may_be_both_sides():
    slopes = []
    for chunk_size in (None, 3):
        x = draw(8, 3)
        slopes += torch.autograd.grad(infonce_loss(x, x, chunk_size=chunk_size), x)
    agree(slopes[:1], slopes[1:])


def test_what_is_done_with_the_value_reaches_the_gradient():
    slopes = []
    for chunk_size in (None, 3):
        x = draw(8, 3)
        value = infonce_loss(x, draw(8, 3, seed=1), chunk_size=chunk_size)
        slopes += torch.autograd.grad(3 * value.square() + value, x)
    agree(slopes[:1], slopes[1:])


def test_a_graph_that_is_kept_can_be_used_twice():
    x = draw(8, 3)
    value = infonce_loss(x, draw(8, 3, seed=1), chunk_size=3)
    first = torch.autograd.grad(value, x, retain_graph=True)
    agree(first, torch.autograd.grad(value, x))


def test_values_are_copies_when_a_loss_returns_a_view_of_its_scores():
    x, y = draw(5, 3), draw(5, 3, seed=1)
    values = reduce_rows(lambda s, rows: s[0][:, 0], [(x, y)], reduction="none", chunk_size=2)
    agree([values], [(x @ y.T)[:, 0]])


# Euler ------------------------------------------------------------------------------------------


def slope_of_temperature(chunk_size, similarity):
    """The slope, and ⟨x, dx⟩ of the queries, documents and hard negatives."""
    leaves = [torch.nn.functional.normalize(draw(11, 5, seed=s).detach(), dim=-1) for s in range(3)]
    q, d, n = (x.requires_grad_() for x in leaves)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    settings = {"similarity": similarity, "temperature": tau, "chunk_size": chunk_size}
    value = infonce_loss(q, d, negatives=n[:, None], **settings)
    slope, *gradients = torch.autograd.grad(value, (tau, q, d, n))
    return slope, [(x * g).sum() for x, g in zip((q, d, n), gradients, strict=True)]


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_the_slope_of_the_temperature_follows_from_those_of_the_embeddings(chunk_size):
    slope, inner = slope_of_temperature(chunk_size, "dot")
    agree([slope], [-sum(inner) / (2 * 0.3)])
    agree([slope], [-inner[0] / 0.3])


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_normalizing_takes_the_radial_part_of_the_gradient_away(chunk_size):
    slope, inner = slope_of_temperature(chunk_size, "cosine")
    agree([slope], [slope_of_temperature(chunk_size, "dot")[0]])
    agree(inner, [torch.zeros((), dtype=torch.float64)] * 3, 1e-12)


# What is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_second_derivatives_are_refused_with_the_remedy(reduction):
    x = draw(6, 3)
    value = infonce_loss(x, draw(6, 3, seed=1), chunk_size=2, reduction=reduction).sum()
    with pytest.raises(RuntimeError, match="second derivatives need chunk_size=None"):
        torch.autograd.grad(value, x, create_graph=True)


def test_every_kind_of_tile_refuses_in_the_same_words():
    x, y, said = draw(6, 3), draw(6, 3, seed=1), set()
    tokens = draw(2, 3, 3), draw(4, 2, 3, seed=1)
    for value, leaf in (
        (infonce_loss(x, y, chunk_size=2), x),
        (bidirectional_infonce_loss(x, y, chunk_size=2), x),
        (maxsim(*tokens, chunk_size=2).sum(), tokens[0]),
    ):
        with pytest.raises(RuntimeError) as error:
            torch.autograd.grad(value, leaf, create_graph=True)
        said.add(str(error.value))
    assert said == {"the scores of tiles are gone: second derivatives need chunk_size=None."}


def test_second_derivatives_exist_without_tiles():
    x, y = draw(4, 3), draw(4, 3, seed=1).detach()
    assert torch.autograd.gradgradcheck(lambda x: infonce_loss(x, y, chunk_size=None), x)


def test_functional_transforms_need_the_whole_matrix(without_shape_checks):
    x, y = draw(4, 3).detach(), draw(4, 3, seed=1).detach()
    slope = torch.func.grad(lambda x: infonce_loss(x, y, chunk_size=None))
    agree([slope(x)], torch.autograd.grad(infonce_loss(x.requires_grad_(), y), x))
    with pytest.raises(RuntimeError, match=r"autograd\.Function"):
        torch.func.grad(lambda x: infonce_loss(x, y, chunk_size=2))(x.detach())


# Autocast ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [True, False], ids=["backward inside", "backward outside"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("chunk_size", [None, 16])
def test_autocast_touches_no_digit(chunk_size, reduction, inside):
    def found(enabled):
        x, y = (draw(40, 8, seed=s, dtype=torch.float32) for s in (0, 1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            values = infonce_loss(x, y, chunk_size=chunk_size, reduction=reduction)
            value = values.sum()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled and inside):
            return values.detach(), *torch.autograd.grad(value, (x, y))

    assert all(torch.equal(a, b) for a, b in zip(found(True), found(False), strict=True))


def test_a_product_under_autocast_has_second_derivatives():
    def under_autocast(x, y):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return product(x, y)

    sides = draw(2, 3, 4), draw(2, 2, 4, seed=1)
    assert torch.autograd.gradcheck(under_autocast, sides)
    assert torch.autograd.gradgradcheck(under_autocast, sides)


# Time and memory --------------------------------------------------------------------------------


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


MEMORY = {
    "plain": {},
    "ids": {"exclude": torch.arange(600) // 2},
    "hardness": {"hardness": "all", "hardness_strength": 3.0},
    "none": {"reduction": "none"},
}


@pytest.mark.parametrize("settings", MEMORY)
@pytest.mark.parametrize("count", [0, 1])
def test_no_table_of_the_batch_is_ever_made(settings, count, without_shape_checks):
    x, y, n = draw(600, 4), draw(600, 4, seed=1), draw(600, 1, 4, seed=2)
    with Largest() as seen:
        infonce_loss(x, y, negatives=n if count else None, chunk_size=10,
                     **MEMORY[settings]).sum().backward()  # fmt: skip
    assert seen.elements <= 10 * 600 * (1 + count)


def kept(chunk_size, **settings):
    seen = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: seen.append(x.numel()) or x, lambda x: x
    )
    with hooks:
        infonce_loss(draw(100, 4), draw(100, 4, seed=1), chunk_size=chunk_size, **settings)
    return max(seen)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_only_what_has_the_size_of_embeddings_is_kept(reduction):
    assert kept(10, reduction=reduction) <= 100 * 4 < kept(None, reduction=reduction)


def test_memory_grows_with_the_batch_and_not_with_its_square():
    def peak(batch, chunk_size):
        x, y = (draw(batch, 16, seed=s, dtype=torch.float32) for s in (0, 1))
        return peak_bytes(lambda: infonce_loss(x, y, chunk_size=chunk_size).backward())

    tiled, whole = ([peak(b, c) for b in (500, 1000)] for c in (16, None))
    assert tiled[1] / tiled[0] < 2.2 and whole[1] / whole[0] > 3.5
    assert tiled[1] < 4 * 1000 * (3 * 16 + 12 * 16)  # Three tiles and a dozen embeddings.


def added_product(total, a, b, **_):
    return 2 * a[0] * a[1] * b[1]


@pytest.mark.parametrize(
    ("units", "settings", "grad"),
    [
        (3, {"chunk_size": None}, True), (3, {"chunk_size": 10}, True),
        (4, {"chunk_size": 10, "reduction": "none"}, True), (1, {"chunk_size": 10}, False),
    ],
)  # fmt: skip
def test_so_many_matrix_products_are_made(units, settings, grad):
    x, y = draw(64, 8), draw(64, 8, seed=1)
    mapping = {torch.ops.aten.addmm_: added_product}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        with torch.set_grad_enabled(grad):
            value = infonce_loss(x, y, **settings).sum()
        if grad:
            value.backward()
    assert counter.get_total_flops() == units * 2 * 64 * 64 * 8


# The weight of a row ----------------------------------------------------------------------------


def test_weights_of_rows_sum_to_one_unless_there_are_none():
    like, counted = torch.zeros(3, 2), torch.tensor([True, False, True])
    assert row_weights(None, like).tolist() == pytest.approx([1 / 3] * 3)
    assert row_weights(counted, like).tolist() == [0.5, 0, 0.5]
    assert row_weights(counted, like, torch.tensor([1, 5, 3])).tolist() == [0.25, 0, 0.75]
    assert row_weights(None, like, torch.zeros(3)).tolist() == [0, 0, 0]


def test_weights_of_another_number_are_refused(without_shape_checks):
    with pytest.raises(ValueError, match=r"weights has shape \(2,\) but there are rows of shape"):
        row_weights(None, torch.zeros(3, 2), torch.ones(2))


def test_an_unknown_reduction_is_refused(without_shape_checks):
    with pytest.raises(ValueError, match="unknown reduction 'men'; did you mean mean"):
        infonce_loss(draw(3, 2), draw(3, 2), reduction="men", chunk_size=2)
