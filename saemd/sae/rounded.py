"""An SAE's matrices as rows [F, D], and copies of them rounded to bfloat16 that are kept from step to step."""

import torch
from torch import Tensor


def rows(matrix: Tensor) -> Tensor:
    """A matrix's memory as rows [F, D], a stack's as [S, F, D]: W_enc [D, F] is stored latent by latent."""
    return matrix.detach() if matrix.is_contiguous() else matrix.detach().mT


class RoundedCopies:
    """The rows of one SAE's matrices, by name, rounded; a copy is out of date once its matrix has changed."""

    def __init__(self) -> None:
        self._copies: dict[str, tuple[Tensor, int]] = {}  # and the matrix's version when it was rounded

    def get(self, name: str, matrix: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows [F, D] rounded to `dtype`: the copy that is kept, or a new one."""
        copy, version = self._copies.get(name, (None, 0))
        if copy is None or version != matrix._version or (copy.dtype, copy.device) != (dtype, matrix.device):
            return self.keep(name, matrix, rows(matrix).to(dtype))
        return copy

    def __contains__(self, name: str) -> bool:
        """Whether the loss has asked for this matrix."""
        return name in self._copies

    def keep(self, name: str, matrix: Tensor, rows_FD: Tensor) -> Tensor:
        """Take `rows_FD` for the matrix rounded as it stands now."""
        self._copies[name] = rows_FD, matrix._version
        return rows_FD

    def renew(self, name: str, matrix: Tensor) -> None:
        """Round the matrix as it stands now into the memory of the copy that is kept."""
        self.keep(name, matrix, self._copies[name][0].copy_(rows(matrix)))
