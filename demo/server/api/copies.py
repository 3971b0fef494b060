"""Duplicate look-up: the nearest copies of an image, and why the curation kept or dropped it."""

from typing import Any

from dinoforge.demo.server.api.fields import MODEL, check_row
from dinoforge.demo.server.operations import Call, Operation, number

__all__ = ["OPERATIONS"]

_MOST = 100  # copies
_EXPLAINED = 8  # of them


async def _copies(call: Call) -> dict[str, Any]:
    side, row, threshold = (
        call.site.side(call.query["model"]),
        call.path["row"],
        call.query["threshold"],
    )
    check_row(side, row)
    explain = call.site.explain

    def find() -> dict[str, Any]:
        scores, rows = side.index.search(side.index.vector(row)[None], _MOST + 1, exact=True)
        copies: list[dict[str, Any]] = [
            {
                "row": int(other),
                "score": round(float(score), 6),
                "facts": side.index.facts(int(other)),
                "kept": None,
            }
            for score, other in zip(scores[0], rows[0], strict=True)
            if score >= threshold and other not in (row, -1)
        ]
        own = explain(side.index.facts(row)) if explain else None
        for copy in copies[:_EXPLAINED]:
            decision = explain(copy["facts"]) if explain else None
            copy["kept"] = decision.is_kept if decision else None
        note = f"Only the first {_EXPLAINED} are looked up in the curation."
        return {
            "copies": copies,
            "note": note if explain and len(copies) > _EXPLAINED else "",
            "why": own.sentences if own else [],
            "group": own.group if own else [],
            "pairs": own.pairs if own else [],
            "policy": own.policy if own else None,
            "threshold": threshold,
        }

    return await call.site.compute.run(find)


OPERATIONS = (
    Operation(
        "GET",
        "/duplicates/{row}",
        "The images most similar to a row, and what the curation decided about them",
        _copies,
        query={"model": MODEL, "threshold": number(-1, 1, default=0.95)},
    ),
)
