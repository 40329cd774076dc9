"""What sentence-transformers makes of the folders of learned sparse encoders."""

import pytest
import torch
from tiny_splade import TEXTS, make_models

from rankbench.models.inference_free import InferenceFreeSplade, query_idf
from rankbench.models.splade import SpladeEncoder

st = pytest.importorskip("sentence_transformers", minversion="5.4")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("splade"))


def make(name, home):
    mlm, plain = home / "mlm", home / "plain"
    if name == "mlm":
        return SpladeEncoder(mlm, prompts={"query": "sort "})
    if name == "sum":
        return SpladeEncoder(mlm, "sum", "log1p_log1p_relu", max_length=5, top_k=7)
    if name == "restricted":
        return SpladeEncoder(mlm, vocabulary=range(3, 40))
    two = {"query_name": plain} if name == "two" else {}
    encoder = SpladeEncoder(plain, head="tied", **two)
    encoder.calibrate(TEXTS, share=0.1)
    if name in ("tied", "two"):
        encoder.restrict_vocabulary(TEXTS[:3])
        return encoder
    weights = torch.rand(encoder.dim, generator=torch.Generator().manual_seed(0))
    return InferenceFreeSplade(encoder, weights, positive="softplus")


@pytest.mark.parametrize("name", ["mlm", "sum", "restricted", "tied", "two", "free"])
def test_the_vectors_are_the_same(name, home, tmp_path):
    encoder = make(name, home)
    encoder.save(tmp_path / "model")
    model = st.SparseEncoder(str(tmp_path / "model"), device="cpu")
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        theirs = encode(TEXTS, convert_to_sparse_tensor=False)
        ours = torch.from_numpy(encoder.encode(TEXTS, role=role).toarray())
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)
        assert (theirs != 0).sum() > len(TEXTS)
    assert model.similarity_fn_name == "dot"


def test_a_folder_without_a_counterpart_is_refused(home, tmp_path):
    SpladeEncoder(home / "mlm", activation="relu").save(tmp_path / "model")
    with pytest.raises(ImportError, match="no_counterpart_of"):
        st.SparseEncoder(str(tmp_path / "model"), device="cpu")
    assert "only rankbench opens" in (tmp_path / "model" / "README.md").read_text("utf-8")


def test_the_card_says_what_to_pass(home, tmp_path):
    encoder = SpladeEncoder(home / "mlm", top_k={"query": 3})
    encoder.save(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "Pass max_active_dims=3 for query vectors" in card
    model = st.SparseEncoder(str(tmp_path / "model"), device="cpu")
    theirs = model.encode_query(TEXTS, convert_to_sparse_tensor=False, max_active_dims=3)
    ours = torch.from_numpy(encoder.encode(TEXTS, role="query").toarray())
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-4)


def test_a_model_of_sentence_transformers_is_a_checkpoint(home, tmp_path):
    encoder = make("mlm", home)
    encoder.save(tmp_path / "ours")
    st.SparseEncoder(str(tmp_path / "ours"), device="cpu").save(str(tmp_path / "theirs"))
    again = SpladeEncoder(tmp_path / "theirs")
    assert abs(again.encode(TEXTS) - encoder.encode(TEXTS)).max() < 1e-5


def test_inverse_document_frequencies_are_positive(home):
    encoder = SpladeEncoder(home / "mlm")
    assert (query_idf(encoder, ["x"] * 5) > 0).all()
