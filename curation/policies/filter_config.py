"""The keys of what is measured or read of images, and of the conditions on it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated

from dinoforge.config.paths import EncoderSpec, SourceText
from dinoforge.config.ranges import Allowed, PositiveInt, Range
from dinoforge.curation.policies.where import EXAMPLE_CONDITION, ConditionError, parse_where
from dinoforge.errors import Fault
from dinoforge.remote.urls import url_faults

__all__ = ["FilterConfig", "ScoreConfig", "SideConfig"]

_is_column_name = re.compile(r"[A-Za-z_]\w*", re.ASCII).fullmatch
ColumnName = Annotated[str, Allowed(_is_column_name, "letters, digits and _, a letter first")]


@dataclass(frozen=True, kw_only=True)
class SideConfig:
    """Data beside the images: `KEY.json`, `KEY.txt`, `NAME.parquet` beside `NAME.tar`; tables."""

    # columns to keep, for conditions, in the ledger and in the exported samples; names or patterns
    # such as ["*"]; text files are the column caption; []: none is read
    columns: list[str] = field(default_factory=list)
    # Parquet files, patterns of them or URLs, with more columns for the images whose value of `on`
    # a row has, such as metadata/*.parquet of DataComp; what lies beside an image comes first
    tables: list[SourceText] = field(default_factory=list)
    on: str = "uid"  # column of `tables`, and of what lies beside the images

    def faults(self, at: str) -> Iterator[Fault]:
        """Find tables that are not read, URLs that cannot be."""
        yield from url_faults(f"{at}.tables", self.tables)
        if self.tables and not self.columns:
            what = f"`{at}.tables` are not read: `{at}.columns` names no column"
            yield Fault(what, "recipe", f"name the columns to keep, or {at}.columns=['*']")

    def is_named(self, column: str) -> bool:
        """Return whether a column is kept."""
        return any(fnmatchcase(column, pattern) for pattern in self.columns)


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """A number per image that is measured once, for conditions (`filter.where`)."""

    # column in conditions and in the ledger; of several numbers NAME_0, NAME_1, ... or their names
    name: ColumnName = ""
    # what measures it: brightness, dark, light, blur, entropy, color, text, nsfw, faces, FILE.onnx,
    # phash:FILE or python:MODULE:FUNCTION
    scorer: EncoderSpec = ""


@dataclass(frozen=True, kw_only=True)
class FilterConfig:
    """Limits for decodable images; applied late, to stored measurements."""

    min_side: PositiveInt = 16  # shorter side after EXIF rotation, pixels
    # longer side / shorter side; 0: no limit
    max_aspect: Annotated[float, Allowed(lambda x: x == 0 or x >= 1, "0, or 1 or more")] = 10.0
    # standard deviation of the gray values (0 to 255); images below it are dropped as flat
    min_std: Annotated[float, Range(0, 127.5)] = 2.0
    # condition that pool and seed images must meet, e.g. "bytes >= 2000 and aspect < 3"; an image
    # that lacks a value that it needs is dropped, too; "": none
    where: str = ""

    def faults(self, at: str) -> Iterator[Fault]:
        """Find a condition that is none."""
        if self.where:
            try:
                parse_where(self.where)
            except ConditionError as error:
                what = f"`{at}.where` is no condition: {error}"
                yield Fault(what, "recipe", f"write one such as {EXAMPLE_CONDITION}")
