"""Distillation losses: loop references, mutants, and the numbers of other libraries."""

import math

import torch
from peers import LIR, Case, on_list, two
from references import log_softmax


def kl(scores, labels, student_temperature=1.0, teacher_temperature=None,
       square_temperature=False, direction="forward"):  # fmt: skip
    """Hinton et al. 2015: Σ p_t (log p_t - log p_s), or the same with the two exchanged."""
    if len(scores) < 2:
        return None
    student = log_softmax(scores, student_temperature)
    teacher = log_softmax(
        labels, student_temperature if teacher_temperature is None else teacher_temperature
    )
    first, second = (teacher, student) if direction == "forward" else (student, teacher)
    total = math.fsum(math.exp(a) * (a - b) for a, b in zip(first, second, strict=True))
    return total * student_temperature**2 if square_temperature else total


def margin_mse(scores, labels, pairs="all", margin=None):
    """Hofstätter et al. 2020: mean over pairs of ((sᵢ - sⱼ) - (tᵢ - tⱼ))²."""
    n = len(scores)
    if n < 2:
        return None
    if pairs == "all":
        chosen = [(i, j) for i in range(n) for j in range(i + 1, n)]
    elif pairs == "ordered":
        chosen = [(i, j) for i in range(n) for j in range(n) if labels[i] > labels[j]]
    else:
        best = max(labels)
        chosen = [(i, j) for i in range(n) for j in range(n) if labels[i] == best > labels[j]]
    if not chosen:
        return None
    total = 0.0
    for i, j in chosen:
        target = labels[i] - labels[j] if margin is None else margin
        total += ((scores[i] - scores[j]) - target) ** 2
    return total / len(chosen)


def dots(x):
    """[B, 2] dot products of each query with its positive and its negative."""
    return torch.stack([(x["q"] * x["p"]).sum(-1), (x["q"] * x["n"]).sum(-1)], -1)


def teacher(x):
    return torch.stack([x["tp"], x["tn"]], -1)


def margins(fn, x):
    """Labels are margins already: a teacher that scores the negative 0."""
    return fn(two(x), torch.stack([x["labels"], torch.zeros_like(x["labels"])], -1))


LISTS = {
    "kl": (
        kl,
        [
            {},
            {"student_temperature": 2.0},
            {"student_temperature": 2.0, "square_temperature": True},
            {"teacher_temperature": 0.5},
            {"direction": "reverse"},
            {"direction": "reverse", "student_temperature": 0.5, "teacher_temperature": 2.0},
        ],
    ),
    "margin_mse": (
        margin_mse,
        [
            {},
            {"pairs": "ordered"},
            {"pairs": "positive"},
            {"pairs": "ordered", "margin": 1.5},
            {"pairs": "positive", "margin": 1.5},
        ],
    ),
}

MUTANTS = {
    "kl": {
        "direction exchanged": ('direction == "reverse"', 'direction == "forward"'),
        "sign flipped": ("(log_p - log_q)", "(log_q - log_p)"),
        "student temperature multiplies": ("scores / student_temperature",
                                           "scores * student_temperature"),
        "teacher temperature dropped": ("teacher / teacher_temperature", "teacher"),
        "square is no square": ("student_temperature**2", "student_temperature"),
        "always squared": (" if square_temperature else values", ""),
        "mask of scores ignored": ("(scores / student_temperature, where)",
                                   "(scores / student_temperature, torch.ones_like(where))"),
        "mask of labels ignored": ("(teacher / teacher_temperature, where)",
                                   "(teacher / teacher_temperature, torch.ones_like(where))"),
        "mean over slots": (".sum(-1)\n", ".mean(-1)\n"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "margin_mse": {
        "sign flipped": ("scores - teacher if", "scores + teacher if"),
        "teacher ignored": ("scores - teacher if margin is None else scores", "scores"),
        "margin flipped": ("margin or 0.0", "-(margin or 0.0)"),
        "margin dropped": (", margin or 0.0", ""),
        "best pairs are all pairs": ('if pairs == "positive"', "if False"),
        "mask of the sum ignored": ("teacher, where, margin", "teacher, where | True, margin"),
        "mask of the count ignored": ("count_pairs(teacher, where)",
                                      "count_pairs(teacher, where | True)"),
        "sum over pairs": (" / count.clamp(min=1)", ""),
        "mask ignored": ("mean_squared_difference(gaps, where)",
                         "mean_squared_difference(gaps, torch.ones_like(where))"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "empty lists counted": ("count > 0", "count >= 0"),
    },
}  # fmt: skip

SHARED = {
    ("squared_gaps", "sum_squared_errors", "margin_mse"): {
        "order reversed": ("labels.detach().masked_fill", "(-labels).masked_fill"),
        "ties compared": ("torch.searchsorted(keys, keys)",
                          "torch.searchsorted(keys, keys, right=True)"),
        "mask of the labels ignored": (".masked_fill(~where, torch.inf)", ""),
        "padded pairs summed": ("torch.where(keys < torch.inf, costs, 0.0)", "costs"),
        "margin flipped": ("centred - margin", "centred + margin"),
        "sums one item late": ("(1, 0)", "(2, -1)"),
        "squares dropped": (" + squares", ""),
    },
    ("squared_gaps", "mean_squared_difference", "margin_mse"): {
        "variance, not twice": ("2 * deviations", "deviations"),
        "population variance": ("(count.squeeze(-1) - 1)", "count.squeeze(-1)"),
        "not centred": ("values - mean, zero", "values, zero"),
        "mean over slots": (" / count.clamp(min=1)", " / values.shape[-1]"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

KL_ST = "Hinton's T², which sentence-transformers always applies"

CASES = {
    "st.distillkl": Case("kl", lambda fn, x: fn(dots(x), x["labels"])),
    "st.distillkl.T2": Case(
        "kl",
        lambda fn, x: fn(dots(x), x["labels"], student_temperature=2.0, square_temperature=True),
        because=KL_ST,
    ),
    "st.sparse_distillkl": Case(
        "kl",
        lambda fn, x: fn(dots(x), x["labels"], student_temperature=2.0, square_temperature=True),
        because=KL_ST,
    ),
    "lir.kl.single": Case("kl", on_list(), library=LIR),
    "splade.kl": Case("kl", lambda fn, x: fn(two(x), teacher(x))),
    "st.ce.marginmse.margins": Case("margin_mse", margins),
    "st.marginmse": Case(
        "margin_mse", lambda fn, x: margins(fn, {"pos": dots(x)[:, 0], "neg": dots(x)[:, 1], **x})
    ),
    "lir.constant_marginmse.single": Case("margin_mse", on_list(pairs="ordered", margin=1.0)),
    "lir.supervised_marginmse.single": Case("margin_mse", on_list(pairs="ordered"), library=LIR),
    "splade.marginmse": Case("margin_mse", lambda fn, x: fn(two(x), teacher(x))),
}

# The golden families of these losses.
FAMILIES = {"DistillKLDiv", "Sparse DistillKL", "MarginMSE"}
