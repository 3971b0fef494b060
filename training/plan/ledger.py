"""What a step does to memory, and how many operations it takes, seen from below autograd.

Operations are those of matrix products, by `torch.utils.flop_counter`; a multiply-add is two.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from dinoforge.training.method import Method

__all__ = ["KINDS", "PHASES", "Array", "Ledger"]

Array = npt.NDArray[np.float64]

# After the forward pass autocast drops the copies of weights that autograd does not keep.
PHASES = ("teacher", "forward", "end of autocast", "backward")

# What a storage is: activations by the part that made them (the backbone outside of its blocks, a
# block, a head, a loss), gradients of parameters, copies of weights in the dtype of the products.
KINDS = ("backbone", "blocks", "heads", "losses", "gradients", "copies", "block_copies")

# torch counts the attention kernels of GPUs alone; those of CPUs take and return the same shapes.
_aten = torch.ops.aten
_FLOPS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: (  # noqa: SLF001
        lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape)
    ),
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: (  # noqa: SLF001
        lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(g.shape, q.shape, k.shape, v.shape)
    ),
}


class Ledger(TorchDispatchMode):
    """Records operations, and storages that are allocated or freed.

    Parameters
    ----------
    method : Method
        Gets hooks that note which part of it runs.
    given : mapping
        Tensors that exist before the step, beside the method's.
    """

    def __init__(self, method: Method, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._phase, self._part = "", ""
        self._events: list[tuple[str, int, int]] = []  # phase, number of the storage, bytes added
        self._kinds: list[str] = []  # by number
        self._alive: dict[int, tuple[int, int, Any]] = {}  # id -> number, bytes, reference
        self._student = method.student
        tensors = [*method.parameters(), *method.buffers(), *given.values()]
        self._given = {id(tensor.untyped_storage()) for tensor in tensors}
        self._weights = {
            id(parameter.untyped_storage()): "block_copies" if ".blocks." in name else "copies"
            for name, parameter in method.named_parameters()
        }
        for networks in (method.student, method.teacher):
            for name, network in networks.items():
                if name == "backbone":
                    for block in network.get_submodule("blocks").children():
                        self._watch(block, "blocks", "backbone")
                else:
                    self._watch(network, "heads", "losses")

    def begin(self, phase: str) -> None:
        """Start one of `PHASES`; what is recorded from here on belongs to it."""
        self._phase = phase
        self._part = "heads" if phase == "backward" else "backbone"

    def alive(self, targets: Mapping[str, Tensor]) -> dict[str, int]:
        """Sum the bytes that are alive by kind; those of ``targets`` under that name."""
        is_target = {id(tensor.untyped_storage()) for tensor in targets.values()}
        sizes = dict.fromkeys((*KINDS, "targets"), 0)
        for key, (number, size, _) in self._alive.items():
            sizes["targets" if key in is_target else self._kinds[number]] += size
        return sizes

    def timeline(self) -> dict[str, Array]:
        """Bytes that are added by event and kind, ``[T, len(KINDS)]`` of each phase.

        What is freed at once is one event: autocast drops its copies in any order.
        """
        for parameter in self._student.parameters():
            if parameter.grad is not None:
                number, _, _ = self._alive[id(parameter.grad.untyped_storage())]
                self._kinds[number] = "gradients"
        rows: dict[str, list[Array]] = {phase: [] for phase in PHASES}
        was_free = False
        for phase, number, size in self._events:
            if not (was_free and size < 0 and rows[phase]):
                rows[phase].append(np.zeros(len(KINDS)))
            rows[phase][-1][KINDS.index(self._kinds[number])] += size
            was_free = size < 0
        return {phase: np.reshape(deltas, (-1, len(KINDS))) for phase, deltas in rows.items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and write it down."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = _FLOPS.get(func._overloadpacket)  # noqa: SLF001 - the key of torch's own counter
        if count is not None:
            self._count(func, count(*args, **kwargs, out_val=result))
        kind = self._part
        if func is _aten._to_copy.default:  # noqa: SLF001
            kind = self._weights.get(id(args[0].untyped_storage()), kind)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage(), kind)
        return result

    def _count(self, func: Any, operations: int) -> None:
        part = "backbone" if self._part == "blocks" else self._part
        if self._phase == "teacher":
            self.flops[f"teacher_{part}"] += operations
        elif self._phase == "backward" and torch.is_grad_enabled():
            self.flops["blocks_again"] += operations  # a forward pass inside the backward pass
        else:
            if "attention" in func.name() and "backward" in func.name():
                # Of its five products one is that of the scores, which no kernel keeps.
                self.flops["attention_again"] += operations // 5
                operations -= operations // 5
            self.flops[f"student_{part}"] += operations

    def _see(self, storage: torch.UntypedStorage, kind: str) -> None:
        key = id(storage)
        if key in self._given or key in self._alive:
            return
        size = storage.nbytes()
        self._alive[key] = (len(self._kinds), size, weakref.ref(storage, partial(self._free, key)))
        self._events.append((self._phase, len(self._kinds), size))
        self._kinds.append(kind)

    def _free(self, key: int, _: object) -> None:
        number, size, _reference = self._alive.pop(key)
        self._events.append((self._phase, number, -size))

    def _watch(self, module: nn.Module, inside: str, after: str) -> None:
        def enter(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            # The head that runs first is the last one in the backward pass.
            if inside == "heads" and self._part == "backbone" and inputs[0].requires_grad:
                inputs[0].register_hook(partial(self._set_part, "backbone"))
            self._part = inside

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(lambda *_: self._set_part(after))

    def _set_part(self, part: str, *_: object) -> None:
        self._part = part
