"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""

from rankbench.losses.pointwise import bce_loss
from rankbench.losses.pairwise import ranknet_loss
from rankbench.losses.margins import hinge_loss, soft_zero_one_loss, squared_hinge_loss
from rankbench.losses.squared_margins import (
    constant_margin_mse_loss,
    pairwise_mse_loss,
    supervised_margin_mse_loss,
)
from rankbench.losses.auc import bpr_loss, macro_auc_loss
from rankbench.losses.psl import psl_loss
from rankbench.losses.ranklist import ranklist_loss
from rankbench.losses.listwise import listnet_loss, softmax_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.regularizers import flops_regularizer

__all__ = [
    "bce_loss",
    "ranknet_loss",
    "hinge_loss",
    "squared_hinge_loss",
    "soft_zero_one_loss",
    "pairwise_mse_loss",
    "constant_margin_mse_loss",
    "supervised_margin_mse_loss",
    "bpr_loss",
    "macro_auc_loss",
    "psl_loss",
    "ranklist_loss",
    "listnet_loss",
    "softmax_loss",
    "infonce_loss",
    "bidirectional_infonce_loss",
    "kl_loss",
    "margin_mse_loss",
    "flops_regularizer",
]
