"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""

from rankbench.losses.pointwise import bce_loss
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.listwise import listnet_loss, softmax_loss
from rankbench.losses.softmax_variants import poly1_softmax_loss, unique_softmax_loss
from rankbench.losses.calibrated_softmax import calibrated_softmax_loss
from rankbench.losses.permutation import listmle_loss
from rankbench.losses.position_aware import plistmle_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.regularizers import flops_regularizer

__all__ = [
    "bce_loss",
    "ranknet_loss",
    "listnet_loss",
    "softmax_loss",
    "poly1_softmax_loss",
    "unique_softmax_loss",
    "calibrated_softmax_loss",
    "listmle_loss",
    "plistmle_loss",
    "infonce_loss",
    "bidirectional_infonce_loss",
    "kl_loss",
    "margin_mse_loss",
    "flops_regularizer",
]
