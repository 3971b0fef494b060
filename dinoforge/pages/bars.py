"""A bar of shares inside a table row; the row's cells hold the numbers."""

from markupsafe import Markup

from dinoforge.pages.svg import element

__all__ = ["share_bar"]

_WIDTH, _HEIGHT = 1000, 14
_HAIRLINE = 3.0


def share_bar(left: int, gone: int, total: int) -> Markup:
    """Draw ``left`` and, after it, ``gone`` as shares of ``total``; hidden from screen readers.

    A count above zero is at least a hairline wide.
    """
    left_width, gone_width = _share(left, total), _share(gone, total)
    left_width = min(left_width, _WIDTH - min(gone_width, _HAIRLINE))
    gone_width = min(gone_width, _WIDTH - left_width)
    return element(
        "svg",
        element("rect", class_="left", x=0, y=0, width=left_width, height=_HEIGHT),
        element("rect", class_="gone", x=left_width, y=0, width=gone_width, height=_HEIGHT),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        aria_hidden="true",
    )


def _share(count: int, total: int) -> float:
    return max(_WIDTH * count / total, _HAIRLINE) if total > 0 and count > 0 else 0.0
