"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss

__all__ = ["ranknet_loss", "infonce_loss", "bidirectional_infonce_loss"]
