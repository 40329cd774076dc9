"""Listwise distillation with a teacher that is trained along: loop reference and mutants."""

import math

from references import log_softmax


def listwise_distillation(scores, labels, relevance=None, supervised_weight=1.0,
                          detach_teacher=None):  # fmt: skip
    """Ren et al. 2021: KL(student ‖ teacher) + w · mean over marked items of -log p_teacher."""
    if len(scores) < 2:
        return None
    student, teacher = log_softmax(scores), log_softmax(labels)
    total = math.fsum(math.exp(a) * (a - b) for a, b in zip(student, teacher, strict=True))
    costs = [-b for b, r in zip(teacher, relevance or [], strict=False) if r > 0]
    return total + supervised_weight * sum(costs) / max(len(costs), 1)


LISTS = {
    "listwise_distillation": (
        listwise_distillation,
        [{}, {"supervised_weight": 0.5}, {"supervised_weight": 0.0}, {"detach_teacher": True}],
    ),
}

MUTANTS = {
    "listwise_distillation": {
        "direction exchanged": ("log_q.exp() * (log_q - log_p)", "log_p.exp() * (log_p - log_q)"),
        "sign of the divergence flipped": ("(log_q - log_p)", "(log_p - log_q)"),
        "mask of the scores ignored": ("masked_log_softmax(scores, where)",
                                       "masked_log_softmax(scores, torch.ones_like(where))"),
        "mask of the teacher ignored": ("masked_log_softmax(teacher, where)",
                                        "masked_log_softmax(teacher, torch.ones_like(where))"),
        "student detached": ("masked_log_softmax(scores, where)",
                             "masked_log_softmax(scores, where).detach()"),
        "the supervised term rewards a miss": ("missed = -torch", "missed = torch"),
        "the student is supervised": ("torch.where(marked, log_p, 0.0)",
                                      "torch.where(marked, log_q, 0.0)"),
        "sum over marks": (" / marked.sum(-1).clamp(min=1)", ""),
        "mean over all items": ("marked.sum(-1).clamp", "where.sum(-1).clamp"),
        "the unmarked are supervised": ("(relevance > 0)", "(relevance <= 0)"),
        "marks of padding count": ("where & (relevance > 0)", "relevance > 0"),
        "weight ignored": ("supervised_weight * missed", "missed"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "single items counted": ("where.sum(-1) > 1", "where.sum(-1) > 0"),
    },
}  # fmt: skip
