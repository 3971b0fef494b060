"""What a recipe needs before anything is bought: parameters, memory, FLOPs, bytes, hours.

Closed forms of the recipe's sizes, one module a subject; `plan_of` puts them together. What they
say is compared with real steps by the tests and by ``benchmarks/plan_against_measured.py``.
"""

from dinoforge.training.plan.placement import Placement
from dinoforge.training.plan.plan import Plan, plan_of
from dinoforge.training.plan.sharding import check_sharding

__all__ = ["Placement", "Plan", "check_sharding", "plan_of"]
