"""Two SAEs compared latent by latent: encoder and decoder are matched separately, then summarised in a few figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from saemd.runs import Weights
from saemd.sae import SAE
from saemd.stability.matching import Match, match

SHARED_THRESHOLD = 0.7  # Paulo & Belrose


@dataclass(frozen=True)
class Comparison:
    """Latent i of a and its partners in b: π(i) = `enc.index[i]` by encoder, σ(i) = `dec.index[i]` by decoder."""

    enc: Match
    dec: Match

    @property
    def same(self) -> np.ndarray:
        """bool [F]: π(i) = σ(i), both matchings chose one partner (blue in figure 2)."""
        return self.enc.index == self.dec.index

    def shared(self, threshold: float) -> np.ndarray:
        """bool [F]: π(i) = σ(i), and both cosines are above `threshold`: latent i of a returns in b."""
        return self.same & (self.enc.cosine > threshold) & (self.dec.cosine > threshold)

    def shared_in_b(self, threshold: float, d_sae: int | None = None) -> np.ndarray:
        """bool [F] over the latents of b, `d_sae` where they are more: the latent is the partner of a shared one."""
        shared_F = np.zeros(d_sae or len(self.same), dtype=bool)
        shared_F[self.dec.index[self.shared(threshold)]] = True
        return shared_F

    def alive_in_both(self, alive_a: np.ndarray, alive_b: np.ndarray) -> np.ndarray:
        """bool [F] over the latents of a: i fires in a, and both its partners π(i), σ(i) fire in b.

        The matching is that of all latents; only the average is restricted. So all figures describe one set of latents,
        and the pairs that the drawings and files show. A living latent whose partner is dead is not in the set, so read
        the figures together with its size (`alive`) and the number of living latents in each SAE (`alive_each`).
        """
        return alive_a & alive_b[self.enc.index] & alive_b[self.dec.index]

    def summary(self, threshold: float = SHARED_THRESHOLD, keep: np.ndarray | None = None) -> dict[str, float | None]:
        """Means over the latents `keep` (bool [F]; default all); None where `keep` is empty.

        `mean_cos_enc`, `mean_cos_dec`: mean matched signed cosine; the decoder's is the PW-MCC of 2505.20254.
        `same_match`: share with π(i) = σ(i). `shared`: share with π(i) = σ(i) and both cosines above `threshold`.
        `shared_cosines`: share with both cosines above it, whoever the partners are. `identity_match`: share with
        π(i) = σ(i) = i. `mean_cos_*_same`, `mean_cos_*_other`: the cosines where π(i) = σ(i), and where not.
        """
        same = self.same
        keep = np.ones_like(same) if keep is None else keep
        above = (self.enc.cosine > threshold) & (self.dec.cosine > threshold)
        return {
            "mean_cos_enc": mean(self.enc.cosine[keep]),
            "mean_cos_dec": mean(self.dec.cosine[keep]),
            "same_match": mean(same[keep]),
            "shared": mean(self.shared(threshold)[keep]),
            "shared_cosines": mean(above[keep]),
            "identity_match": mean((same & (self.dec.index == np.arange(len(same))))[keep]),
            "mean_cos_enc_same": mean(self.enc.cosine[keep & same]),
            "mean_cos_dec_same": mean(self.dec.cosine[keep & same]),
            "mean_cos_enc_other": mean(self.enc.cosine[keep & ~same]),
            "mean_cos_dec_other": mean(self.dec.cosine[keep & ~same]),
        }


def compare(sae_a: SAE | Weights, sae_b: SAE | Weights, *, done: Callable[[], None] = lambda: None) -> Comparison:
    """Match the latents of two SAEs by the columns of W_enc [D, F] and by the rows of W_dec [F, D] (signed cosines).

    Scalars on W_enc, W_dec or the activations change nothing. `done` is called after each of the two matchings,
    which run one after the other (see `match` for the memory).
    """
    enc = match(sae_a.W_enc.T, sae_b.W_enc.T)
    done()
    dec = match(sae_a.W_dec, sae_b.W_dec)
    done()
    return Comparison(enc=enc, dec=dec)


def mean(values: np.ndarray) -> float | None:
    """The mean as a plain float; None without a value."""
    return float(values.mean(dtype=np.float64)) if len(values) else None
