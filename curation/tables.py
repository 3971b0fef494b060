"""Schemas and readers of the stages' tables."""

from dinoforge.curation.config import CurationConfig
from dinoforge.stages import Inputs, Stage

__all__ = ["CurationInputs", "CurationStage"]

CurationInputs = Inputs[CurationConfig]
CurationStage = Stage[CurationConfig]
