"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""

from rankbench.losses.pointwise import bce_loss
from rankbench.losses.regression import huber_loss, mse_loss, ordinal_loss
from rankbench.losses.focusing import asymmetric_loss, focal_loss, poly1_loss
from rankbench.losses.imbalance import ldam_loss, squentropy_loss
from rankbench.losses.set_metrics import anyloss, dice_loss
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.listwise import listnet_loss, softmax_loss
from rankbench.losses.correlation import pearson_loss, rank_cosine_loss, z_loss
from rankbench.losses.transport import batch_wasserstein_loss, wasserstein_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.regularizers import flops_regularizer

__all__ = [
    "bce_loss",
    "mse_loss",
    "huber_loss",
    "ordinal_loss",
    "poly1_loss",
    "focal_loss",
    "asymmetric_loss",
    "ldam_loss",
    "squentropy_loss",
    "dice_loss",
    "anyloss",
    "ranknet_loss",
    "listnet_loss",
    "softmax_loss",
    "rank_cosine_loss",
    "pearson_loss",
    "z_loss",
    "wasserstein_loss",
    "batch_wasserstein_loss",
    "infonce_loss",
    "bidirectional_infonce_loss",
    "kl_loss",
    "margin_mse_loss",
    "flops_regularizer",
]
