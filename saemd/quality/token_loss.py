"""Cross-entropy and KL divergence of each token, from final states, with bounded memory.

Shape suffixes: B contexts in a batch, T tokens in a context, D d_in, N tokens, V vocabulary.
"""

import torch
from torch import Tensor, nn

from saemd.lm.patch import logits

LOGITS_BYTES = 128 * 2**20  # of one float32 logits tensor; about four are alive at once


@torch.inference_mode()
def token_losses(
    model: nn.Module, ids_BT: Tensor, states_BTD: Tensor, clean_BTD: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The next token's cross-entropy [B, T-1] at each position, and KL(clean ‖ these) [B, T-1] with `clean_BTD`.

    Both are in nats, float32, on the CPU. `clean_BTD`: the final states of the clean pass.
    """
    B, T = ids_BT.shape
    targets_N = ids_BT[:, 1:].reshape(-1)
    states_ND = states_BTD[:, :-1].flatten(0, 1)
    clean_ND = None if clean_BTD is None else clean_BTD[:, :-1].flatten(0, 1)
    ce_N = torch.empty(len(targets_N))
    kl_N = None if clean_ND is None else torch.empty(len(targets_N))
    vocabulary = model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]
    rows = max(1, LOGITS_BYTES // (4 * vocabulary))
    for start in range(0, len(targets_N), rows):
        part = slice(start, start + rows)
        log_p_NV = logits(model, states_ND[part]).float().log_softmax(-1)
        ce_N[part] = -log_p_NV.gather(1, targets_N[part, None])[:, 0].cpu()
        if clean_ND is not None and kl_N is not None:
            log_q_NV = logits(model, clean_ND[part]).float().log_softmax(-1)
            kl_N[part] = (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1).cpu()
    shape = (B, T - 1)
    return ce_N.reshape(shape), None if kl_N is None else kl_N.reshape(shape)
