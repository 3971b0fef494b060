"""What a curation needs before it is run: partitions, hours, bytes, files, memory per task."""

from dinoforge.curation.plan.plan import COSTS, GPU_SHARE, CurationPlan, StagePlan, plan_curation
from dinoforge.curation.plan.sizes import Images

__all__ = ["COSTS", "GPU_SHARE", "CurationPlan", "Images", "StagePlan", "plan_curation"]
