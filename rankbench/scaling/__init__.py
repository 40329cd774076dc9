"""Large batches: tiles of scores, cached gradients, several devices."""

from rankbench.scaling.across_devices import gather
from rankbench.scaling.gradient_caching import GradCache
from rankbench.scaling.tiling import reduce_rows

__all__ = ["GradCache", "gather", "reduce_rows"]
