"""What a step does to memory, and how many operations it takes, seen from below autograd.

Operations are those of matrix products, by `torch.utils.flop_counter`; a multiply-add is two.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from dinoforge.models.vit import VisionTransformer
from dinoforge.training.methods.method import Method

__all__ = ["ACTIVATIONS", "KINDS", "PHASES", "Array", "Ledger"]

Array = npt.NDArray[np.float64]

# After the forward pass autocast drops the copies of weights that autograd does not keep.
PHASES = ("teacher", "forward", "end of autocast", "backward")

# What a storage is: activations by the part that made them (the backbone outside of its blocks, a
# block, a head, a loss), output of the teacher, gradients of parameters, copies of weights in the
# dtype of the products.
ACTIVATIONS = ("backbone", "blocks", "heads", "losses")
KINDS = (*ACTIVATIONS, "targets", "gradients", "copies", "block_copies")


def _count_gradients_of_convolution(
    gradient: Tensor, _x: Tensor, weight: Tensor, *rest: Any, **_: Any
) -> int:
    """Count as many for each gradient as forward; torch does not divide by groups of channels."""
    return 2 * gradient.numel() * weight[0].numel() * sum(rest[-1][:2])


# torch counts the attention kernels of GPUs alone; those of CPUs take and return the same shapes.
_aten, _FLASH = torch.ops.aten, "_scaled_dot_product_flash_attention"
_FLOPS: dict[Any, Callable[..., int]] = flop_registry | {
    getattr(_aten, f"{_FLASH}_for_cpu{end}"): flop_registry[getattr(_aten, f"{_FLASH}{end}")]
    for end in ("", "_backward")
}
_FLOPS |= {_aten.convolution_backward: _count_gradients_of_convolution}


class Ledger(TorchDispatchMode):
    """Records operations and storages, but for those ``given``, by the part of ``method``."""

    def __init__(self, method: Method, given: Iterable[Tensor]) -> None:
        super().__init__()
        self.flops: Counter[str] = Counter()
        self._phase, self._part = "", ""
        self._events: list[tuple[str, int, int]] = []  # phase, number of the storage, bytes added
        self._kinds: list[str] = []  # by number
        self._alive: dict[int, tuple[int, Any]] = {}  # id -> number, reference
        self._student = method.student
        tensors = [*method.parameters(), *method.buffers(), *given]
        self._given = {id(tensor.untyped_storage()) for tensor in tensors}
        self._weights = {
            id(parameter.untyped_storage()): "block_copies"
            if ".backbone.blocks." in name
            else "copies"
            for name, parameter in method.named_parameters()
        }
        for networks in method.networks:
            if isinstance(vit := networks["backbone"], VisionTransformer):
                for block in vit.blocks:
                    self._watch(block, "blocks", "backbone")
            for name in networks.keys() - {"backbone"}:
                self._watch(networks[name], "heads", "losses")

    def begin(self, phase: str) -> None:
        """Start one of `PHASES`; what is recorded from here on belongs to it."""
        self._phase = phase
        self._part = "heads" if phase == "backward" else "backbone"

    def timeline(self, targets: Iterable[Tensor]) -> dict[str, Array]:
        """Bytes that are added by event and kind, ``[events, len(KINDS)]`` of each phase.

        What is freed at once is one event: autocast drops its copies in any order.
        """
        gradients = [p.grad for p in self._student.parameters() if p.grad is not None]
        for kind, tensors in (("targets", targets), ("gradients", gradients)):
            for tensor in tensors:
                number, _ = self._alive[id(tensor.untyped_storage())]
                self._kinds[number] = kind
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
        if key not in self._given and key not in self._alive:
            number, size = len(self._kinds), storage.nbytes()
            self._alive[key] = (number, weakref.ref(storage, partial(self._free, key, size)))
            self._events.append((self._phase, number, size))
            self._kinds.append(kind)

    def _free(self, key: int, size: int, _: object) -> None:
        number, _reference = self._alive.pop(key)
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
