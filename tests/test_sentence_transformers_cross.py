"""Saved cross-encoders give the same scores in sentence-transformers."""

import json

import pytest
from tiny_rerankers import QUERIES, TEXTS

from rankbench.models.cross_encoder import CrossEncoder

st = pytest.importorskip("sentence_transformers", reason="compares with sentence-transformers")

PAIRS = [(query, text) for query in QUERIES for text in TEXTS]


def theirs(folder):
    return st.CrossEncoder(str(folder), device="cpu", local_files_only=True).predict(PAIRS).tolist()


def ours(model):
    return sum(model.score([(query, TEXTS) for query in QUERIES]), [])


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {}),
        ("bert", {"max_length": 9}),  # cuts documents
        ("bert", {"template": "{query} : {document} relevant :"}),
        ("llama_classifier", {}),
        ("llama", {"head": "token_logit", "token": "yes"}),
        ("llama", {"head": "token_logit", "token": ["yes", "no"]}),
        ("llama", {"head": "token_logit", "token": 7, "template": '"{query}"\n{document} yes no'}),
    ],
)
def test_scores_are_equal_and_raw(folders, tmp_path, kind, settings):
    model = CrossEncoder(folders(kind), **{"max_length": 40, **settings})
    model.save(tmp_path / "saved")
    expected = ours(model)
    assert theirs(tmp_path / "saved") == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert min(expected) < 0 or max(expected) > 1  # no sigmoid


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("bert", {"document_first": True}),
        ("bert", {"list_context": "set"}),
        ("bert", {"list_context": "top"}),
        ("masked", {"head": "token_logit", "token": "yes"}),
        ("t5", {"head": "token_logit", "token": "yes"}),
    ],
)
def test_what_it_cannot_score_it_does_not_open(folders, tmp_path, kind, settings):
    CrossEncoder(folders(kind), max_length=40, **settings).save(tmp_path / "saved")
    with pytest.raises((ValueError, OSError)):
        theirs(tmp_path / "saved")


def test_a_model_trained_there_opens_here(folders, tmp_path):
    model = st.CrossEncoder(str(folders("bert")), device="cpu", max_length=40)
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    settings = json.loads((tmp_path / "saved" / "config_sentence_transformers.json").read_text())
    assert "Sigmoid" in settings["activation_fn"]  # why their own scores differ
    raw = model.predict(PAIRS, activation_fn=lambda x: x).tolist()
    assert ours(CrossEncoder(tmp_path / "saved", max_length=40)) == pytest.approx(
        raw, rel=1e-4, abs=1e-4
    )


def test_a_saved_prompt_does_not_reach_our_scores(folders, tmp_path):
    CrossEncoder(folders("bert"), max_length=40).save(tmp_path / "saved")
    opened = st.CrossEncoder(str(tmp_path / "saved"), device="cpu", local_files_only=True)
    assert opened.prompts == {} and opened.max_seq_length == 40
