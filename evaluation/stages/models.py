"""Which models are measured: their files as they are now, in the order of the report."""

from dataclasses import replace

from dinoforge.evaluation.features import open_extractor
from dinoforge.evaluation.models import MODEL_KEYS, find_models
from dinoforge.evaluation.tables import EvaluationInputs, EvaluationStage
from dinoforge.stages import Json, Output

__all__ = ["ModelsStage"]


class ModelsStage(EvaluationStage):
    """Settle the models: a training that goes on exports more while an evaluation runs."""

    name = "models"
    number = 14
    keys = ()
    execution_keys = MODEL_KEYS  # what they lead to is in the payload

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan one partition, whose payload names every model and its weights."""
        models = []
        for model in find_models(inputs.config):
            extractor = open_extractor(model, device="cpu")  # a planning machine may lack a GPU
            known = replace(
                model, fingerprint=extractor.fingerprint, checkpoint=extractor.checkpoint
            )
            if (vit := extractor.vit) is not None:
                known = replace(known, depth=vit.depth, patch_size=vit.patch_size)
            models.append(known.as_json())
        return [{"models": models}]

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:  # noqa: ARG002
        """Write them down."""
        return payload
