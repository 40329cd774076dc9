"""The linter: one broken batch per rule is caught, a clean batch is silent."""

import json
import math
import re

import numpy as np
import pytest
import torch

from rankbench.cards import Loss, cards, find
from rankbench.checks import SLOTS
from rankbench.cli import main
from rankbench.core import UnknownName
from rankbench.lint import (
    LEVELS,
    RULES,
    Finding,
    Rule,
    lint,
    random_baseline,
    rank_correlation,
    read_batch,
)
from rankbench.losses import infonce_loss, listmle_loss
from rankbench.losses.combining import scheduled, select, weighted_sum
from rankbench.losses.nested import matryoshka
from rankbench.scaling.schedules import Schedule

GRADES = torch.tensor([[3.0, 0, 1, 0, 2], [0, 1, 0, 0, 2], [2, 2, 0, 0, 1], [0, 0, 0, 3, 1]])


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clean(signature="scores", labels="graded"):
    """A batch of a model that has learned something."""
    x = normal(6, 16)
    near = x + 0.5 * normal(6, 16, seed=1)
    grades = {"binary": (GRADES > 1.5).float(),
              "teacher": GRADES + 0.3 * normal(4, 5, seed=2)}.get(labels, GRADES)  # fmt: skip
    same = torch.tensor([1.0, 0, 1, 0, 1, 0])
    kinds = torch.tensor([0, 0, 1, 1, 2, 2])
    rows = GRADES[[0, 1, 2, 3, 0, 1]]
    slots = torch.tensor(SLOTS).float()
    scores = GRADES + 0.5 * normal(4, 5, seed=3)
    return {
        "scores": lambda: {"scores": scores, "labels": grades},
        "log_probs": lambda: {"log_probs": scores - 6, "labels": grades},
        "embeddings": lambda: {"queries": x, "documents": near},
        "pairs": lambda: {"queries": x, "labels": same,
                          "documents": torch.where(same[:, None] > 0, near, normal(6, 16, seed=4))},
        "classes": lambda: {"embeddings": x[kinds] + 0.5 * normal(6, 16, seed=5), "labels": kinds},
        "lists": lambda: {"queries": x, "labels": rows,
                          "documents": x[:, None] * rows[..., None] / 3 + normal(6, 5, 16) / 2},
        "guided": lambda: {"queries": x, "documents": near,
                           "guide_queries": x, "guide_documents": near},
        "targets": lambda: {"embeddings": x, "targets": near},
        "slots": lambda: {"scores": slots + 0.5 * normal(5, 4), "labels": slots},
        "activations": lambda: {"activations": normal(5, 7)},
        "activation_pairs": lambda: {"queries": normal(5, 7), "documents": normal(6, 7, seed=1)},
    }[signature]()  # fmt: skip


# What is worth saying about a batch that is fine.
EXPECTED = {
    "bidirectional_infonce": {"floor"},  # ln 2: the positive is counted twice
    "soft_label_alignment": {"saturated_teacher"},  # its temperature is 0.01
}


def rules(*arguments, **settings):
    return {f.rule for f in lint(*arguments, **settings)}


@pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)
def test_a_clean_batch_is_silent(card):
    batch = clean(card.signature, card.labels)
    if card.name == "given_triplet":
        batch["negatives"] = normal(6, 1, 16, seed=6)
    assert rules(batch, card.name) == EXPECTED.get(card.name, set())


@pytest.mark.parametrize("form", [find("infonce").fn, Loss("infonce"), "infonce", "mnrl"],
                         ids=["function", "module", "name", "alias"])  # fmt: skip
def test_a_loss_may_come_in_any_form(form):
    assert lint(clean("embeddings"), form) == []


def test_wrappers_are_looked_at_too():
    batch = clean("embeddings")
    loss = weighted_sum(
        {"infonce": (1.0, "infonce"), "flops": (Schedule(1e-4), select("flops", 1))}
    )
    assert rules(batch, loss, step=3) == set()
    assert rules(batch, matryoshka("infonce", (8, 16))) == set()
    cooling = scheduled("infonce", temperature=Schedule(0.05, start=1.0, warmup=9))
    assert rules(batch, cooling, step=5) == set()


# One broken batch per rule ----------------------------------------------------------------------


def with_nan(batch, name, *place):
    x = batch[name].clone()
    x[place] = torch.nan
    return {**batch, name: x}


def changed(signature="scores", **tensors):
    return {**clean(signature), **tensors}


def wrong_way(scores, labels):
    better = labels[..., :, None] > labels[..., None, :]
    return (1 + scores[..., :, None] - scores[..., None, :]).relu()[better].mean()


def leaking(scores, labels, *, where):
    return -(labels * where * scores.log_softmax(-1)).sum(-1).mean()


def cut(scores, labels):
    return (scores.detach().softmax(-1) - labels).square().mean() + 0 * scores.sum()


def rising(scores, labels):
    """Its gradient has the wrong sign: descent lifts it."""
    value = (scores - labels).square().mean()
    return 2 * value.detach() - value


FIRST, LAST = GRADES[0], torch.tensor([True, True, True, True, False]).expand(4, 5)
TWICE = clean("embeddings")["documents"][[0, 1, 2, 3, 4, 0]]
ANSWERS = clean("embeddings")["documents"].roll(1, 0)
BROKEN = {
    "not_finite": lambda: lint(with_nan(clean(), "scores", 1, 2), "ranknet"),
    "dtype": lambda: lint(changed(scores=GRADES.long()), "ranknet"),
    "label_range": lambda: lint(changed(labels=GRADES), "bce"),
    "empty": lambda: lint(changed(where=torch.zeros(4, 5, dtype=torch.bool)), "ranknet"),
    "no_valid_pair": lambda: lint(changed(where=torch.arange(5) < 1 + LAST[:, :1] * 0), "ranknet"),
    "no_positive": lambda: lint(changed(labels=torch.stack([FIRST, 0 * FIRST, *GRADES[2:]])),
                                "softmax"),
    "constant_labels": lambda: lint(
        changed(labels=torch.stack([FIRST, 0 * FIRST + 2, *GRADES[2:]])), "ranknet"),
    "labels_reversed": lambda: lint(changed(scores=-clean()["scores"]), "ranknet"),
    "probabilities": lambda: lint(changed(scores=clean()["scores"].softmax(-1)), "softmax"),
    "saturated_teacher": lambda: lint(changed(labels=20 * GRADES + normal(4, 5)), "kl"),
    "flat_teacher": lambda: lint(changed(labels=GRADES / 100), "kl"),
    "teacher_scale": lambda: lint(changed(labels=50 * GRADES), "margin_mse"),
    "temperature": lambda: lint(clean("embeddings"), "infonce", temperature=2.0),
    "unnormalised": lambda: lint(clean("embeddings"), "infonce", similarity="dot",
                                 temperature=0.3),
    "duplicates": lambda: lint(changed("embeddings", documents=TWICE), "infonce"),
    "false_negatives": lambda: lint(changed("embeddings", documents=ANSWERS), "infonce"),
    "initial_loss": lambda: lint({k: 2 * normal(6, 16, seed=s) for s, k in enumerate(
        ("queries", "documents"))}, "infonce", untrained=True, similarity="dot", temperature=1.0),
    "padding_leak": lambda: lint(changed(where=LAST), leaking),
    "direction": lambda: lint(clean(), wrong_way),
    "tiny_batch": lambda: lint(clean(), rising),
    "dead_gradient": lambda: lint(clean(), cut),
    "floor": lambda: lint(clean("embeddings"), "bidirectional_infonce"),
    "scale_dominance": lambda: lint(clean("embeddings"), weighted_sum(
        {"infonce": (1.0, "infonce"), "far": (500.0, lambda q, d: q.square().mean())})),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_a_broken_batch_is_caught(rule):
    found = {f.rule: f for f in BROKEN[rule]()}
    assert rule in found
    f = found[rule]
    assert f.level in LEVELS and all((f.what, f.where, f.why, f.fix))
    assert f.why.endswith(".") and f.fix.endswith(".") and not f.what.endswith(".")


@pytest.mark.parametrize(
    "rule",
    [
        r
        for r in RULES
        if r
        not in (
            "initial_loss",
            "false_negatives",
            "unnormalised",
            "direction",
            "tiny_batch",
            "constant_labels",
        )
    ],
)
def test_nothing_else_is_said_about_it(rule):
    assert [f.rule for f in BROKEN[rule]()] == [rule]


def test_the_worst_comes_first():
    found = lint(changed(scores=-clean()["scores"]), wrong_way)
    levels = [LEVELS.index(f.level) for f in found]
    assert levels == sorted(levels) and len(set(levels)) > 1


# Details of rules -------------------------------------------------------------------------------


def test_padding_may_hold_anything():
    batch = with_nan(changed(where=LAST), "scores", slice(None), 4)
    assert rules(batch, "ranknet") == set()


def test_a_value_that_is_not_finite_is_all_that_is_said():
    assert rules(with_nan(changed(scores=-GRADES), "labels", 0, 0), "kl") == {"not_finite"}


def test_all_lists_without_a_positive_are_an_error():
    (found,) = lint(changed(labels=0 * GRADES), "softmax")
    assert (found.rule, found.level) == ("no_positive", "error")
    assert found.what.startswith("100% of lists") and found.where == "lists 0, 1, 2, 3 of 4"


def test_a_tenth_of_the_lists_may_be_empty():
    scores, labels = GRADES.repeat(5, 1), GRADES.repeat(5, 1)
    labels[:2] = 0
    assert "no_positive" not in rules({"scores": scores, "labels": labels}, "softmax")
    labels[2] = 0
    assert "no_positive" in rules({"scores": scores, "labels": labels}, "softmax")


def test_pointwise_losses_learn_from_constant_lists():
    assert rules(changed(labels=0 * GRADES), "bce") == set()


def test_a_teacher_against_relevance_is_reversed():
    batch = changed(labels=-GRADES, scores=-clean()["scores"])
    batch["relevance"] = (GRADES > 1).float()
    (found,) = (f for f in lint(batch, "pld") if f.rule == "labels_reversed")
    assert "the teacher and relevance" in found.what


def test_half_precision_that_is_too_coarse_is_named():
    found = lint(changed(scores=(2000 * GRADES).half()), "ranknet")
    assert ("dtype", "warning") in {(f.rule, f.level) for f in found}


def test_true_and_false_are_no_grades(without_shape_checks):
    assert "dtype" in rules(changed(labels=GRADES > 1), "ranknet")
    assert "dtype" not in rules(changed(labels=GRADES > 1), "bce")


def test_a_gain_of_two_to_the_forty_is_named():
    found = lint(changed(labels=40 * GRADES / 3), "lambda")
    assert "label_range" in {f.rule for f in found}
    assert "label_range" not in rules(changed(labels=40 * GRADES / 3), "lambda", gain="linear")


def test_the_proposed_temperature_helps():
    batch = changed(labels=20 * GRADES + normal(4, 5))
    (found,) = lint(batch, "kl")
    proposed = float(re.search(r"deviation is ([\d.]+)\.", found.fix).group(1))
    assert rules(batch, "kl", teacher_temperature=proposed) == set()
    batch = changed(labels=GRADES / 100)
    (found,) = lint(batch, "kl")
    proposed = float(re.search(r"deviation is ([\d.]+)\.", found.fix).group(1))
    assert rules(batch, "kl", teacher_temperature=proposed) == set()


def test_probabilities_of_a_sigmoid_loss_are_named_without_a_sum():
    assert "probabilities" in rules(changed(scores=clean()["scores"].sigmoid(),
                                            labels=(GRADES > 0).float()), "bce")  # fmt: skip


def test_a_teacher_of_probabilities_is_named():
    batch = changed(labels=(5 * GRADES).softmax(-1))
    assert "probabilities" in rules(batch, "kl", teacher_temperature=0.2)


@pytest.mark.parametrize("value", [0.001, 0.7])
def test_temperatures_for_cosines_have_a_range(value):
    assert "temperature" in rules(clean("embeddings"), "infonce", temperature=value)


def test_dot_products_that_are_too_wide_are_named():
    batch = {k: 10 * v for k, v in clean("embeddings").items()}
    found = rules(batch, "infonce", similarity="dot", temperature=1.0)
    assert "temperature" in found and "unnormalised" not in found


def test_excluded_duplicates_are_fine():
    batch = changed("embeddings", documents=TWICE)
    assert rules({**batch, "exclude": torch.tensor([0, 1, 2, 3, 4, 0])}, "infonce") == set()


def test_a_positive_among_the_mined_negatives_is_a_duplicate():
    batch = clean("embeddings")
    batch["negatives"] = batch["documents"][:, None].clone()
    (found,) = (f for f in lint(batch, "infonce") if f.rule == "duplicates")
    assert found.where == "rows 0, 1, 2, 3, 4, ... of 6"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("infonce", math.log(6)),
        ("symmetric_infonce", math.log(6)),
        ("bidirectional_infonce", math.log(4 * 6 - 2)),
        ("ntxent", math.log(2 * 6 - 1)),
    ],
)
def test_the_baseline_of_a_batch_is_a_logarithm(name, expected):
    assert random_baseline(name, clean("embeddings")) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ranknet", math.log(2)),
        ("listnet", math.log(5)),
        ("softmax", math.log(5)),
        ("listmle", math.log(math.factorial(5))),
        ("bce", math.log(2)),
    ],
)
def test_the_baseline_of_lists_is_a_logarithm(name, expected):
    labels = torch.eye(5)[:4] if name in ("softmax", "bce") else GRADES
    settings = {}
    if name == "listmle":
        labels = torch.arange(5.0).expand(4, 5)
    if name == "listnet":
        labels = 0 * GRADES + 1
    batch = {"scores": clean()["scores"], "labels": labels}
    assert random_baseline(name, batch, **settings) == pytest.approx(expected, abs=1e-6)


def test_the_baseline_of_siglip_is_that_of_its_bias():
    b = -10.0
    each = [math.log1p(math.exp(-b)), *[math.log1p(math.exp(b))] * 5]
    value = random_baseline("siglip", clean("embeddings"), bias=b)
    assert value == pytest.approx(sum(each), rel=1e-6)


def test_a_policy_that_is_its_reference_has_the_log_of_two():
    batch = {**clean("log_probs"), "ref_log_probs": -normal(4, 5).abs()}
    assert random_baseline("dpo", batch) == pytest.approx(math.log(2), abs=1e-6)


def test_regularizers_have_no_baseline():
    with pytest.raises(ValueError, match="no model-free value"):
        random_baseline("flops", clean("activations"))


def test_an_initial_loss_near_the_baseline_is_fine():
    batch = {k: normal(6, 256, seed=s) for s, k in enumerate(("queries", "documents"))}
    assert "initial_loss" not in rules(batch, "infonce", untrained=True)


def test_saturated_scores_of_a_satisfied_loss_are_no_dead_gradient():
    assert rules(changed(scores=50 * GRADES), "hinge") == set()


def test_a_plateau_is_a_dead_gradient():
    batch = changed(scores=200 * normal(4, 5), labels=(GRADES > 1).float())
    assert "dead_gradient" in rules({**batch, "scores": 4e4 * -GRADES}, "soft_zero_one")


def test_a_large_batch_is_cut_for_the_fit():
    x = normal(300, 8)
    batch = {"queries": x, "documents": x + 0.3 * normal(300, 8, seed=1),
             "exclude": torch.zeros(300, 300, dtype=torch.bool)}  # fmt: skip
    assert "tiny_batch" not in rules(batch, "infonce")


def test_a_refusal_is_a_finding():
    (found,) = lint(clean(), picky)
    assert found.rule == "refused" and found.level == "error" and found.what == "not today"


def picky(scores, labels):
    raise ValueError("not today\nnor tomorrow")


def test_a_finding_reads_as_sentences():
    f = Finding("rule", "error", "it leaks", "scores", "That is bad.", "Mask it.")
    assert str(f) == "error: it leaks (scores). That is bad. Mask it."


def test_rank_correlation_is_spearmans():
    scipy = pytest.importorskip("scipy.stats")
    g = torch.Generator().manual_seed(0)
    a, b = torch.randint(0, 5, (2, 20, 8), generator=g).double()
    where = torch.rand(20, 8, generator=g) < 0.8
    ours = rank_correlation(a, b, where)
    for i in range(20):
        kept = where[i]
        if min(x[i][kept].unique().numel() for x in (a, b)) < 2:
            assert ours[i].isnan()
        else:
            assert abs(ours[i] - scipy.spearmanr(a[i][kept], b[i][kept]).statistic) < 1e-12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": GRADES}, "ranknet"), "the batch has x; expected tensors that are named"),
        (({}, "ranknet"), "the batch has nothing"),
        ((clean(), "rankne"), "unknown loss 'rankne'; did you mean ranknet"),
    ],
)
def test_a_wrong_call_is_named(arguments, message, without_shape_checks):
    with pytest.raises(ValueError, match=message):
        lint(*arguments)


def test_an_unknown_setting_is_refused():
    with pytest.raises(
        UnknownName, match="unknown setting of ranknet_loss 'sigm'; did you mean sigma"
    ):
        lint(clean(), "ranknet", sigm=2.0)


# Files and the command line ---------------------------------------------------------------------


def saved(folder, kind, batch):
    path = folder / f"batch{kind}"
    if kind == ".json":
        path.write_text(json.dumps({k: v.tolist() for k, v in batch.items()}))
    elif kind == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in batch.items()})
    elif kind == ".pt":
        torch.save(batch, path)
    else:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in batch.items()}, path)
    return path


@pytest.mark.parametrize("kind", [".json", ".npz", ".pt", ".safetensors"])
def test_a_batch_goes_through_a_file(kind, tmp_path):
    batch = changed(where=LAST)
    again = read_batch(saved(tmp_path, kind, batch))
    assert set(again) == set(batch) and again["where"].dtype == torch.bool
    assert all(torch.allclose(again[k].double(), batch[k].double()) for k in batch)


def test_a_mask_of_zeros_and_ones_is_a_mask(tmp_path):
    batch = changed(where=LAST.long())
    assert read_batch(saved(tmp_path, ".json", batch))["where"].equal(LAST)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "cannot be read as .json"),
        ("a.json", "[1, 2]", "holds no named tensors"),
        ("a.json", '{"scores": [[1, 2], [3]]}', "scores in .* is no tensor"),
        ("a.json", '{"scores": "x"}', "scores in .* is no tensor"),
        ("a.npz", "no zip", "cannot be read as .npz"),
        ("a.pt", "no torch", "cannot be read as .pt"),
        ("a.safetensors", "nothing", "cannot be read as .safetensors"),
        ("a.csv", "1,2", "unknown kind of file '.csv'"),
    ],
)
def test_a_broken_file_is_named(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_batch(path)


def command(*arguments):
    return main(["lint", *map(str, arguments)])


def test_the_command_says_what_why_and_what_to_do(tmp_path, capsys):
    path = saved(tmp_path, ".json", changed(scores=-clean()["scores"]))
    assert command(path, "--loss", "ranknet") == 0
    said = capsys.readouterr().out
    assert "rank correlation" in said and "[labels_reversed]" in said
    assert all(word in said for word in ("where ", "why ", "fix "))


def test_an_error_is_an_exit_status(tmp_path, capsys):
    path = saved(tmp_path, ".npz", with_nan(clean(), "scores", 0, 0))
    assert command(path, "--loss", "ranknet", "--json") == 1
    (found,) = json.loads(capsys.readouterr().out)
    assert found["rule"] == "not_finite" and set(found) == {
        "rule", "level", "what", "where", "why", "fix"
    }  # fmt: skip


def test_nothing_found_is_said(tmp_path, capsys):
    assert command(saved(tmp_path, ".pt", clean()), "--loss", "ranknet", "--set", "sigma=2.0") == 0
    assert capsys.readouterr().out == "nothing found in scores (4, 5), labels (4, 5)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--loss", "rankne"], "unknown loss 'rankne'"),
        (["--loss", "ranknet", "--set", "sigma"], "--set is 'sigma'; expected NAME=VALUE"),
        (["--loss", "ranknet", "--set", "sgma=2"], "unknown setting of ranknet_loss 'sgma'"),
    ],
)
def test_a_wrong_option_is_one_line(arguments, message, tmp_path, capsys):
    assert command(saved(tmp_path, ".json", clean()), *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("rankbench lint: ") and message in said and said.count("\n") == 1


def test_listmle_learns_the_order(tmp_path):
    assert lint(clean(labels="ranking"), listmle_loss) == []
    assert lint(clean("embeddings"), infonce_loss) == []


# What is no mistake -------------------------------------------------------------------------------


def squares(scores, labels):
    return (scores - labels).square().mean()


def cross_entropy(scores, labels):
    return -(labels.softmax(-1) * scores.log_softmax(-1)).sum(-1).mean()


@pytest.mark.parametrize("loss", [squares, cross_entropy, torch.nn.MSELoss()])
def test_a_loss_with_its_minimum_at_the_labels_may_push_the_best_down(loss):
    batch = {"scores": 5 * GRADES + normal(4, 5), "labels": GRADES}
    assert rules(batch, loss) == set()


@pytest.mark.parametrize("name", ["kl", "margin_mse", "mse"])
def test_a_loss_at_its_minimum_need_not_fall(name):
    batch = {"scores": clean()["scores"], "labels": clean()["scores"] + 1e-6 * normal(4, 5)}
    assert rules(batch, name) == set()


def test_lists_that_are_learned_are_no_dead_gradient():
    scores = normal(40, 6)
    labels = torch.eye(6)[:1].expand(40, 6)
    scores[2:, 0] = 9.0
    (found,) = lint({"scores": scores, "labels": labels}, "hinge")
    assert (found.rule, found.level) == ("dead_gradient", "note")


def test_a_loss_of_the_hardest_negative_is_no_dead_gradient():
    def hardest(scores, labels):
        return (1 + scores[:, 1:].amax(-1) - scores[:, 0]).relu().mean()

    labels = torch.eye(50)[:1].expand(4, 50)
    assert rules({"scores": normal(4, 50), "labels": labels}, hardest) == set()


def test_random_scores_are_seldom_called_reversed():
    found = [rules({"scores": normal(4, 5, seed=i), "labels": GRADES}, "listnet")
             for i in range(40)]  # fmt: skip
    assert sum("labels_reversed" in f for f in found) <= 3


def test_grades_are_fine_where_a_loss_asks_for_relevant_or_not():
    assert rules(clean(), "approx_mrr") == set()


# Signatures, shapes and errors --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "loss"),
    [
        ({"scores": GRADES + 0.1}, lambda scores: scores.square().mean()),
        ({"queries": normal(9, 4), "documents": normal(9, 3, 4)},
         lambda q, d: -(q[:, None] * d).sum(-1).log_softmax(-1)[:, 0].mean()),
        ({"queries": normal(9, 4), "documents": normal(7, 4)},
         lambda q, d: (q @ d.T).logsumexp(-1).mean()),
        ({"queries": normal(9, 4), "positives": normal(9, 4, seed=1), "negatives": normal(9, 4)},
         lambda q, p, n: (1 + (q * n).sum(-1) - (q * p).sum(-1)).relu().mean()),
        ({"queries": normal(9, 4), "documents": normal(9, 4, seed=1), "labels": GRADES[:3, :3]},
         lambda q, d, y: (q - d).square().mean()),
    ],
    ids=["no labels", "lists without labels", "more queries", "triples", "odd labels"],
)  # fmt: skip
def test_a_loss_of_an_unknown_signature_is_looked_at(batch, loss):
    assert {f.rule for f in lint(batch, loss)} <= {"floor"}


def test_as_many_lists_as_items_are_cut_as_lists():
    grades = torch.arange(12.0).remainder(4).expand(12, 12)
    where = torch.ones(12, 12, dtype=torch.bool)
    where[:, -1] = False
    batch = {"scores": grades + 0.1 * normal(12, 12), "labels": grades, "where": where}
    assert rules(batch, "ranknet") == set()


TABLES = [c.name for c in cards(signature="pairs") if c.name not in ("contrastive", "angle")]


@pytest.mark.parametrize("name", TABLES)
def test_labels_of_all_pairs_are_cut_on_both_sides(name):
    q = normal(12, 16)
    batch = {"queries": q, "documents": q + 0.3 * normal(12, 16, seed=1), "labels": torch.eye(12)}
    assert not {"refused"} & rules(batch, name)


def test_labels_of_all_candidates_are_cut_with_mined_negatives():
    q = normal(12, 16)
    batch = {"queries": q, "documents": q + 0.3 * normal(12, 16, seed=1),
             "negatives": normal(12, 2, 16, seed=2), "labels": torch.eye(12, 36)}  # fmt: skip
    assert rules(batch, "bixse") == set()


def test_lists_and_arrays_are_tensors_too():
    plain = {k: v.tolist() for k, v in clean().items()}
    assert lint(plain, "ranknet") == lint({k: v.numpy() for k, v in clean().items()}, "ranknet")
    with pytest.raises(ValueError, match="scores is no tensor"):
        lint({"scores": "high", "labels": GRADES}, "ranknet")


def test_a_tensor_that_a_loss_does_not_take_is_named():
    (found,) = lint(changed(mask=GRADES > 0), "ranknet")
    assert found.rule == "refused" and found.what.startswith("ranknet_loss takes no mask; it takes")


@pytest.mark.parametrize(
    ("loss", "rule", "what"),
    [
        (lambda s, y: 1 / 0, "refused", "division by zero"),
        (lambda s, y: [][1], "refused", "IndexError list index out of range"),
        (lambda s, y: (0 * s).log().mean() * 0, "not_finite", "the loss is NaN or infinite"),
        (lambda s, y: (s - s.detach()).abs().sqrt().mean(), "not_finite",
         "the gradient of scores is NaN or infinite"),
    ],
)  # fmt: skip
def test_whatever_a_loss_does_is_said(loss, rule, what):
    (found,) = lint(clean(), loss)
    assert (found.rule, found.level, found.what) == (rule, "error", what)


def test_a_rule_that_cannot_be_tried_says_so(monkeypatch):
    def fails(case):
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(RULES, "floor", Rule("floor", "note", "Why.", "Fix.", fails))
    (found,) = lint(clean(), "ranknet")
    assert found.level == "note" and "could not be tried: no such kernel" in found.what


# More that is a mistake ---------------------------------------------------------------------------


def test_grades_below_zero_look_like_padding():
    labels = GRADES.clone()
    labels[:, -1] = -1.0
    (found,) = (f for f in lint(changed(labels=labels), "ranknet") if f.rule == "label_range")
    assert found.level == "warning" and "`where`" in found.fix
    assert "label_range" not in rules(changed(labels=labels, where=LAST), "ranknet")


def test_equal_ranks_of_any_value_are_constant():
    assert "constant_labels" in rules(changed(labels=0 * GRADES), "listmle")


def test_classes_without_a_second_member_and_a_single_class_are_named():
    batch = clean("classes")
    assert "no_positive" in rules({**batch, "labels": torch.arange(6)}, "supcon")
    assert "constant_labels" in rules({**batch, "labels": torch.zeros(6).long()}, "supcon")


def test_temperatures_of_classes_have_a_range():
    assert "temperature" in rules(clean("classes"), "supcon", temperature=5.0)


def test_probabilities_under_a_pairwise_loss_are_named():
    batch = changed(scores=clean()["scores"].sigmoid())
    assert "probabilities" in rules(batch, "ranknet")
    assert "probabilities" not in rules(batch, "ranknet", sigma=20.0)


@pytest.mark.parametrize(
    ("batch", "loss", "rule"),
    [
        ("embeddings", matryoshka(Loss("infonce", temperature=2.0), (8, 16)), "temperature"),
        ("embeddings", weighted_sum({"a": (1.0, Loss("infonce", temperature=2.0))}), "temperature"),
        ("embeddings", scheduled("infonce", temperature=Schedule(2.0)), "temperature"),
        ("scores", weighted_sum({"a": (1.0, "bce"), "b": (1.0, "ranknet")}), "label_range"),
    ],
    ids=["nested", "sum", "scheduled", "labels"],
)
def test_the_losses_inside_of_a_wrapper_are_looked_at(batch, loss, rule):
    assert rule in rules(clean(batch), loss, step=0)


def test_a_leak_into_a_part_that_must_be_finite_is_a_leak():
    loss = weighted_sum({"a": (1.0, lambda s, y, *, where: (s * where).square().mean())})
    assert "padding_leak" in rules(changed(where=LAST), loss)


def test_json_may_write_whole_numbers_capitals_and_null(tmp_path):
    path = tmp_path / "BATCH.JSON"
    rows = '"scores": [[3, 1, 2]], "labels": [[2, 0, 1]], "where": [[1.0, 1, 0]], "weights": null'
    path.write_text(f"{{{rows}}}")
    batch = read_batch(path)
    assert set(batch) == {"scores", "labels", "where"} and lint(batch, "ranknet") == []
    assert batch["scores"].is_floating_point() and batch["where"].tolist() == [[True, True, False]]
