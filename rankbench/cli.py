"""The command line: list and check losses, compare them, look at collections."""

import argparse
import ast
import json
import re
import string
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rankbench import __version__
from rankbench.cards import FAMILIES, LABELS, LAWS, LossCard, cards, find
from rankbench.core import UnknownName

EXAMPLES = """\
examples:
  rankbench losses --labels graded
  rankbench show ranknet
  rankbench check infonce
  rankbench lint batch.json --loss kl
  rankbench compare --losses infonce,bidirectional_infonce,ranknet
  rankbench compare --losses infonce,ranknet --collection path/to/beir/folder
  rankbench compare --task letor --losses all --profile smoke
  rankbench compare --task letor --losses ranknet,softmax --collection path/to/letor
  rankbench collection stats pydocs
  rankbench bench --losses softmax,listnet --shapes 64x100
"""


class Parser(argparse.ArgumentParser):
    """Errors are one line, not a page of usage."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def table(rows: Sequence[dict], right: Sequence[str] = (), gap: str = "  ") -> str:
    """Columns as wide as their content; the names in `right` are aligned to the right."""
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [{c: c for c in columns}, *rows]
    width = {c: max(len(str(line[c])) for line in lines) for c in columns}

    def pad(c, text):
        return str(text).rjust(width[c]) if c in right else str(text).ljust(width[c])

    text = [gap.join(pad(c, line[c]) for c in columns).rstrip() for line in lines]
    return "\n".join([text[0], gap.join("-" * width[c] for c in columns), *text[1:]])


def wrap(text: str, label: str = "", width: int = 80) -> str:
    """A labelled paragraph that fits the terminal."""
    return textwrap.fill(text, width, initial_indent=f"{label:<14}", subsequent_indent=" " * 14)


def show_losses(args) -> int:
    if args.family and args.family not in FAMILIES:
        raise UnknownName("family", args.family, FAMILIES)
    if args.labels and args.labels not in LABELS:
        raise UnknownName("kind of label", args.labels, LABELS)
    found = cards(family=args.family, labels=args.labels)
    if args.json:
        print(json.dumps([c.as_dict() for c in found], indent=1, ensure_ascii=False))
        return 0
    rows = [
        {"": "★" if c.default else " ", "name": c.name, "family": c.family, "labels": c.labels,
         "takes": c.signature, "time": c.time}
        for c in found
    ]  # fmt: skip
    print(table(rows, gap=" "))
    print(f"\n{len(found)} losses; ★ a first choice. `rankbench show NAME` tells more.")
    return 0


def card_text(card: LossCard) -> str:
    facts = card.as_dict()
    settings = ", ".join(f"{k}={v!r}" for k, v in card.settings.items())
    elsewhere = "; ".join(f"{k}: {v}" for k, v in card.elsewhere.items())
    lines = [
        f"{card.fn.__name__}  ({card.family})", "", *textwrap.wrap(card.summary, 80), "",
        *(f"    {line.strip()}" for line in card.formula.splitlines()), "",
        wrap(f"{card.labels}: {LABELS[card.labels]}", "labels"),
        wrap(card.use_when, "use when"), wrap(card.avoid_when, "avoid when"),
        wrap(settings, "settings"), wrap(f"time O({card.time}), memory O({card.memory})", "cost"),
        *(wrap(f"{law.replace('_', ' ')}: {LAWS[law]}", "" if i else "laws")
          for i, law in enumerate(sorted(card.laws))),
        *([wrap(", ".join(card.aliases), "also called")] if card.aliases else []),
        *([wrap(elsewhere, "elsewhere")] if elsewhere else []),
        wrap(facts["source"], "source"), wrap(card.page, "page"),
    ]  # fmt: skip
    return "\n".join(lines)


def show_loss(args) -> int:
    card = find(args.name)
    print(
        json.dumps(card.as_dict(), indent=1, ensure_ascii=False) if args.json else card_text(card)
    )
    return 0


def mark(result) -> str:
    return "–" if result.skipped else "✓" if result.passed else "✗"


def check_matrix(results: list) -> str:
    """One row per loss, one column per check, and what the columns are."""
    laws = {r.check for r in results} & set(LAWS)
    every = dict.fromkeys(r.check for r in results if r.check not in laws)
    names = [*every, *(law for law in LAWS if law in laws)]
    checks = dict(zip(string.ascii_letters[: len(names)], names, strict=True))
    found = {(r.loss, r.check): mark(r) for r in results}
    rows = [
        {"loss": name, **{letter: found.get((name, c), "") for letter, c in checks.items()}}
        for name in dict.fromkeys(r.loss for r in results)
    ]
    legend = [f"{letter}  {c.replace('_', ' ')}" for letter, c in checks.items()]
    half = -(-len(legend) // 2)
    pairs = zip(legend[:half], [*legend[half:], ""], strict=False)
    columns = [f"{left:<40}{right}".rstrip() for left, right in pairs]
    failures = [f"{r.loss}, {r.check}: {r.detail}" for r in results if not r.passed]
    key = "✓ passed   ✗ failed   – does not apply here   blank: not claimed"
    return "\n".join([table(rows, gap=" "), "", *columns, "", key, *failures])


def check_loss(args) -> int:
    from tqdm import tqdm

    from rankbench.checks import check

    names = [c.name for c in cards()] if args.all else [find(n).name for n in args.names]
    if not names:
        raise ValueError("no loss named; give names, or --all")
    quiet = len(names) < 2 or not sys.stderr.isatty()
    results = [r for name in tqdm(names, "checking", disable=quiet) for r in check(name)]
    if args.json:
        print(json.dumps([vars(r) for r in results], indent=1))
    elif len(names) > 1:
        print(check_matrix(results))
    else:
        for r in results:
            print(f"{mark(r)} {r.check.replace('_', ' ')}{f': {r.detail}' if r.detail else ''}")
    return 0 if all(r.passed for r in results) else 1


def p_text(p: float | None) -> str:
    return "" if p is None else "<.001" if p < 0.001 else f"{p:.3f}"


def comparison_text(record: dict) -> str:
    """The table of a comparison, in 80 columns."""
    main, rows = record["recipe"]["measures"][0], []
    for s in record["systems"]:
        trained, lost = s["rate"] is not None, s.get("diverged", 0)
        interval = f"{s['low']:.3f}-{s['high']:.3f}"
        rows.append({
            "system": s["system"], main: f"{s[main]:.3f}",
            "95 % interval": f"{lost}/{s['seeds']} diverged" if lost else interval, "p": p_text(s["p"]),
            "rate": f"{s['rate']:g}" if trained else "", "temp": f"{s['temperature']:g}" if trained else "",
            "sec": f"{s['seconds']:.0f}" if trained else "", "steps": s["steps"] if trained else "",
            "MiB": s.get("peak_mib") or "",
        })  # fmt: skip
    if not any(row["MiB"] for row in rows):  # records from before memory was measured
        rows = [{k: v for k, v in row.items() if k != "MiB"} for row in rows]
    numbers = [c for c in rows[0] if c != "system"]
    return table(rows, right=numbers)


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of a comma-separated option."""
    try:
        return tuple(float(x) for x in text.split(",")) if text else None
    except ValueError:
        raise ValueError(f"{option} is {text!r}; expected numbers such as 0.003,0.01") from None


LOSSES = {"retrieval": "infonce,bidirectional_infonce,ranknet", "letor": "ranknet,softmax,listnet"}


def named_losses(text: str | None, task: str) -> tuple[str, ...]:
    """The losses of a comma-separated option; "all" stands for those that fit the task."""
    from rankbench.training.comparing import KINDS
    from rankbench.training.tasks import fitting_losses

    names = split_list(text or LOSSES[task])
    found = [
        n for name in names for n in (fitting_losses(KINDS[task]) if name == "all" else [name])
    ]
    return tuple(dict.fromkeys(system_text(name) for name in found))


def split_list(text: str) -> list[str]:
    """The entries of a comma-separated list; commas in parentheses belong to an entry."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def system_text(entry: str) -> str:
    """An entry of a comparison in one spelling; a wrong loss is an error here."""
    from rankbench.losses.specs import build_loss

    loss, at, model = (part.strip() for part in entry.partition("@"))
    built = build_loss(loss)
    loss = built if isinstance(built, str) else " ".join(loss.split())
    return f"{loss} @ {model}" if at else loss


def parsed_settings(texts: Sequence[str]) -> dict[str, object]:
    """Settings of the form name=value; values as Python writes them, or plain words."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"--set is {text!r}; expected NAME=VALUE, such as temperature=0.05")
        try:
            found[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name.strip()] = value
    return found


def lint_batch(args) -> int:
    from dataclasses import asdict

    from rankbench.lint import lint, read_batch

    batch = read_batch(args.file)
    settings = parsed_settings(args.set)
    found = lint(batch, find(args.loss).name, untrained=args.untrained, **settings)
    if args.json:
        print(json.dumps([asdict(f) for f in found], indent=1, ensure_ascii=False))
    for f in () if args.json else found:
        print(f"{f.level}: {f.what} [{f.rule}]")
        print(wrap(f.where, "  where"), wrap(f.why, "  why"), wrap(f.fix, "  fix"), "", sep="\n")
    if not found and not args.json:
        shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in batch.items())
        print(f"nothing found in {shapes}")
    return int(any(f.level == "error" for f in found))


def compare(args) -> int:
    import transformers

    from rankbench.recipes import TASKS, Recipe, make_recipe
    from rankbench.training.comparing import Comparison, run_comparison

    if args.recipe:
        recipe = Recipe.from_yaml(Path(args.recipe).read_text("utf-8"))
    else:
        if args.task not in TASKS:
            raise UnknownName("task", args.task, TASKS)
        recipe = make_recipe(
            named_losses(args.losses, args.task), args.profile, task=args.task,
            collection=args.collection, model=args.model, steps=args.steps,
            batch_size=args.batch_size, rates=numbers("--rates", args.rates), seeds=args.seeds,
            temperatures=numbers("--temperatures", args.temperatures), hard_negatives=args.hard_negatives,
            measures=args.metrics and tuple(args.metrics.split(",")), depth=args.depth,
            search=args.search, trials=args.trials,
        )  # fmt: skip
    collection = Path(recipe.collection).name
    kind = "" if recipe.task == "retrieval" else f"{recipe.task}-"
    name = collection.replace(",", "-")
    folder = Path(args.output or f"results/{kind}{name}-{recipe.digest[:6]}")
    transformers.logging.disable_progress_bar()  # one bar is enough
    progress = not args.json and sys.stderr.isatty() or args.progress
    several, devices = split_list(recipe.collection), split_list(args.devices or "")
    try:
        if len(several) > 1:
            return compare_several(recipe, several, folder, args, progress, devices)
        comparison = Comparison(recipe, folder, resume=args.resume, progress=progress)
        for note in comparison.collection.notes:
            print(note, file=sys.stderr)
        record = run_comparison(comparison, args.jobs, devices)
    except KeyboardInterrupt:
        done = len(list(folder.glob("**/units/*.json")))
        print(f"\ninterrupted; {done} finished units are kept in {folder}.\n"
              "Repeat the command with --resume to go on.", file=sys.stderr)  # fmt: skip
        return 130
    if args.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    print(comparison_text(record))
    print(
        f"\np: paired randomisation test over queries against {recipe.losses[0]}, Holm-corrected."
    )
    for note in record["notes"]:
        print(note)
    print(f"Report: {folder / 'report.html'}")
    return 0


def compare_several(recipe, names, folder, args, progress, devices) -> int:
    """The same comparison on several collections, and one table."""
    from rankbench.training.several_collections import compare_on

    suite = compare_on(recipe, names, folder, resume=args.resume, progress=progress,
                       jobs=args.jobs, devices=devices)  # fmt: skip
    if args.json:
        print(json.dumps(suite, indent=1, ensure_ascii=False))
        return 0
    columns = [*suite["collections"], "average"]
    rows = [
        {"system": r["system"], **{c: f"{r[c]:.3f}" for c in columns}, "wins": r["wins"] or "",
         "p": p_text(r["p"])}
        for r in suite["systems"]
    ]  # fmt: skip
    print(table(rows, right=[*columns, "wins", "p"]))
    first = suite["systems"][0]["system"]
    print(f"\n{suite['measure']}; every collection counts the same. p: of the averages, paired,\n"
          f"Holm-corrected. wins: collections on which a system beats {first}.")  # fmt: skip
    for note in suite["notes"]:
        print(note)
    print(f"A report for each collection: {folder}/*/report.html")
    return 0


def collection(args) -> int:
    from rankbench.data.collections import load_collection, write_beir

    found = load_collection(args.name, progress=sys.stderr.isatty())
    if args.action == "build" and args.output:
        write_beir(found, args.output)
    stats = found.stats()
    if args.json:
        print(json.dumps(stats, indent=1, ensure_ascii=False))
        return 0
    print(f"{stats['name']}: {stats['documents']:,} documents of {stats['words per document']} words, "
          f"{stats['queries']:,} queries, fingerprint {stats['fingerprint']}")  # fmt: skip
    rows = [
        {"split": split, "queries": s["queries"], "judgments": s["judgments"],
         "grades": ", ".join(f"{g}: {n}" for g, n in s["grades"].items())}
        for split, s in stats["splits"].items()
    ]  # fmt: skip
    print(table(rows, right=("queries", "judgments")))
    for note in stats["notes"]:
        print(note)
    if args.action == "build" and args.output:
        print(f"written to {args.output}")
    return 0


def shapes(text: str) -> list[tuple[int, int]]:
    """Lists x items, comma-separated."""
    try:
        found = [tuple(int(n) for n in shape.split("x")) for shape in text.split(",")]
        if all(len(s) == 2 and s[0] > 0 and s[1] > 1 for s in found):
            return found
    except ValueError:
        pass
    raise ValueError(f"--shapes is {text!r}; expected lists x items, such as 64x100,16x1000")


def bench(args) -> int:
    names = args.losses and [name.strip() for name in args.losses.split(",")]
    peers = None if args.peers is None else [p for p in args.peers.split(",") if p]
    progress = not args.json and sys.stderr.isatty() or args.progress
    if args.what == "memory":
        return bench_memory(names, args)
    if args.what == "growth":
        from rankbench.bench import growth_table, run_growth

        record = run_growth(names, output=args.output, progress=progress)
        text = table(growth_table(record), right=("claimed", "measured", "up to n"))
    elif args.what == "batches":
        from rankbench.bench_batches import batches_table, run_batches

        sizes = shapes(args.shapes or "1024x384,4096x384")
        record = run_batches(
            names, sizes, peers, args.rounds, output=args.output, progress=progress
        )
        text = table(batches_table(record), right=("memory",), gap=" ")
    else:
        from rankbench.bench import bench_table, run_bench

        sizes = shapes(args.shapes or "64x100,16x1000,4x4000")
        record = run_bench(names, sizes, peers, args.rounds, output=args.output, progress=progress)
        text = table(bench_table(record), right=("memory",), gap=" ")
    if args.json:
        print(json.dumps(record, indent=1, ensure_ascii=False))
    else:
        print(text)
        print_bench_remarks(record, args.what)
    if not record["complete"]:
        print("\ninterrupted; the rows above are finished.", file=sys.stderr)
        return 130
    return 0


def print_bench_remarks(record: dict, what: str) -> None:
    """What went wrong, how to read the table, and what is missing from it."""
    from rankbench.peers import BATCH_PEERS, PEERS

    for row in record["rows"]:
        if "error" in row:
            size = row.get("lists", row.get("batch")), row.get("items", row.get("dim"))
            print(f"{row['case']} {size[0]}x{size[1]}, {row['against']}: {row['error']}")
    if what == "growth":
        return
    packages = BATCH_PEERS if what == "batches" else PEERS
    missing = [packages[name][0] for name, v in record["peers"].items() if not v]
    print("\ntime, memory: ours / theirs, below 1 is better; time with the range of rounds.")
    for kind, absent in (("libraries", missing), ("losses", record["absent"])):
        if absent:
            print(wrap(f"not here: {', '.join(absent)}", kind))


def bench_memory(names: list[str] | None, args) -> int:
    from rankbench.bench_batches import add_memory, memory_of, memory_table

    rows = []
    for name in names or ["bidirectional_infonce"]:
        print(f"{name}: one step on {args.batch} pairs in its own process", file=sys.stderr)
        rows.append(memory_of(name, args.batch, args.dim, args.negatives))
    if args.output:
        add_memory(args.output, rows)
    right = ("negatives", "inputs", "beyond the inputs", "one table of scores")
    print(json.dumps(rows, indent=1) if args.json else table(memory_table(rows), right=right))
    if not args.json:
        print("\nMiB; beyond the inputs is the most that the process held, gradients included.")
    return 0


def make_parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="rankbench", description="How to train a ranking model, and with which loss.",
        epilog=EXAMPLES, formatter_class=shape,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"rankbench {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, **more):
        sub = commands.add_parser(name, help=text, description=text, formatter_class=shape, **more)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON instead of a table")
        return sub

    sub = command("losses", show_losses, "List the losses.")
    sub.add_argument("--family", help="only this family")
    sub.add_argument("--labels", help=f"only losses for {', '.join(LABELS)} labels")

    sub = command("show", show_loss, "Show what a loss is, needs and promises.")
    sub.add_argument("name", metavar="NAME", help="name or alias of a loss")

    sub = command("check", check_loss, "Check the contract and the laws of a loss.")
    sub.add_argument("names", metavar="NAME", nargs="*", help="names or aliases of losses")
    sub.add_argument("--all", action="store_true", help="every loss")

    sub = command(
        "lint", lint_batch, "Look at a batch for what makes a loss learn the wrong thing.",
        epilog="The file holds tensors under the names of the loss's arguments: scores, labels and\n"
        "where, or queries and documents ... as .json, .npz, .pt or .safetensors. The exit\n"
        "status is 1 where an error is found, 0 otherwise.\n\n"
        "examples:\n"
        "  rankbench lint batch.json --loss kl --set teacher_temperature=4\n"
        "  rankbench lint batch.npz --loss infonce --untrained",
    )  # fmt: skip
    sub.add_argument("file", metavar="FILE", help="a batch: .json, .npz, .pt or .safetensors")
    sub.add_argument("--loss", metavar="NAME", required=True, help="name or alias of a loss")
    sub.add_argument("--set", metavar="NAME=VALUE", action="append", default=[],
                     help="a setting of the loss; may be repeated")  # fmt: skip
    sub.add_argument("--untrained", action="store_true",
                     help="the model has not been trained: compare with the random baseline")  # fmt: skip

    sub = command(
        "compare", compare, "Train one model per loss and compare them.",
        epilog="Each loss gets a sweep of rates and temperatures on dev; the best setting is\n"
        "run with several seeds and looked at on test once. Every finished run is kept:\n"
        "--resume goes on after an interruption. The output folder holds report.html,\n"
        "record.json, per_query.csv, runs in TREC format, and figures.\n\n"
        "With --task letor the model is a small network that ranks rows of features: those\n"
        "of BM25's candidates, made from pydocs or a BEIR folder, or a folder with LETOR\n"
        "files (train.txt, test.txt). A run takes seconds.\n\n"
        "examples:\n"
        "  rankbench compare --losses infonce,ranknet --profile smoke\n"
        "  rankbench compare --task letor --losses all --profile smoke\n"
        "  rankbench compare --task letor --losses ranknet,all --collection path/to/letor",
    )  # fmt: skip
    sub.add_argument("--task", default="retrieval",
                     help="retrieval, or letor: ranking by features (default: %(default)s)")  # fmt: skip
    sub.add_argument("--losses", metavar="A,B,...",
                     help="losses, the first is compared against; all: every one that fits "
                     f"(default: {LOSSES['retrieval']}; letor: {LOSSES['letor']})")  # fmt: skip
    sub.add_argument("--collection", help="pydocs, a BEIR or LETOR folder, or several "
                     "with commas between (default: pydocs)")  # fmt: skip
    sub.add_argument("--profile", default="cpu", help="smoke, cpu or gpu (default: %(default)s)")
    sub.add_argument("--model", help="static, a folder with a transformer, or a hub name; "
                     "letor: linear, or hidden sizes such as 64-32")  # fmt: skip
    sub.add_argument("--steps", type=int, help="steps of each run")
    sub.add_argument("--batch-size", type=int, help="pairs, or lists, per step")
    sub.add_argument("--rates", metavar="R,...", help="learning rates to try on dev")
    sub.add_argument("--temperatures", metavar="T,...", help="temperatures to try on dev; "
                     "letor: multiples of the loss's own")  # fmt: skip
    sub.add_argument("--search", help="grid, or random: draws between the smallest and the largest "
                     "rate and temperature (default: grid)")  # fmt: skip
    sub.add_argument("--trials", type=int, metavar="N", help="draws per system of a random search")
    sub.add_argument("--jobs", type=int, default=1, metavar="N",
                     help="runs at once, each in a process (default: %(default)s)")  # fmt: skip
    sub.add_argument("--devices", metavar="0,1,...", help="GPUs that the processes share")
    sub.add_argument("--depth", type=int, help="documents per query: retrieved, or described")
    sub.add_argument("--seeds", type=int, help="runs at the chosen setting")
    sub.add_argument("--hard-negatives", type=int, metavar="K", help="BM25 negatives per query")
    sub.add_argument(
        "--metrics", metavar="M,...", help="the first one decides (nDCG@10,RR@10,R@100)"
    )
    sub.add_argument("--recipe", metavar="FILE", help="read all settings from a YAML file")
    sub.add_argument(
        "--output", metavar="DIR", help="where results go (default: results/NAME-DIGEST)"
    )
    sub.add_argument("--resume", action="store_true", help="go on in an existing output folder")
    sub.add_argument("--progress", action="store_true", help="show progress when not on a terminal")

    sub = command(
        "bench", bench, "Measure losses against the same losses of other installed libraries.",
        epilog="losses: forward and backward pass, float32, 40 % padding, one thread, CPU time,\n"
        "taken in turns. batches: the same for losses of a batch, and against their matrix\n"
        "products alone. growth: time and memory with list length, claimed and measured.\n"
        "memory: what one step of a loss of a batch takes, in a process of its own.\n"
        "Values are compared first. `make bench` installs the other libraries.\n\n"
        "examples:\n"
        "  rankbench bench --losses softmax,listnet --shapes 64x100\n"
        "  rankbench bench batches --losses infonce --shapes 1024x384\n"
        "  rankbench bench memory --losses bidirectional_infonce --batch 65536",
    )  # fmt: skip
    sub.add_argument("what", nargs="?", choices=("losses", "batches", "growth", "memory"),
                     default="losses", help="what is measured (default: %(default)s)")  # fmt: skip
    sub.add_argument(
        "--losses", metavar="A,B,...", help="cases, such as ranknet,lambda@10 (default: all)"
    )
    sub.add_argument("--shapes", metavar="AxB,...",
                     help="sizes: lists x items (default: 64x100,16x1000,4x4000), or batch x "
                     "dimensions (1024x384,4096x384)")  # fmt: skip
    sub.add_argument("--rounds", type=int, default=9, help="ratios per row (default: %(default)s)")
    sub.add_argument("--peers", metavar="A,B,...", help="libraries (default: those installed)")
    sub.add_argument(
        "--batch", type=int, default=65536, help="memory: pairs (default: %(default)s)"
    )
    sub.add_argument(
        "--dim", type=int, default=384, help="memory: dimensions (default: %(default)s)"
    )
    sub.add_argument("--negatives", type=int, default=0, metavar="K",
                     help="memory: hard negatives per query, 0 or 1 (default: %(default)s)")  # fmt: skip
    sub.add_argument("--output", metavar="FILE", help="write the record there, row by row")
    sub.add_argument("--progress", action="store_true", help="show progress when not on a terminal")

    sub = command("collection", collection, "Build a collection, or count what is in one.")
    sub.add_argument("action", choices=("build", "stats"))
    sub.add_argument(
        "name", metavar="NAME", nargs="?", default="pydocs", help="pydocs or a BEIR folder"
    )
    sub.add_argument("--output", metavar="DIR", help="with build: also write it as a BEIR folder")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `rankbench` command; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        text = str(error).strip().replace("\n", " ")
        print(f"rankbench {args.command}: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
