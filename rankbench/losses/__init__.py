"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.regularizers import flops_regularizer

__all__ = ["ranknet_loss", "kl_loss", "margin_mse_loss", "flops_regularizer"]
