"""transformers without its progress bars and warnings, where this package says itself what matters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partialmethod


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Only its errors are shown inside. Weights that are missing are `saemd.lm.load`'s to refuse, not a warning's."""
    from tqdm import tqdm
    from transformers.utils import logging

    verbosity, bars, drawn = logging.get_verbosity(), logging.is_progress_bar_enabled(), tqdm.__init__
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    tqdm.__init__ = partialmethod(drawn, disable=True)  # type: ignore[method-assign] - its GGUF reader asks it alone
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tqdm.__init__ = drawn  # type: ignore[method-assign]
        if bars:
            logging.enable_progress_bar()
