"""The wheel holds what the checkout has, and works without the checkout."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, **kwargs) -> str:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """A wheel built from a copy of the tracked and untracked sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    for name in listed.splitlines():
        if (ROOT / name).is_file() and not name.startswith(("nbs/", "tests/")):
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
        "--wheel-dir", str(folder / "built"), str(source))  # fmt: skip
    (built,) = (folder / "built").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet",
        "--target", str(target), str(wheel))  # fmt: skip
    return target


def python(installed: Path, code: str) -> str:
    """What a fresh interpreter prints that sees the wheel, not the checkout."""
    env = {"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"}
    return run(sys.executable, "-P", "-c", code, env=env, cwd=installed)


def test_the_wheel_holds_every_module(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "rankbench").rglob("*.py")}
    assert modules - names == set()


def test_the_wheel_holds_the_bibliography(wheel):
    packed = zipfile.ZipFile(wheel).read("rankbench/_data/references.bib")
    assert packed == (ROOT / "data" / "references.bib").read_bytes()


def test_the_wheel_holds_and_reads_the_numbers_of_the_papers(wheel, installed):
    packed = {n for n in zipfile.ZipFile(wheel).namelist() if n.startswith("rankbench/_data/pap")}
    there = {f"rankbench/_data/papers/{p.name}" for p in (ROOT / "data/papers").glob("*.csv")}
    assert packed == there != set()
    said = python(installed, "from rankbench.papers import paper_tables; print(paper_tables())")
    assert said == str(sorted(Path(name).stem for name in there))


def test_the_wheel_holds_recipes_and_capstones(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for pattern in ("recipes/*.yaml", "capstones/*.yaml", "papers/*.csv"):
        files = [p.relative_to(ROOT / "data") for p in (ROOT / "data").glob(pattern)]
        assert all(f"rankbench/_data/{path.as_posix()}" in names for path in files)


def test_the_wheel_holds_the_licence(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_holds_nothing_but_the_package(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"rankbench"}


def test_the_wheel_is_what_gets_imported(installed):
    where = python(installed, "import rankbench; print(rankbench.__file__)")
    assert Path(where) == installed / "rankbench" / "__init__.py"


def test_the_wheel_can_cite(installed):
    said = python(installed, "from rankbench.cards import cite; print(cite('burges2005'))")
    assert said == "Burges et al. (2005)"


def test_a_stranger_called_data_beside_the_wheel_is_not_read(installed):
    stranger = installed / "data" / "references.bib"
    stranger.parent.mkdir(exist_ok=True)
    stranger.write_text("@book{other,\n  author = {Other, A.},\n  year = {2000}\n}\n")
    try:
        code = "from rankbench.cards import references; print('other' in references())"
        said = python(installed, code)
        assert said == "False"
    finally:
        stranger.unlink()
        stranger.parent.rmdir()


def test_the_wheel_computes_every_loss(installed):
    code = """
from rankbench.cards import cards
from rankbench.checks import example
print(all(example(c).run(c).isfinite() for c in cards()), len(cards()) > 0)
"""
    assert python(installed, code) == "True True"


def test_the_wheel_knows_the_page_of_every_loss(installed):
    code = "from rankbench.cards import cards; print(all(c.page for c in cards()))"
    assert python(installed, code) == "True"


def test_the_version_of_the_wheel_is_that_of_the_package(wheel, installed):
    said = python(installed, "import rankbench; print(rankbench.__version__)")
    assert wheel.name.split("-")[1] == said
