"""A new loss page works before its author has changed a line of it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).resolve().parent.parent


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    # The copy must be imported, not the checkout that the tests run from.
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True
    )


def new(folder: Path, **names: str) -> subprocess.CompletedProcess:
    words = [word for key, value in names.items() for word in (f"--{key}", value)]
    return run(folder, "scripts/notebooks.py", "new", *words)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """What `new` needs of the repository, and one page made with it."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("nbs/losses", "rankbench", "scripts", "data"):
        shutil.copytree(
            root / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_*", "__pycache__")
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(root / name, folder)
    done = new(folder, family="metric surrogates", page="fresh", name="fresh_idea")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def page(copy) -> Path:
    (path,) = (copy / "nbs" / "losses").glob("*_fresh.ipynb")
    return path


def test_a_new_page_comes_last_with_a_gap_of_ten(page):
    numbers = sorted(int(p.name.split("_")[0]) for p in page.parent.glob("[0-9]*.ipynb"))
    assert int(page.name.split("_")[0]) == numbers[-1]
    assert numbers[-1] % 10 == 0 and numbers[-1] > numbers[-2]


def test_no_placeholder_is_left_in_a_new_page(page):
    text = page.read_text("utf-8")
    assert not [token for token in ("NAME", "FAMILY", "PAGE") if token in text]


def test_a_new_page_runs_from_top_to_bottom(copy, page):
    done = run(copy, "scripts/notebooks.py", "test", str(page))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_loss_is_exported_and_has_a_card(copy):
    code = (
        "import rankbench.losses as losses; from rankbench.cards import find;"
        "c = find('fresh_idea');"
        "assert c.fn is losses.fresh_idea_loss and 'fresh_idea_loss' in losses.__all__;"
        "print(c.family, c.page)"
    )
    done = run(copy, "-c", code)
    assert done.stdout.split("\n")[0] == "metric surrogates losses/fresh.html#fresh_idea_loss", (
        done.stdout + done.stderr
    )


@pytest.mark.parametrize(
    ("names", "answer"),
    [
        ({"family": "pairwise", "name": "other"}, "20_pairwise.ipynb exists"),
        ({"family": "pairwise", "page": "more", "name": "ranknet"}, "is taken by ranknet_loss"),
        ({"family": "pairwise", "page": "more", "name": "rank_net"}, "is taken by ranknet_loss"),
        ({"family": "pairwize", "page": "more", "name": "other"}, "did you mean pairwise"),
        ({"family": "pairwise", "page": "lambda", "name": "other"}, "Python can import"),
        ({"family": "pairwise", "page": "more", "name": "Other"}, "Python can import"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_that_will_not_do_is_refused_with_a_reason(copy, names, answer):
    before = sorted((copy / "nbs" / "losses").iterdir())
    done = new(copy, **names)
    assert done.returncode == 2 and answer in done.stdout, done.stdout + done.stderr
    assert sorted((copy / "nbs" / "losses").iterdir()) == before
