"""Data sets to tables: one row per image, with its class and the part that it belongs to."""

import hashlib
import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from dinoforge.errors import Fault, UsageError
from dinoforge.evaluation.config import SET_KEYS, SetConfig, named_sets, protocols_for
from dinoforge.evaluation.data import EvalData, Rules, arrange, open_sets
from dinoforge.evaluation.layouts.stored import missing_file
from dinoforge.evaluation.published import fingerprint_files, open_published
from dinoforge.evaluation.tables import (
    ITEMS_SCHEMA,
    EvaluationInputs,
    EvaluationStage,
    cache_folder,
    write_gradings,
)
from dinoforge.files import sha256_file
from dinoforge.runs import record_facts
from dinoforge.sources.accounting import Account, merge_problems, write_problems
from dinoforge.sources.discover import fingerprint_sources
from dinoforge.sources.image_set import ImageSet
from dinoforge.sources.manifests import read_subset
from dinoforge.stages import Json, Output

__all__ = ["ListStage"]

_log = logging.getLogger(__name__)


class ListStage(EvaluationStage):
    """List the images of every data set and find its test images; no pixel is read."""

    name = "list"
    number = 10
    version = "2.0.0"
    keys = (*SET_KEYS, "split", "seed", "decode")
    execution_keys = ("cache", "protocols")
    needs = ()

    def plan(self, inputs: EvaluationInputs) -> list[Json]:
        """Plan one partition per set: names, sizes and times of its files are in the payload."""
        listings = cache_folder(inputs) / "listings" if inputs.run_folder.is_dir() else None
        payloads: list[Json] = []
        faults: list[Fault] = []
        for name, one in named_sets(inputs.config).items():
            try:
                if one.layout:
                    open_published(one, inputs.config.decode, cache_folder(inputs))
                    marks = [*map(fingerprint_files, [one.root, *one.tests.values()])]
                    marks += [fingerprint_sources(one.train, listings)] if one.train else []
                else:
                    parts = [paths for paths in (one.train, one.test) if paths]
                    marks = [fingerprint_sources(paths, listings) for paths in parts]
                marks += [sha256_file(Path(path)) for path in _existing(one.subsets)]
                payloads.append({"name": name, "files": marks})
            except UsageError as error:
                faults.extend(error.faults)
        if faults:
            raise UsageError(faults=faults)
        return payloads

    def run(self, payload: Json, inputs: EvaluationInputs, out: Output) -> Json:
        """List one set."""
        config = inputs.config
        one = named_sets(config)[payload["name"]]
        protocols = protocols_for(config, payload["name"])
        if not set(protocols) & {*one.protocols, *config.protocols}:
            text = "data set %s: none of the protocols of the recipe applies; measuring %s"
            _log.info(text, payload["name"], ", ".join(protocols))
        if one.layout:
            facts, table = _list_published(payload["name"], one, inputs, out)
            return facts | {"subsets": _write_subsets(one, table, out)}
        sets = open_sets(one, cache_folder(inputs), config.decode)
        rules = Rules(config.split, config.seed, protocols)
        problems = merge_problems(images.problems for images in sets)
        failed = dict(sum((images.failed for images in sets), Counter[str]()))
        if len(named_sets(config)) > 1:  # what is logged next is of this one
            _log.info("data set %s: %d images", payload["name"], sum(map(len, sets)))
        try:
            data = arrange(sets, one, rules)
        except UsageError:  # the sources are accounted for all the same
            account = Account.of(sum(map(len, sets)), problems, not_downloaded=failed)
            record_facts(inputs.run_folder, sources=account.as_json())
            write_problems(inputs.run_folder, problems)
            account.log()
            raise
        table = pa.concat_tables(images.table for images in sets)
        table = _with_parts(table, data, sets)
        out.write_table("items", table, ITEMS_SCHEMA)
        return {
            "subsets": _write_subsets(one, table, out),
            "name": payload["name"],
            "images": table.num_rows,
            "has_own_test": len(sets) > 1,
            "leave_one_out": data.leave_one_out,
            "problems": problems,
            "not_downloaded": failed,
            "layout": "",
            "truth": "",
            "gradings": [],
            "num_val": 0,
            "has_targets": False,
        }


def _existing(lists: list[str]) -> list[str]:
    for path in map(Path, lists):
        if not path.is_file():
            raise missing_file(path, layout="a labeled subset")
    return lists


def _write_subsets(one: SetConfig, table: pa.Table, out: Output) -> int:
    """Write the rows of each list of images of the bank; returns how many lists there are."""
    bank = np.flatnonzero(table.column("in_bank").to_numpy())
    keys = table.column("key").take(bank).to_pylist() if one.subsets else []
    for number, file in enumerate(one.subsets):
        out.write_array(f"subset-{number}", bank[read_subset(Path(file), keys)])
    return len(one.subsets)


def _list_published(
    name: str, one: SetConfig, inputs: EvaluationInputs, out: Output
) -> tuple[Json, pa.Table]:
    """List a set of a published layout."""
    opened = open_published(one, inputs.config.decode, cache_folder(inputs))
    labels = np.full(len(opened.in_test), -1) if opened.labels is None else opened.labels
    table = opened.table.append_column("number", pa.array(labels))
    for column, values in (("in_bank", opened.in_bank), ("in_test", opened.in_test)):
        table = table.append_column(column, pa.array(values))
    boxes = opened.boxes or [None] * table.num_rows
    table = table.append_column("box", pa.array(boxes, ITEMS_SCHEMA.field("box").type))
    out.write_table("items", table, ITEMS_SCHEMA)
    if opened.targets is not None:
        out.write_array("targets", opened.targets)
    truth = hashlib.sha256()
    for data in opened.truth_bytes():
        truth.update(hashlib.sha256(data).digest())
    facts = {
        "name": name,
        "images": table.num_rows,
        "has_own_test": True,
        "leave_one_out": False,
        "problems": [],
        "layout": one.layout,
        "truth": truth.hexdigest(),
        "gradings": write_gradings(out, opened.gradings),
        "num_val": opened.num_val,
        "has_targets": opened.targets is not None,
    }
    return facts, table


def _with_parts(table: pa.Table, data: EvalData, sets: list[ImageSet]) -> pa.Table:
    """Add number, in_bank and in_test; the rows of test images of their own follow the bank's."""
    numbers = np.full(table.num_rows, -1, np.int64)
    columns = {"number": numbers}
    for name, part in (("in_bank", data.bank), ("in_test", data.test)):
        rows = part.rows + (len(sets[0]) if part.images is not sets[0] else 0)
        numbers[rows] = part.labels
        columns[name] = np.isin(np.arange(table.num_rows), rows)
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    return table.append_column("box", pa.nulls(table.num_rows, ITEMS_SCHEMA.field("box").type))
