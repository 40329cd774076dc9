"""Jensen-Shannon divergence: loop reference and mutants."""

import math

from references import log_softmax, logsumexp


def js_divergence(scores, labels, temperature=1.0, beta=0.5):
    """Lin 1991, Agarwal et al. 2024: β KL(teacher ‖ m) + (1 - β) KL(student ‖ m)."""
    if len(scores) < 2:
        return None
    student, teacher = log_softmax(scores, temperature), log_softmax(labels, temperature)
    total = 0.0
    for q, p in zip(student, teacher, strict=True):
        m = logsumexp([math.log(beta) + p, math.log(1 - beta) + q])
        total += beta * math.exp(p) * (p - m) + (1 - beta) * math.exp(q) * (q - m)
    return total


LISTS = {
    "js_divergence": (
        js_divergence,
        [{}, {"temperature": 0.5}, {"beta": 0.2}, {"beta": 0.9, "temperature": 2.0}],
    ),
}

MUTANTS = {
    "js_divergence": {
        "the student is the teacher's mixture": ("(log_p - log_m)", "(log_p - log_q)"),
        "the teacher is the student's mixture": ("(log_q - log_m)", "(log_q - log_p)"),
        "shares exchanged in the mixture": ("math.log(beta) + log_p, math.log1p(-beta) + log_q",
                                            "math.log(beta) + log_q, math.log1p(-beta) + log_p"),
        "shares exchanged in the sum": ("beta * of_teacher + (1 - beta) * of_student",
                                        "beta * of_student + (1 - beta) * of_teacher"),
        "a sum in place of a mixture": ("math.log(beta) + log_p, math.log1p(-beta) + log_q",
                                        "log_p, log_q"),
        "the temperature multiplies": ("scores / temperature", "scores * temperature"),
        "a teacher without temperature": ("teacher / temperature", "teacher"),
        "student taken for a constant": ("log_q.exp() * (log_q", "log_q.exp().detach() * (log_q"),
        "mask of the scores ignored": ("(scores / temperature, where)",
                                       "(scores / temperature, torch.ones_like(where))"),
        "mask of the sum inverted": ("torch.where(where, beta", "torch.where(~where, beta"),
        "mean over slots": ("costs.sum(-1)", "costs.mean(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
    },
}  # fmt: skip
