"""The check that a mask or depth map has the size of its image."""

from dinoforge.errors import UsageError

__all__ = ["check_size"]


def check_size(size: tuple[int, ...], image: tuple[int, ...], *, what: str, where: str) -> None:
    """Refuse a truth of another size than its image; both are (height, width, ...).

    Raises
    ------
    UsageError
        With the file ``where`` and both sizes; ``what`` is the kind of the truth.
    """
    if size[:2] != image[:2]:
        wrong, right = (" x ".join(str(side) for side in sizes[:2]) for sizes in (size, image))
        raise UsageError(
            what=f"{what} of {wrong} pixels for an image of {right}",
            where=where,
            do=f"give a {what} of the size of its image, or remove both",
        )
