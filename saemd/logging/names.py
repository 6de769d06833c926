"""The names under which runs log that several files know. Config keys are nested with a dot."""

TOKENS = "tokens"  # activations trained on so far: the x axis of every training metric

# Summary of a finished run, with the figures of `metrics.json`, on held-out activations where that makes sense.
FINAL_PREFIX = "final/"
FINAL = (
    "final/l0", "final/fvu", "final/explained_variance", "final/dead_fraction", "final/drift_dec", "final/drift_enc",
)  # fmt: skip

# The stability run: one row per target L0 with `<metric>/<init label>`, averaged over the pairs of seeds.
STABILITY_L0 = "stability/l0"
STABILITY_TABLE = "stability/table"
STABILITY_FIGURES = "stability/figures"
STABILITY = (
    "stability/same_match", "stability/shared", "stability/mean_cos_enc", "stability/mean_cos_dec",
    "stability/drift_dec", "stability/random_floor",
)  # fmt: skip

# The quality run: one row per target L0 with `quality/<score>/<init label>`, averaged over seeds.
QUALITY_L0 = "quality/l0"

CONFIG_INIT = "init.label"
CONFIG_L0 = "l0"
