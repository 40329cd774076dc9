"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""
from rankbench.losses.pairwise import ranknet_loss

__all__ = ["ranknet_loss"]
