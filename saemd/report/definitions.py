"""What the columns of the similarity tables mean, in the order in which the report lists them."""

DEFINITIONS: dict[str, str] = {
    "matching": "Latent i of the first seed is paired with one latent of the second so that the sum of cosines is as "
    "large as it can be (Hungarian method), once by encoder directions, π(i), and once by decoder directions, σ(i). "
    "Cosines are signed: u is not −u.",
    "cos dec, cos enc": "Mean cosine of the matched decoder rows (the PW-MCC of arXiv 2505.20254) and of the matched "
    "encoder rows.",
    "drift dec, drift enc": "Mean cosine of a latent's direction with its own start, cos(w_t, w_0), over both seeds. "
    "At 1.0 the latents never moved.",
    "if apart": "Only where the seeds share their start: the cosine that two runs would show had they moved as far "
    "as they did, but in unrelated directions (mean product of the two seeds' cosines with the start). Similarity "
    "above it was added by training, which is still not convergence from different starts.",
    "floor": "Mean matched cosine of two random Gaussian dictionaries of the same size: what chance alone gives. Real "
    "activations are not isotropic, so unrelated SAEs may lie a little above it.",
    "same partner": "Share of latents with π(i) = σ(i): encoder and decoder chose one partner. Blue in the figures.",
    "shared": "Share of latents with the same partner and both cosines above the threshold: the same feature.",
    "shared, cosines alone": "Share with both cosines above the threshold whoever the partners are: the criterion of "
    "Paulo & Belrose (arXiv 2501.16615) read without asking for one partner. Never below “shared”.",
    "shared, by FVU": "Set one latent to 0, and the FVU rises: by how much says what the latent does. Of all that the "
    "latents of both seeds add in this way, the share that shared latents add. Above “shared” where the latents that "
    "matter return and those that hardly matter do not. Unknown for runs of earlier versions.",
    "same index": "Share with π(i) = σ(i) = i: the latent has kept its place in the dictionary, as latents do that "
    "stay near a shared start.",
    "cos where same / other": "Mean cosines of the latents whose two partners agree, and of those where they do not.",
    "interval": "Where a mean is over several pairs: 95 % bootstrap interval. It resamples seeds, not pairs, "
    "since pairs of one seed are not independent. With two seeds there is one pair, and no interval; with three or "
    "four it is rough.",
    "shared, untrained": "“Shared” of the two starts. 100 % where seeds share their start. Known where the start "
    "can be drawn again from its seed, or was kept (snapshots=[0,…]).",
    "learned": "Mean cosine of w_T − w_0 of matched latents: do both seeds move a latent the same way? A shared "
    "start, which agrees without training, is taken off. Known where both starts are.",
    "activations": "Mean correlation of the activations of matched latents (partner by decoder) on held-out tokens, "
    "for latents alive in both, and for shared ones. Measured by saemd stability activations=16_384.",
    "lost subspace": "Living latents that are not shared, of both seeds: the mean squared cosine of the principal"
    " angles between the directions that hold half of the squared norm of their decoder rows. 1: they span one "
    "subspace, though no direction returns (arXiv 2606.12138). Chance: random subspaces of as many dimensions.",
    "returns in all, in half, in none": "Share of the latents of all seeds that are shared with every other seed,"
    " with at least half of them, with none.",
    "by firing rate": "Latents of both seeds, each by the share of held-out tokens on which it is active.",
    "by what a latent does": "The latents of each seed in five equal parts, those first that add most to the FVU when "
    "set to 0 one at a time. Dead latents add nothing and are in the last.",
    "alive in both": "Latents that fire on held-out activations in the first seed and whose partners by encoder and by "
    "decoder fire in the second. Figures for them use the matching of all latents and average over this set.",
    "L0, FVU": "Mean number of active latents per token, and the fraction of the activations' variance left "
    "unexplained, on held-out activations, for each seed. Explained variance is 1 − FVU.",
}
