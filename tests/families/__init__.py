"""One file per family of losses; here their tables become one.

A family has loop references of its losses (plain floats, plain loops, from the paper; None for a
list that has nothing to learn from) and these tables, each of which may be missing:

LISTS, PAIRS, ROWS: loss → (reference, settings); every keyword of a loss appears in one of the
settings with a value that is not its default.
MUTANTS: loss → what is broken → (old, new); the old text occurs once in the source.
SHARED: (module, function, loss that notices) → what is broken → (old, new).
SAME: (loss, changed line) → why the change changes nothing.
WHOLE: losses of a whole batch, which refuse the reduction "none".
ABSOLUTE: losses of embeddings that one pair alone can teach something.
TIES_BY_POSITION: loss → why tied items are not treated alike.
CASES: golden case → how to get its number from ours. LATER: golden case → why not yet.
FAMILIES: the families of golden cases that belong here.
"""

import importlib
import pkgutil

MODULES = [importlib.import_module(f"families.{m.name}") for m in pkgutil.iter_modules(__path__)]


def merged(name: str) -> dict:
    """The tables of one name; nothing may be claimed twice."""
    table = {}
    for module in MODULES:
        own = getattr(module, name, {})
        assert not table.keys() & own.keys(), f"{name} of {module.__name__} repeats a key"
        table |= own
    return table


LISTS, PAIRS, ROWS = merged("LISTS"), merged("PAIRS"), merged("ROWS")
MUTANTS, SHARED, SAME = merged("MUTANTS"), merged("SHARED"), merged("SAME")
TIES_BY_POSITION = merged("TIES_BY_POSITION")
CASES, LATER = merged("CASES"), merged("LATER")
WHOLE, ABSOLUTE = (
    set().union(*(getattr(m, name, set()) for m in MODULES)) for name in ("WHOLE", "ABSOLUTE")
)
FAMILIES = set().union(*(getattr(m, "FAMILIES", set()) for m in MODULES))


def case_id(name: str, settings: dict) -> str:
    """The name of a test of one loss with settings, the same in every process."""
    shown = {k: v.tolist() if hasattr(v, "tolist") else v for k, v in settings.items()}
    return "-".join([name, *(f"{k}={getattr(v, '__name__', v)}" for k, v in shown.items())])


def of_any_width(settings: dict) -> bool:
    """Whether settings fit any number of columns; a tensor has been made for three."""
    return not any(hasattr(v, "shape") for v in settings.values())
