"""Loops over active pairs of token and latent, compiled by numba at their first call: the CPU's inner loops.

All arrays are C-contiguous float32 but for the indices. Shape suffixes: B tokens, D d_in, F latents, P pairs. The pairs
of token b are those from `start_B1[b]` to `start_B1[b] + count_B[b]`, in the order of their latents.
"""

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

BLOCK = 16  # latents looked at together: most blocks hold no pair


@njit(inline="always")
def _widened(bits):
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


def _float(value):
    """A float32, or one from bfloat16's bits (uint16)."""
    return _widened(value) if isinstance(value, np.integer) else value


@overload(_float, inline="always")
def _(value):
    if isinstance(value, types.Integer):
        return lambda value: _widened(value)
    return lambda value: value


@njit(parallel=True, fastmath=True, cache=True)
def round_rows(rows_ND, times, bits_ND, norm_N, error_N):
    """Rows w · times as ŵ, in bfloat16's bits rounded to nearest, ties to even; and each row's ‖w‖ and ‖w − ŵ‖."""
    N, D = rows_ND.shape
    for r in prange(N):
        row_D, bits_D = rows_ND[r], bits_ND[r]
        norm, error = np.float32(0), np.float32(0)
        for d in range(D):
            w = np.float32(row_D[d] * times)
            bits = w.view(np.uint32)
            bits_D[d] = np.uint32(bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            off = w - _widened(bits_D[d])
            norm += w * w
            error += off * off
        norm_N[r] = np.sqrt(norm)
        error_N[r] = np.sqrt(error)


@njit(parallel=True, fastmath=True, cache=True)
def count_pairs(product_BF, limit_F, slack_B, norm_F, count_B):
    """How many latents of each token have x W_enc > limit − slack · norm; `product_BF` float32 or bfloat16's bits."""
    B, F = product_BF.shape
    for b in prange(B):
        product_F, slack = product_BF[b], slack_B[b]
        n = np.int32(0)
        for f in range(F):
            n += np.int32(_float(product_F[f]) > limit_F[f] - slack * norm_F[f])
        count_B[b] = n


@njit(fastmath=True, inline="always")
def dot(a_D, b_D):
    total = np.float32(0)
    for d in range(a_D.shape[0]):
        total += a_D[d] * b_D[d]
    return total


@njit(fastmath=True, inline="always")
def add_rows(out_D, rows_ND, index, weight, n):
    """out += Σ weight[i] · rows[index[i]] over the first n entries, four rows at a time."""
    i = 0
    while i + 4 <= n:
        w0, w1, w2, w3 = weight[i], weight[i + 1], weight[i + 2], weight[i + 3]
        r0, r1, r2, r3 = rows_ND[index[i]], rows_ND[index[i + 1]], rows_ND[index[i + 2]], rows_ND[index[i + 3]]
        for d in range(out_D.shape[0]):
            out_D[d] += w0 * r0[d] + w1 * r1[d] + w2 * r2[d] + w3 * r3[d]
        i += 4
    while i < n:
        w, r = weight[i], rows_ND[index[i]]
        for d in range(out_D.shape[0]):
            out_D[d] += w * r[d]
        i += 1


@njit(parallel=True, fastmath=True, cache=True)
def token_pass(
    x_BD, product_BF, inverse, W_enc_FD, b_enc_F, W_dec_FD, b_dec_D, threshold_F, low_F, limit_F, sure_F, slack_B,
    norm_F, target_BD, exact, start_B1, count_B, latent_P, pre_P, z_P, grad_z_P, error_BD, square_B,
):  # fmt: skip
    """Find each token's pairs, decode them, and multiply the error back: z, e = x̂ − x and ∂z = ⟨e, W_dec⟩ per pair.

    `exact` says that `product_BF`, x W_enc over `inverse`, is. Otherwise an entry is computed again in float32 unless
    it lies surely above the straight-through window (> sure + slack · norm), and those that turn out below `low` are
    dropped, which leaves gaps behind the tokens' pairs. No token takes more than its count: where values are NaN,
    compiled comparisons need not agree. `x_BD` is what the encoder sees, `target_BD` what it should give back.
    """
    B, F = product_BF.shape
    D = x_BD.shape[1]
    for b in prange(B):
        product_F, x_D, slack = product_BF[b], x_BD[b], slack_B[b]
        start, n = start_B1[b], 0
        room = start_B1[b + 1] - start
        for f0 in range(0, F, BLOCK):
            if f0 + BLOCK <= F:
                hits = np.int32(0)
                for i in range(BLOCK):  # of fixed length: a few vector instructions
                    hits += np.int32(_float(product_F[f0 + i]) > limit_F[f0 + i] - slack * norm_F[f0 + i])
                if hits == 0:
                    continue
            for f in range(f0, min(f0 + BLOCK, F)):
                if n < room and _float(product_F[f]) > limit_F[f] - slack * norm_F[f]:
                    latent_P[start + n] = f
                    n += 1
        candidates, n = n, 0
        for p in range(start, start + candidates):
            f = latent_P[p]
            rounded = _float(product_F[f])
            product = rounded * inverse
            if not exact and not rounded > sure_F[f] + slack * norm_F[f]:
                product = dot(x_D, W_enc_FD[f])
                if not product > low_F[f]:
                    continue
            pre = product + b_enc_F[f]
            latent_P[start + n] = f
            pre_P[start + n] = pre
            z_P[start + n] = pre if pre > threshold_F[f] else np.float32(0)
            n += 1
        count_B[b] = n
        error_D = error_BD[b]
        for d in range(D):
            error_D[d] = b_dec_D[d] - target_BD[b, d]
        add_rows(error_D, W_dec_FD, latent_P[start : start + n], z_P[start : start + n], n)
        square_B[b] = dot(error_D, error_D)
        for p in range(start, start + n):
            grad_z_P[p] = dot(error_D, W_dec_FD[latent_P[p]])


@njit(cache=True)
def by_latent(start_B1, count_B, latent_P, pre_P, threshold_F, start_F1, token_Q, pair_Q, active_F):
    """Order the pairs by latent: latent f's are `pair_Q[start_F1[f] : start_F1[f + 1]]`; count its active ones."""
    start_F1[:] = 0
    active_F[:] = 0
    for b in range(count_B.shape[0]):
        for p in range(start_B1[b], start_B1[b] + count_B[b]):
            f = latent_P[p]
            start_F1[f + 1] += 1
            active_F[f] += np.int64(pre_P[p] > threshold_F[f])
    for f in range(1, start_F1.shape[0]):
        start_F1[f] += start_F1[f - 1]
    next_F = start_F1[:-1].copy()
    for b in range(count_B.shape[0]):
        for p in range(start_B1[b], start_B1[b] + count_B[b]):
            q = next_F[latent_P[p]]
            token_Q[q] = b
            pair_Q[q] = p
            next_F[latent_P[p]] = q + 1


@njit(parallel=True, fastmath=True, cache=True)
def latent_pass(
    x_BD, error_BD, threshold_F, width, grad_step, step_on_pre, scale, start_F1, token_Q, pair_Q, pre_P, z_P, grad_z_P,
    grad_W_enc_FD, grad_b_enc_F, grad_W_dec_FD, grad_threshold_F, trains_encoder=None,
):  # fmt: skip
    """Gradients of W_enc, b_enc, W_dec and θ, row by row. `scale` is 2/B; `grad_step` the derivative by one step.

    `trains_encoder` is True or None: numba leaves out what asks for it, so that other runs keep their bits.
    """
    for f in prange(start_F1.shape[0] - 1):
        first, n = start_F1[f], start_F1[f + 1] - start_F1[f]
        theta = threshold_F[f]
        weight_enc, weight_dec = np.empty(n, np.float32), np.empty(n, np.float32)
        grad_b, grad_theta = np.float32(0), np.float32(0)
        for i in range(n):
            p = pair_Q[first + i]
            grad_z = scale * grad_z_P[p]
            on = pre_P[p] > theta
            near = abs(pre_P[p] - theta) < np.float32(0.5) * width
            weight_dec[i] = scale * z_P[p]
            weight_enc[i] = grad_z if on else np.float32(0)
            if trains_encoder is not None and near:
                weight_enc[i] += grad_step / width
            grad_b += weight_enc[i]
            if near:
                grad_theta -= theta / width * grad_z
                if step_on_pre or on:
                    grad_theta -= grad_step / width
        grad_enc_D, grad_dec_D = grad_W_enc_FD[f], grad_W_dec_FD[f]
        for d in range(grad_enc_D.shape[0]):
            grad_enc_D[d] = 0
            grad_dec_D[d] = 0
        tokens = token_Q[first : first + n]
        add_rows(grad_dec_D, error_BD, tokens, weight_dec, n)
        add_rows(grad_enc_D, x_BD, tokens, weight_enc, n)
        grad_b_enc_F[f] = grad_b
        grad_threshold_F[f] = grad_theta


CHUNK = 256  # latents of a thread's turn, where sums run down the columns of [B, F]


@njit(parallel=True, fastmath=True, cache=True)
def activate(
    x_BD, product_BF, inverse, W_enc_FD, b_enc_F, threshold_F, limit_F, sure_F, slack_B, norm_F, exact, pre_BF, z_BF,
    active_F,
):  # fmt: skip
    """Pre-activations, z = JumpReLU of them, and on how many tokens each latent is active.

    Entries of a rounded product near the straight-through window are computed again, as in `token_pass`; `pre_BF` may
    be an exact product itself.
    """
    B, F = product_BF.shape
    for chunk in prange((F + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, F)
        count_F, near = np.zeros(last - first, np.int32), np.zeros(last - first, np.bool_)
        for b in range(B):
            product_F, pre_F, z_F = product_BF[b, first:last], pre_BF[b, first:last], z_BF[b, first:last]
            slack, n_near = slack_B[b], np.int32(0)
            for i in range(last - first):
                f, rounded = first + i, _float(product_F[i])
                room = slack * norm_F[f]
                near[i] = (rounded > limit_F[f] - room) & (rounded <= sure_F[f] + room)
                n_near += np.int32(near[i])
                pre_F[i] = rounded * inverse + b_enc_F[f]
            if n_near > 0 and not exact:
                for i in range(last - first):
                    if near[i]:
                        pre_F[i] = dot(x_BD[b], W_enc_FD[first + i]) + b_enc_F[first + i]
            for i in range(last - first):
                on = pre_F[i] > threshold_F[first + i]
                z_F[i] = pre_F[i] if on else np.float32(0)
                count_F[i] += np.int32(on)
        for i in range(last - first):
            active_F[first + i] = count_F[i]


# Without fastmath: with it, θ's gradient is rounded in one way where the inner loop runs vectorised and in another
# where it does not, and which of the two runs depends on where the two local arrays lie in memory.
@njit(parallel=True, cache=True)
def activate_backward(
    pre_BF, threshold_F, width, grad_step, step_on_pre, scale, grad_z_BF, grad_b_enc_F, grad_threshold_F,
    trains_encoder=None,
):  # fmt: skip
    """grad_z (before: ⟨e, W_dec⟩) ← the gradient of the pre-activations; and those of b_enc and θ.

    `trains_encoder` as in `latent_pass`.
    """
    B, F = pre_BF.shape
    for chunk in prange((F + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, min((chunk + 1) * CHUNK, F)
        bias_F, theta_F = np.zeros(last - first, np.float32), np.zeros(last - first, np.float32)
        for b in range(B):
            pre_F, grad_F = pre_BF[b, first:last], grad_z_BF[b, first:last]
            for i in range(last - first):
                theta = threshold_F[first + i]
                grad_z = scale * grad_F[i]
                on = pre_F[i] > theta
                near = abs(pre_F[i] - theta) < np.float32(0.5) * width
                grad_F[i] = grad_z if on else np.float32(0)
                if trains_encoder is not None and near:
                    grad_F[i] += grad_step / width
                bias_F[i] += grad_F[i]
                step = grad_step if (step_on_pre or on) else np.float32(0)
                theta_F[i] -= (theta * grad_z + step) / width if near else np.float32(0)
        for i in range(last - first):
            grad_b_enc_F[first + i] = bias_F[i]
            grad_threshold_F[first + i] = theta_F[i]
