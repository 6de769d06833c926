"""Batches of texts of similar lengths, so that little of what is passed is padding."""

from __future__ import annotations


def batches(lengths: list[int], room: int) -> list[tuple[int, int]]:
    """Start and end of batches of ascending lengths. Padded to its longest text, a batch has at most `room` tokens."""
    ends, start = [], 0
    for end, length in enumerate(lengths):
        if (end - start + 1) * length > room and end > start:
            ends.append((start, end))
            start = end
    return [*ends, (start, len(lengths))] if lengths else []
