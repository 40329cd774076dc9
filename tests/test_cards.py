"""Every card tells the truth about its loss, as far as it can be read off."""

import copy
import inspect
import json
import pickle
import re

import pytest
import torch

import rankbench.losses
from rankbench.cards import FAMILIES, Loss, LossCard, _cards, cards, cite, find, loss, references
from rankbench.checks import example
from rankbench.core import UnknownName

CARDS = pytest.mark.parametrize("card", cards(), ids=lambda c: c.name)

# Data first, then keywords in this order; the paper's own settings lie between weights and
# reduction, similarity and temperature wherever the paper's settings are.
BEFORE = ("where", "documents_where", "negatives", "negatives_where", "guide_negatives",
          "positives", "exclude", "weights")  # fmt: skip
DATA = {
    "scores": ["scores", "labels"],
    "embeddings": ["queries", "documents"],
    "pairs": ["queries", "documents", "labels"],
    "classes": ["embeddings", "labels"],
    "lists": ["queries", "documents", "labels"],
    "guided": ["queries", "documents", "guide_queries", "guide_documents"],
    "log_probs": ["log_probs", "labels"],
    "targets": ["embeddings", "targets"],
    "slots": ["scores", "labels"],
    "activations": ["activations"],
    "activation_pairs": ["queries", "documents"],
}


# Names ------------------------------------------------------------------------------------------


def test_names_and_aliases_are_unique():
    names = [n for card in cards() for n in (card.name, *card.aliases)]
    assert sorted(names) == sorted(set(names))


@CARDS
def test_a_loss_is_found_by_name_alias_and_function(card):
    for name in (card.name, card.fn.__name__, card.name.upper(), card.fn, *card.aliases):
        assert find(name) is card


@CARDS
def test_an_alias_with_hyphens_is_found(card):
    for alias in card.aliases:
        assert find(alias.replace("_", "-")) is card


@CARDS
def test_a_misspelt_name_suggests_the_loss(card):
    with pytest.raises(UnknownName) as error:
        find(card.name + "x")
    assert re.fullmatch(rf"unknown loss '{card.name}x'; did you mean .*\b{card.name}\b.*\?",
                        str(error.value))  # fmt: skip


def test_a_suggestion_is_never_an_alias():
    with pytest.raises(UnknownName) as error:
        find("rank_nett")
    said = str(error.value)  # rank_net is an alias of ranknet
    assert "did you mean ranknet" in said and not re.search(r"\brank_net\b", said)


def test_a_function_without_a_card_is_refused():
    with pytest.raises(UnknownName, match="unknown loss"):
        find(len)


FIELDS = {
    "family": "pairwise", "signature": "scores", "labels": "graded", "source": "cox1958",
    "use_when": "", "avoid_when": "", "time": "n", "memory": "n",
}  # fmt: skip


@pytest.fixture
def registry():
    """The cards, put back as they were afterwards."""
    cards()
    before = dict(_cards)
    yield _cards
    _cards.clear()
    _cards.update(before)


def test_an_alias_cannot_be_the_name_of_a_loss(registry):
    def thief_loss(scores, labels):
        """A loss with a stolen name."""

    with pytest.raises(ValueError, match="ranknet"):
        loss(**FIELDS, aliases=("ranknet",))(thief_loss)


def test_a_second_loss_of_one_name_is_refused(registry):
    def ranknet_regularizer(scores, labels):
        """A loss whose name, without its suffix, exists."""

    with pytest.raises(ValueError, match="ranknet"):
        loss(**FIELDS)(ranknet_regularizer)


def test_a_loss_may_be_defined_again(registry):
    def ranknet_loss(scores, labels):
        """What running a cell of a notebook twice does."""

    loss(**FIELDS)(ranknet_loss)
    assert find("ranknet").fn is ranknet_loss


@pytest.mark.parametrize(
    ("field", "wrong", "said"),
    [
        ("family", "pairwize", "unknown family 'pairwize'; did you mean pairwise"),
        ("signature", "score", "unknown signature 'score'; did you mean scores"),
        ("labels", "grade", "unknown kind of label 'grade'; did you mean graded"),
        ("laws", {"convexx"}, "unknown law 'convexx'; did you mean convex"),
    ],
)
def test_a_misspelt_field_of_a_card_is_refused(field, wrong, said):
    with pytest.raises(UnknownName) as error:
        loss(**{**FIELDS, field: wrong})
    assert str(error.value).startswith(said)


# What a card says -------------------------------------------------------------------------------


@CARDS
def test_the_source_is_in_the_bibliography(card):
    assert card.source in references()


@CARDS
def test_the_docstring_names_the_source_and_its_year(card):
    cited = re.fullmatch(r"(.+?)(?: et al\.| and .+)? \((\d{4})\)", cite(card.source))
    author, year = cited.groups()
    assert author in card.summary and year in card.summary


@CARDS
def test_the_summary_is_one_sentence(card):
    assert card.summary.endswith(".") and "\n" not in card.summary and len(card.summary) < 120


@CARDS
def test_the_formula_is_an_equation(card):
    assert "=" in card.formula


@CARDS
def test_the_docstring_is_a_sentence_and_a_formula(card):
    assert len(inspect.cleandoc(card.fn.__doc__).split("\n\n")) == 2


@CARDS
def test_advice_is_a_sentence(card):
    assert card.use_when.endswith(".") and card.avoid_when.endswith(".")


@CARDS
def test_the_page_is_known(card):
    assert re.fullmatch(r"losses/\w+\.html#\w+", card.page)


@CARDS
def test_a_card_is_plain_data(card):
    assert json.loads(json.dumps(card.as_dict()))["name"] == card.name


@CARDS
def test_a_card_renders_as_a_table(card):
    rows = card._repr_markdown_().splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


def test_each_kind_of_data_has_one_first_choice():
    first = [(c.family, c.signature) for c in cards() if c.default]
    assert len(first) == len(set(first))


def test_cards_come_in_the_order_of_the_families():
    order = [FAMILIES.index(c.family) for c in cards()]
    assert order == sorted(order)


@CARDS
def test_cards_are_filtered_by_family_labels_and_signature(card):
    assert card in cards(family=card.family, labels=card.labels, signature=card.signature)
    assert all(c.family == card.family for c in cards(family=card.family))


# Signatures -------------------------------------------------------------------------------------


@CARDS
def test_data_is_positional(card):
    parameters = inspect.signature(card.fn).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == DATA[card.signature]


@CARDS
def test_everything_else_is_keyword_only_with_a_default(card):
    assert all(value is not inspect.Parameter.empty for value in card.settings.values())


@CARDS
def test_keywords_come_in_the_canonical_order(card):
    names = list(card.settings)
    shared = [n for n in names if n in BEFORE]
    assert names[: len(shared)] == [n for n in BEFORE if n in shared] and names[-1] == "reduction"


@CARDS
def test_data_keywords_default_to_none(card):
    assert all(card.settings[n] is None for n in BEFORE if n in card.settings)


@CARDS
def test_the_reduction_is_the_mean(card):
    assert card.settings["reduction"] == "mean"


@CARDS
def test_every_parameter_has_an_annotation(card):
    parameters = inspect.signature(card.fn).parameters.values()
    assert all(p.annotation is not inspect.Parameter.empty for p in parameters)


# The package ------------------------------------------------------------------------------------


@CARDS
def test_a_loss_is_exported_under_its_name(card):
    assert card.fn.__name__ in rankbench.losses.__all__
    assert getattr(rankbench.losses, card.fn.__name__) is card.fn


def test_everything_exported_has_a_card():
    carded = {c.fn.__name__ for c in cards()}
    assert [n for n in rankbench.losses.__all__ if n not in carded] == []


# Loss, the module -------------------------------------------------------------------------------


def setting(card):
    """One setting of the loss that JSON can hold, and a value that is not its default."""
    other = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v * 2}
    for name, value in card.settings.items():
        if type(value) in other:
            return {name: other[type(value)](value)}
    return {"reduction": "sum"}


def same_module(a, b, card):
    e = example(card)
    return a.card is b.card and a.settings == b.settings and torch.equal(
        a(*e.data, **e.keywords), b(*e.data, **e.keywords)
    )  # fmt: skip


@CARDS
def test_the_module_computes_the_loss(card):
    e, settings = example(card), setting(card)
    assert torch.equal(Loss(card.name, **settings)(*e.data, **e.keywords), e.run(card, **settings))


@CARDS
def test_the_module_takes_name_or_function(card):
    assert same_module(Loss(card.name), Loss(card.fn), card)


@CARDS
def test_the_module_survives_its_configuration(card):
    module = Loss(card.name, **setting(card))
    assert same_module(module, Loss.from_config(module.to_config()), card)


@CARDS
def test_the_module_survives_json(card):
    module = Loss(card.name, **setting(card))
    assert same_module(module, Loss.from_config(json.loads(json.dumps(module.to_config()))), card)


@CARDS
def test_every_default_survives_json(card):
    plain = {k: v for k, v in card.settings.items() if v is not None}
    module = Loss.from_config(json.loads(json.dumps(Loss(card.name, **plain).to_config())))
    e = example(card)
    assert torch.equal(module(*e.data, **e.keywords), e.run(card))


@CARDS
def test_the_module_survives_pickle(card):
    module = Loss(card.name, **setting(card))
    assert same_module(module, pickle.loads(pickle.dumps(module)), card)


@CARDS
def test_the_module_survives_copying(card):
    module = Loss(card.name, **setting(card))
    assert same_module(module, copy.deepcopy(module), card)


@CARDS
def test_the_module_prints_its_settings(card):
    ((name, value),) = setting(card).items()
    assert repr(Loss(card.name, **{name: value})) == f"Loss({card.name}, {name}={value!r})"


@CARDS
def test_the_module_has_nothing_to_train(card):
    assert list(Loss(card.name).parameters()) == []


@CARDS
def test_an_unknown_setting_is_refused(card):
    with pytest.raises(UnknownName) as error:
        Loss(card.name, reductio="sum")
    assert str(error.value).startswith(
        f"unknown setting of {card.fn.__name__} 'reductio'; did you mean reduction"
    )


def test_a_call_overrides_a_setting():
    e = example(find("ranknet"))
    module = Loss("ranknet", sigma=3.0)
    assert torch.equal(module(*e.data, **e.keywords, sigma=1.0), e.run(find("ranknet")))


def test_a_tensor_cannot_become_configuration():
    with pytest.raises(TypeError):
        Loss("ranknet", sigma=torch.tensor(1.0)).to_config()


# The bibliography -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", references())
def test_every_source_has_author_title_and_year(key):
    assert {"author", "title", "year"} <= set(references()[key])


@pytest.mark.parametrize("key", references())
def test_every_source_can_be_cited(key):
    assert re.fullmatch(r"\S.* \(\d{4}\)", cite(key))


def test_no_source_is_lost_by_the_reader(root):
    text = (root / "data" / "references.bib").read_text("utf-8")
    assert sorted(references()) == sorted(re.findall(r"^@\w+\{(.+),$", text, re.M))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("cox1958", "Cox (1958)"),
        ("burges2005", "Burges et al. (2005)"),
        ("jarvelin2002", "Järvelin and Kekäläinen (2002)"),
    ],
)
def test_a_source_is_cited_by_one_two_or_many_authors(key, expected):
    assert cite(key) == expected


def test_a_card_can_be_put_in_a_set():
    assert isinstance(hash(find("ranknet")), int) and isinstance(find("ranknet"), LossCard)
