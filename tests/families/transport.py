"""Transport losses: loop references and mutants."""

import math

from references import log_softmax


def wasserstein(scores, labels, temperature=1.0, label_temperature=1.0, order=1):
    """Carry mass from item to item in the order of the labels, as long as any is left."""
    if len(set(labels)) < 2:
        return None
    ascending = sorted(range(len(labels)), key=lambda i: labels[i])
    here = [math.exp(x) for x in log_softmax(scores, temperature)]
    there = [math.exp(x) for x in log_softmax(labels, label_temperature)]
    here, there = [here[i] for i in ascending], [there[i] for i in ascending]
    places = [labels[i] for i in ascending]
    i = j = 0
    total = 0.0
    while i < len(places) and j < len(places):
        moved = min(here[i], there[j])
        total += moved * abs(places[i] - places[j]) ** order
        here[i] -= moved
        there[j] -= moved
        if here[i] <= there[j]:
            i += 1
        else:
            j += 1
    return total


LISTS = {
    "wasserstein": (
        wasserstein,
        [
            {},
            {"order": 2},
            {"temperature": 0.5},
            {"label_temperature": 2.0},
            {"order": 2, "temperature": 2.0, "label_temperature": 0.5},
        ],
    ),
}

MUTANTS = {
    "wasserstein": {
        "temperature ignored": ("scores / temperature", "scores"),
        "label temperature ignored": ("labels / label_temperature", "labels"),
        "mask of scores ignored": ("(scores / temperature, where)",
                                   "(scores / temperature, torch.ones_like(where))"),
        "mask of labels ignored": ("(labels / label_temperature, where)",
                                   "(labels / label_temperature, torch.ones_like(where))"),
        "not sorted by label": ("torch.where(where, labels, torch.inf)",
                                "torch.where(where, 0 * labels, torch.inf)"),
        "padding first": ("torch.where(where, labels, torch.inf)", "labels"),
        "always order 1": ("if order == 1:", "if True:"),
        "always order 2": ("if order == 1:", "if False:"),
        "tied labels counted": ("steps.any(-1)", "where.any(-1)"),
        "weights ignored": ("weights, reduction", "None, reduction"),
    },
}  # fmt: skip

SHARED = {
    ("losses.transport", "_gap_costs", "wasserstein"): {
        "width ignored": ("gaps * lead", "(gaps > 0) * lead"),
        "signs kept": (".abs()", ""),
    },
}  # fmt: skip
