"""transformers without its progress bars and warnings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partialmethod


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """In the block, transformers shows its errors alone. `saemd.lm.pretrained` refuses what its warnings are about."""
    from tqdm import tqdm
    from transformers.utils import logging

    verbosity, bars, drawn = logging.get_verbosity(), logging.is_progress_bar_enabled(), tqdm.__init__
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tqdm.__init__ = partialmethod(drawn, disable=True)  # type: ignore[method-assign] - its GGUF reader obeys nothing else
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tqdm.__init__ = drawn  # type: ignore[method-assign]
        if bars:
            logging.enable_progress_bar()
