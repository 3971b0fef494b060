"""What a recipe needs before anything is bought: parameters, memory, FLOPs, bytes, hours.

A step of the real networks is simulated on tensors without data. `plan_of` puts everything
together; tests and ``benchmarks/plan_against_measured.py`` compare it with real steps.
"""

from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.plan import Plan, plan_of

__all__ = ["Placement", "Plan", "plan_of"]
