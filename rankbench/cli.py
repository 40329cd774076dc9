"""The command line: list and check losses, compare them, look at collections."""

import argparse
import ast
import contextlib
import json
import os
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
  rankbench train losses=infonce trainer.learning_rate=0.01 output=runs/first
  rankbench compare --losses infonce,bidirectional_infonce,ranknet
  rankbench compare --losses infonce,ranknet --collection path/to/beir/folder
  rankbench compare --task letor --losses all --profile smoke
  rankbench compare --task letor --losses ranknet,softmax --collection path/to/letor
  rankbench reproduce gte --profile smoke
  rankbench records
  rankbench collection stats pydocs
  rankbench bench --losses softmax,listnet --shapes 64x100
  rankbench search bm25 "sort an array" --collection pydocs
  rankbench eval mine.run path/to/beir/folder bm25.run.gz --baseline bm25.run.gz
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
    text = table(rows, right=numbers)
    if not any("answers" in s for s in record["systems"]):
        return text
    apart = [
        {"system": s["system"], **{f"{name} answers ({group['queries']})": f"{group[main]:.3f}"
                                   for name, group in s["answers"].items()}}
        for s in record["systems"]
    ]  # fmt: skip
    about = "Queries whose answers were trained on, so that memory is enough, and others:"
    return f"{text}\n\n{about}\n\n{table(apart, right=[c for c in apart[0] if c != 'system'])}"


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """The numbers of a comma-separated option."""
    try:
        return tuple(float(x) for x in text.split(",")) if text else None
    except ValueError:
        raise ValueError(f"{option} is {text!r}; expected numbers such as 0.003,0.01") from None


LOSSES = {"retrieval": "infonce,bidirectional_infonce,ranknet", "letor": "ranknet,softmax,listnet"}


def named_losses(text: str | None, task: str, model: str | None) -> tuple[str, ...]:
    """The losses of a comma-separated option; "all" stands for those that fit task and model."""
    from rankbench.training.comparing import expand_losses

    found = expand_losses(split_list(text or LOSSES[task]), task, model or "")
    return tuple(dict.fromkeys(system_text(name) for name in found))


def split_list(text: str) -> list[str]:
    """The entries of a comma-separated list; commas in parentheses belong to an entry."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def system_text(entry: str) -> str:
    """An entry of a comparison in one spelling; a wrong loss is an error here."""
    from rankbench.losses.specs import build_loss

    loss, at, model = (part.strip() for part in entry.partition("@"))
    plain = loss.replace("-", "").isidentifier()
    loss = find(loss).name if plain else " ".join(loss.split())
    _ = plain or build_loss(loss)  # a wrong expression is an error here
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
            named_losses(args.losses, args.task, args.model), args.profile, task=args.task,
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


def reproduce(args) -> int:
    """Run the experiments of a capstone and judge its claims, or say what that would take."""
    import transformers

    from rankbench.capstones import reproduce as runs

    if args.data_dir:
        if not Path(args.data_dir).is_dir():
            raise ValueError(f"--data-dir {args.data_dir} is no folder.")
        os.environ["RANKBENCH_DATA"] = str(Path(args.data_dir).resolve())
    capstone, only = runs.read_capstone(args.name), split_list(args.only or "")
    digest = capstone.digest(args.profile)
    if args.dry_run:
        rows = runs.plan(capstone, args.profile, only=only)
        if args.json:
            print(json.dumps({"digest": digest, "experiments": rows}, indent=1, ensure_ascii=False))
        else:
            print(plan_text(capstone, args.profile, rows))
        return 0
    folder = Path(args.output or f"results/{capstone.name}-{args.profile}")
    kept = Path(args.output_record) if args.output_record else None
    keep = args.keep or kept is not None
    if keep and only:
        raise ValueError("a record that is kept holds all experiments of a profile; finish them "
                         "with --only and --resume, then keep without --only.")  # fmt: skip
    if keep:
        runs.check_keeping(runs.record_path(capstone.name, args.profile, digest, kept), kept)
    transformers.logging.disable_progress_bar()  # one bar is enough
    progress = not args.json and sys.stderr.isatty() or args.progress
    try:
        record = runs.reproduce(
            capstone, args.profile, folder, args.resume, progress, args.jobs,
            split_list(args.devices or ""), only, lambda text: print(text, file=sys.stderr),
        )  # fmt: skip
    except KeyboardInterrupt:
        done = len(list(folder.glob("*/units/*.json")))
        print(f"\ninterrupted; {done} finished units are kept in {folder}.\n"
              "Repeat the command with --resume to go on.", file=sys.stderr)  # fmt: skip
        return 130
    before = runs.recorded_before(record, kept)
    again = runs.repeats(record, before) if before else []
    place = runs.keep_record(record, kept) if keep else folder / "record.json"
    if args.json:
        print(json.dumps({**record, "repeats": again}, indent=1, ensure_ascii=False))
        return 0
    print(reproduction_text(record))
    if before:
        print(repeats_text(again, before))
    print(f"Record: {place}")
    return 0


def hours_text(hours: float | None) -> str:
    """A time in the unit that fits."""
    from rankbench.records import duration

    return "unknown" if hours is None else duration(3600 * hours)


def labelled(label: str, text: str) -> str:
    """A paragraph with a label of any length."""
    return wrap(text, label if len(label) < 14 else f"{label}  ")


def plan_text(capstone, profile: str, rows: Sequence[dict]) -> str:
    """What a run would take, in 80 columns."""
    where = "on one GPU" if any(row["gpu"] for row in rows) else "on this CPU"
    lines = [labelled(f"{capstone.name} {profile}", capstone.title), ""]
    for row in rows:
        sizes = ", ".join(map(str, row["batch_sizes"]))
        lines.append(labelled(row["experiment"], row["about"]))
        lines += [wrap(f"{c}: {how}", "  data") for c, how in row["collections"].items()]
        lines += [wrap(f"{m}: {how}", "  model") for m, how in row["models"].items()]
        lines.append(wrap(
            f"{row['systems']} systems, {row['settings'] or 'no'} settings tried, "
            f"{row['seeds']} seed{'s' * (row['seeds'] > 1)}: {row['runs']} runs, "
            f"{row['steps']:,} steps of {sizes} pairs, {row['pairs']:,} training pairs", "  runs",
        ))  # fmt: skip
        lines.append(
            wrap(f"{hours_text(row['hours'])} {where}: {'; '.join(row['sources'])}", "  time")
        )
        lines.append("")
    planned = {row["experiment"] for row in rows}
    judged = [c.name for c in capstone.judged(profile) if c.experiment in planned]
    others = [c.name for c in capstone.claims if c.name not in judged]
    hours = [row["hours"] for row in rows]
    total = None if None in hours else sum(hours)
    lines.append(wrap(
        f"{sum(row['runs'] for row in rows)} runs, {sum(row['pairs'] for row in rows):,} training "
        f"pairs, {hours_text(total)} one run after another, searching not counted", "total",
    ))  # fmt: skip
    lines.append(wrap(", ".join(judged) or "none", "claims"))
    if others:
        lines.append(wrap(f"{', '.join(others)} (not at this size)", "not judged"))
    downloads = dict.fromkeys(name for row in rows for name in row["downloads"])
    if downloads:
        lines.append(wrap(f"{', '.join(downloads)} (a network is needed)", "to download"))
    lines += [
        wrap(text, "missing") for text in dict.fromkeys(t for r in rows for t in r["missing"])
    ]
    return "\n".join(lines)


def reproduction_text(record: dict) -> str:
    """Tables, claims and verdict of a reproduction, in 80 columns."""
    lines = []
    for name, part in record["experiments"].items():
        lines += [f"{name}: {part['collection']['name']}", "", comparison_text(part), ""]
        lines += [wrap(note, "note") for note in part["notes"]]
    for claim in record["claims"]:
        lines += [labelled(claim["name"], claim["text"]), wrap(claim_text(claim), "  numbers"),
                  f"  verdict: {claim['verdict']}"]  # fmt: skip
    lines += ["", f"{record['capstone']}, profile {record['profile']}: {record['verdict']}."]
    return "\n".join(lines)


def claim_text(claim: dict) -> str:
    """The numbers of a claim."""
    value, cost = claim["difference"], claim["low"] is None
    ours, theirs = claim["values"]["system"], claim["values"]["against"]
    digits = ".4g" if cost else ".3f"
    text = (
        f"{claim['measure']} of {claim['system']} {ours:{digits}}, of {claim['against']} "
        f"{theirs:{digits}}: "
    )
    if cost:
        text += f"{100 * value:+.1f} %, expected {claim['expects']}"
        text += f", tolerance {100 * claim['tolerance']:g} %"
    else:
        text += (
            f"{value:+.4f} ({claim['low']:+.4f} to {claim['high']:+.4f}), p {p_text(claim['p'])}"
        )
        text += f", expected {claim['expects']}, tolerance {claim['tolerance']:g}"
    if claim["paper"]:
        text += f"; the paper: {claim['paper']['difference']:+.4f}"
    return text


def repeats_text(rows: Sequence[dict], before: dict) -> str:
    """A repeated record beside the one that is committed."""
    shown = [
        {"system": r["system"], "recorded": f"{r['recorded']:.3f}",
         "interval": f"{r['low']:.3f}-{r['high']:.3f}", "now": f"{r['now']:.3f}",
         "within": "yes" if r["within"] else "no"}
        for r in rows
    ]  # fmt: skip
    within, origin = sum(r["within"] for r in rows), before["provenance"]
    told = f"\nThe record of {origin['time'][:10]} ({origin['device']}) holds the same experiments:"
    lines = [told, "", table(shown, right=["recorded", "interval", "now"]), ""]
    return "\n".join([*lines, f"{within} of {len(rows)} values are within the recorded interval."])


def records(args) -> int:
    """List records."""
    from rankbench.capstones.reproduce import list_records, results_folder

    folder = Path(args.folder) if args.folder else results_folder()
    if not folder.is_dir():
        raise ValueError(
            f"no folder {folder}; give --folder DIR." if args.folder else
            "records live in the repository, and this is not one; give --folder DIR."
        )  # fmt: skip
    rows = list_records(folder)
    if args.json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return 0
    for kind in dict.fromkeys(row["kind"] for row in rows):
        print(f"{kind}\n{records_text([row for row in rows if row['kind'] == kind])}\n")
    if not rows:
        print(f"no records in {folder}")
    elif any(row["verdict"] for row in rows):
        print("r/n/u: claims that are reproduced, not reproduced, undecided. current: is the\n"
              "recipe still that of the capstone?")  # fmt: skip
    return 0


def records_text(rows: Sequence[dict]) -> str:
    """A table of records of one kind; records without claims have no verdict."""
    device = lambda name: name.replace("NVIDIA ", "").replace(",", " ").split()[0]  # noqa: E731
    judged, shown = any(row["verdict"] for row in rows), []
    for row in rows:
        claims = {
            "r/n/u": f"{row['reproduced']}/{row['refuted']}/{row['undecided']}",
            "verdict": row["verdict"], "current": "yes" if row["current"] else "no",
        }  # fmt: skip
        shown.append({"record": row["record"], "date": row["date"], "device": device(row["device"]),
                      "commit": row["commit"], **(claims if judged else {})})  # fmt: skip
    return table(shown)


def train(args) -> int:
    """Train a model from a file, or print the settings of the run."""
    import transformers

    from rankbench.training.configs import find_config, print_config, read_config, run_training

    config = read_config(args.config and find_config(args.config), args.changes)
    if args.print_config:
        print(print_config(config), end="")
        return 0
    first = int(os.environ.get("RANK", "0")) == 0  # of several processes
    transformers.logging.disable_progress_bar()

    def tell(note: str) -> None:
        if first:
            print(note, file=sys.stderr)

    try:
        with contextlib.redirect_stdout(sys.stderr):  # the trainer prints its log
            result = run_training(config, args.resume, on_note=tell)
    except KeyboardInterrupt as stop:
        done = str(stop).partition(";")[0] or "no checkpoint was written"
        tell(f"\ninterrupted; {done}\n"
             "Repeat the command with --resume to go on.")  # fmt: skip
        return 130
    if not first:
        return 0
    if args.json:
        print(json.dumps(result, indent=1, ensure_ascii=False))
        return 0
    rows = [
        {"measure": name, **{when: f"{result[when][name]:.4f}" for when in ("before", "after")
                             if result[when]}}
        for name in result["after"] or {}
    ]  # fmt: skip
    if rows:
        print(table(rows, right=("before", "after")))
    print(f"\nmodel: {config.output}/model; log.csv, config.yaml and result.json beside it")
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
    if args.what == "retrieval":
        return bench_retrieval(args)
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


def bench_retrieval(args) -> int:
    from rankbench.training.bench_retrieval import run_bench_retrieval

    print(f"{args.documents:,} documents in a process of their own", file=sys.stderr)
    record = run_bench_retrieval(args.documents, output=args.output)
    rows = [
        {"stage": r["stage"], "seconds": f"{r['seconds']:.1f}",
         "grown": "" if r["grown_mib"] is None else r["grown_mib"],
         "RR@10": f"{r['RR@10']:.3f}" if "RR@10" in r else ""}
        for r in record["rows"]
    ]  # fmt: skip
    print(json.dumps(record, indent=1) if args.json else table(rows, right=list(rows[0])[1:]))
    if not args.json:
        print("\ngrown: MiB at the peak of a stage above what the process held at the start,\n"
              "pages of mapped files included.")  # fmt: skip
    return 0


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


def run_names(paths: Sequence[Path]) -> list[str]:
    """Short names of run files, or their paths where short names are the same."""
    short = [p.name.removesuffix(".gz").removesuffix(".run").removesuffix(".txt") for p in paths]
    return short if len(set(short)) == len(short) else [str(p) for p in paths]


def evaluate_runs(args) -> int:
    from rankbench.data.collections import read_beir
    from rankbench.data.formats import read_qrels, read_run, read_topics
    from rankbench.training.analysis import compare_runs, error_analysis, error_text, judged_share
    from rankbench.training.evaluation import evaluate, parse_measures

    measures = [m.strip() for m in args.metrics.split(",")]
    parse_measures(measures)
    qrels, paths = Path(args.qrels), [Path(p) for p in (args.first, *args.others)]
    if args.worst and not args.corpus and not qrels.is_dir():
        raise ValueError("--worst shows texts; give --corpus, a BEIR folder with the documents")
    collection = read_beir(args.corpus or qrels) if args.worst else None
    judged = read_qrels(qrels_file(qrels, args.split) if qrels.is_dir() else qrels)
    names = run_names(paths)
    runs = {name: read_run(path) for name, path in zip(names, paths, strict=True)}
    for path, found in [(qrels, judged), *zip(paths, runs.values(), strict=True)]:
        if not found:
            raise ValueError(f"{path} is empty; expected a line per query and document")
    for path, run in zip(paths, runs.values(), strict=True):
        if not run.keys() & judged.keys():
            asked, known = next(iter(run)), next(iter(judged))
            raise ValueError(f"{path}: none of its queries is judged; it has ids such as {asked!r}, "
                             f"the judgments have {known!r}")  # fmt: skip
    baseline = baseline_of(args.baseline, paths, names)
    rows = compare_runs(judged, runs, measures, baseline=baseline).to_dict("records")
    for row in rows:
        row.update({k: None if v != v else v for k, v in row.items()})
    shares = {n: sum(judged_share(judged, r).values()) / len(judged) for n, r in runs.items()}
    values = {n: evaluate(r, judged, measures) for n, r in runs.items()} if args.per_query else None
    reports = {}
    if args.worst:
        queries = {
            **collection.queries,
            **(read_topics(args.queries) if args.queries else {}),
        }
        asked = {"measure": measures[0], "worst": args.worst}
        others = [n for n in names if n != baseline] or [None]
        reports = {
            name or baseline: error_analysis(judged, runs[name or baseline], collection.documents,
                                             queries, name and runs[baseline], **asked)
            for name in others
        }  # fmt: skip
    if args.json:
        from dataclasses import asdict

        record = {"baseline": baseline, "queries": len(judged), "rows": rows, "judged@10": shares,
                  **({"per_query": values} if values else {}),
                  **({"errors": {n: [asdict(r) for r in found] for n, found in reports.items()}}
                     if reports else {})}  # fmt: skip
        print(json.dumps(record, indent=1, ensure_ascii=False))
        return 0
    print(runs_text(rows, measures))
    unanswered = {n: sum(q not in r for q in judged) for n, r in runs.items()}
    notes = [f"{n} leaves {k} unanswered" for n, k in unanswered.items() if k]
    print(f"\n{len(judged)} judged queries{''.join(f'; {note}' for note in notes)}.")
    print(
        "judged among the first 10: " + ", ".join(f"{n} {s:.0%}" for n, s in shares.items()) + "."
    )
    if len(runs) > 1:
        print(f"p: paired randomisation test against {baseline}, Holm-corrected for each metric.")
    if values:
        columns = {
            f"{n} {m}" if len(names) > 1 else m: values[n][m] for n in names for m in measures
        }
        rows = [{"query": q, **{c: f"{v[q]:.4f}" for c, v in columns.items()}} for q in judged]
        print("\n" + table(rows, right=list(columns)))
    for name, found in reports.items():
        print(f"\n{name}\n{'=' * len(name)}\n{error_text(found)}")
    return 0


def qrels_file(folder: Path, split: str) -> Path:
    """The judgments of a split in a BEIR folder."""
    paths = [p for e in ("tsv.gz", "tsv") for p in sorted((folder / "qrels").glob(f"*.{e}"))]
    found = {p.name.removesuffix(".gz").removesuffix(".tsv"): p for p in paths}  # plain ones last
    if not found:
        raise ValueError(f"{folder} has no qrels/*.tsv; expected a BEIR folder, or a file")
    if split not in found:
        raise UnknownName("split", split, found)
    return found[split]


def baseline_of(given: str | None, paths: Sequence[Path], names: Sequence[str]) -> str:
    """The name of the run that others are compared with; the first if none is given."""
    for path, name in zip(paths, names, strict=True):
        if given is None or given in (str(path), path.name, name):
            return name
    raise UnknownName("run for --baseline", given, names)


def runs_text(rows: Sequence[dict], measures: Sequence[str]) -> str:
    """One table; with one metric more in width, with several a block for each."""
    lines = []
    for measure in measures:
        part = [r for r in rows if r["measure"] == measure]
        shown = [
            {"run": r["run"] if len(r["run"]) <= 24 else "…" + r["run"][-23:],
             measure: f"{r['mean']:.4f}", "95 % interval": f"{r['low']:.4f}-{r['high']:.4f}"}
            for r in part
        ]  # fmt: skip
        for line, r in zip(shown, part, strict=True):
            if len(part) > 1:
                same = r["difference"] is None
                counts = "/".join(str(int(r[k])) for k in ("wins", "ties", "losses") if not same)
                line |= {"change": "" if same else f"{r['difference']:+.4f}", "p": p_text(r["p"]),
                         "won/tied/lost": counts}  # fmt: skip
        lines.append(table(shown, right=[c for c in shown[0] if c != "run"]))
    return "\n\n".join(lines)


def load_ranker(name: str):
    """An encoder or a reranker by folder or name."""
    import transformers

    from rankbench.models.loading import load_model

    transformers.logging.disable_progress_bar()
    return load_model(name)


def index_of(model: str, documents, folder: str | None, args):
    """An index of documents: in memory, or the one in a folder, made or finished if need be."""
    from rankbench.models.base import Encoder
    from rankbench.training.retrieval import build_bm25, build_index, load_bm25, save_bm25

    progress = sys.stderr.isatty() and not args.json
    restart = getattr(args, "restart", False)
    if model == "bm25":
        if folder and not restart and (Path(folder) / "index.json").is_file():
            return load_bm25(folder, documents)
        index = build_bm25(documents, progress=progress)
        if folder:
            save_bm25(index, folder)
        return index
    encoder = load_ranker(model)
    if not isinstance(encoder, Encoder):
        raise ValueError(f"{model} is a reranker and cannot search; use it with --rerank")
    stored = index_settings(folder)
    dtype = "float16" if getattr(args, "half", False) else stored.get("dtype", "float32")
    return build_index(encoder, documents, folder, block=getattr(args, "block", None) or
                       stored.get("block"), dtype=dtype, progress=progress, resume=not restart)  # fmt: skip


def index_settings(folder: str | None) -> dict:
    """What a folder's index was made with; nothing if there is none."""
    path = Path(folder or "") / "index.json"
    try:
        return json.loads(path.read_text("utf-8")) if folder and path.is_file() else {}
    except json.JSONDecodeError:
        return {}  # build_index says what is wrong with it


def make_index(args) -> int:
    from rankbench.data.collections import load_collection

    documents = load_collection(args.collection, progress=sys.stderr.isatty()).documents
    try:
        index = index_of(args.model, documents, args.output, args)
    except KeyboardInterrupt:
        done = len(index_settings(args.output).get("blocks", ()))
        print(f"\ninterrupted; {done} finished blocks are kept in {args.output}.\n"
              "Repeat the command to go on.", file=sys.stderr)  # fmt: skip
        return 130
    size = sum(p.stat().st_size for p in Path(args.output).rglob("*") if p.is_file())
    facts = {"kind": index.kind, "documents": len(index), "blocks": len(index.blocks),
             "bytes": size, "folder": args.output}  # fmt: skip
    text = f"{len(index):,} documents, {index.kind}, {size / 2**20:.1f} MiB in {args.output}"
    print(json.dumps(facts) if args.json else text)
    return 0


def search_collection(args) -> int:
    from rankbench.data.collections import load_collection
    from rankbench.models.base import Reranker
    from rankbench.training.retrieval import SparseIndex

    if args.k < 1 or args.depth < 1:
        raise ValueError("--k and --depth are numbers of documents; expected at least 1")
    documents = load_collection(args.collection, progress=sys.stderr.isatty()).documents
    index = index_of(args.model, documents, args.index, args)
    reranker = load_ranker(args.rerank) if args.rerank else None
    if reranker is not None and not isinstance(reranker, Reranker):
        raise ValueError(f"{args.rerank} is no reranker; give it as MODEL")
    if args.explain and not isinstance(index, SparseIndex):
        raise ValueError("--explain shows shared terms; only bm25 and sparse models have them")
    asked = [args.query] if args.query is not None else typed_queries()
    for query in asked:
        found = search_one(query, index, reranker, documents, args)
        if args.json:
            print(json.dumps({"query": query, "results": found}, indent=1, ensure_ascii=False))
        else:
            print(results_text(found), flush=True)
    return 0


def typed_queries():
    """Lines that a person types, or that come through a pipe."""
    while True:
        if sys.stdin.isatty():
            print("query: ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def search_one(query: str, index, reranker, documents, args) -> list[dict]:
    from rankbench.training.retrieval import rerank, search_run, shared_terms

    run = search_run(index, {"q": query}, max(args.k, args.depth) if reranker else args.k)
    if reranker is not None:
        run = rerank(reranker, run, documents, {"q": query}, args.depth)
    results = []
    for rank, (key, score) in enumerate(list(run["q"].items())[: args.k], 1):
        row = {"rank": rank, "score": score, "document": key, "text": documents[key].full}
        if args.explain:
            row["terms"] = shared_terms(index, query, key)
        results.append(row)
    return results


def results_text(results: Sequence[dict]) -> str:
    if not results:
        return "nothing found\n"
    lines = []
    for r in results:
        lines.append(f"{r['rank']:>3}  {r['score']:.4f}  {r['document']}")
        text = " ".join(r["text"].split())
        lines += textwrap.wrap(textwrap.shorten(text, 150, placeholder=" …"), 80,
                               initial_indent=" " * 5, subsequent_indent=" " * 5)  # fmt: skip
        if "terms" in r:
            terms = ", ".join(f"{term} {value:.3f}" for term, value in r["terms"])
            lines += textwrap.wrap(f"terms: {terms}", 80, initial_indent=" " * 5,
                                   subsequent_indent=" " * 12)  # fmt: skip
    return "\n".join(lines) + "\n"


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
        "--resume goes on after an interruption, or adds losses and seeds to a folder. It\n"
        "holds report.html, record.json, per_query.csv, runs in TREC format, and figures.\n\n"
        "With --task letor the model is a small network that ranks rows of features: those\n"
        "of BM25's candidates, made from pydocs or a BEIR folder, or a folder with LETOR\n"
        "files (train.txt, test.txt). A run takes seconds.\n\n"
        "A loss is a name, or an expression such as 'infonce + 0.001*flops.documents'. One\n"
        "may be followed by @ MODEL: static, a folder, a hub name, splade:FOLDER (a masked\n"
        "language model, trained as SPLADE) or cross:FOLDER (a cross-encoder, which orders\n"
        "what BM25 finds). Every model is a baseline before training, too.\n\n"
        "examples:\n"
        "  rankbench compare --losses infonce,ranknet --profile smoke\n"
        "  rankbench compare --losses 'infonce, infonce @ splade:models/small,\n"
        "      softmax @ cross:models/small' --search random --trials 12 --jobs 2\n"
        "  rankbench compare --task letor --losses all --profile smoke\n"
        "  rankbench compare --task letor --losses ranknet,all --collection path/to/letor",
    )  # fmt: skip
    sub.add_argument("--task", default="retrieval",
                     help="retrieval, or letor: ranking by features (default: %(default)s)")  # fmt: skip
    sub.add_argument("--losses", metavar="A,B,...",
                     help="LOSS or LOSS @ MODEL, the first is compared against; all: every "
                     "loss that fits "
                     f"(default: {LOSSES['retrieval']}; letor: {LOSSES['letor']})")  # fmt: skip
    sub.add_argument("--collection", help="pydocs, a BEIR or LETOR folder, or several "
                     "with commas between (default: pydocs)")  # fmt: skip
    sub.add_argument("--profile", default="cpu", help="smoke, cpu or gpu (default: %(default)s)")
    sub.add_argument("--model", help="of losses without @: static, a folder, a hub name, "
                     "splade:FOLDER or cross:FOLDER; letor: linear, or hidden sizes such as 64-32")  # fmt: skip
    sub.add_argument("--steps", type=int, help="steps of each run")
    sub.add_argument("--batch-size", type=int, help="pairs, or lists, per step")
    sub.add_argument("--rates", metavar="R,...", help="learning rates to try on dev")
    sub.add_argument("--temperatures", metavar="T,...", help="temperatures to try on dev; "
                     "letor: multiples of the loss's own")  # fmt: skip
    sub.add_argument("--search", help="grid; random: draws between the smallest and the largest rate "
                     "and temperature; quasirandom: spread evenly (default: grid)")  # fmt: skip
    sub.add_argument("--trials", type=int, metavar="N", help="settings per system of such a search")
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
        "reproduce", reproduce, "Run the experiments of a capstone and judge its claims.",
        epilog="A capstone states claims of papers, each with a direction and a tolerance, and the\n"
        "comparisons that decide them. Profiles: smoke (a minute), cpu (hours), gpu, and paper\n"
        "(the collections and models of the paper). --dry-run says what would be run, what is\n"
        "missing and what it would cost, and downloads nothing. Finished runs are kept:\n"
        "--resume goes on after an interruption. Where a record of the same experiments is\n"
        "committed, the values are compared with it.\n\n"
        "examples:\n"
        "  rankbench reproduce gte --profile smoke\n"
        "  rankbench reproduce gte --profile paper --dry-run\n"
        "  rankbench reproduce gte --profile cpu --data-dir collections --jobs 2 --resume",
    )  # fmt: skip
    sub.add_argument("name", metavar="NAME", help="a capstone, or a YAML file")
    sub.add_argument("--profile", default="smoke",
                     help="smoke, cpu, gpu or paper (default: %(default)s)")  # fmt: skip
    sub.add_argument("--dry-run", action="store_true", help="print the plan and its cost")
    sub.add_argument("--only", metavar="E,...", help="only these experiments")
    sub.add_argument("--data-dir", metavar="DIR", help="where collections are (RANKBENCH_DATA)")
    sub.add_argument(
        "--output", metavar="DIR", help="where results go (default: results/NAME-PROFILE)"
    )
    sub.add_argument("--resume", action="store_true", help="go on in an existing output folder")
    sub.add_argument("--jobs", type=int, default=1, metavar="N",
                     help="runs at once, each in a process (default: %(default)s)")  # fmt: skip
    sub.add_argument("--devices", metavar="0,1,...", help="GPUs that the processes share")
    sub.add_argument("--keep", action="store_true", help="put the record into data/results")
    sub.add_argument("--output-record", metavar="DIR", help="put the record there instead")
    sub.add_argument("--progress", action="store_true", help="show progress when not on a terminal")

    sub = command(
        "records", records, "List the records: what was run, when, and what it says.",
        epilog="examples:\n  rankbench records\n  rankbench records --folder my/records --json",
    )  # fmt: skip
    sub.add_argument("--folder", metavar="DIR", help="default: data/results of the repository")

    sub = command(
        "train", train, "Train a model as a file says, and measure it.",
        epilog="CONFIG is a YAML file, or splade or distillation: two recipes that come with\n"
        "the library. Any setting may be changed behind it; --print-config shows all of\n"
        "them, with a sentence about each. Ctrl-C writes a checkpoint, and --resume goes\n"
        "on from there.\n"
        "Several processes: torchrun --nproc-per-node 2 -m rankbench.cli train --config ...\n\n"
        "examples:\n"
        "  rankbench train --print-config > mine.yaml\n"
        "  rankbench train --config mine.yaml trainer.max_steps=1000 output=runs/second\n"
        "  rankbench train --config splade model.name=path/to/masked-language-model\n"
        "  rankbench train losses='infonce + 0.01*l2.documents' trainer.learning_rate=0.01",
    )  # fmt: skip
    sub.add_argument("changes", metavar="KEY=VALUE", nargs="*",
                     help="a setting, such as trainer.max_steps=100 or losses=ranknet")  # fmt: skip
    sub.add_argument("--config", metavar="CONFIG", help="a YAML file, or the name of a recipe")
    sub.add_argument("--print-config", action="store_true", help="print all settings as YAML")
    sub.add_argument("--resume", action="store_true", help="go on from the last checkpoint")

    sub = command(
        "bench", bench, "Measure losses against the same losses of other installed libraries.",
        epilog="losses: forward and backward pass, float32, 40 % padding, one thread, CPU time,\n"
        "taken in turns. batches: the same for losses of a batch, and against their matrix\n"
        "products alone. growth: time and memory with list length, claimed and measured.\n"
        "memory: what one step of a loss of a batch takes, in a process of its own.\n"
        "retrieval: memory and time of a made-up corpus on disk, encoded and searched.\n"
        "Values are compared first. `make bench` installs the other libraries.\n\n"
        "examples:\n"
        "  rankbench bench --losses softmax,listnet --shapes 64x100\n"
        "  rankbench bench batches --losses infonce --shapes 1024x384\n"
        "  rankbench bench memory --losses bidirectional_infonce --batch 65536",
    )  # fmt: skip
    sub.add_argument("what", nargs="?", choices=("losses", "batches", "growth", "memory", "retrieval"),
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
    sub.add_argument("--documents", type=int, default=200_000, metavar="N",
                     help="retrieval: documents (default: %(default)s)")  # fmt: skip
    sub.add_argument("--output", metavar="FILE", help="write the record there, row by row")
    sub.add_argument("--progress", action="store_true", help="show progress when not on a terminal")

    sub = command("collection", collection, "Build a collection, or count what is in one.")
    sub.add_argument("action", choices=("build", "stats"))
    sub.add_argument(
        "name", metavar="NAME", nargs="?", default="pydocs", help="pydocs or a BEIR folder"
    )
    sub.add_argument("--output", metavar="DIR", help="with build: also write it as a BEIR folder")

    sub = command(
        "eval", evaluate_runs, "Evaluate runs against judgments, and compare them.",
        epilog="RUN is a file in TREC format, plain or .gz. QRELS is a file in TREC or BEIR\n"
        "format, or a BEIR folder. Each metric gets a bootstrap interval; with several\n"
        "runs also a paired randomisation test against the baseline, corrected by Holm,\n"
        "and how many queries were won, tied and lost. Metrics are those of ir_measures.\n\n"
        "--worst N shows queries with their texts: the N worst of a run, or, with several\n"
        "runs, the N that gained and the N that lost most against the baseline.\n\n"
        "examples:\n"
        "  rankbench eval mine.run qrels.txt --metrics nDCG@10,RR@10,AP\n"
        "  rankbench eval mine.run qrels.txt bm25.run.gz --baseline bm25.run.gz\n"
        "  rankbench eval mine.run data/scifact --split test --worst 5",
    )  # fmt: skip
    sub.add_argument("first", metavar="RUN", help="a run")
    sub.add_argument("qrels", metavar="QRELS", help="judgments: a file, or a BEIR folder")
    sub.add_argument("others", metavar="RUN2", nargs="*", help="more runs")
    sub.add_argument("--metrics", metavar="M,...", default="nDCG@10,RR@10,R@100",
                     help="metrics (default: %(default)s)")  # fmt: skip
    sub.add_argument("--baseline", metavar="RUN", help="compare with this run (default: the first)")
    sub.add_argument("--split", default="test", help="of a BEIR folder (default: %(default)s)")
    sub.add_argument("--per-query", action="store_true", help="also print every query's values")
    sub.add_argument("--worst", metavar="N", type=int, default=0, help="show N queries with texts")
    sub.add_argument("--corpus", metavar="DIR", help="BEIR folder with the texts for --worst")
    sub.add_argument("--queries", metavar="FILE",
                     help="texts of queries: id, tab, text, or BEIR's JSON lines")  # fmt: skip

    where = "pydocs or a BEIR folder (default: %(default)s)"
    what = "bm25, a folder with a saved model, or a hub name"
    sub = command(
        "search", search_collection, "Ask a model by hand.",
        epilog="Without a query, queries are read from the terminal, one on each line. With\n"
        "--index the encoded documents are kept in a folder and found there next time.\n\n"
        "examples:\n"
        '  rankbench search bm25 "sort an array in place" --explain\n'
        '  rankbench search my-model "sort an array" --collection pydocs --index idx\n'
        "  rankbench search bm25 --collection data/scifact --rerank my-cross-encoder",
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL", help=what)
    sub.add_argument("query", metavar="QUERY", nargs="?", help="what to look for")
    sub.add_argument("--collection", default="pydocs", help=where)
    sub.add_argument("--k", type=int, default=10, help="documents shown (default: %(default)s)")
    sub.add_argument("--index", metavar="DIR", help="keep the index there")
    sub.add_argument("--rerank", metavar="MODEL", help="a reranker for the first --depth documents")
    sub.add_argument("--depth", type=int, default=100, metavar="N",
                     help="documents that are reranked (default: %(default)s)")  # fmt: skip
    sub.add_argument("--explain", action="store_true",
                     help="bm25 and sparse models: the terms that make up a score")  # fmt: skip

    sub = command(
        "index", make_index, "Encode the documents of a collection and keep them.",
        epilog="Documents are encoded block by block; repeat the command after an interruption\n"
        "to go on. `rankbench search --index DIR` searches what was made.\n\n"
        "examples:\n"
        "  rankbench index my-model --collection data/scifact --output idx --half\n"
        "  rankbench index bm25 --collection pydocs --output bm25-idx",
    )  # fmt: skip
    sub.add_argument("model", metavar="MODEL", help=what)
    sub.add_argument("--collection", default="pydocs", help=where)
    sub.add_argument("--output", metavar="DIR", required=True, help="where the index goes")
    sub.add_argument("--half", action="store_true", help="half precision: half the space")
    sub.add_argument("--block", type=int, metavar="N", help="documents of a block")
    sub.add_argument("--restart", action="store_true", help="encode everything again")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `rankbench` command; returns the exit status."""
    args = make_parser().parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        text = str(error).strip().replace("\n", " ")
        print(f"rankbench {args.command}: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
