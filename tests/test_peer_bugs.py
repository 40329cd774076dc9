"""Eighteen faults that were found by running other libraries, and the tests that keep us from them.

The names of the tests say what is protected.
"""

from pathlib import Path

import pytest
import torch

from rankbench.candidates import duplicate_mask
from rankbench.losses import bidirectional_infonce_loss, infonce_loss

HERE = Path(__file__).parent

# What went wrong elsewhere → tests here, as module::function.
PROTECTED = {
    "a small number inside the logarithm of ListMLE costs 37 for a settled pair": [
        "test_permutation::test_a_settled_pair_costs_nothing",
        "test_permutation::test_a_badly_inverted_pair_still_gets_a_gradient",
    ],
    "clamping in LambdaLoss takes the gradient of badly inverted pairs": [
        "test_lambdarank::test_a_badly_inverted_pair_keeps_its_value_and_its_gradient",
        "test_pairwise::test_a_badly_inverted_pair_still_gets_its_full_gradient",
    ],
    "NaN for a list of padding, for a batch without a pair, and at zero error": [
        "test_contract::test_the_loss_passes_the_check",
        "test_pairwise::test_a_batch_without_any_pair_is_zero_and_has_a_graph",
        "test_regression::test_mse_has_a_gradient_at_zero_error",
    ],
    "linear gains over the ideal of exponential gains": [
        "test_sorting::test_linear_gains_use_the_linear_ideal_in_the_transposed_form",
    ],
    "noise samples of one list with the mask of another": [
        "test_sorting::test_samples_keep_the_mask_of_their_own_list",
    ],
    "whole-number margins refused; temperatures that multiply; ties by document order; "
    "lists without relevance counted": [
        "test_pairwise::test_a_whole_number_is_a_margin",
        "test_pairwise::test_the_steepness_multiplies_and_the_temperature_divides",
        "test_metric_surrogates::test_the_temperature_divides",
        "test_metric_surrogates::test_tied_labels_do_not_depend_on_the_order_of_documents",
        "test_metric_surrogates::test_lists_without_relevant_items_are_not_counted",
    ],
    "log(1 + exp(-x)) overflows at x = -200": [
        "test_pairwise::test_a_margin_of_minus_200_neither_overflows_nor_is_nan",
        "test_lambdarank::test_a_lead_of_minus_200_does_not_overflow",
    ],
    "labels ignored for the order of the input; a constant without a graph": [
        "test_permutation::test_labels_are_never_ignored_for_the_order_of_the_input",
        "test_permutation::test_a_list_of_one_stays_connected_to_the_graph",
    ],
    "long lists dominate a mean over all pairs of the batch": [
        "test_pairwise::test_a_long_list_counts_no_more_than_a_short_one",
        "test_lambdarank::test_long_lists_do_not_dominate_the_batch",
    ],
    "a batch with the same text twice cannot get below log 2": [
        "test_peer_bugs::test_a_duplicate_that_is_excluded_costs_nothing",
    ],
    "a guide does not hide the anchor's own copy": [
        "test_guided::test_a_text_is_never_a_candidate_of_its_own_list",
    ],
    "exp(γ s) of the circle loss overflows": [
        "test_circle::test_gamma_times_a_score_is_never_exponentiated",
    ],
    "gathering across devices multiplies gradients by the number of devices": [
        "test_across_devices::test_gathering_with_a_gradient_needs_no_factor",
        "test_across_devices::test_multiplying_by_the_number_of_processes_is_wrong",
        "test_distributed::test_two_processes_find_what_one_finds",
        "test_distributed::test_an_encoder_learns_the_same_in_two_processes",
    ],
    "the gradient of a cached loss is that of a sum, its value that of a mean": [
        "test_gradient_caching::test_the_gradient_is_that_of_the_value",
        "test_gradient_caching::test_with_dropout_the_step_equals_a_plain_step_on_the_same_pieces",
    ],
    "small batches bound the model's forward pass and nothing else": [
        "test_gradient_caching::test_small_batches_bound_everything_that_autograd_keeps",
        "test_gradient_caching::test_one_piece_is_alive_at_a_time",
    ],
    "hard triplets of anchors without a positive still cost": [
        "test_triplet::test_an_anchor_without_a_positive_costs_nothing",
    ],
    "a newer version of a dependency breaks the import": [
        "test_packaging::test_the_wheel_computes_every_loss",
    ],
    "a wrapper fails on losses that return several parts": [
        "test_combining::test_a_wrapper_takes_losses_that_return_several_parts",
        "test_combining::test_wrappers_stand_in_each_other",
        "test_combining::test_a_cache_over_a_sum_over_prefixes_keeps_the_names",
    ],
}


def functions(module: str) -> str:
    return (HERE / f"{module}.py").read_text("utf-8")


@pytest.mark.parametrize("fault", PROTECTED)
def test_every_fault_has_its_tests(fault):
    for test in PROTECTED[fault]:
        module, name = test.split("::")
        assert f"def {name}(" in functions(module), f"{test} is gone"


def test_eighteen_faults_are_known():
    assert len(PROTECTED) == 18


@pytest.mark.parametrize("loss", [infonce_loss, bidirectional_infonce_loss])
def test_a_duplicate_that_is_excluded_costs_nothing(loss):
    pair = torch.eye(2)[[0, 0]]
    same = duplicate_mask(torch.tensor([7, 7]))
    once = loss(pair[:1], pair[:1], temperature=0.05)
    twice = loss(pair, pair, exclude=same, temperature=0.05)
    torch.testing.assert_close(twice, once)
    assert loss(pair, pair, temperature=0.05) > once + 0.5
