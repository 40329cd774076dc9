"""Lists: checks, masks, masked softmax, reductions."""

import math

import pytest
import torch

from rankbench.cards import cards
from rankbench.checks import example
from rankbench.core import (
    UnknownName,
    as_components,
    as_float,
    check_shape,
    masked_log_softmax,
    masked_logsumexp,
    prepare_lists,
    prepare_mask,
    reduce_lists,
)

NAN, INF = float("nan"), float("inf")


def message(fn, *args, **kwargs):
    """What a call says when it refuses its arguments."""
    with pytest.raises(ValueError) as error:
        fn(*args, **kwargs)
    return str(error.value)


# Names ------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_the_closest_one():
    error = UnknownName("loss", "ranknt", ["softmax", "ranknet"])
    assert str(error) == "unknown loss 'ranknt'; did you mean ranknet?"


def test_an_unknown_name_far_from_all_others_lists_what_exists():
    error = UnknownName("gain", "zzz", ["linear", "exp2"])
    assert str(error) == "unknown gain 'zzz'; did you mean exp2, linear?"


def test_an_unknown_name_is_a_value_error():
    assert issubclass(UnknownName, ValueError)


# Shapes and types -------------------------------------------------------------------------------


def test_labels_of_another_shape_are_refused():
    said = message(prepare_lists, torch.zeros(8, 6), torch.zeros(8, 5))
    assert said == "labels has shape (8, 5) but scores has (8, 6); they must match."


def test_a_mask_of_another_shape_is_refused():
    mask = torch.ones(6, dtype=torch.bool)
    said = message(prepare_lists, torch.zeros(8, 6), torch.zeros(8, 6), mask)
    assert said == "where has shape (6,) but scores has (8, 6); they must match."


def test_a_mask_that_is_not_boolean_is_refused():
    said = message(prepare_lists, torch.zeros(2), torch.zeros(2), torch.ones(2))
    assert said == "where has dtype torch.float32; expected torch.bool. Use where.bool()."


def test_a_mask_by_itself_is_checked_like_that_of_lists():
    mask = torch.tensor([True, False])
    assert prepare_mask(mask, torch.zeros(2), "labels has") is mask
    said = message(prepare_mask, torch.ones(2), torch.zeros(2), "labels has")
    assert said == "where has dtype torch.float32; expected torch.bool. Use where.bool()."
    said = message(prepare_mask, mask, torch.zeros(3), "the batch needs")
    assert said == "where has shape (2,) but the batch needs (3,); they must match."


@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bool], ids=str)
def test_without_a_mask_of_its_own_everything_is_real(shape, dtype):
    mask = prepare_mask(None, torch.zeros(shape, dtype=dtype), "labels has")
    assert mask.dtype == torch.bool and mask.shape == shape and mask.all()


def test_scores_without_an_axis_are_refused(without_shape_checks):
    said = message(prepare_lists, torch.tensor(1.0), torch.tensor(1.0))
    assert said == "scores has no axis; expected [*lists, items]. Use scores[None]."


def test_weights_of_another_shape_are_refused():
    said = message(reduce_lists, torch.zeros(2), torch.ones(2, dtype=torch.bool), torch.ones(3))
    assert said == "weights has shape (3,) but there are lists of shape (2,); they must match."


def test_an_unknown_reduction_is_refused(without_shape_checks):
    values, counted = torch.zeros(2), torch.ones(2, dtype=torch.bool)
    said = message(reduce_lists, values, counted, reduction="men")
    assert said == "unknown reduction 'men'; did you mean mean?"


def test_equal_shapes_pass():
    assert check_shape("labels", torch.zeros(2, 3), (2, 3), "scores has") is None


@pytest.mark.parametrize(
    ("given", "computed"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
        (torch.int64, torch.float32),
        (torch.bool, torch.float32),
    ],
    ids=str,
)
def test_arithmetic_happens_in_float32_or_float64(given, computed):
    assert as_float(torch.zeros(2, dtype=given)).dtype == computed


def test_labels_take_the_type_of_the_scores():
    _, labels, _ = prepare_lists(torch.zeros(2, dtype=torch.float64), torch.tensor([1, 0]))
    assert labels.dtype == torch.float64


def test_without_a_mask_all_items_are_real():
    _, _, where = prepare_lists(torch.zeros(2, 3), torch.zeros(2, 3))
    assert where.all() and where.shape == (2, 3)


# Padding ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [NAN, INF, -INF, 1e30])
def test_padding_becomes_zero_in_scores_and_labels(fill):
    where = torch.tensor([True, False])
    scores, labels, _ = prepare_lists(torch.tensor([2.0, fill]), torch.tensor([3.0, fill]), where)
    assert scores.tolist() == [2.0, 0.0] and labels.tolist() == [3.0, 0.0]


@pytest.mark.parametrize("fill", [NAN, INF, -INF])
def test_padding_gets_no_gradient(fill):
    scores = torch.tensor([2.0, fill], requires_grad=True)
    masked, _, _ = prepare_lists(scores, torch.zeros(2), torch.tensor([True, False]))
    masked.square().sum().backward()
    assert scores.grad.tolist() == [4.0, 0.0]


def test_arguments_are_not_changed():
    scores, labels = torch.tensor([2.0, NAN]), torch.tensor([1.0, 5.0])
    prepare_lists(scores, labels, torch.tensor([True, False]))
    assert scores[1].isnan() and labels[1] == 5


# Masked softmax ---------------------------------------------------------------------------------


def test_logsumexp_counts_real_items_only():
    total = masked_logsumexp(torch.tensor([0.0, 0.0, 9.0]), torch.tensor([True, True, False]))
    assert total.item() == pytest.approx(math.log(2))


def test_logsumexp_of_nothing_is_zero():
    total = masked_logsumexp(torch.tensor([5.0, 5.0]), torch.tensor([False, False]))
    assert total.item() == 0


def test_logsumexp_of_nothing_has_no_gradient():
    scores = torch.zeros(2, 2, requires_grad=True)
    where = torch.tensor([[True, True], [False, False]])
    masked_logsumexp(scores, where).sum().backward()
    assert scores.grad.tolist() == [[0.5, 0.5], [0.0, 0.0]]


def test_logsumexp_can_keep_its_axis():
    total = masked_logsumexp(torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool), keepdim=True)
    assert total.shape == (2, 1)


def test_logsumexp_survives_huge_scores():
    total = masked_logsumexp(torch.tensor([1e4, -1e4]), torch.tensor([True, True]))
    assert total.item() == 1e4


def test_log_softmax_sums_to_one_over_real_items():
    log_p = masked_log_softmax(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    assert log_p[:2].exp().sum().item() == pytest.approx(1)


def test_log_softmax_is_zero_in_padding():
    log_p = masked_log_softmax(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([True, True, False]))
    assert log_p[2] == 0


def test_log_softmax_of_nothing_has_no_gradient():
    scores = torch.tensor([1.0, 2.0], requires_grad=True)
    masked_log_softmax(scores, torch.tensor([False, False])).sum().backward()
    assert scores.grad.tolist() == [0.0, 0.0]


def test_log_softmax_of_one_item_is_zero():
    log_p = masked_log_softmax(torch.tensor([7.0, 9.0]), torch.tensor([True, False]))
    assert log_p.tolist() == [0.0, 0.0]


# Reductions -------------------------------------------------------------------------------------

VALUES = torch.tensor([1.0, 3.0, 100.0])
COUNTED = torch.tensor([True, True, False])


@pytest.mark.parametrize(
    ("weights", "reduction", "expected"),
    [
        (None, "mean", (1 + 3) / 2),
        (None, "sum", 1 + 3),
        (None, "none", [1, 3, 0]),
        ([3.0, 1.0, 5.0], "mean", (3 * 1 + 1 * 3) / (3 + 1)),
        ([3.0, 1.0, 5.0], "sum", 3 * 1 + 1 * 3),
        ([3.0, 1.0, 5.0], "none", [1, 3, 0]),
        ([0.0, 0.0, 5.0], "mean", 0),
    ],
)
def test_lists_combine_by_weight(weights, reduction, expected):
    weights = None if weights is None else torch.tensor(weights)
    assert reduce_lists(VALUES, COUNTED, weights, reduction).tolist() == expected


def test_integer_weights_are_allowed():
    assert reduce_lists(VALUES, COUNTED, torch.tensor([3, 1, 5])).item() == (3 + 3) / 4


def test_the_mean_of_nothing_is_zero():
    assert reduce_lists(VALUES, torch.zeros(3, dtype=torch.bool)).item() == 0


def test_the_mean_of_nothing_is_connected_to_the_graph():
    values = VALUES.clone().requires_grad_()
    reduce_lists(values, torch.zeros(3, dtype=torch.bool)).backward()
    assert values.grad.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_list_that_does_not_count_may_hold_nan(reduction):
    values = torch.tensor([1.0, NAN], requires_grad=True)
    reduce_lists(values, torch.tensor([True, False]), None, reduction).sum().backward()
    assert values.grad.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_weight_of_a_list_that_does_not_count_may_be_nan(reduction):
    weights = torch.tensor([1.0, 1.0, NAN])
    assert reduce_lists(VALUES, COUNTED, weights, reduction).isfinite()


# Errors of the losses ---------------------------------------------------------------------------

LISTS = [c for c in cards() if c.signature == "scores"]


@pytest.mark.parametrize("card", LISTS, ids=lambda c: c.name)
def test_a_loss_refuses_labels_of_another_shape(card, without_shape_checks):
    said = message(card.fn, torch.zeros(8, 6), torch.zeros(8, 5))
    assert said == "labels has shape (8, 5) but scores has (8, 6); they must match."


@pytest.mark.parametrize("card", LISTS, ids=lambda c: c.name)
def test_a_loss_refuses_a_mask_of_numbers(card, without_shape_checks):
    said = message(card.fn, torch.zeros(8, 6), torch.zeros(8, 6), where=torch.ones(8, 6))
    assert said == "where has dtype torch.float32; expected torch.bool. Use where.bool()."


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_a_loss_suggests_the_right_reduction(card, without_shape_checks):
    said = message(example(card).run, card, reduction="men")
    assert said == "unknown reduction 'men'; did you mean mean?"


def test_what_is_no_name_at_all_is_still_answered():
    assert str(UnknownName("gain", None, ["exp2", "linear"])).startswith("unknown gain None; did")


# What a loss returns ----------------------------------------------------------------------------


def test_a_scalar_is_its_own_only_part():
    assert as_components(torch.tensor(2.0)) == {"loss": 2}


def test_parts_without_a_loss_are_summed():
    parts = {"a": torch.tensor(2.0), "b": torch.tensor(0.5)}
    assert as_components(parts) == {"loss": 2.5, "a": 2, "b": 0.5} and len(parts) == 2


def test_a_loss_beside_its_parts_is_kept():
    assert as_components({"a": torch.tensor(2.0), "loss": torch.tensor(0.1)})["loss"] == 0.1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), r"shape \(3,\) as 'loss'.*reduction 'none'"),
        ({"a": torch.zeros(2, 1)}, r"shape \(2, 1\) as 'a'"),
        ({"a": 1.0}, "returned 1.0 as 'a'"),
        ({}, "a dict without parts"),
    ],
)
def test_what_is_no_loss_is_named(value, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        as_components(value)


def test_errors_call_scores_what_the_caller_does(without_shape_checks):
    with pytest.raises(ValueError, match=r"labels has shape \(2,\) but log_probs has \(3,\)"):
        prepare_lists(torch.zeros(3), torch.zeros(2), None, "log_probs")
    with pytest.raises(ValueError, match=r"log_probs has no axis; .* Use log_probs\[None\]"):
        prepare_lists(torch.tensor(1.0), torch.tensor(1.0), None, "log_probs")
