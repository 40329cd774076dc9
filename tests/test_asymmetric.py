import pytest
import torch

from rankbench.core import UnknownName
from rankbench.models.asymmetric import Asymmetric
from rankbench.models.base import ROLES, Encoder
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.late_interaction import LateInteractionEncoder
from rankbench.models.loading import load_model
from rankbench.models.static_encoder import StaticEncoder

TEXTS = ["natural logarithm of x", "exponential of x", "sort the items of an array"] * 4


@pytest.fixture
def sides(transformer_folder):
    return StaticEncoder.from_texts(TEXTS, size=60, dim=16), BiEncoder(transformer_folder)


class Counts(Encoder):
    """A sparse side: how often a token occurs, times a learned weight of the token."""

    similarity, sparse = "dot", True

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.ones(27))

    def tokenize(self, texts, role="document"):
        return [[ord(c) - 96 for c in text.lower() if "a" <= c <= "z"] for text in texts]

    def forward(self, input_ids, attention_mask, role="document"):
        counts = torch.nn.functional.one_hot(input_ids, 27) * attention_mask[..., None]
        return counts.sum(1) * self.weights

    def join(self, chunks, order):
        from scipy.sparse import csr_array

        return csr_array(super().join(chunks, order).numpy())


def test_each_role_has_the_vectors_of_its_side(sides):
    model = Asymmetric(*sides)
    for role, side in zip(ROLES, sides, strict=True):
        assert torch.equal(model.encode(TEXTS, role=role), side.encode(TEXTS, role=role))
        assert model.tokenize(TEXTS, role) == side.tokenize(TEXTS, role)
        batch = model.batch(model.tokenize(TEXTS, role))
        torch.testing.assert_close(model(**batch, role=role), side.encode(TEXTS, role=role))


@pytest.mark.parametrize("role", ROLES)
def test_a_gradient_reaches_only_the_side_of_the_role(sides, role):
    model = Asymmetric(*sides)
    model(**model.batch(model.tokenize(TEXTS, role)), role=role)[:, 0].sum().backward()
    reached = {r for r in ROLES if any(p.grad is not None for p in model.side(r).parameters())}
    assert reached == {role}


def test_an_unknown_role_is_refused(sides):
    with pytest.raises(UnknownName, match="did you mean query"):
        Asymmetric(*sides).encode(TEXTS, role="querry")
    with pytest.raises(UnknownName, match="did you mean document"):
        Asymmetric(*sides, frozen="documents")


def test_padding_of_one_vocabulary_is_none_of_the_other(sides):
    query, document = sides
    document.pad_id = 7  # a word in the vocabulary of queries
    ids = torch.tensor([[3, 4, 7], [3, 4, 5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    model, seen = Asymmetric(query, document), []
    document.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(torch.where(mask == 1, ids, 0), mask)
    assert torch.equal(seen[0], ids)


def test_a_frozen_side_neither_trains_nor_drops_out(sides):
    model = Asymmetric(*sides, frozen="document")
    assert not any(p.requires_grad for p in model.document.parameters())
    assert all(p.requires_grad for p in model.query.parameters())
    model.train()
    assert model.query.training and not model.document.training
    model.encode(TEXTS)
    assert model.training and not model.document.training


@pytest.mark.parametrize("frozen", [None, "query", "document"])
def test_saved_and_loaded_pairs_agree(sides, frozen, tmp_path):
    model = Asymmetric(*sides, frozen=frozen)
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.config == model.config == {"shared": False, "frozen": frozen}
    for role in ROLES:
        torch.testing.assert_close(again.encode(TEXTS, role=role), model.encode(TEXTS, role=role))


def test_a_shared_side_is_saved_once(transformer_folder, tmp_path):
    encoder = BiEncoder(transformer_folder, prompts={"query": "sort "})
    model = Asymmetric(encoder, encoder)
    model.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "query").exists()
    again = load_model(tmp_path / "saved")
    assert again.query is again.document
    assert len(list(again.parameters())) == len(list(encoder.parameters()))
    torch.testing.assert_close(again.encode(["x"], role="query"), encoder.encode(["sort x"]))
    with pytest.raises(ValueError, match="both sides are one encoder"):
        Asymmetric(encoder, encoder, frozen="query")


def test_sides_that_do_not_fit_are_refused(sides, transformer_folder):
    query, document = sides
    with pytest.raises(ValueError, match="queries have 8 coordinates and those of documents 16"):
        Asymmetric(StaticEncoder.from_texts(TEXTS, size=60, dim=8), document)
    with pytest.raises(ValueError, match=r"dense \(query\) and sparse \(document\)"):
        Asymmetric(query, Counts())
    unnormalized = BiEncoder(transformer_folder, normalize=False)
    with pytest.raises(ValueError, match=r"cosine \(query\) and dot \(document\)"):
        Asymmetric(query, unnormalized)


def test_sparse_sides_work(tmp_path):
    model = Asymmetric(Counts(), Counts())
    assert model.sparse and model.similarity == "dot"
    found = model.encode(["abba"], role="query").toarray()[0]
    assert found[1] == found[2] == 2 and found.sum() == 4


def test_late_sides_work(transformer_folder):
    made = [
        LateInteractionEncoder(transformer_folder, dim=4, expand=False, prompts={}, seed=s)
        for s in (0, 1)
    ]
    model = Asymmetric(*made)
    assert model.similarity == "maxsim"
    for role, side in zip(ROLES, made, strict=True):
        assert torch.equal(model.encode(TEXTS, role=role)[0], side.encode(TEXTS, role=role)[0])
