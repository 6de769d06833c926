"""Labelled texts out of published packages, for SAEBench's probing, SCR and TPP without the hub: see README.md here."""

from saemd.quality.packaged.needed import needed
from saemd.quality.packaged.sets import SETS, LabelledSet
from saemd.quality.packaged.split import Labelled, labelled

__all__ = ["SETS", "Labelled", "LabelledSet", "labelled", "needed"]
