"""The page of ``dinoforge explain --html``: the words of an explanation with its pictures."""

from pathlib import Path
from typing import Any

from dinoforge.curated import ledger_path
from dinoforge.curation.explain import Explanation, Related
from dinoforge.curation.index import OpenShards
from dinoforge.errors import UsageError
from dinoforge.images import Undecodable, decode
from dinoforge.pages import ExplainFacts, ShownImage, Thumbnail, explain_page, thumbnail
from dinoforge.tables import read_table

__all__ = ["page_of"]


def page_of(answer: Explanation) -> str:
    """Render an explanation as self-contained HTML."""
    run = Path(answer.run)
    ledger = read_table(ledger_path(run), ["image_id", "shard", "offset", "size"])
    shards = OpenShards(run)

    def picture(image_id: int, side: int) -> Thumbnail | None:
        place = ledger.slice(image_id, 1).to_pylist()[0]
        try:
            data = shards.read(place["shard"], place["offset"], place["size"])
            return None if data is None else thumbnail(decode(data), side=side)
        except (Undecodable, UsageError):
            return None

    def shown(related: list[Related]) -> list[ShownImage]:
        return [
            ShownImage(
                key=other.key,
                picture=picture(other.image_id, 128),
                similarity=other.similarity,
                note=other.note,
            )
            for other in related
        ]

    facts = ExplainFacts(
        run=answer.run,
        image=ShownImage(
            key=answer.key, picture=picture(answer.image_id, 320), note=_size_of(answer.row)
        ),
        decision=answer.decision,
        sentences=answer.sentences,
        representative=shown(answer.representative),
        neighbors=shown(answer.neighbors),
        seeds=shown(answer.seeds),
        references=shown(answer.references),
        row=[(name, str(value)) for name, value in answer.row.items() if value is not None],
    )
    return explain_page(facts)


def _size_of(row: dict[str, Any]) -> str:
    return f"{row['width']} x {row['height']}, {row['size']} bytes" if row["width"] else ""
