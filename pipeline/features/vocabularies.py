"""The table `vocabularies`: words that are too many for a spec, as the spec's fit numbered them.

Each fit commits once, partitions of its own; a spec names the version, and a digest over what it
found, so that another table is refused. Nothing is ever taken away: upkeep keeps the versions that
specs name.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from pipeline.errors import CountError, SpecError
from pipeline.features.kinds.columns import FIRST_ID
from pipeline.features.kinds.kind import Stored
from pipeline.features.spec import FeatureSpec
from pipeline.features.words import ID, OCCURRENCES, PLACE, VALUES, WORD, numbered
from pipeline.lake import RUN, Lake, Snapshot, Table, Transaction, commit

VOCABULARIES = "vocabularies"
FIT, FEATURE = "fit", "feature"
CONTENTS = "lakestorm.vocabularies"
"""Commits note under this key the features, with the number of words and the digest of each."""
SCHEMA = pa.schema(
    [
        (FIT, pa.string()),
        (FEATURE, pa.string()),
        (WORD, pa.string()),
        (ID, pa.int32()),
        (OCCURRENCES, pa.int64()),
        (VALUES, pa.list_(pa.float64())),
    ]
)


class Vocabularies:
    """The vocabularies of one fit.

    Args:
        lake: Where the table is.
        run: The fit's fingerprint; a second fit of it finds what the first stored.
    """

    def __init__(self, lake: Lake, run: str) -> None:
        self._table = lake.table(VOCABULARIES)
        self._transaction = Transaction(f"{VOCABULARIES}/{run}", 1)
        self._run = run

    def store(self, words: DataFrame, features: Mapping[int, str]) -> Mapping[int, Stored]:
        """Numbers the words of some features, and commits them unless this fit has done so.

        Args:
            words: Columns `place`, `word`, `rows`, `values`; each pair of place and word once.
            features: Place -> name of the feature.

        Returns:
            Place -> where its words are.

        Raises:
            CountError: A word got lost on the way, or came twice.
        """
        self._table.create(SCHEMA, (FIT, FEATURE), "vocabularies too large for a spec")
        if self._table.transaction_version(self._transaction.app) is None:
            self._write(words, features)
        entry = next(each for each in self._table.history() if each.get(RUN) == self._run)
        contents = json.loads(entry[CONTENTS])
        return {
            place: Stored(
                table=self._table.name,
                version=entry["version"],
                fit=self._run,
                feature=name,
                **contents[name],
            )
            for place, name in features.items()
        }

    def _write(self, words: DataFrame, features: Mapping[int, str]) -> None:
        with numbered(words, features) as ordered, self._table.attempt() as attempt:
            contents = _contents(ordered, features)
            names = F.element_at(
                F.create_map(*(F.lit(each) for item in features.items() for each in item)),
                F.col(PLACE),
            )
            frame = ordered.select(
                F.lit(self._run).alias(FIT), names.alias(FEATURE), WORD, ID, OCCURRENCES, VALUES
            )
            files = attempt.write(frame)
            wanted = sum(each["words"] for each in contents.values())
            if sum(file.rows for file in files) != wanted:
                raise _lost(self._table.name)
            commit(
                self._table,
                files,
                attempt=attempt,
                transaction=self._transaction,
                notes={RUN: self._run, CONTENTS: json.dumps(contents)},
            )


def words_of(spark: SparkSession, lake: Lake, stored: Stored) -> DataFrame:
    """A stored vocabulary: columns `word`, `id`, `rows`, `values`, each word once.

    Raises:
        SpecError: The table holds another one.
        TableNotFoundError: It is not in the lake, or no longer at that version.
    """
    frame = _snapshot(lake, stored).dataframe(spark).select(WORD, ID, OCCURRENCES, VALUES)
    [found] = frame.agg(*_digested()).collect()
    _require(stored, _digest(found.asDict()))
    return frame


def load(lake: Lake, spec: FeatureSpec) -> Mapping[str, pa.Table]:
    """The stored vocabularies of a spec, in memory, for `pipeline.features.arrow`.

    Returns:
        `Stored.feature` -> columns `word`, `id`, `values`, in the order of the ids.

    Raises:
        SpecError: The table holds others.
        TableNotFoundError: They are not in the lake, or no longer at that version.
    """
    stored = [part.vocabulary for part in spec.parts if part.vocabulary is not None]
    return {each.feature: _loaded(lake, each) for each in stored}


def _loaded(lake: Lake, stored: Stored) -> pa.Table:
    words = _snapshot(lake, stored).arrow([WORD, ID, OCCURRENCES, VALUES]).sort_by(ID)
    total, union = 0, 0
    columns = (words[name].to_pylist() for name in (ID, OCCURRENCES, WORD))
    for id_, rows, word in zip(*columns, strict=True):
        crc = zlib.crc32(f"{id_}:{rows}:{word}".encode())
        total, union = total + crc, union ^ crc
    _require(stored, _digest({"words": words.num_rows, "sum": total, "union": union}))
    return words.select([WORD, ID, VALUES])


def _digested() -> tuple[Column, ...]:
    """What a digest is made of; sum and union do not depend on the order of the words."""
    crc = F.crc32(F.concat_ws(":", F.col(ID), F.col(OCCURRENCES), F.col(WORD)))
    return (
        F.count(F.lit(1)).alias("words"),
        F.sum(crc).alias("sum"),
        F.bit_xor(crc).alias("union"),
    )


def _digest(found: Mapping[str, Any]) -> str:
    return ".".join(f"{found[name] or 0:x}" for name in ("words", "sum", "union"))


def _contents(ordered: DataFrame, features: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """Of each feature the number of words and their digest.

    Raises:
        CountError: The ids are not those from `FIRST_ID` on, each once.
    """
    found = ordered.groupBy(PLACE).agg(
        *_digested(), F.sum(ID).alias("ids"), F.min(ID).alias("least"), F.max(ID).alias("greatest")
    )
    contents = {}
    for row in found.collect():
        words = row["words"]
        least, greatest = FIRST_ID, FIRST_ID + words - 1
        wanted = (words * (least + greatest) // 2, least, greatest)
        if (row["ids"], row["least"], row["greatest"]) != wanted:
            raise _lost(VOCABULARIES)
        contents[features[row[PLACE]]] = {"words": words, "digest": _digest(row.asDict())}
    return contents


def _snapshot(lake: Lake, stored: Stored) -> Snapshot:
    table: Table = lake.table(stored.table)
    chosen = table.snapshot(stored.version).select(**{FIT: stored.fit, FEATURE: stored.feature})
    if chosen.rows != stored.words:
        raise _another(stored, f"{chosen.rows} words")
    return chosen


def _require(stored: Stored, digest: str) -> None:
    if digest != stored.digest:
        raise _another(stored, f"words with the digest {digest}")


def _another(stored: Stored, found: str) -> SpecError:
    return SpecError(
        f"table {stored.table}, version {stored.version}, feature {stored.feature}",
        f"has {found}, and the spec was fitted with {stored.words} of the digest {stored.digest}",
        "Bring back the table that was in the lake when the spec was fitted, or fit a new one.",
    )


def _lost(table: str) -> CountError:
    return CountError(
        f"table {table}",
        "the words that were counted are not those that were numbered or written",
        "Nothing was committed; run again, and report it if it comes back.",
    )
