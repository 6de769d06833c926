"""Labelled texts out of published packages, for SAEBench's probing, SCR and TPP without the hub: see README.md here."""

from saemd.quality.packaged.sets import SETS, LabelledSet
from saemd.quality.packaged.split import labelled, packaged_sets

__all__ = ["SETS", "LabelledSet", "labelled", "packaged_sets"]
