"""The metrics that a training step logs, beside `saemd.logging.names.TOKENS`."""

TRAIN = (
    "train/loss",
    "train/reconstruction",
    "train/l0",
    "train/fvu",
    "train/explained_variance",
    "train/sparsity_coefficient",
    "train/dead_fraction",
    "train/threshold_q05",
    "train/threshold_q50",
    "train/threshold_q95",
    "train/grad_norm",
    "train/drift_dec",
    "train/drift_enc",
    "train/tokens_per_second",
    "train/learning_rate",
)
