"""For a while, other functions in somebody else's module: where SAEBench offers no argument for what is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, **names: Any) -> Iterator[None]:
    """Within, `owner.<name>` is what is given for it. A name that is not there is an error."""
    before = {name: getattr(owner, name) for name in names}
    try:
        for name, value in names.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
