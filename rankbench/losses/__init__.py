"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""

from rankbench.losses.pointwise import bce_loss
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.listwise import listnet_loss, softmax_loss
from rankbench.losses.sorting import neuralsort_loss
from rankbench.losses.neural_ndcg import neural_ndcg_loss
from rankbench.losses.rank_distributions import softrank_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.regularizers import flops_regularizer

__all__ = [
    "bce_loss",
    "ranknet_loss",
    "listnet_loss",
    "softmax_loss",
    "neuralsort_loss",
    "neural_ndcg_loss",
    "softrank_loss",
    "infonce_loss",
    "bidirectional_infonce_loss",
    "kl_loss",
    "margin_mse_loss",
    "flops_regularizer",
]
