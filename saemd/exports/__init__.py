"""Trained SAEs in the form of other tools: one writer per library, and a repository for the hub with its model card."""

from saemd.exports.hub import check_repository, upload, write_card
from saemd.exports.writers import FORMATS, Writer

__all__ = ["FORMATS", "Writer", "check_repository", "upload", "write_card"]
