"""Work on the notebooks without Quarto: run, make the README, check the pages, start a loss.

python scripts/notebooks.py execute [nbs/losses/20_pairwise.ipynb ...]
python scripts/notebooks.py test
python scripts/notebooks.py readme [--check]
python scripts/notebooks.py docs-check
python scripts/notebooks.py new --family pairwise --name my
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root / "nbs"
SKIPPED = {"gpu", "slow", "notest"}  # the same flags as in settings.ini


def notebooks() -> list[Path]:
    return [
        p
        for p in sorted(nbs.rglob("*.ipynb"))
        if not p.name.startswith("_")
        and ".ipynb_checkpoints" not in p.parts
        and "_proc" not in p.parts
    ]


def directives(source: str) -> set[str]:
    return set(re.findall(r"^#\|\s*(\w+)\s*$", source, re.M))


def run_one(path: Path, save: bool) -> None:
    """Run every cell in a fresh process of its own; raise at the first error."""
    from execnb.nbio import read_nb, write_nb
    from execnb.shell import CaptureShell

    os.chdir(path.parent)
    nb = read_nb(path)
    shell = CaptureShell(path)
    for cell in nb.cells:
        if (
            cell.cell_type != "code"
            or directives(cell.source) & SKIPPED
            or "eval: false" in cell.source
        ):
            continue
        shell.cell(cell)
        if shell.exc:
            raise SystemExit(f"{path}: cell {cell.idx_}\n\n{cell.source}\n\n{shell.exc!r}")
    if save:
        write_nb(nb, path)


def run_many(paths: list[Path], save: bool, workers: int) -> int:
    def start(path: Path) -> bool:
        began = time.time()
        command = [sys.executable, __file__, "run-one", str(path), *(["--save"] if save else [])]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        word, took = "FAIL" if done.returncode else "ok  ", time.time() - began
        print(f"{word} {took:5.1f} s  {path.relative_to(root)}", flush=True)
        if done.returncode:
            print(done.stdout + done.stderr, flush=True)
        return done.returncode == 0

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(start, paths))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


def readme() -> str:
    """README.md from nbs/index.ipynb: hidden cells dropped, outputs as text."""
    from nbconvert import MarkdownExporter
    from nbformat import read
    from traitlets.config import Config

    nb = read(nbs / "index.ipynb", as_version=4)
    nb.cells = [c for c in nb.cells if not directives(c.source) & {"hide"}]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^#\|.*\n?", "", cell.source)
    config = Config(
        {"MarkdownExporter": {"display_data_priority": ["text/markdown", "text/plain"]}}
    )
    body, _ = MarkdownExporter(config=config).from_notebook_node(nb)
    head = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook. -->\n\n"
    return head + re.sub(r"\n{3,}", "\n\n", body).strip() + "\n"


def write_readme(check: bool) -> int:
    path = root / "README.md"
    if check:
        same = path.exists() and path.read_text("utf-8") == readme()
        print(
            "README.md matches nbs/index.ipynb" if same else "README.md is stale: run `make readme`"
        )
        return 0 if same else 1
    path.write_text(readme(), "utf-8")
    return 0


def docs_check() -> int:
    """What a machine without Quarto can check: YAML, saved outputs, nbdev's processing, links."""
    import yaml

    problems = []
    for path in [
        root / "_quarto.yml",
        nbs / "_quarto.yml",
        *sorted((root / ".github/workflows").glob("*.yml")),
    ]:
        try:
            yaml.safe_load(path.read_text("utf-8"))
        except yaml.YAMLError as error:
            problems.append(f"{path.relative_to(root)}: {error}")
    for path in notebooks():
        cells = json.loads(path.read_text("utf-8"))["cells"]
        name = path.relative_to(root)
        kilobytes = path.stat().st_size // 1000
        if len(cells) > 70 or kilobytes > 100:
            problems.append(
                f"{name}: {len(cells)} cells, {kilobytes} KB; split it at 70 cells or 100 KB"
            )
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for link in re.findall(r"\]\((?!http|#)([^)#\s]+\.ipynb)", source):
                    if not (path.parent / link).exists():
                        problems.append(f"{name}: link to missing {link}")
            if any(o["output_type"] == "error" for o in cell.get("outputs", [])):
                problems.append(f"{name}: a saved output is an error")
            if (
                cell["cell_type"] == "code"
                and "plot_" in source
                and not directives(source) & {"export", "exports"}
            ):
                if "fig-alt:" not in source and "import" not in source:
                    problems.append(f"{name}: a picture without `#| fig-alt:`")
        code = [c for c in cells if c["cell_type"] == "code"]
        if code and not any(c["outputs"] for c in code):
            problems.append(f"{name}: committed without outputs; run `make execute`")
    problems += process_with_nbdev()
    print("\n".join(problems) or f"{len(notebooks())} notebooks processed, no problem found")
    return 1 if problems else 0


def process_with_nbdev() -> list[str]:
    """nbdev's own processing of every notebook, as its docs command runs it before Quarto."""
    import nbdev.quarto
    from nbdev.serve import proc_nbs

    os.chdir(root)
    nbdev.quarto.refresh_quarto_yml()
    nbdev.quarto.nbdev_sidebar.__wrapped__()
    out = Path(proc_nbs(n_workers=0, force=True))
    missing = [p for p in notebooks() if not (out / p.relative_to(nbs)).exists()]
    return [f"{p.relative_to(root)}: nbdev did not process it" for p in missing]


def new(family: str, name: str) -> int:
    """Copy the template to nbs/losses with the names filled in."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", family + name):
        print(
            f"family {family!r} and name {name!r} must be lower_case words, such as pairwise and my"
        )
        return 2
    taken = list((nbs / "losses").glob(f"*_{family}.ipynb"))
    if taken:
        print(f"{taken[0].relative_to(root)} exists: add a section there, as in _template.ipynb")
        return 2
    numbers = [int(p.name.split("_")[0]) for p in (nbs / "losses").glob("[0-9]*.ipynb")]
    path = nbs / "losses" / f"{max(numbers, default=0) + 10}_{family}.ipynb"
    text = (nbs / "losses" / "_template.ipynb").read_text("utf-8")
    path.write_text(text.replace("FAMILY", family).replace("NAME", name), "utf-8")
    shown = path.relative_to(root)
    print(f"wrote {shown}; write it, then `make execute NB={shown}` and `make prepare`")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("execute", "test"):
        sub = commands.add_parser(command)
        sub.add_argument("paths", nargs="*", type=Path)
        sub.add_argument("--workers", type=int, default=2)
    one = commands.add_parser("run-one")
    one.add_argument("path", type=Path)
    one.add_argument("--save", action="store_true")
    commands.add_parser("readme").add_argument("--check", action="store_true")
    commands.add_parser("docs-check")
    fresh = commands.add_parser("new")
    fresh.add_argument("--family", required=True)
    fresh.add_argument("--name", required=True)
    args = parser.parse_args()
    if args.command in ("execute", "test"):
        paths = [p.resolve() for p in args.paths] or notebooks()
        return run_many(paths, args.command == "execute", args.workers)
    if args.command == "run-one":
        run_one(args.path.resolve(), args.save)
        return 0
    if args.command == "readme":
        return write_readme(args.check)
    return docs_check() if args.command == "docs-check" else new(args.family, args.name)


if __name__ == "__main__":
    sys.exit(main())
