"""A stack: several SAEs of one architecture and shape as one, whose tensors have an axis [S] in front.

On a GPU the step of a small SAE is many short kernels, and starting them takes longer than running them; a stack starts
as many for S SAEs. The SAEs share memory with their stack: what one of them shows is what the stack has learned.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from saemd.sae.base import SAE
from saemd.sae.rounded import rows

Some = TypeVar("Some", bound=SAE)


@torch.no_grad()
def stack(saes: Sequence[Some]) -> Some:
    """An SAE of their class with parameters and buffers [S, ...] and `target_l0` [S], for `objective` and twins alone.

    From then on the parameters and buffers of each of `saes` are views of the stack's: moved to another device, an SAE
    would leave it. All must have the same class, configuration, d_in, d_sae and device.
    """
    first = saes[0]
    for sae in saes[1:]:
        assert type(sae) is type(first), "SAEs of one stack have one architecture"
        assert sae.config == first.config, "SAEs of one stack have one configuration"
        assert (sae.d_in, sae.d_sae) == (first.d_in, first.d_sae), "SAEs of one stack have one shape"
    with torch.device("meta"):  # its own tensors are replaced at once
        whole = type(first)(first.d_in, first.d_sae, first.config)
    whole.batch = first.batch
    whole.target_l0 = torch.tensor([float(sae.target_l0) for sae in saes], device=first.W_dec.device)
    for name, _ in first.named_parameters():
        whole.register_parameter(name, nn.Parameter(joined([sae.get_parameter(name) for sae in saes])))
    for name, _ in first.named_buffers():
        whole.register_buffer(name, joined([sae.get_buffer(name) for sae in saes]))
    return whole


@torch.no_grad()
def joined(tensors: Sequence[Tensor]) -> Tensor:
    """The tensors along a new first axis, in the layout that they have; each becomes a view of its part."""
    first = tensors[0]
    if first.dim() == 2 and not first.is_contiguous():  # W_enc, stored latent by latent
        whole = torch.stack([rows(tensor) for tensor in tensors]).mT
    else:
        whole = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, whole, strict=True):
        tensor.data = part
    return whole
