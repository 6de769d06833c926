"""Where a GPU's step goes: each product and each pass of `saemd.sae.jumprelu_fast.gpu` and the optimizer, timed alone.

`bytes` and `flops` are what the part must move and multiply; the rates beside them say how near to the chip it comes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from saemd.sae import JumpReLUSAE, Progress
from saemd.sae.fused import scalar
from saemd.sae.jumprelu_fast import passes as loss_passes
from saemd.sae.jumprelu_fast.gpu import gradient_dtype, multiply
from saemd.sae.rounded import rows
from saemd.training import optimizer_passes as passes

HALF = torch.bfloat16


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(act: Callable[[], object], device: torch.device, rounds: int = 5) -> float:
    """The median of several rounds, each long enough that starting the kernels does not show."""
    act()
    calls = 20 if device.type == "cuda" else 1
    took = []
    for _ in range(rounds):
        wait(device)
        began = time.perf_counter()
        for _ in range(calls):
            act()
        wait(device)
        took.append((time.perf_counter() - began) / calls)
    return statistics.median(took)


def matrix_rate(device: torch.device) -> float:
    """TFLOP/s of a large square product in bfloat16: the chip's rate, as it is here and now."""
    n = 8192 if device.type == "cuda" else 512
    a, b = (torch.randn(n, n, dtype=HALF, device=device) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, device) / 1e12


@torch.no_grad()
def parts(sae: JumpReLUSAE, x_BD: Tensor) -> dict[str, dict[str, Any]]:
    assert sae.b_enc is not None
    penalty = sae.penalty(Progress(0, 1))
    (B, D), F, device = x_BD.shape, sae.d_sae, x_BD.device
    W_enc_FD, W_dec_FD = (sae.rounded.get(name, sae.get_parameter(name), HALF) for name in ("W_enc", "W_dec"))
    theta_F, b_enc_F, grad_dtype = sae.threshold, sae.b_enc, gradient_dtype(HALF)
    target, coefficient = scalar(penalty.target_l0, x_BD), scalar(penalty.coefficient, x_BD)
    found: dict[str, dict[str, Any]] = {}

    def part(name: str, act: Callable[[], Any], *, moved: int = 0, flops: int = 0) -> Any:
        took = seconds(act, device)
        found[name] = {"milliseconds": 1e3 * took}
        if moved:
            found[name] |= {"megabytes": round(moved / 1e6), "terabytes_per_second": moved / took / 1e12}
        if flops:
            found[name] |= {"gigaflops": round(flops / 1e9), "teraflops_per_second": flops / took / 1e12}
        return act()

    product = 2 * B * D * F
    x_half_BD = part("x to bfloat16", lambda: x_BD.to(HALF), moved=6 * B * D)
    pre_BF = part("encode", lambda: multiply(x_half_BD, W_enc_FD.T, torch.float32), flops=product)
    z_BF, active_F = part("activate", lambda: loss_passes.activate(pre_BF, b_enc_F, theta_F, HALF), moved=6 * B * F)
    x_hat_BD = part("decode", lambda: multiply(z_BF, W_dec_FD, torch.float32), flops=product)
    grad_BD, _, _, _, _, grad_step = part(
        "errors",
        lambda: loss_passes.errors(
            x_hat_BD, sae.b_dec, x_BD, active_F, theta_F, target, coefficient, penalty.step_on == "pre", HALF
        ),
        moved=10 * B * D,
    )
    grad_z_BF = part("∂z", lambda: multiply(grad_BD, W_dec_FD.T, HALF), flops=product)
    grad_pre_BF, _, _ = part(
        "activate_backward",
        lambda: loss_passes.activate_backward(
            pre_BF, b_enc_F, theta_F, grad_z_BF, active_F, grad_step, penalty.bandwidth, penalty.step_on == "pre"
        ),
        moved=8 * B * F,
    )
    grad_dec_FD = part("∂W_dec", lambda: multiply(z_BF.T, grad_BD, grad_dtype), flops=product)
    grad_enc_FD = part("∂W_enc", lambda: multiply(grad_pre_BF.T, x_half_BD, grad_dtype), flops=product)
    size = grad_dec_FD.element_size()
    along_F, norm = part(
        "gradient_norm",
        lambda: passes.gradient_norm(sae.W_dec.detach(), grad_dec_FD, [grad_enc_FD]),
        moved=(4 + 2 * size) * D * F,
    )
    lr, correction = scalar(3e-4, x_BD), scalar(1.0, x_BD)
    for name, matrix, grad_FD, along in (
        ("W_enc", sae.W_enc, grad_enc_FD, None),
        ("W_dec", sae.W_dec, grad_dec_FD, along_F),
    ):
        square_FD, rounded = torch.ones_like(rows(matrix)), sae.rounded.get(name, matrix, HALF)
        part(
            f"adam_ {name}",
            lambda m=matrix, g=grad_FD, s=square_FD, r=rounded, a=along: passes.adam_(
                rows(m), g, s, None, r, a, norm, lr, correction, 1.0, 0.0, 0.999, 1e-8
            ),
            moved=(size + 18) * D * F,
        )
    return found
