"""The page of one image: its decision, the reasons, and the pictures that show them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from dinoforge.pages.render import render
from dinoforge.pages.thumbnails import Thumbnail

__all__ = ["ExplainFacts", "ShownImage", "explain_page"]


@dataclass(frozen=True, kw_only=True)
class ShownImage:
    """An image with its part in the decision."""

    key: str
    picture: Thumbnail | None = None  # None: missing or undecodable
    similarity: float | None = None
    note: str = ""  # another line: "planted: jpeg", "rank 3", "512 x 384, JPEG"

    def lines(self) -> list[str]:
        """Caption below the picture, without the key."""
        lines = [] if self.similarity is None else [f"similarity {self.similarity:.4f}"]
        return [*lines, self.note] if self.note else lines


@dataclass(frozen=True, kw_only=True)
class ExplainFacts:
    """Everything on the page of one image; empty sequences omit their section."""

    run: str
    image: ShownImage
    decision: str  # "kept" | "dropped"
    sentences: Sequence[str]  # the decision explained, the most important first
    representative: Sequence[ShownImage] = ()  # none or one
    neighbors: Sequence[ShownImage] = ()
    seeds: Sequence[ShownImage] = ()
    references: Sequence[ShownImage] = ()
    row: Sequence[tuple[str, str]] = field(default_factory=tuple)  # ledger columns and values


def explain_page(facts: ExplainFacts) -> str:
    """Render the page of one image: self-contained HTML.

    ``dinoforge explain RUN IMAGE --html`` writes it; pictures come from `thumbnail`.
    """
    return render("explain.html", title=f"{facts.image.key}: {facts.decision}", facts=facts)
