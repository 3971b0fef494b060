"""Where networks run: from the word of a recipe to a device that is there."""

from typing import Any

from dinoforge.errors import UsageError

__all__ = ["resolve_device"]


def resolve_device(device: str) -> Any:
    """Return the ``torch.device`` that a recipe names, and try it.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: ``cuda`` if there is one, else ``cpu``.

    Raises
    ------
    UsageError
        If there is no such device on this machine.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            what=f"device `{device}` cannot be used",
            where=str(error).splitlines()[0].rstrip("."),
            do="give device=cpu, or cuda on a machine with a GPU",
        ) from error
    return found
