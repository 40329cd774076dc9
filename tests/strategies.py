"""Lists that property tests draw; coarse numbers, so that ties are common."""

from hypothesis import strategies as st

SCORES = st.integers(-40, 40).map(lambda x: x / 8)
GRADES = st.integers(0, 3).map(float)
BINARY = st.sampled_from([0.0, 1.0])


def lists(labels, smallest: int = 1, largest: int = 6):
    """Scores and labels of one list."""
    return st.integers(smallest, largest).flatmap(
        lambda n: st.tuples(
            st.lists(SCORES, min_size=n, max_size=n), st.lists(labels, min_size=n, max_size=n)
        )
    )
