"""Devices of networks: from the name in a recipe to one that works."""

from typing import Any

from dinoforge.errors import UsageError, first_line

__all__ = ["resolve_device"]


def resolve_device(device: str) -> Any:
    """Return the ``torch.device`` of a recipe after testing it.

    ``device`` is ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: ``cuda`` if available, else ``cpu``.

    Raises
    ------
    UsageError
        If the device is unavailable on this machine.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            what=f"device `{device}` cannot be used",
            where=first_line(error),
            do="give device=cpu, or cuda on a machine with a GPU",
        ) from error
    return resolved
