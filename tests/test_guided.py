"""Guided losses: what the guide leaves out, and what it never may."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rankbench.candidates import similarities
from rankbench.core import UnknownName
from rankbench.losses import gist_loss, infonce_loss
from rankbench.losses.guided import false_negative_mask

SEEDS = st.integers(0, 2**16)


def draw(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def batch(seed, size=5):
    return draw(2, size, 4, seed=seed).unbind() + draw(2, size, 3, seed=seed + 1).unbind()


def message(fn, *args, **kwargs):
    with pytest.raises(ValueError) as error:
        fn(*args, **kwargs)
    return str(error.value)


# The mask ---------------------------------------------------------------------------------------


@given(SEEDS, st.floats(-0.5, 0.5))
def test_the_mask_is_the_rule(seed, margin):
    scores, positive = draw(3, 4, seed=seed), draw(3, seed=seed + 1)
    absolute = false_negative_mask(scores, positive, margin=margin)
    relative = false_negative_mask(scores, positive, margin=margin, mode="relative")
    for i in range(3):
        for j in range(4):
            assert absolute[i, j] == (scores[i, j] > positive[i] - margin)
            assert relative[i, j] == (scores[i, j] > positive[i] - abs(positive[i]) * margin)


@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_margin_leaves_out_more(seed, one, other):
    scores, positive = draw(3, 4, seed=seed), draw(3, seed=seed + 1)
    small, large = (false_negative_mask(scores, positive, margin=m) for m in sorted((one, other)))
    assert (small <= large).all()


def test_an_unknown_mode_is_refused(without_shape_checks):
    said = message(false_negative_mask, draw(2, 2), draw(2), mode="relativ")
    assert said == "unknown mode 'relativ'; did you mean relative?"


# The loss ---------------------------------------------------------------------------------------


def test_a_text_is_never_a_candidate_of_its_own_list():
    same, guide = draw(1, 4), draw(1, 3)
    assert gist_loss(same, same, guide, guide).item() == 0


@given(SEEDS)
def test_a_guide_that_prefers_nothing_changes_nothing(seed):
    queries, documents, _, _ = batch(seed)
    guide = torch.eye(5).double()
    ours = gist_loss(queries, documents, guide, guide, directions=("query_to_doc",))
    torch.testing.assert_close(ours, infonce_loss(queries, documents, temperature=0.01))


@given(SEEDS)
def test_one_direction_is_infonce_without_what_the_guide_prefers(seed):
    queries, documents, guide_queries, guide_documents = batch(seed)
    guide = similarities(guide_queries, guide_documents)
    hidden = false_negative_mask(guide, guide.diagonal(), margin=0.1)
    ours = gist_loss(queries, documents, guide_queries, guide_documents, margin=0.1,
                     temperature=0.2, directions=("query_to_doc",))  # fmt: skip
    torch.testing.assert_close(
        ours, infonce_loss(queries, documents, exclude=hidden, temperature=0.2)
    )


@given(SEEDS)
def test_a_student_that_guides_itself_is_bounded(seed):
    queries, documents, _, _ = batch(seed, size=8)
    values = gist_loss(queries, documents, queries, documents, directions=("query_to_doc",),
                       reduction="none")  # fmt: skip
    own = similarities(queries, documents)
    kept = 8 - false_negative_mask(own, own.diagonal()).sum(1)
    assert (values <= kept.log() + 1e-9).all()


@given(SEEDS)
def test_a_stricter_guide_never_raises_the_loss(seed):
    views = batch(seed)
    values = [gist_loss(*views, margin=m, temperature=0.2) for m in (-0.2, 0.0, 0.2, 3.0)]
    assert all(a >= b - 1e-12 for a, b in zip(values, values[1:], strict=False))
    assert values[-1] == 0


def test_no_gradient_reaches_the_guide():
    queries, documents, *guide = (x.requires_grad_() for x in batch(0))
    gist_loss(queries, documents, *guide).backward()
    assert queries.grad.any() and guide[0].grad is None and guide[1].grad is None


def test_guide_and_student_may_have_different_dimensions():
    assert gist_loss(*batch(0)).isfinite()


# What is refused --------------------------------------------------------------------------------


def test_negatives_that_the_guide_has_not_seen_are_refused():
    said = message(gist_loss, *batch(0), negatives=draw(5, 1, 4))
    assert "give it as many pairs, and guide_negatives exactly where there are negatives" in said


def test_a_guide_of_other_texts_is_refused(without_shape_checks):
    queries, documents, *_ = batch(0)
    said = message(gist_loss, queries, documents, *batch(0, size=4)[2:])
    assert "a guide sees the same texts" in said


def test_other_negatives_for_the_guide_are_refused(without_shape_checks):
    seen = {"negatives": draw(5, 2, 4), "guide_negatives": draw(5, 1, 3)}
    assert "guide_negatives has shape (5, 1)" in message(gist_loss, *batch(0, size=5), **seen)


def test_directions_without_the_positive_are_refused():
    said = message(gist_loss, *batch(0), directions=("query_to_query",))
    assert said == "directions lacks 'query_to_doc', which holds the positives; add it."


def test_a_direction_that_it_does_not_have_is_refused():
    with pytest.raises(UnknownName):
        gist_loss(*batch(0), directions=("query_to_doc", "doc_to_query"))
