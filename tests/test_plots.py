"""Pictures say what was drawn, and say it the same way each time."""

import re

import pytest
import torch

from rankbench.losses import ranknet_loss
from rankbench.plots import (
    PALETTE,
    Picture,
    SmallPicture,
    figure,
    label_colors,
    plot_gradient_bars,
    plot_pairs,
    plot_score_sweep,
)

SCORES = torch.tensor([0.5, -1.0, 2.0])
LABELS = torch.tensor([2.0, 0.0, 1.0])
ITEMS = ["a", "b", "c"]


def of_scores(scores):
    return ranknet_loss(scores, LABELS.to(scores))


PICTURES = {
    "sweep": lambda: plot_score_sweep(of_scores, SCORES, 0, ITEMS),
    "bars": lambda: plot_gradient_bars({"ranknet": of_scores}, SCORES, LABELS, ITEMS),
    "pairs": lambda: plot_pairs(of_scores, SCORES, ITEMS),
}


def words(picture):
    return re.findall(r"<text[^>]*>([^<]*)<", picture._repr_svg_())


@pytest.mark.parametrize("ticks", [[0.025, 0.075], [0.125, 0.375], [1234.5678, 2000.125]])
def test_tick_labels_keep_their_digits(ticks):
    fig, (ax,) = figure()
    ax.plot(ticks, [0, 1])
    ax.set_xticks(ticks, [str(t) for t in ticks])
    assert {str(t) for t in ticks} <= set(words(Picture(fig)))


@pytest.mark.parametrize("name", PICTURES)
def test_the_same_picture_has_the_same_bytes(name):
    assert PICTURES[name]()._repr_svg_() == PICTURES[name]()._repr_svg_()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small(name):
    assert len(PICTURES[name]()._repr_svg_().encode()) < 60_000


@pytest.mark.parametrize("name", PICTURES)
def test_a_small_picture_shows_the_same(name):
    whole = PICTURES[name]()
    small = SmallPicture(whole.figure)
    assert len(small._repr_svg_()) < 0.85 * len(whole._repr_svg_())
    assert words(small) == words(whole)
    for mark in ("<path", "<use", "<text"):
        assert small._repr_svg_().count(mark) == whole._repr_svg_().count(mark)
    referred = set(re.findall(r"(?:url\(|href=\")#([\w-]+)", small._repr_svg_()))
    assert referred <= set(re.findall(r' id="([^"]*)"', small._repr_svg_()))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_names_the_items(name):
    said = " ".join(words(PICTURES[name]()))
    assert all(item in said for item in (ITEMS if name != "sweep" else ["a"]))


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_a_picture_can_be_saved(suffix, tmp_path):
    path = tmp_path / f"picture.{suffix}"
    PICTURES["bars"]().save(path)
    assert path.stat().st_size > 0


def test_colours_tell_the_best_from_the_relevant_and_the_rest():
    colours = [PALETTE[c] for c in ("green", "orange", "grey")]
    assert label_colors(torch.tensor([2.0, 1.0, 0.0])) == colours


def test_no_item_is_best_where_none_is_relevant():
    assert label_colors(torch.zeros(2)) == [PALETTE["grey"]] * 2
