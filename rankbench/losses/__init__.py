"""Every loss of the library, by family. Importing this loads torch and nothing heavy."""

from rankbench.losses.pointwise import bce_loss
from rankbench.losses.regression import huber_loss, mse_loss, ordinal_loss
from rankbench.losses.focusing import asymmetric_loss, focal_loss, poly1_loss
from rankbench.losses.imbalance import ldam_loss, squentropy_loss
from rankbench.losses.set_metrics import anyloss, dice_loss
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
from rankbench.losses.lambdarank import lambda_loss
from rankbench.losses.listwise import listnet_loss, softmax_loss
from rankbench.losses.softmax_variants import poly1_softmax_loss, unique_softmax_loss
from rankbench.losses.calibrated_softmax import calibrated_softmax_loss
from rankbench.losses.permutation import listmle_loss
from rankbench.losses.position_aware import plistmle_loss
from rankbench.losses.correlation import pearson_loss, rank_cosine_loss, z_loss
from rankbench.losses.transport import wasserstein_loss
from rankbench.losses.metric_surrogates import approx_ndcg_loss
from rankbench.losses.rank_surrogates import approx_rank_mse_loss, bound_ndcg_loss
from rankbench.losses.binary_surrogates import approx_ap_loss, approx_mrr_loss, smooth_ap_loss
from rankbench.losses.sorting import neuralsort_loss
from rankbench.losses.neural_ndcg import neural_ndcg_loss
from rankbench.losses.rank_distributions import softrank_loss
from rankbench.losses.contrastive import infonce_loss
from rankbench.losses.sigmoid_contrastive import bixse_loss, siglip_loss
from rankbench.losses.in_batch_lists import (
    in_batch_psl_loss,
    localized_contrastive_loss,
    score_based_in_batch_loss,
)
from rankbench.losses.guided import gist_loss
from rankbench.losses.two_views import ntxent_loss, symmetric_infonce_loss
from rankbench.losses.npairs import npairs_loss
from rankbench.losses.bidirectional import bidirectional_infonce_loss
from rankbench.losses.distances import contrastive_loss, given_triplet_loss
from rankbench.losses.triplet import triplet_loss
from rankbench.losses.supcon import supcon_loss
from rankbench.losses.multi_similarity import multi_similarity_loss
from rankbench.losses.circle import circle_loss, class_circle_loss
from rankbench.losses.cosent import cosent_loss
from rankbench.losses.angle import angle_loss
from rankbench.losses.submodular import submodular_loss
from rankbench.losses.soft_labels import soft_label_alignment_loss
from rankbench.losses.distillation import kl_loss, margin_mse_loss
from rankbench.losses.listwise_distillation import listwise_distillation_loss
from rankbench.losses.js_divergence import js_divergence_loss
from rankbench.losses.teacher_order import weighted_ranknet_loss
from rankbench.losses.written_order import importance_aware_loss
from rankbench.losses.plackett_luce import pld_loss
from rankbench.losses.rank_distil import coupled_rank_distil_loss
from rankbench.losses.embedding_distillation import embedding_distillation_loss
from rankbench.losses.graded_gaussians import batch_wasserstein_loss
from rankbench.losses.preference import dpo_loss
from rankbench.losses.preference_odds import asft_loss, orpo_loss
from rankbench.losses.preference_lists import lipo_loss, mmpo_loss
from rankbench.losses.cringe import pairwise_cringe_loss
from rankbench.losses.regularizers import flops_regularizer
from rankbench.losses.joint_flops import df_flops_regularizer, joint_flops_regularizer
from rankbench.losses.norms import l0_regularizer, l1_regularizer, l2_regularizer
from rankbench.losses.orthogonal import orthogonal_regularizer

__all__ = [
    "bce_loss",
    "huber_loss",
    "mse_loss",
    "ordinal_loss",
    "asymmetric_loss",
    "focal_loss",
    "poly1_loss",
    "ldam_loss",
    "squentropy_loss",
    "anyloss",
    "dice_loss",
    "ranknet_loss",
    "hinge_loss",
    "soft_zero_one_loss",
    "squared_hinge_loss",
    "constant_margin_mse_loss",
    "pairwise_mse_loss",
    "supervised_margin_mse_loss",
    "bpr_loss",
    "macro_auc_loss",
    "psl_loss",
    "ranklist_loss",
    "lambda_loss",
    "listnet_loss",
    "softmax_loss",
    "poly1_softmax_loss",
    "unique_softmax_loss",
    "calibrated_softmax_loss",
    "listmle_loss",
    "plistmle_loss",
    "pearson_loss",
    "rank_cosine_loss",
    "z_loss",
    "wasserstein_loss",
    "approx_ndcg_loss",
    "approx_rank_mse_loss",
    "bound_ndcg_loss",
    "approx_ap_loss",
    "approx_mrr_loss",
    "smooth_ap_loss",
    "neuralsort_loss",
    "neural_ndcg_loss",
    "softrank_loss",
    "infonce_loss",
    "bixse_loss",
    "siglip_loss",
    "in_batch_psl_loss",
    "localized_contrastive_loss",
    "score_based_in_batch_loss",
    "gist_loss",
    "ntxent_loss",
    "symmetric_infonce_loss",
    "npairs_loss",
    "bidirectional_infonce_loss",
    "contrastive_loss",
    "given_triplet_loss",
    "triplet_loss",
    "supcon_loss",
    "multi_similarity_loss",
    "circle_loss",
    "class_circle_loss",
    "cosent_loss",
    "angle_loss",
    "submodular_loss",
    "soft_label_alignment_loss",
    "kl_loss",
    "margin_mse_loss",
    "listwise_distillation_loss",
    "js_divergence_loss",
    "weighted_ranknet_loss",
    "importance_aware_loss",
    "pld_loss",
    "coupled_rank_distil_loss",
    "embedding_distillation_loss",
    "batch_wasserstein_loss",
    "dpo_loss",
    "asft_loss",
    "orpo_loss",
    "lipo_loss",
    "mmpo_loss",
    "pairwise_cringe_loss",
    "flops_regularizer",
    "joint_flops_regularizer",
    "df_flops_regularizer",
    "l1_regularizer",
    "l2_regularizer",
    "l0_regularizer",
    "orthogonal_regularizer",
]
