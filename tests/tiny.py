"""A small collection that has to be learned: queries and documents of a topic share no words."""

import random
from dataclasses import replace

from rankbench.data.collections import Collection, Document


def make_collection(topics: int = 12, per_topic: int = 6, titles: bool = False) -> Collection:
    """A query's own document is graded 2, the other documents of its topic 1."""
    rng = random.Random(0)
    words = ["".join(rng.choice("abcdefgh") for _ in range(5)) for _ in range(topics * 12)]
    documents, queries, judgments = {}, {}, {"train": {}, "dev": {}, "test": {}}
    for topic in range(topics):
        asked, own = words[topic * 12 : topic * 12 + 6], words[topic * 12 + 6 : topic * 12 + 12]
        names = [f"d{topic}-{i}" for i in range(per_topic)]
        for i, name in enumerate(names):
            text = " ".join(rng.choices(own, k=15) + rng.choices(words, k=10))
            documents[name] = Document(" ".join(rng.choices(own, k=3)) if titles else "", text)
            queries[f"q{topic}-{i}"] = " ".join(rng.choices(asked, k=4))
            split = "test" if i == 0 else "dev" if i == 1 else "train"
            grades = {**dict.fromkeys(names, 1), name: 2}
            judgments[split][f"q{topic}-{i}"] = grades
    return Collection("tiny", documents, queries, judgments)


def share_answers(collection: Collection, count: int = 5) -> Collection:
    """The first test queries ask for what a training query asks for."""
    asked = dict(collection.judgments["test"])
    asked |= {q: {f"d{q[1:].split('-')[0]}-2": 2} for q in sorted(asked)[:count]}
    return replace(collection, judgments={**collection.judgments, "test": asked})
