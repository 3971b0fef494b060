"""What a recipe needs before anything is bought: parameters, memory, FLOPs, bytes, hours."""

from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.plan import Plan, plan_of

__all__ = ["Placement", "Plan", "plan_of"]
