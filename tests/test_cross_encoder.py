"""Cross-encoders: heads, what is cut, lists, saving, adapters."""

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from tiny_rerankers import QUERIES, TEXTS, VOCABULARY

from rankbench.core import UnknownName
from rankbench.losses import softmax_loss
from rankbench.models import cross_encoder
from rankbench.models.cross_encoder import CrossEncoder, _cut, opens_elsewhere
from rankbench.models.loading import load_model
from rankbench.scaling.gradient_caching import GradCache

LISTS = [(query, TEXTS) for query in QUERIES]
FORMS = {"bert": {}, "llama_classifier": {}, **{
    kind: {"head": "token_logit", "token": "yes"} for kind in ("t5", "masked", "llama", "gpt")
}}  # fmt: skip


def opened(folders, kind, **settings):
    return CrossEncoder(folders(kind), **{"max_length": 40, **FORMS.get(kind, {}), **settings})


def flat(scores):
    return torch.tensor(sum(scores, []))


def assert_alike(found, expected):
    """Equal but for float32 sums in another order; weights here are large, and so is rounding."""
    torch.testing.assert_close(
        torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-4, atol=1e-4
    )


def words(model, pair):
    return model.reader.tokenizer.convert_ids_to_tokens(pair["input_ids"])


def features_of(model, lists):
    asked = [query for query, documents in lists for _ in documents]
    return model.batch(model.tokenize(asked, [d for _, documents in lists for d in documents]))


# Heads


@pytest.mark.parametrize("kind", ["t5", "masked", "llama", "gpt"])
def test_the_score_is_the_logit_of_one_token(folders, kind):
    model = opened(folders, kind)
    for query, text in zip(QUERIES * 3, TEXTS, strict=False):
        [pair] = model.tokenize([query], [text])
        ids = torch.tensor([pair["input_ids"]])
        if kind == "t5":
            logits = model.model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0]
        else:
            place = words(model, pair).index("[MASK]") if kind == "masked" else -1
            logits = model.model(input_ids=ids).logits[0, place]
        found = model.score([(query, [text, TEXTS[2], "tea"])])[0][0]  # beside longer ones
        assert_alike(found, logits[VOCABULARY["yes"]].item())


def test_two_tokens_are_subtracted(folders):
    yes, no, both = (
        flat(opened(folders, "t5", token=token).score(LISTS))
        for token in ("yes", VOCABULARY["no"], ["yes", "no"])
    )
    assert_alike(both, yes - no)


def test_only_the_row_of_the_token_gets_a_gradient(folders):
    model = opened(folders, "t5")
    apart = model.model.lm_head.weight.detach().clone()  # not the embeddings of the input
    model.model.lm_head.weight = torch.nn.Parameter(apart)
    model.score_rows(**features_of(model, LISTS)).sum().backward()
    touched = model.model.lm_head.weight.grad.abs().sum(-1).nonzero().flatten()
    assert touched.tolist() == [VOCABULARY["yes"]]
    before = model.score(LISTS)
    with torch.no_grad():
        model.model.lm_head.weight[VOCABULARY["no"]] += 1
    assert model.score(LISTS) == before


@pytest.mark.parametrize("kind", FORMS)
def test_forward_lays_out_what_score_returns(folders, kind):
    model = opened(folders, kind)
    lists = [(QUERIES[0], TEXTS[:2]), (QUERIES[1], []), (QUERIES[1], TEXTS)]
    where = torch.arange(5) < torch.tensor([[2], [0], [5]])
    scores = model(where, **features_of(model, lists))
    assert not scores[~where].any() and scores.dtype == torch.float32
    assert_alike(scores[where], flat(model.score(lists)))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_order_and_batches_do_not_matter(folders, kind):
    model = opened(folders, kind)
    expected = flat(model.score(LISTS))
    one_by_one = [[model.score([(q, [d])])[0][0] for d in documents] for q, documents in LISTS]
    for scores in (one_by_one, model.score(LISTS, batch_size=3), model.score(LISTS[::-1])[::-1]):
        assert_alike(flat(scores), expected)


def test_more_pairs_than_are_held_at_once(folders):
    model = opened(folders, "bert")
    many = [("drink", [TEXTS[i % 5] for i in range(130)])]  # 100 are held with batches of one
    assert_alike(flat(model.score(many, batch_size=1)), flat(model.score(many)))


def test_nothing_to_score(folders):
    model = opened(folders, "bert")
    assert model.score([]) == [] and model.score([("drink", [])]) == [[]]
    nothing = model(torch.zeros(2, 0, dtype=torch.bool), **model.batch([]))
    assert nothing.shape == (2, 0)


def test_scoring_restores_the_training_mode(folders):
    model = opened(folders, "bert")
    assert not model.training  # as transformers opens models
    before = model.score(LISTS)
    model.train()
    assert model.score(LISTS) == before and model.training and model.model.training


# Weights that are not in the folder


def test_an_existing_head_is_kept(folders):
    model = opened(folders, "bert")
    assert model.fresh == [] and model.model.classifier.weight.std() > 0.1


def test_a_fresh_head_comes_from_the_seed_and_is_told(folders, caplog):
    state = torch.random.get_rng_state()
    with caplog.at_level(logging.WARNING):
        heads = [opened(folders, "bare", seed=s).model.classifier.weight for s in (1, 1, 2)]
    assert torch.random.get_rng_state().equal(state)
    assert heads[0].equal(heads[1]) and not heads[0].equal(heads[2])
    assert "lacks classifier.bias, classifier.weight: they start at random" in caplog.text


def test_a_classifier_is_no_reranker(folders):
    with pytest.raises(ValueError, match="has a head with 3 labels; expected 1.*replace_head=True"):
        opened(folders, "three")
    model = opened(folders, "three", replace_head=True)
    assert model.fresh == ["classifier.bias", "classifier.weight"]
    assert len(model.score(LISTS)[0]) == 5


# What is cut


def test_the_end_of_the_document_is_cut(folders):
    model = opened(folders, "bert", max_length=8)
    [pair] = model.tokenize(["tool saw"], ["saw hammer park lake saw"])
    assert words(model, pair) == "[CLS] tool saw [SEP] saw hammer park [SEP]".split()
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    first = opened(folders, "bert", max_length=8, document_first=True)
    [pair] = first.tokenize(["tool saw"], ["saw hammer park lake saw"])
    assert words(first, pair) == "[CLS] saw hammer park [SEP] tool saw [SEP]".split()


@pytest.mark.parametrize("document_first", [False, True])
@pytest.mark.parametrize("documents", [["tea", ""], ["tea " * 30, "saw"]])
def test_long_queries_are_cut_too(folders, document_first, documents):
    model = opened(folders, "bert", max_length=8, document_first=document_first)
    found = model.tokenize(["drink " * 30, "tool"], documents)
    assert [len(found[0]["input_ids"]) <= 8, words(model, found[1]).count("tool")] == [True, 1]
    assert all(map(torch.isfinite, flat(model.score([("drink " * 30, documents)]))))


def test_a_template_keeps_its_end(folders):
    text = "query {query} document {document} relevant :"
    model = opened(folders, "llama", max_length=9, template=text)
    [pair] = model.tokenize(["tool saw"], ["saw hammer park lake saw"])
    assert words(model, pair) == "query tool saw document saw hammer park relevant :".split()
    [pair] = model.tokenize(["tool " * 20], ["tea"])
    assert words(model, pair) == "query tool tool tool tool tool document relevant :".split()
    short = opened(folders, "llama", max_length=3, template=text)
    with pytest.raises(ValueError, match="template alone has 4 tokens but max_length is 3"):
        short.tokenize(["tool"], ["tea"])


def test_texts_that_look_like_a_template_are_texts(folders):
    model = opened(folders, "masked")
    [pair] = model.tokenize(["tea {document} [MASK]"], ["{mask} {query} milk"])
    read = words(model, pair)
    assert read.count("[MASK]") == 1 and read.count("tea") == read.count("milk") == 1


# Refusals


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("bert", {"head": "liner"}, "unknown head 'liner'; did you mean linear"),
        ("bert", {"list_context": "sets"}, "unknown list context 'sets'; did you mean set"),
        ("bert", {"dtype": "float8"}, "unknown dtype 'float8'"),
        ("bert", {"token": "yes"}, "a token needs head='token_logit'"),
        ("bert", {"context": {"blocks": 2}}, "need list_context='top'"),
        ("bert", {"max_length": 65}, "max_length is 65; expected a number from 1 to 64"),
        ("bert", {"max_length": 0}, "max_length is 0"),
        ("bert", {"template": "{query} only"}, r"expected one \{document\} in it"),
        ("masked", {"template": "{query} {document}"}, r"expected one \{mask\} in it"),
        ("masked", {"list_context": "set"}, "a list context needs head='linear'"),
        ("t5", {"token": None}, "expected the token whose logit is the score"),
        ("t5", {"token": ["yes", "no", "tea"]}, "expected the token whose logit"),
        ("t5", {"token": "yes no"}, "'yes no' is .*expected one entry of its vocabulary"),
        ("t5", {"token": "maybe"}, "expected one entry of its vocabulary"),
        ("t5", {"token": 1000}, "token is 1000; expected an id from 0 to"),
        ("llama_classifier", {"list_context": "set"}, "first token of a decoder has read nothing"),
    ],
)
def test_settings_that_cannot_be_are_refused(folders, kind, settings, message):
    with pytest.raises(ValueError, match=message):
        opened(folders, kind, **settings)


def test_unknown_names_are_told_from_bad_values(folders):
    with pytest.raises(UnknownName):
        opened(folders, "bert", head="tokens")


def test_a_model_that_is_not_there(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="no model 'no/such/folder': give a folder with"):
        CrossEncoder("no/such/folder")


def test_queries_and_documents_come_in_pairs(folders):
    with pytest.raises(ValueError, match="there are 2 queries but 5 documents"):
        opened(folders, "bert").tokenize(QUERIES, TEXTS)


# Lists


def with_context(folders, context):
    model = opened(folders, "bert", list_context=context)
    if context == "top":  # it starts as a stack that changes nothing
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for block in model.context.blocks:
                torch.nn.init.normal_(block.output.weight)
                torch.nn.init.normal_(block.inner[-1].weight)
    return model


@pytest.fixture(params=["top", "set"])
def contextual(request, folders):
    return with_context(folders, request.param)


def test_permuted_documents_have_permuted_scores(contextual):
    [expected] = contextual.score([("drink", TEXTS)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        order = torch.randperm(len(TEXTS), generator=generator).tolist()
        [scores] = contextual.score([("drink", [TEXTS[i] for i in order])])
        assert_alike(scores, [expected[i] for i in order])


def test_other_lists_and_padding_change_nothing(contextual):
    alone = [contextual.score([one])[0] for one in LISTS]
    lists = [*LISTS, ("tool", TEXTS[:2]), ("tea", [])]
    for batch_size in (1, 7, 64):  # a list is never cut
        together = contextual.score(lists, batch_size=batch_size)
        assert_alike(flat(together[:2]), flat(alone))
        assert together[3] == []
    where = torch.arange(9) < torch.tensor([[5], [0], [5]])
    wide = contextual(where, **features_of(contextual, LISTS))
    assert_alike(wide[where], flat(alone))


def test_a_neighbour_changes_the_score(contextual, folders):
    [both], [alone] = (
        contextual.score([("drink", TEXTS[:2])]),
        contextual.score([("drink", TEXTS[:1])]),
    )
    assert abs(both[0] - alone[0]) > 1e-3
    [once], [twice] = (
        contextual.score([("drink", d)]) for d in (TEXTS[:2], [*TEXTS[:2], TEXTS[0]])
    )
    assert_alike(twice[0], twice[2])  # duplicates are equal
    assert abs(once[0] - twice[0]) > 1e-3  # and known to be duplicates


def test_a_context_starts_as_the_pointwise_model(folders):
    plain = opened(folders, "bert").score(LISTS)
    top = opened(folders, "bert", list_context="top", context={"blocks": 2, "heads": 2})
    assert_alike(flat(top.score(LISTS)), flat(plain))
    alone = opened(folders, "bert", list_context="set").score(
        [(q, [d]) for q, ds in LISTS for d in ds]
    )
    assert_alike(flat(alone), flat(plain))


def test_pairs_of_a_list_cannot_be_scored_apart(contextual):
    with pytest.raises(ValueError, match="a score depends on its list, so pairs cannot be scored"):
        contextual.score_rows(**features_of(contextual, LISTS))


def test_a_decoder_has_no_vector_to_look_around_with(folders):
    model = opened(folders, "llama_classifier", list_context="top")
    with pytest.raises(ValueError, match="this model scores every token; give an encoder"):
        model.score(LISTS)


def gradients(model, run):
    model.zero_grad()
    run()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def test_checkpointing_keeps_the_gradient_of_a_set(folders):
    model = with_context(folders, "set").train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    where, features = torch.ones(2, 5, dtype=torch.bool), features_of(model, LISTS)
    run = lambda: model(where, **features).square().sum().backward()  # noqa: E731
    plain = gradients(model, run)
    new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
    enable = getattr(model.model, new, None) or getattr(model.model, old)
    enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(model, run), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("limit", [{"max_items": 3}, {"max_tokens": 30}])
@pytest.mark.parametrize("kind", ["bert", "t5", "masked", "llama"])
def test_a_cached_list_has_the_gradient_of_the_list(folders, kind, limit):
    model = opened(folders, kind)
    features, labels = features_of(model, LISTS), torch.eye(5)[:2]
    loss = lambda scores: softmax_loss(scores.view(2, 5), labels)  # noqa: E731
    plain = gradients(model, lambda: loss(model.score_rows(**features)).backward())
    cache = GradCache(loss, model.score_rows, **limit)
    cached = gradients(model, lambda: cache(features).backward())
    torch.testing.assert_close(cached, plain, atol=5e-5, rtol=1e-4)


# Saving


SAVED = [
    ("bert", {}),
    ("bert", {"document_first": True, "max_length": 12}),
    ("bert", {"list_context": "set"}),
    ("bert", {"list_context": "top", "context": {"heads": 2}}),
    ("bert", {"dtype": "bfloat16"}),
    ("llama_classifier", {}),
    ("t5", {"token": ["yes", "no"]}),
    ("masked", {}),
    ("gpt", {"template": "{document} : {query}"}),
]


@pytest.mark.parametrize(("kind", "settings"), SAVED)
def test_a_saved_model_scores_the_same(folders, tmp_path, kind, settings):
    model = opened(folders, kind, **settings)
    if model.context is not None:
        model = with_context(folders, "top")
    model.save(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    assert again.score(LISTS) == model.score(LISTS) and again.config == model.config
    written = json.loads((tmp_path / "saved" / "rankbench.json").read_text("utf-8"))
    assert written == {"kind": "cross_encoder", **model.config}
    files = {path.name for path in (tmp_path / "saved").rglob("*")}
    assert "model.safetensors" in files and not any(name.endswith(".bin") for name in files)
    assert (tmp_path / "saved" / "modules.json").exists() == opens_elsewhere(model)


def test_settings_can_be_replaced_when_a_model_is_loaded(folders, tmp_path):
    opened(folders, "bert").save(tmp_path / "saved")
    assert load_model(tmp_path / "saved", max_length=9).config["max_length"] == 9
    assert CrossEncoder.load(folders("bert"), max_length=9).config["head"] == "linear"


@pytest.mark.parametrize("broken", ["save_pretrained", "write_text"])
def test_an_interrupted_save_leaves_the_previous_model(folders, tmp_path, monkeypatch, broken):
    model, folder = opened(folders, "bert"), tmp_path / "saved"
    model.save(folder)
    before, names = model.score(LISTS), sorted(p.name for p in folder.iterdir())
    with torch.no_grad():
        model.model.classifier.weight += 1

    def fail(*_, **__):
        raise KeyboardInterrupt

    owner = Path if broken == "write_text" else type(model.reader.tokenizer)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, broken, fail)
        model.save(folder)
    assert load_model(folder).score(LISTS) == before
    assert sorted(p.name for p in folder.iterdir()) == names
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]
    model.save(folder)
    assert load_model(folder).score(LISTS) == model.score(LISTS) != before


def test_half_precision_is_close_and_scores_are_floats(folders):
    full, half = (opened(folders, "bert", dtype=d) for d in ("float32", "bfloat16"))
    assert next(half.parameters()).dtype == torch.bfloat16
    where = torch.ones(2, 5, dtype=torch.bool)
    assert half(where, **features_of(half, LISTS)).dtype == torch.float32
    difference = flat(full.score(LISTS)) - flat(half.score(LISTS))
    assert 0 < difference.abs().max() < 0.2


# Adapters


@pytest.mark.parametrize("kind", ["bert", "bare", "t5", "llama"])
def test_adapters_train_and_are_merged_when_saved(folders, tmp_path, kind):
    pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # peft draws the adapters from the state of the world
        model = opened(folders, kind, lora={"r": 2, "init_lora_weights": False})
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    own = {n for n in trained if "lora_" in n}
    assert own and all("classifier" in n for n in trained - own)
    assert bool(trained - own) == (kind in ("bert", "bare"))
    assert (
        set(gradients(model, model.score_rows(**features_of(model, LISTS)).sum().backward))
        == trained
    )
    scores = model.score(LISTS)
    model.save(tmp_path / "saved")
    assert model.score(LISTS) == scores  # training goes on
    again = load_model(tmp_path / "saved")
    assert_alike(flat(again.score(LISTS)), flat(scores))
    assert (flat(opened(folders, kind).score(LISTS)) - flat(scores)).abs().max() > 0.01
    assert not list((tmp_path / "saved").rglob("adapter*")) and not again.fresh


def test_adapters_and_a_context_above_them(folders):
    pytest.importorskip("peft")
    model = opened(folders, "bert", list_context="top", lora={"r": 2})
    plain = opened(folders, "bert").score(LISTS)
    assert_alike(flat(model.score(LISTS)), flat(plain))
    where = torch.ones(2, 5, dtype=torch.bool)
    found = gradients(model, model(where, **features_of(model, LISTS)).sum().backward)
    assert any(n.startswith("context") for n in found) and any("lora_B" in n for n in found)


def test_a_missing_extra_is_named(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"lora needs peft.*pip install 'rankbench\[lora\]'"):
        opened(folders, "bert", lora={"r": 2})


def test_the_class_is_known_by_its_kind():
    assert CrossEncoder.kind == "cross_encoder" and cross_encoder.HEADS == ("linear", "token_logit")


def test_the_tokens_of_one_character_are_cut_together():
    class Bytes:
        def __call__(self, text, **more):
            ends = [(i, i + 1) for i, c in enumerate(text) for _ in range(4 if c == "😀" else 1)]
            return {"offset_mapping": ends}

    assert _cut(Bytes(), "x😀😀", 1) == "x😀" and _cut(Bytes(), "x😀", 3) == "x"
    assert _cut(Bytes(), "abc", 1) == "ab" and _cut(Bytes(), "😀", 2) == ""
