"""Values of every loss against the references, on random ragged lists and batches."""

import math

import pytest
import references
import torch
from batches import batch, tensors
from families import ABSOLUTE, LISTS, PAIRS, ROWS, TIES_BY_POSITION, WHOLE, case_id
from hypothesis import given
from hypothesis import strategies as st

from rankbench.cards import cards, find
from rankbench.checks import ITEM_KEYWORDS

# Data, and what all losses share; what is drawn from a generator has tests of its own.
SHARED = {"where", "weights", "reduction", "negatives", "negatives_where", "positives", "exclude",
          "documents_where", "guide_negatives", "generator", "chunk_size", "gather",
          "projection",
          *ITEM_KEYWORDS}  # fmt: skip
TWO_SIDED = [name for name in PAIRS if find(name).signature == "embeddings"]


def grid(table):
    return [
        pytest.param(name, fn, settings, id=case_id(name, s))
        for name, (fn, many) in table.items()
        for s in many
        for settings in [s]
    ]


def allowed(card, scores):
    """Scores as a loss takes them: log-probabilities are below 0."""
    if card.signature != "log_probs":
        return scores
    top = max(x for row in scores for x in row)
    return [[x - top - 0.5 for x in row] for row in scores]


@st.composite
def ragged_lists(draw, card):
    """Scores, labels and mask; coarse numbers, so that ties are common."""
    kind = card.labels
    count, width = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    score = st.integers(-32, 32).map(lambda x: x / 8)
    label = {
        "binary": st.sampled_from([0.0, 1.0]),
        "graded": st.integers(0, 3).map(float),
        "ranking": st.integers(0, 5).map(float),
        "teacher": st.integers(-12, 12).map(lambda x: x / 4),
    }[kind]

    def rows(item):
        return st.lists(
            st.lists(item, min_size=width, max_size=width), min_size=count, max_size=count
        )

    weights = draw(st.none() | st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=count,
                                        max_size=count))  # fmt: skip
    item = {"relevance": st.sampled_from([0.0, 1.0]),
            "ref_log_probs": st.integers(-40, -1).map(lambda x: x / 8),
            "cringe": st.integers(0, 24).map(lambda x: x / 8)}  # fmt: skip
    items = {k: draw(rows(v)) for k, v in item.items()
             if k in card.settings and draw(st.booleans())}  # fmt: skip
    return (
        allowed(card, draw(rows(score))),
        draw(rows(label)),
        draw(rows(st.booleans())),
        weights,
        draw(st.sampled_from(["mean", "sum", "none"])),
        items,
    )


def close(ours, expected, rtol=1e-9):
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(ours.double(), expected, rtol=rtol, atol=1e-10)


def double(x):
    return None if x is None else torch.tensor(x, dtype=torch.float64)


def mask(x):
    return None if x is None else torch.tensor(x, dtype=torch.bool)


@pytest.mark.parametrize(("name", "reference", "settings"), grid(LISTS))
def test_a_list_loss_equals_its_reference(name, reference, settings):
    card = find(name)

    @given(ragged_lists(card))
    def compare(data):
        scores, labels, where, weights, reduction, items = data
        ours = card.fn(double(scores), double(labels), where=mask(where), weights=double(weights),
                       reduction=reduction, **{k: double(v) for k, v in items.items()},
                       **settings)  # fmt: skip
        expected = references.on_lists(reference, scores, labels, where, weights, reduction,
                                       items, **settings)  # fmt: skip
        close(ours, expected)

    compare()


@pytest.mark.parametrize(("name", "reference", "settings"), grid(PAIRS))
def test_a_loss_on_embeddings_equals_its_reference(name, reference, settings):
    card = find(name)

    @given(st.randoms(use_true_random=False), st.sampled_from(["mean", "sum", "none"]))
    def compare(r, reduction):
        data, keywords = batch(card, r)
        whole = card.name in WHOLE and reduction == "none"
        reduced = {"reduction": "mean" if whole else reduction}
        inputs, known = tensors(card, data, keywords)
        close(card.fn(*inputs, **known, **settings, **reduced),
              reference(*data, **keywords, **settings, **reduced))  # fmt: skip

    compare()


@pytest.mark.parametrize(("name", "reference", "settings"), grid(ROWS))
def test_a_regularizer_equals_its_reference(name, reference, settings):
    card = find(name)
    number = st.sampled_from([-1.5, -0.5, 0.0, 0.0, 0.25, 1.0])
    rows = st.integers(1, 4).flatmap(
        lambda n: st.tuples(
            st.lists(st.lists(number, min_size=3, max_size=3), min_size=n, max_size=n),
            st.none() | st.lists(st.booleans(), min_size=n, max_size=n),
        )
    )

    @given(rows, st.sampled_from(["mean", "sum", "none"]))
    def compare(data, reduction):
        activations, where = data
        known = {"where": mask(where)}
        if "weights" not in card.settings:  # one value per batch
            close(card.fn(double(activations), **known, **settings),
                  reference(activations, where, **settings))  # fmt: skip
            return
        weights = [1.0, 3.0, 0.5, 2.0][: len(activations)]
        ours = card.fn(double(activations), **known, weights=double(weights), reduction=reduction,
                       **settings)  # fmt: skip
        close(ours, references.on_rows(reference, activations, where, weights, reduction,
                                       **settings))  # fmt: skip

    compare()


# Completeness -----------------------------------------------------------------------------------

TABLES = {**LISTS, **PAIRS, **ROWS}


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_loss_has_a_reference(card):
    assert card.name in TABLES, f"add a reference of {card.name} in families/"


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_every_setting_is_compared(card):
    compared = {k for settings in TABLES[card.name][1] for k in settings}
    assert set(card.settings) - SHARED == compared


# Corners ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LISTS)
def test_a_single_item_equals_the_reference(name):
    card = find(name)
    label = {"binary": 1.0, "graded": 2.0, "ranking": 2.0, "teacher": -0.7}[card.labels]
    scores = allowed(card, [[0.3]])
    expected = references.on_lists(TABLES[name][0], scores, [[label]], [[True]])
    close(card.fn(double(scores), double([[label]])), expected)


@pytest.mark.parametrize("name", LISTS)
def test_a_single_item_stays_connected_to_the_graph(name):
    card = find(name)
    scores = double(allowed(card, [[0.3]])).requires_grad_()
    (gradient,) = torch.autograd.grad(card.fn(scores, double([[1.0]])), scores)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("name", LISTS)
def test_equal_labels_equal_the_reference(name, label):
    card = find(name)
    scores, labels = allowed(card, [[0.5, -1.0, 2.0]]), [[label] * 3]
    expected = references.on_lists(TABLES[name][0], scores, labels, [[True] * 3])
    close(card.fn(double(scores), double(labels)), expected)


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("name", LISTS)
def test_equal_labels_stay_connected_to_the_graph(name, label):
    card = find(name)
    scores = double(allowed(card, [[0.5, -1.0, 2.0]])).requires_grad_()
    value = card.fn(scores, torch.full((1, 3), label, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(value, scores)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LISTS)
def test_tied_scores_equal_the_reference(name):
    card = find(name)
    scores, labels = allowed(card, [[1.0, 1.0, 1.0, 0.0]]), [[1.0, 0.0, 1.0, 0.0]]
    expected = references.on_lists(TABLES[name][0], scores, labels, [[True] * 4])
    close(card.fn(double(scores), double(labels)), expected)


@pytest.mark.parametrize("name", [name for name in LISTS if name not in TIES_BY_POSITION])
def test_tied_items_of_one_label_get_one_gradient(name):
    card = find(name)
    scores = double(allowed(card, [[1.0, 1.0, 1.0, 0.0]])).requires_grad_()
    card.fn(scores, double([[1.0, 0.0, 1.0, 0.0]])).backward()
    assert scores.grad[0, 0] == scores.grad[0, 2]


@pytest.mark.parametrize("order", [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], ids=["right", "wrong"])
@pytest.mark.parametrize("name", LISTS)
def test_huge_scores_equal_the_reference(name, order):
    card = find(name)
    scores, labels = allowed(card, [[1e4, 0.0, -1e4]]), [order]
    expected = references.on_lists(TABLES[name][0], scores, labels, [[True] * 3])
    close(card.fn(double(scores), double(labels)), expected)


@pytest.mark.parametrize("name", LISTS)
def test_no_mask_means_that_all_items_are_real(name):
    card = find(name)
    scores = double(allowed(card, [[0.5, -1.0, 2.0]]))
    labels = double([[1.0, 0.0, 0.0]])
    with_mask = card.fn(scores, labels, where=torch.ones(1, 3, dtype=torch.bool))
    assert card.fn(scores, labels) == with_mask


@pytest.mark.parametrize("name", LISTS)
def test_integer_labels_mean_what_floats_mean(name):
    card = find(name)
    scores, labels = double(allowed(card, [[0.5, -1.0, 2.0]])), torch.tensor([[1, 0, 0]])
    assert card.fn(scores, labels) == card.fn(scores, labels.double())


@pytest.mark.parametrize("name", LISTS)
def test_any_number_of_leading_axes_counts_lists(name):
    card = find(name)
    scores = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = scores - 5 if card.signature == "log_probs" else scores
    labels = double([1.0, 0.0, 1.0, 0.0]).expand(2, 3, 4)
    ours = card.fn(scores, labels, reduction="none")
    flat = card.fn(scores.flatten(0, 1), labels.flatten(0, 1), reduction="none")
    torch.testing.assert_close(ours, flat.view(2, 3))


@pytest.mark.parametrize("name", LISTS)
def test_a_batch_without_lists_costs_nothing(name):
    card = find(name)
    scores = torch.zeros(0, 4, requires_grad=True)
    assert card.fn(scores, torch.zeros(0, 4)).item() == 0


@pytest.mark.parametrize("name", LISTS)
def test_lists_without_slots_cost_nothing(name):
    card = find(name)
    scores = torch.zeros(2, 0, requires_grad=True)
    assert card.fn(scores, torch.zeros(2, 0)).item() == 0


@pytest.mark.parametrize("name", LISTS)
def test_the_weight_of_a_list_without_items_is_ignored(name):
    card = find(name)
    scores = double(allowed(card, [[0.5, -1.0], [3.0, 4.0]]))
    labels = double([[1.0, 0.0], [1.0, 0.0]])
    where = mask([[True, True], [False, False]])
    weighted = card.fn(scores, labels, where=where, weights=double([2.0, 100.0]))
    close(weighted, card.fn(scores[0], labels[0]).item())


@pytest.mark.parametrize("name", [c.name for c in cards("distillation", signature="scores")])
def test_no_gradient_reaches_the_teacher(name):
    card = find(name)
    scores = double([[0.5, -1.0, 2.0]]).requires_grad_()
    teacher = double([[1.0, 0.0, 0.3]]).requires_grad_()
    card.fn(scores, teacher).backward()
    assert teacher.grad is None or not teacher.grad.any()


@pytest.mark.parametrize("name", [name for name in TWO_SIDED if name not in ABSOLUTE])
def test_one_pair_alone_teaches_nothing(name):
    card = find(name)
    queries = double([[1.0, 2.0]]).requires_grad_()
    documents = double([[0.5, -1.0]]).requires_grad_()
    gradients = torch.autograd.grad(card.fn(queries, documents), (queries, documents))
    assert all(g.abs().max() < 1e-12 for g in gradients)


@pytest.mark.parametrize("name", [n for n in TWO_SIDED if "similarity" in find(n).settings])
def test_zero_vectors_get_a_finite_value_and_no_gradient(name):
    card = find(name)
    queries = double([[0.0, 0.0], [1.0, 2.0]]).requires_grad_()
    documents = double([[0.5, -1.0], [0.0, 0.0]]).requires_grad_()
    value = card.fn(queries, documents, temperature=0.5)
    close(value, TABLES[name][0](queries.tolist(), documents.tolist(), temperature=0.5))
    gradients = torch.autograd.grad(value, (queries, documents))
    assert not gradients[0][0].any() and not gradients[1][1].any()


@pytest.mark.parametrize("name", [n for n in TWO_SIDED if "temperature" in find(n).settings])
def test_a_temperature_tensor_gets_its_gradient(name):
    card = find(name)
    g = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 4, 3, generator=g, dtype=torch.float64)
    temperature = double(0.5).requires_grad_()

    def fn(t):
        return card.fn(queries, documents, temperature=t)

    assert torch.autograd.gradcheck(fn, (temperature,))


def test_the_joint_partition_counts_the_positive_twice():
    card = find("bidirectional_infonce")
    pair = double([[1.0, 0.0]])
    close(card.fn(pair, pair), math.log(2))


def test_two_directions_per_direction_are_the_symmetric_loss():
    card, one_way = find("bidirectional_infonce"), find("infonce")
    g = torch.Generator().manual_seed(0)
    queries, documents = torch.randn(2, 5, 3, generator=g, dtype=torch.float64)
    both = card.fn(queries, documents, temperature=0.5, partition="per_direction",
                   directions=("query_to_doc", "doc_to_query"))  # fmt: skip
    there = one_way.fn(queries, documents, temperature=0.5)
    back = one_way.fn(documents, queries, temperature=0.5)
    close(both, ((there + back) / 2).item())


def test_listnet_is_kl_plus_the_entropy_of_the_labels():
    listnet, kl = find("listnet"), find("kl")
    scores, labels = double([[0.5, -1.0, 2.0]]), double([[1.0, 0.0, 3.0]])
    entropy = -sum(math.exp(x) * x for x in references.log_softmax(labels[0].tolist()))
    close(listnet.fn(scores, labels) - kl.fn(scores, labels), entropy)


def test_flops_is_even_in_the_activations():
    card = find("flops")
    close(card.fn(double([[1.0, 0.0], [-1.0, 0.0]])), 1.0)
