"""Losses as text: numbers and names as people write them."""

import pytest

from rankbench.losses.specs import build_loss


@pytest.mark.parametrize("weight", ["1e-4", "1E-4", "0.0001"])
def test_weights_may_be_written_with_an_exponent(weight):
    loss = build_loss(f"infonce + {weight}*flops.documents")
    assert loss.weights() == {"infonce": 1.0, "flops.documents": 1e-4}


def test_settings_may_be_small_or_negative():
    assert build_loss("infonce(temperature=5e-2)").settings == {"temperature": 0.05}
    assert build_loss("siglip(bias=-10.0)").settings == {"bias": -10.0}


def test_names_may_have_hyphens():
    assert build_loss("adr-mse") == build_loss("adr_mse")
    assert build_loss("bidirectional-infonce") == "bidirectional_infonce"


@pytest.mark.parametrize("text", ["infonce - 0.1*l2.documents", "infonce-0.1*l2.documents"])
def test_parts_are_not_subtracted(text):
    with pytest.raises(ValueError, match="is no loss"):
        build_loss(text)
