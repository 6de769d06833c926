"""Run a causal language model, read one layer's output, replace it, and measure the loss of its predictions.

`patched` is plain: a whole pass with a hook. `upper_states` skips the layers up to the replaced output. A test holds
the two together for every family. Shape suffixes: B contexts in a batch, T tokens in a context, D d, N tokens, V
vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saemd.lm.anatomy import decoder_layer, decoder_layers

LOGITS_BYTES = 128 * 2**20  # of one float32 logits tensor; about four are alive at once
Replace = Callable[[Tensor], Tensor]  # [B, T, d] → [B, T, d]


@contextmanager
def patched(model: nn.Module, layer: int, replace: Replace) -> Iterator[None]:
    """In the block, `replace` changes the output of decoder layer `layer`.

    Raises `UserError` where the model has no such layer.
    """

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (replace(output[0]), *output[1:])
        return replace(output)

    handle = decoder_layer(model, layer).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def final_states(model: nn.Module, input_ids_BT: Tensor) -> Tensor:
    """The input of the language model's head [B, T, d]: the last layer's output after the final norm."""
    return model.base_model(input_ids=input_ids_BT, use_cache=False).last_hidden_state  # type: ignore[operator]


def clean_pass(model: nn.Module, layer: int, input_ids_BT: Tensor) -> tuple[Tensor, Tensor]:
    """The output of layer `layer` and the final states, both [B, T, d], from one pass."""
    caught: list[Tensor] = []

    def keep(residual_BTD: Tensor) -> Tensor:
        caught.append(residual_BTD)
        return residual_BTD

    with patched(model, layer, keep):
        states_BTD = final_states(model, input_ids_BT)
    return caught[0], states_BTD


@torch.inference_mode()
def upper_states(model: nn.Module, layer: int, input_ids_BT: Tensor, residual_BTD: Tensor) -> Tensor:
    """`final_states` with `residual_BTD` as the output of layer `layer`; the layers up to it are skipped."""
    lower = decoder_layers(model)[: layer + 1]

    def skip(hidden: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return hidden

    for module in lower:
        module.forward = skip
    try:
        with patched(model, layer, lambda _: residual_BTD):
            return final_states(model, input_ids_BT)
    finally:
        for module in lower:
            del module.forward  # the class's own again


@torch.inference_mode()
def logits(model: nn.Module, states: Tensor) -> Tensor:
    """The head's logits [..., vocabulary] of `final_states`."""
    scores = model.get_output_embeddings()(states)  # type: ignore[operator]
    config: Any = model.config
    cap = getattr(config.get_text_config(), "final_logit_softcapping", None)  # Gemma-2
    return scores if cap is None else cap * torch.tanh(scores / cap)


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
