"""Boards of losses: what survives, what is left out, and `all` in a list of losses."""

import re

import pandas as pd
import pytest

from rankbench.capstones.boards import (
    agreement,
    board,
    fewer_trials,
    plot_board,
    plot_prices,
    short_board,
    word_agreement,
    word_board,
    word_groups,
    word_price,
)
from rankbench.capstones.pages import in_markdown
from rankbench.capstones.reproduce import read_capstone
from rankbench.core import UnknownName
from rankbench.losses.specs import build_loss
from rankbench.recipes import Recipe
from rankbench.training.comparing import KINDS, expand_losses
from rankbench.training.systems import check_entry
from rankbench.training.tasks import fitting_losses


def row(system, value, p=None, rate=0.01, **more):
    edges = {"low": value - 0.02, "high": value + 0.02}
    return {"system": system, "nDCG@10": value, **edges, "p": p, "rate": rate,
            "seed_deviation": 0.001, "seconds": rate and 100 * value, **more}  # fmt: skip


def part_of(*rows, trials=2):
    tried = {r["system"]: [[0.1, 1.0, r["nDCG@10"] - 0.1], [0.2, 1.0, r["nDCG@10"]]] for r in rows
             if r["rate"]}  # fmt: skip
    return {"recipe": {"measures": ["nDCG@10"], "trials": trials}, "systems": rows, "tried": tried}


PART = part_of(
    row("first", 0.5), row("up", 0.53, 0.01), row("down", 0.4, 0.049), row("near", 0.55, 0.05),
    row("lost", 0.1, 0.001, diverged=2), row("bm25", 0.3, 0.001, None),
    row("chance", 0.05, None, None),
)  # fmt: skip


def test_a_board_says_who_differs_from_the_first():
    said = board(PART)["said"].to_dict()
    assert said == {"near": "not told apart", "up": "better", "first": "first", "down": "worse",
                    "bm25": "baseline", "lost": "worse", "chance": "baseline"}  # fmt: skip
    assert list(said) == ["near", "up", "first", "down", "bm25", "lost", "chance"]


def test_a_board_in_words():
    text = word_board(PART)
    assert "4 losses against first: 1 better, 2 worse, 1 not told apart" in text
    assert "near is on top, +0.0500 from first, which does not survive" in text
    assert "smallest difference that survives is 0.0300" in text
    assert "Below BM25: lost." in text and "Runs diverged: lost." in text
    assert "- *worse* (2): down, lost" in word_groups(PART)
    equal = part_of(row("first", 0.5), row("other", 0.49, 1.0))
    assert "Nothing separates" in word_board(equal) and "first itself is on top" in word_board(
        equal
    )
    assert "lost" in word_price(PART)


def test_a_board_below_bm25_says_how_far_it_has_come():
    rows = row("first", 0.15), row("other", 0.2, 0.01), row("bm25", 0.5, 0.001, None)
    start = row("untrained", 0.1, None, None)
    text = word_board(part_of(*rows, start))
    assert "None reaches BM25 (0.500): from no training (0.100) the best has come 25 % of" in text
    assert "None reaches BM25 (0.500)." in word_board(part_of(*rows))
    better = {**start, "nDCG@10": 0.6}
    assert "None reaches BM25 (0.500)." in word_board(part_of(*rows, better))


def test_a_long_board_leaves_out_the_middle_and_keeps_the_first():
    many = [row(f"loss{i}", 0.5 - 0.001 * i, 1.0) for i in range(30)]
    many.insert(0, many.pop(15))
    svg = plot_board(part_of(*many), most=20)._repr_svg_()
    assert "10 in the middle" in svg or "9 in the middle" in svg
    drawn = set(re.findall(r">\W*(loss\d+)<", svg))
    assert {"loss0", "loss29", "loss15"} <= drawn and "loss14" not in drawn
    assert "chance" not in plot_board(PART)._repr_svg_()
    assert "<svg" in plot_prices({"a": PART})._repr_svg_()


def test_boards_agree_with_themselves():
    one = part_of(*(row(f"loss{i}", 0.5 - 0.01 * i, 1.0) for i in range(9)))
    other = part_of(*(row(f"loss{i}", 0.4 + 0.01 * i, 1.0) for i in range(9)))
    assert agreement(one, one)[1] == pytest.approx(1)
    assert agreement(one, other)[1] == pytest.approx(-1)
    assert "not ruled out" in word_agreement(one, other)
    assert "too few" in word_agreement(one, PART)


def test_fewer_trials_agree_less_or_as_much():
    assert fewer_trials(PART).tolist() == pytest.approx([1, 1])
    assert fewer_trials(part_of(*PART["systems"], trials=3)) is None  # some are not recorded


def test_tables_are_markdown():
    frame = pd.DataFrame({"a": ["x"]}, pd.Index(["y"], name="b"))
    assert in_markdown(frame) == "| b | a |\n| --- | --- |\n| y | x |"
    assert list(short_board(PART, 2, 1).index) == ["near", "up", "first", "chance"]


# Every loss that fits


def test_all_is_every_loss_that_fits():
    found = expand_losses(["infonce", "all", "-softrank"])
    assert found[0] == "infonce" and found.count("infonce") == 1
    assert set(found) == set(fitting_losses(KINDS["retrieval"])) - {"softrank"}
    cross = expand_losses(["all"], model="cross:somewhere")
    assert "infonce" not in cross and "softmax" in cross and set(cross) < set(found) | {"softrank"}
    assert expand_losses(["one", "two"]) == ("one", "two")
    with pytest.raises(UnknownName, match="unknown task"):
        expand_losses(["all"], task="lettor")
    with pytest.raises(UnknownName, match="did you mean softrank"):
        expand_losses(["all", "-softrnk"])


def test_a_loss_without_negatives_in_the_batch_says_so_before_training():
    with pytest.raises(ValueError, match="hard_negatives above 0"):
        check_entry(Recipe(("given_triplet",)), "given_triplet")
    check_entry(Recipe(("given_triplet",), hard_negatives=1), "given_triplet")


def test_a_keyword_of_python_is_a_loss():
    assert build_loss("lambda") == "lambda"
    assert build_loss("lambda + 0.1*flops.documents").weights()["lambda"] == 1.0


def test_the_leaderboard_names_all_losses():
    capstone = read_capstone("leaderboard")
    for profile in capstone.profiles:
        recipes = capstone.recipes(profile)
        assert not any("all" in recipe.losses for recipe in recipes.values())
        budgets = {recipe.trials for recipe in recipes.values()}
        assert min(budgets) > 0 and capstone.judged(profile)
    assert len(capstone.judged("cpu")) == len(capstone.claims)
    assert min(r.seeds for r in capstone.recipes("cpu").values()) >= 5
