"""The loss of `JumpReLUSAE.objective` and its gradients in closed form, on a CPU.

Of the five matrix products of a step (encode, decode, ∂z, ∂W_dec, ∂W_enc) only the first needs all pairs of token and
latent: about L0 of the d_sae latents of a token are active, and only those within half a bandwidth of their threshold
have a straight-through gradient. While few are, the other four products run over a list of pairs; while many are, as
at the start of training, over whole matrices.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saemd.sae import products
from saemd.sae.base import Loss, Progress
from saemd.sae.jumprelu import JumpReLUSAE, Penalty
from saemd.sae.jumprelu_fast import encoder, kernels

CACHED_BYTES = 16e6  # a decoder up to this size lies in the processor's cache: rows are gathered five times faster
GIVE_BACK_AFTER = 32  # calls without whole matrices


def dense_above(decoder_bytes: int) -> float:
    """Share of pairs above which whole matrices win (experiments/throughput)."""
    cached = decoder_bytes <= CACHED_BYTES
    if products.cpu_can("amx_bf16"):
        return 0.035 if cached else 0.018
    return 0.16 if cached else 0.05


@dataclass(frozen=True)
class _Batch:
    """What both ways read, as numpy sees it. `seen` is what the encoder sees: x, or x − b_dec where that is shared."""

    x: np.ndarray  # [B, D]
    seen: np.ndarray  # [B, D]
    W_enc: np.ndarray  # [F, D]
    b_enc: np.ndarray  # [F]
    W_dec: np.ndarray  # [F, D]
    b_dec: np.ndarray  # [D]
    theta: np.ndarray  # [F]
    penalty: Penalty

    @property
    def width(self) -> np.float32:
        return np.float32(self.penalty.bandwidth)

    @property
    def scale(self) -> np.float32:
        """∂(mean of ‖e‖²)/∂e = scale · e."""
        return np.float32(2 / len(self.x))


def _limits(low_F: np.ndarray, width: np.float32, encoded: encoder.Encoded) -> tuple[np.ndarray, np.ndarray]:
    """Bounds on a product that may be rounded, from `low_F`, above which the exact one matters.

    (limit, sure): pairs are those of values > limit − slack · norm; values > sure + slack · norm are surely active and
    outside of the straight-through window.
    """
    times, output = np.float32(encoded.times), np.float32(encoded.output)
    low_F, high_F = times * low_F, times * (low_F + width)
    return low_F - output * np.abs(low_F), high_F + output * np.abs(high_F)


class FastLoss:
    """The twin of `JumpReLUSAE.objective` on a CPU.

    Its buffers are kept, so that the gradients of one call are overwritten by the next: fresh pages of memory would
    cost as much as the arithmetic. They are 2·F·D gradients, B·F products and 40 bytes a pair; while whole matrices are
    multiplied, 3·B·F more, which are given back afterwards.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}
        self._space = encoder.Workspace()
        self._since_whole = 0  # calls

    @torch.no_grad()
    def __call__(self, sae: JumpReLUSAE, x_BD: Tensor, at: Progress) -> Loss:
        penalty = sae.penalty(at)
        shared, F = sae.b_enc is None, sae.d_sae
        seen_BD = x_BD - sae.b_dec if shared else x_BD
        b_enc_F = np.zeros(F, np.float32) if sae.b_enc is None else _array(sae.b_enc)
        batch = _Batch(
            _array(x_BD), _array(seen_BD), _array(sae.W_enc.T), b_enc_F, _array(sae.W_dec), _array(sae.b_dec),
            _array(sae.threshold), penalty,
        )  # fmt: skip
        low = batch.theta - np.float32(0.5) * batch.width - b_enc_F
        product = encoder.encode(seen_BD, sae.W_enc.T, float(sae.scale), self._space)
        limit, sure = _limits(low, batch.width, product)
        count = self._buffer("count", len(x_BD), dtype=np.int64)
        kernels.count_pairs(product.values, limit, product.slack, product.norm, count)
        if count.sum() > dense_above(batch.W_dec.nbytes) * product.values.size:
            self._since_whole = 0
            return self._whole(sae, batch, product, limit, sure)
        self._since_whole += 1
        if self._since_whole == GIVE_BACK_AFTER:
            for name in ("pre", "z", "grad_z"):
                self._buffers.pop(name, None)
        return self._pairs(sae, batch, product, low, limit, sure, count)

    def _pairs(self, sae, batch, product, low, limit, sure, count) -> Loss:
        buffer, (B, D), F = self._buffer, batch.x.shape, sae.d_sae
        start_B1 = np.concatenate([[0], np.cumsum(count)])
        P = int(start_B1[-1])
        latent, token, pair = (buffer(f"{name}_P", P, dtype=np.int64) for name in ("latent", "token", "pair"))
        pre, z, grad_z = (buffer(f"{name}_P", P) for name in ("pre", "z", "grad_z"))
        square, error = buffer("square", B), buffer("error", B, D)
        kernels.token_pass(
            batch.seen, product.values, np.float32(1 / product.times), batch.W_enc, batch.b_enc, batch.W_dec,
            batch.b_dec, batch.theta, low, limit, sure, product.slack, product.norm, batch.x, product.is_exact,
            start_B1, count, latent, pre, z, grad_z, error, square,
        )  # fmt: skip
        start_F1, active = buffer("start", F + 1, dtype=np.int64), buffer("active", F, dtype=np.int64)
        kernels.by_latent(start_B1, count, latent, pre, batch.theta, start_F1, token, pair, active)
        figures, grad_step, fired = _figures(sae, batch, square, active)
        grads = self._gradients(F, D)
        kernels.latent_pass(
            batch.seen, error, batch.theta, batch.width, grad_step, batch.penalty.step_on == "pre", batch.scale,
            start_F1, token, pair, pre, z, grad_z, grads["W_enc"], grads["b_enc"], grads["W_dec"], grads["threshold"],
            batch.penalty.trains_encoder or None,
        )  # fmt: skip
        return _loss(sae, batch, figures, grad_step, active, fired, error, grads)

    def _whole(self, sae, batch, product, limit, sure) -> Loss:
        buffer, (B, D), F = self._buffer, batch.x.shape, sae.d_sae
        pre = product.values if product.is_exact else buffer("pre", B, F)
        z, grad_z, error = buffer("z", B, F), buffer("grad_z", B, F), buffer("error", B, D)
        active, square, grads = buffer("active", F, dtype=np.int64), buffer("square", B), self._gradients(F, D)
        kernels.activate(
            batch.seen, product.values, np.float32(1 / product.times), batch.W_enc, batch.b_enc, batch.theta, limit,
            sure, product.slack, product.norm, product.is_exact, pre, z, active,
        )  # fmt: skip
        z_BF, grad_z_BF, error_BD = (torch.from_numpy(array) for array in (z, grad_z, error))
        encoder.fastest(z_BF, sae.W_dec, error_BD, self._space)
        error += batch.b_dec
        error -= batch.x
        encoder.fastest(error_BD, sae.W_dec.T, grad_z_BF, self._space)
        np.einsum("bd,bd->b", error, error, out=square)
        figures, grad_step, fired = _figures(sae, batch, square, active)
        kernels.activate_backward(
            pre, batch.theta, batch.width, grad_step, batch.penalty.step_on == "pre", batch.scale, grad_z,
            grads["b_enc"], grads["threshold"], batch.penalty.trains_encoder or None,
        )  # fmt: skip
        encoder.fastest(z_BF.T, error_BD, torch.from_numpy(grads["W_dec"]), self._space)
        grads["W_dec"] *= batch.scale
        encoder.fastest(grad_z_BF.T, torch.from_numpy(batch.seen), torch.from_numpy(grads["W_enc"]), self._space)
        return _loss(sae, batch, figures, grad_step, active, fired, error, grads)

    def _gradients(self, F: int, D: int) -> dict[str, np.ndarray]:
        shapes = {"W_enc": (F, D), "W_dec": (F, D), "b_enc": (F,), "threshold": (F,)}
        return {name: self._buffer(f"grad_{name}", *shape) for name, shape in shapes.items()}

    def _buffer(self, name: str, *shape: int, dtype: type = np.float32) -> np.ndarray:
        """An uninitialised array, in the same memory as long as that suffices."""
        size = int(np.prod(shape))
        if name not in self._buffers or self._buffers[name].size < size:
            spare = size // 4 if name.endswith("_P") else 0
            self._buffers[name] = np.empty(size + spare, dtype)
        return self._buffers[name][:size].reshape(shape)


def _figures(
    sae: JumpReLUSAE, batch: _Batch, square_B: np.ndarray, active_F: np.ndarray
) -> tuple[tuple[float, float, float], np.float32, Tensor]:
    """(total, reconstruction, L0), the derivative of the total by one step of one token, and which latents fired.

    L0 and what fired are those of the whole batch, of which `batch` may be one device's part.
    """
    penalty, B, B_all = batch.penalty, len(batch.x), sae.batch.size(len(batch.x))
    all_F = sae.batch.sum(torch.from_numpy(active_F)).numpy()
    on = all_F.sum()
    if penalty.step_on == "post":  # where an inactive latent's 0 counts as active once θ < 0
        on += ((B_all - all_F) * (batch.theta < 0)).sum()
    reconstruction, l0 = square_B.sum(dtype=np.float64) / B, on / B_all
    excess = l0 / penalty.target_l0 - 1
    total = reconstruction + penalty.coefficient * excess**2
    grad_step = np.float32(penalty.coefficient * 2 * excess / (penalty.target_l0 * B))
    return (total, reconstruction, l0), grad_step, torch.from_numpy(all_F > 0)


def _loss(sae, batch, figures, grad_step, active_F, fired_F, error_BD, grads) -> Loss:
    if batch.penalty.step_on == "post":  # an inactive latent's output, 0, lies in the window where |θ| < ε/2
        zero_near_F = np.abs(batch.theta / batch.width) < 0.5
        grads["threshold"] -= grad_step / batch.width * (len(error_BD) - active_F) * zero_near_F
    gradients = {name: torch.from_numpy(grad) for name, grad in grads.items()}
    gradients["W_enc"] = gradients["W_enc"].T
    gradients["b_dec"] = torch.from_numpy(error_BD).sum(0) * float(batch.scale)
    if sae.b_enc is None:  # the bias is also subtracted from the input
        gradients["b_dec"] -= sae.W_enc @ gradients.pop("b_enc")
    total, reconstruction, l0 = (torch.tensor(value, dtype=torch.float32) for value in figures)
    return Loss(total, reconstruction, l0, fired_F, gradients)


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's own memory, as the kernels read it."""
    return tensor.detach().contiguous().numpy()
