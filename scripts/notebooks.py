"""Work on the notebooks without Quarto: run, make the README, check the pages, start a loss.

python scripts/notebooks.py execute [nbs/losses/20_pairwise.ipynb ...]
python scripts/notebooks.py test
python scripts/notebooks.py readme [--check]
python scripts/notebooks.py in-sync
python scripts/notebooks.py docs-check
python scripts/notebooks.py new --family pairwise --name my [--page my_page]
"""

import argparse
import ast
import json
import keyword
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
        cell.outputs = []  # what shows nothing now keeps nothing of before
        shell.cell(cell)
        if shell.exc:
            raise SystemExit(f"{path}: cell {cell.idx_}\n\n{cell.source}\n\n{shell.exc!r}")
    if save:
        write_nb(nb, path)


# Imported once, in the process that all notebooks are forked from: half of their time.
PRELOADED = (
    "execnb.shell",
    "matplotlib.pyplot",
    "pandas",
    "rankbench.capstones.pages",
    "rankbench.losses",
    "scipy.stats",
    "transformers.modeling_utils",
)


def run_logged(path: Path, save: bool, log: Path) -> None:
    """`run_one`, with what it prints in a file."""
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv[1:] = []  # a notebook that shows its command shows none of ours
    run_one(path, save)


def run_many(paths: list[Path], save: bool, workers: int) -> int:
    os.environ["OMP_NUM_THREADS"] = "1"
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload(list(PRELOADED))

    def start(path: Path) -> bool:
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            log.touch()
            process = context.Process(target=run_logged, args=(path, save, log))
            process.start()
            process.join()
            text = log.read_text("utf-8", "replace")
        word, took = "FAIL" if process.exitcode else "ok  ", time.time() - began
        print(f"{word} {took:5.1f} s  {path.relative_to(root)}", flush=True)
        if process.exitcode:
            print(text, flush=True)
        return process.exitcode == 0

    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(start, paths))
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


def readme() -> str:
    """README.md from nbs/index.ipynb: `hide` drops a cell, `echo: false` its code; text outputs."""
    from nbconvert import MarkdownExporter
    from nbformat import read
    from nbformat.v4 import new_markdown_cell
    from traitlets.config import Config

    nb = read(nbs / "index.ipynb", as_version=4)
    nb.metadata.setdefault("language_info", {"name": "python"})  # for the fences
    nb.cells = [c for c in nb.cells if not directives(c.source) & {"hide"}]
    for at, cell in enumerate(nb.cells):
        if cell.cell_type == "code" and re.search(r"(?m)^#\|\s*echo:\s*false", cell.source):
            shown = [
                f"```text\n{o.text.rstrip()}\n```"
                if o.output_type == "stream"
                else o.get("data", {}).get("text/markdown", "")
                for o in cell.outputs
            ]
            nb.cells[at] = new_markdown_cell("\n".join(shown))
        elif cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^#\|.*\n?", "", cell.source)
    config = Config(
        {"MarkdownExporter": {"display_data_priority": ["text/markdown", "text/plain"]}}
    )
    body, _ = MarkdownExporter(config=config).from_notebook_node(nb)
    # Links in the notebook start at nbs/, links in the README at the root.
    body = re.sub(r"\]\((?!https?:|#|/)(?=[^)\s]+\.ipynb)", "](nbs/", body)
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


def run_nbdev(folder: Path, command: str) -> None:
    """Run nbdev_export or nbdev_clean on the project in `folder`."""
    module = {"nbdev_export": "nbdev.doclinks", "nbdev_clean": "nbdev.clean"}[command]
    code = f"from {module} import {command}; {command}()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def sources(folder: Path) -> dict[str, bytes]:
    """Path → content of every notebook and module."""
    paths = [p for kind in ("nbs/**/*.ipynb", "rankbench/**/*.py") for p in folder.glob(kind)]
    hidden = (".ipynb_checkpoints", "_proc")
    kept = [p for p in paths if not any(h in p.relative_to(folder).parts for h in hidden)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


def in_sync() -> int:
    """Export and clean a copy, and compare: nothing here is written, committed or not."""
    before = sources(root)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for path, content in before.items():
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            (copy / path).write_bytes(content)
        for path in ("settings.ini", "pyproject.toml"):
            shutil.copy(root / path, copy)
        for command in ("nbdev_export", "nbdev_clean"):
            run_nbdev(copy, command)
        after = sources(copy)
    problems = [f"{p}: not what export and clean make" for p in after if after[p] != before.get(p)]
    for path, content in before.items():
        origin = re.search(rb"AUTOGENERATED! DO NOT EDIT! File to edit: (\S+?)\.?\n", content)
        if path.endswith(".py") and origin:
            notebook = (root / path).parent / origin[1].decode()
            if not notebook.exists():
                problems.append(f"{path}: its notebook is gone; delete it")
    for problem in sorted(problems):
        print(problem)
    if problems:
        print("Run `make export`. If you edited a module, `nbdev_update` first takes it back.")
        return 1
    print(f"{len(before)} notebooks and modules agree")
    return 0


def docs_check() -> int:
    """What a machine without Quarto can check: YAML, saved outputs, nbdev's processing, links."""
    import yaml

    from rankbench.cards import references

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
        first = [line for line in "".join(cells[0]["source"]).split("\n") if line.strip()]
        if not all(line.startswith(("# ", "> ")) for line in first):
            problems.append(f"{name}: text in the title cell is lost on the site; give it a cell")
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                for key in re.findall(r"@([a-z]+\d{4})\b", source):
                    if key not in references():
                        problems.append(f"{name}: @{key} is not in data/references.bib")
                if "*To write:" in source:
                    problems.append(f"{name}: an instruction of the template is left")
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
    try:
        out = Path(proc_nbs(n_workers=2, force=True))
    except Exception as error:  # nbdev executes import cells; one with other code breaks the site
        return [f"nbdev could not process the notebooks: {error}"]
    missing = [p for p in notebooks() if not (out / p.relative_to(nbs)).exists()]
    return [f"{p.relative_to(root)}: nbdev did not process it" for p in missing]


def refusal(family: str, name: str, page: str) -> str:
    """Why no page can be started with these names; empty where one can."""
    sys.path.insert(0, str(root))
    from rankbench.cards import FAMILIES, find
    from rankbench.core import UnknownName

    for kind, word in (("name", name), ("page", page)):
        if not re.fullmatch(r"[a-z][a-z0-9_]*", word) or keyword.iskeyword(word):
            return f"{kind} {word!r} must be a lower_case word that Python can import"
    if family not in FAMILIES:
        return str(UnknownName("family", family, FAMILIES))
    for taken in (nbs / "losses").glob(f"*_{page}.ipynb"):
        return (
            f"{taken.relative_to(root)} exists. Add a section there, as its other losses have, "
            f"or start another page with --page (make new page=...)."
        )
    try:
        return f"the name {name!r} is taken by {find(name).fn.__name__}"
    except UnknownName:
        return ""


def add_import(page: str, name: str) -> None:
    """Name the new function in rankbench/losses/__init__.py, after the others."""
    path = root / "rankbench" / "losses" / "__init__.py"
    lines = path.read_text("utf-8").splitlines()
    body = ast.parse("\n".join(lines)).body
    listed = next(n for n in body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__")
    names = [*ast.literal_eval(listed.value), f"{name}_loss"]
    lines[listed.lineno - 1 : listed.end_lineno] = [
        "__all__ = [",
        *(f'    "{n}",' for n in names),
        "]",
    ]
    last = max(n.end_lineno for n in body if isinstance(n, ast.ImportFrom))
    lines.insert(last, f"from rankbench.losses.{page} import {name}_loss")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def new(family: str, name: str, page: str = "") -> int:
    """Start a page: the template with its names filled in, exported and imported."""
    family = family.replace("_", " ")
    page = page or family.replace(" ", "_")
    if problem := refusal(family, name, page):
        print(problem)
        return 2
    numbers = [int(p.name.split("_")[0]) for p in (nbs / "losses").glob("[0-9]*_*.ipynb")]
    number = 10 * (max(numbers, default=0) // 10 + 1)  # gaps of ten leave room in between
    path = nbs / "losses" / f"{number}_{page}.ipynb"
    text = (nbs / "losses" / "_template.ipynb").read_text("utf-8")
    for token, word in (("FAMILY", family), ("PAGE", page), ("NAME", name)):
        text = text.replace(token, word)
    path.write_text(text, "utf-8")
    add_import(page, name)
    run_nbdev(root, "nbdev_export")
    shown = path.relative_to(root)
    print(f"wrote {shown}, and named {name}_loss in rankbench/losses/__init__.py")
    print(f"It holds a working squared error. Write yours over it, then:\n  make export\n"
          f"  make execute NB={shown}\n  make prepare")  # fmt: skip
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
    commands.add_parser("readme").add_argument("--check", action="store_true")
    commands.add_parser("in-sync")
    commands.add_parser("docs-check")
    fresh = commands.add_parser("new")
    fresh.add_argument("--family", required=True)
    fresh.add_argument("--name", required=True)
    fresh.add_argument("--page", default="", help="name of the notebook; the family's without")
    args = parser.parse_args()
    if args.command in ("execute", "test"):
        paths = [p.resolve() for p in args.paths] or notebooks()
        return run_many(paths, args.command == "execute", args.workers)
    if args.command == "readme":
        return write_readme(args.check)
    if args.command == "in-sync":
        return in_sync()
    if args.command == "docs-check":
        return docs_check()
    return new(args.family, args.name, args.page)


if __name__ == "__main__":
    sys.exit(main())
