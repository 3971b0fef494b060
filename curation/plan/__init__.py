"""What a curation needs before it is run: partitions, hours, bytes, files, memory per task."""

from dinoforge.curation.plan.plan import COSTS, GPU_SHARE, CurationPlan, StagePlan, plan_curation
from dinoforge.curation.plan.sizes import Images
from dinoforge.curation.plan.trial import Trial, read_trial

__all__ = [
    "COSTS",
    "GPU_SHARE",
    "CurationPlan",
    "Images",
    "StagePlan",
    "Trial",
    "plan_curation",
    "read_trial",
]
