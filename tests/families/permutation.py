"""Permutation losses: loop references, mutants, and the numbers of other libraries."""

import torch
from peers import ALLRANK, RAX, ST, Case, on_list
from references import logsumexp


def sums_to(labels, ties):
    """For every item, whom it competes with: itself, the items below, and some of its ties."""
    n = len(labels)
    if ties == "group":
        return [[j for j in range(n) if labels[j] <= labels[i]] for i in range(n)]
    return [
        [j for j in range(n) if labels[j] < labels[i] or (labels[j] == labels[i] and j >= i)]
        for i in range(n)
    ]


def shared_places(by_place, labels):
    """Every item gets the mean number of the places that its group fills."""
    shares = []
    for y in labels:
        above, equal = sum(z > y for z in labels), sum(z == y for z in labels)
        shares.append(sum(by_place[above : above + equal]) / equal)
    return shares


def listmle(scores, labels, k=None, ties="group"):
    """Xia et al. 2008; tied items compete with their group, as in Breslow 1974."""
    if len(set(labels)) < 2:
        return None
    n = len(scores)
    asked = [1.0 if k is None or r < k else 0.0 for r in range(n)]
    if ties == "group":
        asked = shared_places(asked, labels)
    else:
        order = sorted(range(n), key=lambda i: (-labels[i], i))
        asked = [asked[order.index(i)] for i in range(n)]
    return sum(
        a * (logsumexp([scores[j] for j in who]) - s)
        for a, s, who in zip(asked, scores, sums_to(labels, ties), strict=True)
    )


def plistmle(scores, labels, position_weights="exponential"):
    """Lan et al. 2014, the weights of the places divided by their sum."""
    if len(set(labels)) < 2:
        return None
    n = len(scores)
    if position_weights == "exponential":
        by_place = [(2 ** (n - r) - 1) / (2**n - 1 - n) for r in range(1, n + 1)]
    elif position_weights == "dcg":
        by_place = [1 / torch.tensor(1.0 + r).double().log2().item() for r in range(1, n + 1)]
    elif position_weights == "uniform":
        by_place = [1.0] * n
    else:
        by_place = [position_weights(r) for r in range(1, n + 1)]
    return sum(
        a * (logsumexp([scores[j] for j in who]) - s)
        for a, s, who in zip(
            shared_places(by_place, labels), scores, sums_to(labels, "group"), strict=True
        )
    )


def squares(place):
    return 3 / place**2


def input_order(fn, x, **settings):
    """The order of the input, as labels that descend."""
    n = x["scores"].shape[-1]
    return fn(x["scores"], torch.arange(n, 0.0, -1).expand_as(x["scores"]), **settings)


LISTS = {
    "listmle": (
        listmle,
        [{}, {"k": 1}, {"k": 2}, {"ties": "stable"}, {"ties": "stable", "k": 2}],
    ),
    "plistmle": (
        plistmle,
        [{}, {"position_weights": "dcg"}, {"position_weights": "uniform"},
         {"position_weights": squares}],
    ),
}  # fmt: skip

MUTANTS = {
    "listmle": {
        "sign flipped": ("costs.sum(-1)", "-costs.sum(-1)"),
        "mean over places": ("costs.sum(-1)", "costs.mean(-1)"),
        "order reversed": ("label_levels(labels,", "label_levels(-labels,"),
        "ties do not compete": ("tied=True", "tied=False"),
        "ties as they stand": ("labels, ties, generator)", 'labels, "stable", generator)'),
        "one place too many": ("< k", "<= k"),
        "mask of sums ignored": ("(scores, levels, where,",
                                 "(scores, levels, torch.ones_like(where),"),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without an order counted": ("has_order(labels, where)", "where.any(-1)"),
    },
    "plistmle": {
        "sign flipped": ("(alphas *", "(-alphas *"),
        "mean over places": (".sum(-1)", ".mean(-1)"),
        "order reversed": ("label_levels(labels)", "label_levels(-labels)"),
        "ties do not compete": ("tied=True", "tied=False"),
        "weights of places ignored": ("place_weights(position_weights",
                                      'place_weights("uniform"'),
        "width of the batch for the length": ("place_weights(position_weights, where",
                                              "place_weights(position_weights, where | True"),
        "mask of sums ignored": ("(scores, levels, where, ",
                                 "(scores, levels, torch.ones_like(where), "),
        "weights ignored": ("weights, reduction", "None, reduction"),
        "lists without an order counted": ("has_order(labels, where)", "where.any(-1)"),
    },
}  # fmt: skip

SHARED = {
    ("losses.position_aware", "place_weights", "plistmle"): {
        "places from 0": ("torch.arange(1, where.shape[-1] + 1,", "torch.arange(where.shape[-1],"),
        "not normalised": (" / torch.where(total > 0, total, 1.0)", ""),
        "last place not 0": ("((-places).exp2() - (-n).exp2())", "(-places).exp2()"),
    },
    ("ordered_sums", "tied_means", "plistmle"): {
        "first place of a group": ("(sums.gather(-1, first + size.long()) - "
                                   "sums.gather(-1, first)) / size",
                                   "values.gather(-1, first.clamp(max=values.shape[-1] - 1))"),
        "worst place first": ("above = counts.flip(-1).cumsum(-1).flip(-1) - counts",
                              "above = counts.cumsum(-1) - counts"),
    },
    ("ordered_sums", "_through_sums", "listmle"): {
        "padding takes part": ("mass = weights * real", "mass = weights"),
        "padding pays": (".log1p() * real", ".log1p()"),
        "an item is its own rival": (" - mass)", ")"),
        "one item is left out": ("width = int(levels.max()) + 1",
                                 "levels = levels.clamp(min=1); width = int(levels.max()) + 1"),
        "a level is below itself": ("pad(totals[..., :-1].cumsum(-1), (1, 0))",
                                    "totals.cumsum(-1)"),
    },
    ("ordered_sums", "label_levels", "listmle"): {
        "the later item of a tie is better": ("worst_first = position.flip(-1)",
                                              "worst_first = position"),
        "no ties": ("!=", "<="),
    },
    ("ordered_sums", "has_order", "listmle"): {
        "padding has a label": ("torch.where(where, labels, torch.inf)", "labels"),
    },
}  # fmt: skip

# Numbers of other libraries ----------------------------------------------------------------------

CASES = {
    "st.ce.listmle.by_label.single": Case("listmle", on_list(), library=ST),
    "st.ce.listmle.input_order.single": Case(
        "listmle", input_order, because="its default ignores labels"
    ),
    "allrank.listmle.single": Case("listmle", on_list(), library=ALLRANK),
    "rax.listmle_loss.single": Case("listmle", on_list(), library=RAX),
    "st.ce.plistmle.by_label.single": Case("plistmle", on_list(), library=ST),
    "st.ce.plistmle.input_order.single": Case(
        "plistmle", input_order, because="its default ignores labels"
    ),
    "st.ce.plistmle.noweight.single": Case(
        "plistmle",
        lambda fn, x: input_order(fn, x, position_weights="uniform"),
        because="its default ignores labels",
    ),
}

# The golden families of these losses.
FAMILIES = {"ListMLE", "PListMLE"}
