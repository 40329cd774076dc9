"""Losses on the orders that a teacher draws: loop references and mutants."""

import math
import struct

import torch
from peers import Case
from references import log_softmax, logsumexp


def pld(scores, labels, relevance=None, teacher_temperature=1.0):
    """Bassam et al. 2025; tied items compete with each other, as in Breslow 1974."""
    n = len(scores)
    keys = list(zip(relevance or [0.0] * n, labels, strict=True))
    if len(set(keys)) < 2:
        return None
    confidence = [math.exp(x) for x in log_softmax(labels, teacher_temperature)]
    return math.fsum(
        confidence[i] * (logsumexp([scores[j] for j in range(n) if keys[j] <= keys[i]]) - scores[i])
        for i in range(n)
    )


def mixed(x):
    """Three shifts and two multiplications modulo 2³²."""
    x %= 2**32
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def own_orders(teacher, samples, temperature=1.0):
    """Orders, best first, from noise that follows from the bits of the teacher's scores."""
    n = len(teacher)
    bits = [struct.unpack("<I", struct.pack("<f", t + 0.0))[0] for t in teacher]
    salt = sum(mixed(b + 1) for b in bits)
    by_score = sorted(range(n), key=lambda i: (-teacher[i], -i))
    orders = []
    for m in range(samples):
        noisy = []
        for i in range(n):
            number = mixed(mixed(mixed(salt) + by_score.index(i)) + m) // 2**9
            noisy.append(teacher[i] / temperature - math.log(-math.log((number + 0.5) / 2**23)))
        orders.append(sorted(range(n), key=lambda i, noisy=noisy: -noisy[i]))
    return orders


def coupled_rank_distil(scores, labels, samples=8, topk=None, temperature=1.0):
    """Reddi et al. 2021 in the form of TF-Ranking: mean of -log P(π | s) over sampled π."""
    n = len(scores)
    if n < 2:
        return None
    if samples is None:
        teacher, student = log_softmax(labels, temperature), log_softmax(scores)
        return -math.fsum(math.exp(a) * b for a, b in zip(teacher, student, strict=True))
    total = 0.0
    for order in own_orders(labels, samples, temperature):
        for k in range(n if topk is None else min(topk, n)):
            total += logsumexp([scores[j] for j in order[k:]]) - scores[order[k]]
    return total / samples


LISTS = {
    "pld": (pld, [{}, {"teacher_temperature": 2.0}, {"teacher_temperature": 0.25}]),
    "coupled_rank_distil": (
        coupled_rank_distil,
        [
            {},
            {"samples": 3},
            {"topk": 1},
            {"topk": 2, "samples": 5},
            {"temperature": 2.0},
            {"temperature": 0.5, "topk": 2},
            {"samples": None, "topk": 1},
            {"samples": None, "topk": 1, "temperature": 3.0},
        ],
    ),
}

# The noise of tied items goes by position.
TIES_BY_POSITION = {
    "coupled_rank_distil": "tied items are drawn in one order or the other, by position"
}

MUTANTS = {
    "pld": {
        "sign flipped": ("(confidence * rival", "(-confidence * rival"),
        "confidence ignored": ("confidence * rival", "1.0 * rival"),
        "temperature multiplies": ("teacher / teacher_temperature",
                                   "teacher * teacher_temperature"),
        "temperature dropped": ("teacher / teacher_temperature", "teacher"),
        "relevance ignored": ("(teacher, relevance, where)", "(teacher, None, where)"),
        "relevance has confidence": ("masked_softmax(teacher /",
                                     "masked_softmax((teacher if relevance is None else"
                                     " torch.where(where, relevance, 0.0).to(teacher)) /"),
        "order reversed": ("teacher_levels(teacher,", "teacher_levels(-teacher,"),
        "ties do not compete": ("tied=True", "tied=False"),
        "mask of the confidence ignored": ("teacher_temperature, where)",
                                           "teacher_temperature, torch.ones_like(where))"),
        "mask of sums ignored": ("(scores, levels, where, ",
                                 "(scores, levels, torch.ones_like(where), "),
        "mean over slots": ("tied=True)).sum(-1)", "tied=True)).mean(-1)"),
        "lists without an order counted": ("has_order(levels.to(scores.dtype), where)",
                                           "where.any(-1)"),
        "relevance has no say in the order of a list": ("has_order(levels.to(scores.dtype), where)",
                                                        "has_order(teacher, where)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
    "coupled_rank_distil": {
        "sign flipped": ("costs.sum(-1)", "-costs.sum(-1)"),
        "sum over samples": (".mean(0)", ".sum(0)"),
        "mean over places": ("costs.sum(-1)", "costs.mean(-1)"),
        "one place too many": ("< topk", "<= topk"),
        "places ignored": ("if topk is not None", "if False"),
        "temperature ignored": ("samples, temperature, generator)", "samples, 1.0, generator)"),
        "temperature of the expectation ignored": ("teacher / temperature", "teacher"),
        "the expectation takes the hard best": ("masked_softmax(teacher / temperature, where)",
                                                "masked_softmax(1e6 * teacher, where)"),
        "one sample": ("where, samples, temperature", "where, 1, temperature"),
        "order reversed": ("drawn_levels(teacher,", "drawn_levels(-teacher,"),
        "mask of the noise ignored": ("drawn_levels(teacher, where",
                                      "drawn_levels(teacher, torch.ones_like(where)"),
        "mask of sums ignored": ("real = where.expand(levels.shape)",
                                 "real = torch.ones_like(levels, dtype=torch.bool)"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
        "weights ignored": ("(costs.sum(-1).mean(0), counted, weights",
                            "(costs.sum(-1).mean(0), counted, None"),
    },
}  # fmt: skip

SHARED = {
    ("losses.plackett_luce", "teacher_levels", "pld"): {
        "the teacher comes first": ("label_levels(known) * (where.shape[-1] + 1) + levels",
                                    "label_levels(known) + levels * (where.shape[-1] + 1)"),
        "one relevance is not enough": (" * (where.shape[-1] + 1)", ""),
        "teacher forgotten": (" + levels)", ")"),
    },
    ("losses.rank_distil", "mixed", "coupled_rank_distil"): {
        "first shift dropped": ("(x ^ (x >> 16)) *", "x *"),
        "last shift dropped": ("return x ^ (x >> 16)", "return x"),
        "not modulo 2³²": ("x = ((x ^ (x >> 15)) * 0x846CA68B) & BITS",
                           "x = ((x ^ (x >> 15)) * 0x846CA68B)"),
    },
    ("losses.rank_distil", "own_uniforms", "coupled_rank_distil"): {
        "the same noise in every sample": (" + sample)", ")"),
        "the same noise for every item": (" + ranks)", ")"),
        "noise by position": ("mixed(salt) + ranks",
                              "mixed(salt) + torch.arange(where.shape[-1])"),
        "the same noise in every list": ("mixed(mixed(salt)", "mixed(mixed(0 * salt)"),
        "padding changes the noise": ("torch.where(where, mixed(bits + 1), 0)", "mixed(bits + 1)"),
        "padding has a rank": ("torch.where(where, -teacher, torch.inf)", "-teacher"),
        "bits of wide numbers": ("(teacher.float() + 0.0).view(torch.int32).long()",
                                 "(teacher.double() + 0.0).view(torch.int64)"),
        "zero hashes to zero": ("bits + 1", "bits"),
    },
    ("losses.rank_distil", "drawn_levels", "coupled_rank_distil"): {
        "temperature multiplies": ("teacher / temperature", "teacher * temperature"),
        "noise of the wrong sign": ("temperature - (", "temperature + ("),
        "noise ignored": (" - (-uniforms.log()).log()", " + 0 * uniforms"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------


def own_columns(x):
    """[B, B·n] scores of a teacher for its own n columns, and next to nothing elsewhere."""
    size, count = x["teacher"].shape
    spread = torch.full((size, size, count), -1e4)
    spread[torch.arange(size), torch.arange(size)] = x["teacher"]
    return spread.flatten(1)


CASES = {
    "flag.m3_kd": Case(
        "pld",
        lambda fn, x: fn(x["student"], own_columns(x)),
        because="its teacher is sorted, and says nothing about the columns of other queries",
    ),
}

# The golden families of these losses.
FAMILIES = {"M3 KD loss"}
