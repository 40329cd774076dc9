"""Soft-label alignment: loop reference and mutants."""

import math

from references import log_softmax


def soft_label_alignment(scores, labels, temperature=0.01):
    """Gu et al. 2025, as their code has it: the mean of KL in both directions."""
    if not scores:
        return None
    student, judge = log_softmax(scores, temperature), log_softmax(labels, temperature)
    forward = math.fsum(math.exp(t) * (t - p) for p, t in zip(student, judge, strict=True))
    reverse = math.fsum(math.exp(p) * (p - t) for p, t in zip(student, judge, strict=True))
    return (forward + reverse) / 2


LISTS = {"soft_label_alignment": (soft_label_alignment, [{}, {"temperature": 0.5}])}

MUTANTS = {
    "soft_label_alignment": {
        "sign flipped": ("gap.sum(-1) / 2", "-gap.sum(-1) / 2"),
        "the temperature multiplies": ("scores / temperature", "scores * temperature"),
        "a judge without temperature": ("judge / temperature", "judge"),
        "one direction": ("(log_p.exp() - log_t.exp())", "log_p.exp()"),
        "no half": (".sum(-1) / 2", ".sum(-1)"),
        "weights ignored": ("where.any(-1), weights", "where.any(-1), None"),
    },
}  # fmt: skip
