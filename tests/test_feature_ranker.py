"""The ranker of features, its training with every list loss, and its comparison."""

import json
import math
from dataclasses import replace

import pytest
import torch

from rankbench.cards import Loss, cards, find
from rankbench.core import UnknownName
from rankbench.data.features import FeatureData, FeatureLists
from rankbench.losses.combining import scheduled, weighted_sum
from rankbench.models.feature_ranker import (
    AttentionRanker,
    FeatureRanker,
    Normalizer,
    fit_ridge,
)
from rankbench.models.loading import load_model
from rankbench.recipes import Recipe, make_recipe
from rankbench.records import read_record
from rankbench.scaling.schedules import Schedule
from rankbench.training import comparing, list_training
from rankbench.training.comparing import (
    Comparison,
    OutputError,
    choose,
    plot_systems,
    run_comparison,
    tries,
    tune_units,
)
from rankbench.training.list_training import (
    FeatureTask,
    check_list_loss,
    dev_value,
    labels_for,
    loss_of_lists,
    make_ranker,
    parse_sizes,
    scale_settings,
    train_ranker,
)
from rankbench.training.systems import RetrievalTask
from rankbench.training.tasks import Unit, fitting_losses

LIST_LOSSES = fitting_losses(FeatureTask)


def make_lists(queries: int, seed: int, names: str) -> FeatureLists:
    """The grade is hidden in the sum of two columns; a third is noise, a fourth constant."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(5, 12, (queries,), generator=generator)
    rows = int(sizes.sum())
    features = torch.randn(rows, 4, generator=generator)
    features[:, 3] = 7
    hidden = features[:, 0] + features[:, 1]
    labels = (hidden > 0.5).float() + (hidden > 1.5).float()
    features[:, 2] = features[:, 2].exp() * 1000
    return FeatureLists(features, labels, tuple(f"{names}{i}" for i in range(queries)), sizes,
                        ("",) * rows)  # fmt: skip


@pytest.fixture(scope="module")
def data() -> FeatureData:
    splits = {"train": make_lists(60, 0, "a"), "dev": make_lists(25, 1, "b"),
              "test": make_lists(30, 2, "c")}  # fmt: skip
    return FeatureData("toy", splits, ("x", "y", "noise", "constant"))


def fitted(data, **settings) -> FeatureRanker:
    ranker = FeatureRanker(len(data.columns), **settings)
    ranker.normalizer.fit(data.split("train").features)
    return ranker


def test_normalised_columns_have_mean_zero_and_deviation_one(data):
    rows = data.split("train").features
    normal = Normalizer(4).fit(rows)(rows)
    assert normal[:, :3].mean(0).abs().max() < 1e-3
    assert (normal[:, :3].std(0) - 1).abs().max() < 0.02
    assert not normal[:, 3].any()  # constant in training


def test_statistics_come_from_training_alone(data):
    normalizer = Normalizer(4).fit(data.split("train").features)
    before = {k: v.clone() for k, v in normalizer.state_dict().items()}
    normalizer(data.split("test").features * 5)
    assert all(v.equal(before[k]) for k, v in normalizer.state_dict().items())


def test_a_column_that_only_test_uses_changes_nothing(data):
    ranker = fitted(data)
    rows = data.split("test").features.clone()
    before = ranker.score(rows)
    rows[:, 3] = torch.arange(len(rows))
    assert ranker.score(rows).equal(before)


def test_only_long_tails_are_compressed(data):
    rows = data.split("train").features
    assert Normalizer(4).fit(rows).skewed.tolist() == [False, False, True, False]
    assert not Normalizer(4).fit(rows, compress=False).skewed.any()
    flat = Normalizer(4).fit(-rows)
    assert flat(-rows).allclose(-Normalizer(4).fit(rows)(rows), atol=1e-5)  # also on the left


def test_values_far_outside_training_stay_finite(data):
    scores = fitted(data).score(torch.full((3, 4), 1e30) * torch.tensor([[1.0], [-1], [0]]))
    assert scores.isfinite().all()


@pytest.mark.parametrize("columns", [1, 3, 5])
def test_rows_with_other_columns_are_refused(data, columns):
    ranker, rows = fitted(data), torch.zeros(2, columns)  # one column would be broadcast
    for use in (ranker, ranker.normalizer.fit):
        with pytest.raises(ValueError, match=rf"shape \(2, {columns}\); expected \[..., 4\]"):
            use(rows)


@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_any_leading_axes_give_the_same_scores(data, hidden, layer_norm):
    ranker = fitted(data, hidden=hidden, layer_norm=layer_norm)
    rows = data.split("train").features[:24]
    assert ranker(rows.view(2, 3, 4, 4)).reshape(-1).allclose(ranker(rows), atol=1e-5)
    assert ranker.score(rows).allclose(ranker(rows), atol=1e-5)


def test_the_seed_decides_the_weights_and_leaves_the_world_alone(data):
    state = torch.random.get_rng_state()
    a, b, c = FeatureRanker(4, seed=1), FeatureRanker(4, seed=1), FeatureRanker(4, seed=2)
    assert torch.random.get_rng_state().equal(state)
    assert a.layers[0].weight.equal(b.layers[0].weight)
    assert not a.layers[0].weight.equal(c.layers[0].weight)


def test_dropout_is_off_when_rows_are_scored(data):
    ranker = fitted(data, dropout=0.5).train()
    rows = data.split("test").features
    assert ranker.score(rows).equal(ranker.score(rows)) and ranker.training


@pytest.mark.parametrize("settings", [{}, {"hidden": ()}, {"dropout": 0.1, "layer_norm": True}])
def test_a_saved_ranker_scores_the_same(data, tmp_path, settings):
    ranker = fitted(data, **settings)
    ranker.save(tmp_path / "ranker")
    again = load_model(tmp_path / "ranker")
    rows = data.split("test").features
    assert again.score(rows).equal(ranker.score(rows)) and again.config == ranker.config


def test_ridge_solves_its_equation(data):
    lists = data.split("train")
    ranker = fit_ridge(lists.features, lists.labels, penalty=3.0)
    x = ranker.normalizer(lists.features).double()
    weight = ranker.layers[-1].weight.double()[0].detach()
    left = x.T @ (x @ weight - (lists.labels - lists.labels.mean()).double()) + 3 * weight
    assert left.abs().max() < 1e-2


# Rows that see each other


def attentive(data, **settings) -> AttentionRanker:
    ranker = AttentionRanker(len(data.columns), **{"hidden": (8,), "heads": 2, **settings})
    ranker.normalizer.fit(data.split("train").features)
    return ranker.eval()


@pytest.mark.parametrize("settings", [{}, {"hidden": (6, 4), "layer_norm": True, "blocks": 1}])
def test_attention_follows_permutations_and_ignores_padding(data, settings):
    ranker, lists = attentive(data, **settings), data.split("dev")
    features, _, where = lists.batch(torch.arange(6))
    scores = ranker(features, where)
    generator = torch.Generator().manual_seed(0)
    for i in range(6):
        size = int(lists.sizes[i])
        order = torch.randperm(size, generator=generator)
        alone = ranker(features[i, order])  # one list, no mask
        torch.testing.assert_close(alone, scores[i, order], atol=1e-5, rtol=1e-4)
    rubbish = torch.where(where[..., None], features, 1e9)
    torch.testing.assert_close(ranker(rubbish, where)[where], scores[where])


def test_a_row_changes_the_scores_of_its_list_alone(data):
    ranker = attentive(data)
    features, _, where = data.split("dev").batch(torch.arange(2))
    before = ranker(features, where)
    features[0, 0, 0] += 3
    change = (ranker(features, where) - before).abs()
    assert change[0, 1 : int(where[0].sum())].min() > 1e-5 and not change[1].any()


@pytest.mark.parametrize("most", [65536, 40])
def test_rows_are_scored_by_list(data, most, monkeypatch):
    from rankbench.models import feature_ranker

    monkeypatch.setattr(feature_ranker, "MOST", most)
    ranker, lists = attentive(data).train(), data.split("dev")
    features, _, where = lists.batch(torch.arange(len(lists)))
    found = ranker.score(lists.features, lists.sizes)
    torch.testing.assert_close(found, ranker.eval()(features, where)[where], atol=1e-5, rtol=1e-4)
    assert ranker.train().score(lists.features[:0], lists.sizes[:0]).shape == (0,)


def test_rows_without_their_lists_are_refused(data):
    ranker, rows = attentive(data), data.split("dev").features
    with pytest.raises(ValueError, match="rows and no sizes; expected the number of rows of each"):
        ranker.score(rows)
    with pytest.raises(ValueError, match="sizes that add up to 5; expected"):
        ranker.score(rows, torch.tensor([2, 3]))
    with pytest.raises(ValueError, match="hidden is empty; attention needs a hidden layer"):
        AttentionRanker(4, hidden=())


def test_a_row_is_no_list(data, without_shape_checks):
    with pytest.raises(ValueError, match=r"shape \(4,\).*attention scores lists, not rows"):
        attentive(data)(data.split("dev").features[0])


def test_attention_can_start_as_the_ranker_without_it(data):
    ranker, plain = attentive(data, identity=True), fitted(data, hidden=(8,))
    features, _, where = data.split("dev").batch(torch.arange(6))
    assert ranker(features, where).equal(plain(features))


def test_places_give_up_equivariance(data):
    ranker = attentive(data, positions=3)
    features = data.split("dev").batch(torch.arange(1))[0]
    order = torch.arange(features.shape[1]).flip(0)
    assert ranker(features[:, order]).allclose(ranker(features)[:, order], atol=1e-5)  # untrained
    with torch.no_grad():
        ranker.places.weight[:] = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    assert not ranker(features[:, order]).allclose(ranker(features)[:, order], atol=1e-2)


@pytest.mark.parametrize("settings", [{}, {"positions": 4, "dropout": 0.1, "identity": True}])
def test_a_saved_attention_ranker_scores_the_same(data, tmp_path, settings):
    ranker, lists = attentive(data, **settings), data.split("test")
    ranker.save(tmp_path / "ranker")
    again = load_model(tmp_path / "ranker")
    assert type(again) is AttentionRanker and again.config == ranker.config
    scores = ranker.score(lists.features, lists.sizes)
    assert again.score(lists.features, lists.sizes).equal(scores)


def test_an_interrupted_save_leaves_the_previous_ranker(data, tmp_path, monkeypatch):
    import safetensors.torch

    ranker, folder, rows = fitted(data), tmp_path / "ranker", data.split("test").features
    ranker.save(folder)
    (folder / "notes.txt").write_text("mine", "utf-8")
    before = ranker.score(rows)
    ranker.layers[0].weight.data += 1

    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(safetensors.torch, "save_file", fail)
        ranker.save(folder)
    assert load_model(folder).score(rows).equal(before)
    assert [path.name for path in tmp_path.iterdir()] == ["ranker"]
    ranker.save(folder)
    assert load_model(folder).score(rows).equal(ranker.score(rows))
    assert (folder / "notes.txt").read_text("utf-8") == "mine"


def test_the_first_weights_of_the_plain_ranker_are_what_they_were():
    ranker = FeatureRanker(2, (3,), seed=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, last = torch.nn.Linear(2, 3), torch.nn.Linear(3, 1)
    assert ranker.layers[0].weight.equal(first.weight) and ranker.layers[-1].bias.equal(last.bias)
    assert set(ranker.config) == {"width", "hidden", "dropout", "layer_norm"}


# Training


LEARNS: dict[str, dict] = {}  # Loss → settings, where 60 steps at 0.03 are not enough.


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_every_list_loss_learns_to_rank(data, name):
    ranker = fitted(data, hidden=(8,))
    settings = {"steps": 60, "batch_size": 20, "rate": 0.03, **LEARNS.get(name, {})}
    curve = train_ranker(ranker, data, name, evaluations=2, **settings)
    (_, before), (_, after) = curve.dev
    assert all(map(math.isfinite, curve.losses))
    assert after > max(before + 0.1, 0.7)


@pytest.mark.parametrize("name", ["softmax", "ranknet", "lambda"])
def test_attention_learns_to_rank(data, name):
    ranker = make_ranker("attention-8x1h2", len(data.columns))
    ranker.normalizer.fit(data.split("train").features)
    curve = train_ranker(ranker, data, name, steps=60, batch_size=20, rate=0.01, evaluations=2)
    assert curve.dev[1][1] > max(curve.dev[0][1] + 0.1, 0.7)


def test_a_sum_gives_every_part_its_own_labels(data):
    both = weighted_sum({"r": (1.0, "ranknet"), "b": (0.5, "bce"), "a": (2.0, "approx_ap")})
    scores, grades = torch.randn(2, 4), torch.tensor([[0.0, 1, 2, 0], [2, 0, 0, 0]])
    where = torch.tensor([[True] * 4, [True, True, True, False]])
    found = loss_of_lists(both, 2.0)(scores, grades, where=where)
    expected = {
        "r": find("ranknet").fn(scores, grades, where=where),
        "b": find("bce").fn(scores, grades / 2, where=where),
        "a": find("approx_ap").fn(scores, (grades > 0).float(), where=where),
    }
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    total = expected["r"] + 0.5 * expected["b"] + 2 * expected["a"]
    torch.testing.assert_close(found["loss"], total)


def test_a_sum_of_one_trains_like_the_loss_alone(data):
    alone, summed, wrapped = (
        train_ranker(fitted(data), data, loss, steps=6, temperature=2.0)
        for loss in ("softmax", weighted_sum({"s": (1.0, "softmax")}), scheduled("softmax"))
    )
    assert alone.losses == summed.losses == wrapped.losses
    assert alone.parts == [] and [p["s"] for p in summed.parts] == summed.losses[:6]


def test_schedules_see_the_step(data):
    fading = weighted_sum({"r": (1.0, "ranknet"), "b": (Schedule(1.0, end=0.0, total=3), "bce")})
    parts = train_ranker(fitted(data), data, fading, steps=6).parts
    assert [sorted(p) for p in parts] == [["b", "r"]] * 3 + [["r"]] * 3
    sharper = scheduled("bce", temperature=1.0) if "temperature" in find("bce").settings else None
    sharper = sharper or scheduled("ranknet", sigma=lambda step: 1.0 + step)
    expected = find("ranknet").fn
    loss, (features, grades, where) = (
        loss_of_lists(sharper, 2.0),
        data.split("dev").batch(torch.arange(3)),
    )
    scores = features[..., 0]
    found = loss(scores, grades, where=where, step=2)
    torch.testing.assert_close(found, expected(scores, grades, where=where, sigma=3.0))


def test_settings_of_a_loss_object_are_its_own(data):
    scores, grades = torch.randn(1, 4), torch.tensor([[0.0, 1, 2, 0]])
    found = loss_of_lists(Loss("bce"), 2.0, temperature=3.0)(scores, grades)
    torch.testing.assert_close(found, find("bce").fn(scores, grades / 2))
    found = loss_of_lists(Loss("ranknet", sigma=2.0), 2.0, temperature=3.0)(scores, grades)
    torch.testing.assert_close(found, find("ranknet").fn(scores, grades, sigma=2.0))


def test_functions_of_ones_own_are_called_as_they_are(data):
    def mine(scores, grades, *, where):
        return ((scores - grades).square() * where).sum()

    assert train_ranker(fitted(data), data, mine, steps=3).losses[0] > 0
    with pytest.raises(ValueError, match="takes no keyword `where`, so it would rank padding"):
        train_ranker(fitted(data), data, lambda scores, grades: scores.sum(), steps=3)
    with pytest.raises(UnknownName, match="did you mean ranknet"):
        train_ranker(fitted(data), data, "ranknett", steps=3)
    with pytest.raises(ValueError, match="infonce is no loss on scores"):
        loss_of_lists(weighted_sum({"i": (1.0, "infonce")}), 2.0)


def test_training_repeats_itself_and_seeds_differ(data):
    run = lambda seed: train_ranker(fitted(data), data, "ranknet", steps=5, batch_size=9, seed=seed)  # noqa: E731
    assert run(1).losses == run(1).losses != run(2).losses


def test_dev_is_measured_when_it_should_be(data):
    ranker = fitted(data)
    at = lambda n: [s for s, _ in train_ranker(ranker, data, "softmax", steps=9, evaluations=n).dev]  # noqa: E731
    assert at(0) == [] and at(1) == [9] and at(2) == [0, 9] and at(4) == [0, 3, 6, 9]


def test_every_list_is_seen_before_any_comes_again():
    batches = [*list_training._batches(10, 4, 5, seed=0)]
    assert sorted(torch.cat(batches).tolist()) == sorted([*range(10)] * 2)
    assert [len(b) for b in list_training._batches(3, 64, 2, seed=0)] == [3, 3]


def test_training_scores_what_the_ranker_scores(data):
    ranker = fitted(data)
    train_ranker(ranker, data, "softmax", steps=3)
    dev = data.split("dev")
    loss = find("softmax").fn
    features, labels, where = dev.batch(torch.arange(4))
    rows = ranker.score(dev.features)[: int(dev.sizes[:4].sum())]
    assert ranker(features)[where].allclose(rows, atol=1e-5)
    assert loss(ranker(features), labels, where=where).isfinite()


@pytest.mark.parametrize("name", ["infonce", "flops"])
def test_losses_that_take_no_lists_are_refused(name):
    with pytest.raises(
        ValueError, match=f"{name} is no loss on scores .* losses that fit: .*ranknet"
    ):
        check_list_loss(name)


def test_all_are_the_losses_on_scores():
    assert LIST_LOSSES == [
        c.name for c in cards() if c.signature == "scores" and c.labels != "none"
    ]
    assert "kl" not in fitting_losses(RetrievalTask)


@pytest.mark.parametrize("card", [find(n) for n in LIST_LOSSES], ids=lambda c: c.name)
def test_labels_are_what_the_card_asks_for(card):
    given = labels_for(card, torch.tensor([0.0, 1, 4]), 4.0).tolist()
    pointwise = card.family == "pointwise"
    expected = {"binary": [0, 0.25, 1] if pointwise else [0, 1, 1]}
    assert given == expected.get(card.labels, [0, 1, 4])


def test_a_temperature_is_a_multiple_of_the_default():
    assert scale_settings(find("ranknet"), 4.0) == {"sigma": 0.25}
    assert scale_settings(find("softmax"), 4.0) == {"temperature": 4.0}
    assert scale_settings(find("bce"), 4.0) == scale_settings(find("softmax"), 1.0) == {}


def test_temperatures_are_tried_where_there_is_one():
    recipe = Recipe(("bce", "softmax"), task="letor", rates=(0.1,), temperatures=(0.5, 2.0))
    assert [(u.system, u.temperature) for u in tune_units(recipe)] == [
        ("softmax", 0.5), ("softmax", 2.0),
    ]  # fmt: skip
    assert [(u.rate, u.temperature) for u in tries(recipe, "bce")] == [(0.1, 1.0)]


@pytest.mark.parametrize(("model", "sizes"), [("linear", ()), ("8", (8,)), ("64-32", (64, 32))])
def test_models_by_name(model, sizes):
    assert parse_sizes(model) == sizes


@pytest.mark.parametrize("model", ["static", "64-", "0", "-3", "64 32", "", "attention-64"])
def test_other_models_are_refused(model):
    with pytest.raises(ValueError, match="expected 'linear', or sizes of hidden layers"):
        parse_sizes(model)
    with pytest.raises(ValueError, match="or 'attention-64x2h4' for a width of 64, 2 blocks"):
        make_ranker(model, 3)


def test_attention_by_name():
    config = make_ranker("attention-12x1h3", 5, seed=1).config
    assert [config[k] for k in ("width", "hidden", "blocks", "heads")] == [5, [12], 1, 3]
    assert (
        make_ranker("8", 5, seed=1)
        .layers[0]
        .weight.equal(FeatureRanker(5, (8,), seed=1).layers[0].weight)
    )
    with pytest.raises(ValueError, match="5 heads cannot share 12 dimensions"):
        make_ranker("attention-12x1h5", 5)


# Comparison


def test_hard_negatives_are_not_ignored_in_silence(data):
    with pytest.raises(ValueError, match="hard_negatives is 3; expected 0: lists of features"):
        FeatureTask(replace(RECIPE, hard_negatives=3), data)


RECIPE = Recipe(("ranknet", "softmax"), "toy", "8", steps=12, batch_size=16, rates=(0.003, 0.03),
                temperatures=(1.0,), seeds=2, evaluations=2, measures=("nDCG@10", "AP"),
                task="letor")  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("compare") / "run"
    comparison = Comparison(RECIPE, folder, collection=data)
    return comparison, run_comparison(comparison)


def test_features_are_compared_like_retrievers(finished):
    comparison, record = finished
    assert [s["system"] for s in record["systems"]] == ["ranknet", "softmax", "best_feature",
                                                        "ridge", "chance"]  # fmt: skip
    assert [s["p"] is None for s in record["systems"]] == [True, False, False, False, True]
    assert read_record(comparison.folder / "record.json") == json.loads(json.dumps(record))
    assert record["collection"]["features"] == 4 and record["collection"]["name"] == "toy"
    assert len(list((comparison.folder / "runs").iterdir())) == 2 * 2 + 2 + 2


def test_rankers_with_attention_are_compared_too(data):
    task = FeatureTask(replace(RECIPE, model="attention-8x1h2", steps=3), data)
    outcome = task.carry_out(Unit("final", "softmax", rate=0.01, temperature=1.0, seed=1))
    assert len(outcome.run) == 30 and not outcome.diverged
    with pytest.raises(ValueError, match="or 'attention-64x2h4' for a width"):
        FeatureTask(replace(RECIPE, model="attention"), data)


def test_the_baselines_are_ordered_as_they_must_be(finished):
    value = {s["system"]: s["nDCG@10"] for s in finished[1]["systems"]}
    assert value["chance"] < value["best_feature"] < value["ridge"]
    assert any(n in ("best_feature: x", "best_feature: y") for n in finished[1]["notes"])
    assert any(n.startswith("ridge: penalty") for n in finished[1]["notes"])


def test_a_column_that_orders_backwards_is_turned_around(data, tmp_path):
    turned = {k: replace(v, features=-v.features) for k, v in data.splits.items()}
    task = FeatureTask(RECIPE, replace(data, splits=turned))
    unit = next(u for u in task.baselines() if u.system == "best_feature")
    assert task.carry_out(unit).note in ("best_feature: minus x", "best_feature: minus y")


def test_bm25_is_a_baseline_where_there_is_such_a_column(data):
    named = replace(data, columns=("BM25", "y", "noise", "constant"))
    task = FeatureTask(RECIPE, named)
    assert [u.system for u in task.baselines()] == [
        "bm25",
        "best_feature",
        "ridge",
        "chance",
        "chance",
    ]
    run = task.carry_out(task.baselines()[0]).run
    assert sorted(s for d in run.values() for s in d.values()) == pytest.approx(
        sorted(data.split("test").features[:, 0].tolist())
    )


def test_the_report_speaks_of_rankers(finished):
    text = (finished[0].folder / "report.html").read_text()
    assert "better ranker" in text and "rows of 4 features" in text and "16 lists" in text
    assert all(f"<td>{s['system']}</td>" in text for s in finished[1]["systems"])
    assert text.count("<svg") == 5


@pytest.mark.usefixtures("blank_pictures")
def test_resuming_repeats_nothing(finished, data, monkeypatch):
    comparison, record = finished
    monkeypatch.setattr(comparing, "run_unit", lambda *_: pytest.fail("ran a unit again"))
    again = Comparison(RECIPE, comparison.folder, resume=True, collection=data)
    assert run_comparison(again)["systems"] == record["systems"]


def test_another_task_does_not_resume(finished, data):
    from tiny import make_collection

    recipe = replace(RECIPE, task="retrieval", model="static")
    with pytest.raises(
        OutputError, match="was made with another model, the collection's content|task"
    ):
        Comparison(recipe, finished[0].folder, resume=True, collection=make_collection())


def test_a_pictured_record_needs_no_comparison(finished):
    svg = plot_systems(json.loads(json.dumps(finished[1])))._repr_svg_()
    assert all(f">{s['system']}<" in svg for s in finished[1]["systems"])


@pytest.mark.usefixtures("blank_pictures")
@pytest.mark.parametrize("bad", [{0.03}, {0.003, 0.03}])
def test_a_loss_that_diverges_is_said_and_stops_nothing(data, tmp_path, monkeypatch, bad):
    real = list_training.train_ranker

    def diverge(ranker, data, loss, *, rate, **settings):
        if loss == "softmax" and rate in bad:
            with torch.no_grad():
                ranker.layers[0].weight.fill_(math.nan)
        return real(ranker, data, loss, rate=rate, **settings)

    monkeypatch.setattr(list_training, "train_ranker", diverge)
    comparison = Comparison(RECIPE, tmp_path / "run", collection=data)
    record = run_comparison(comparison)
    row = next(s for s in record["systems"] if s["system"] == "softmax")
    json.dumps(record, allow_nan=False)
    if len(bad) == 1:
        assert choose(comparison)["softmax"].rate == 0.003 and "diverged" not in row
        assert "softmax: 1 of 4 runs diverged" in record["notes"]
    else:
        assert row["diverged"] == 2 and row["nDCG@10"] == 0
        assert "softmax: 4 of 4 runs diverged" in record["notes"]
        assert "2 of 2 diverged" in (comparison.folder / "report.html").read_text()


def test_a_ranker_that_breaks_in_its_last_step_has_diverged(data):
    curve = train_ranker(fitted(data), data, "softmax", steps=1, rate=math.inf)
    assert math.isfinite(curve.losses[0]) and math.isnan(curve.losses[-1])


def test_a_loss_that_cannot_take_the_lists_is_named_before_training(data, tmp_path, monkeypatch):
    def broken(scores, labels, *, where=None, weights=None, reduction="mean"):
        if labels.max() > 1:  # the first list may not have such a grade
            raise ValueError("labels must be ranks")
        return scores.sum()

    card = replace(find("softmax"), fn=broken)
    monkeypatch.setattr(list_training, "check_list_loss", lambda name: card)
    with pytest.raises(ValueError, match="softmax cannot be trained on toy: labels must be ranks"):
        Comparison(RECIPE, tmp_path / "run", collection=data)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("profile", ["smoke", "cpu", "gpu"])
def test_letor_recipes_go_through_yaml(profile):
    recipe = make_recipe(("ranknet",), profile, task="letor")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe and recipe.task == "letor"
    assert recipe.digest != replace(recipe, task="retrieval").digest


def test_a_task_came_later_and_changes_no_earlier_digest():
    recipe = Recipe(("infonce",))
    assert "task" not in recipe.as_dict() and Recipe.from_dict(recipe.as_dict()) == recipe
    with pytest.raises(ValueError, match="unknown task 'leter'; did you mean letor"):
        Recipe(("infonce",), task="leter")


def test_dev_value_is_the_mean_over_judged_queries(data):
    from rankbench.metrics import ndcg

    dev, ranker = data.split("dev"), fitted(data)
    features, labels, where = dev.batch(torch.arange(len(dev)))
    by_hand = ndcg(ranker(features), labels, where=where, k=10, gain="linear")
    judged = (labels > 0).any(-1)
    assert dev_value(ranker, data, "nDCG@10") == pytest.approx(
        by_hand[judged].mean().item(), abs=1e-5
    )
