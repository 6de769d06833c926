"""What `saemd.sae.products.encode` does on CPUs of three kinds, on any CPU."""

import torch

from saemd.sae.products import EXACT, OUTPUT_ERROR, Rounding


def exact_products(x_BD, W_enc_FD, out_BF, space) -> Rounding:
    """Without bfloat16 units."""
    torch.mm(x_BD, W_enc_FD.T, out=out_BF)
    return EXACT


def rounded_factors(x_BD, W_enc_FD, out_BF, space) -> Rounding:
    """With AMX."""
    torch.mm(x_BD.bfloat16().float(), W_enc_FD.T.bfloat16().float(), out=out_BF)
    return Rounding(True, 0.0)


def rounded_products(x_BD, W_enc_FD, out_BF, space) -> Rounding:
    """With AVX512_BF16."""
    out_BF.copy_(x_BD.bfloat16() @ W_enc_FD.bfloat16().T)
    return Rounding(True, OUTPUT_ERROR)
