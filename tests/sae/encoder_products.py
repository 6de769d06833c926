"""What `saemd.sae.jumprelu_fast.encoder.encode` does on CPUs of three kinds, on any CPU."""

from saemd.sae.jumprelu_fast.encoder import OUTPUT_ERROR, Encoded, Workspace, bits_of, slack


def exact_products(x_BD, W_enc_FD, scale, space) -> Encoded:
    """Without bfloat16 units."""
    return Encoded.exact((x_BD @ W_enc_FD.T).numpy())


def rounded_factors(x_BD, W_enc_FD, scale, space) -> Encoded:
    """Where oneDNN rounds the factors itself."""
    x, W = Workspace().measured("a", x_BD), Workspace().measured("b", W_enc_FD)
    return Encoded((x.rows.float() @ W.rows.float().T).numpy(), 1.0, 0.0, slack(x, W, 0.0), W.norm)


def rounded_products(x_BD, W_enc_FD, scale, space) -> Encoded:
    """With AVX512_BF16 or AMX."""
    x, W = Workspace().measured("a", x_BD, scale), Workspace().measured("b", W_enc_FD)
    return Encoded(bits_of(x.rows @ W.rows.T), scale, OUTPUT_ERROR, slack(x, W, OUTPUT_ERROR), W.norm)
