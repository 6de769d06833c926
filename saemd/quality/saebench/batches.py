"""Texts of one length together, so that little is passed that is padding."""

from __future__ import annotations


def batches(lengths: list[int], room: int) -> list[tuple[int, int]]:
    """Start and end of batches of ascending lengths, each of `room` tokens at most when padded to its last."""
    found, start = [], 0
    for end, length in enumerate(lengths):
        if (end - start + 1) * length > room and end > start:
            found.append((start, end))
            start = end
    return [*found, (start, len(lengths))] if lengths else []
