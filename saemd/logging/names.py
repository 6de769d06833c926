"""The names under which runs log, for training, the dashboard and the tests.

Config keys are those of the resolved configuration, nested ones with a dot.
"""

TOKENS = "tokens"  # activations trained on so far: the x axis of every training metric

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

# Summary of a finished run, with the figures of `metrics.json`, on held-out activations where that makes sense.
FINAL_PREFIX = "final/"
FINAL = (
    "final/l0",
    "final/fvu",
    "final/explained_variance",
    "final/dead_fraction",
    "final/drift_dec",
    "final/drift_enc",
)

# The stability run: one row per target L0 with `<metric>/<init label>`, averaged over the pairs of seeds.
STABILITY_L0 = "stability/l0"
STABILITY_TABLE = "stability/table"
STABILITY_FIGURES = "stability/figures"
STABILITY = (
    "stability/same_match",
    "stability/shared",
    "stability/mean_cos_enc",
    "stability/mean_cos_dec",
    "stability/drift_dec",
    "stability/random_floor",
)

# The quality run: one row per target L0 with `quality/<score>/<init label>`, averaged over seeds.
QUALITY_L0 = "quality/l0"

CONFIG_INIT = "init.label"
CONFIG_L0 = "l0"
