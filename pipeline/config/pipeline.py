"""The whole description, and what must fit across its sections."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from pipeline.address import address_of
from pipeline.config.class_weights import require_classes_known
from pipeline.config.clean import ROW_ID, Clean, Dedupe, Join
from pipeline.config.features import Features, with_own_kinds
from pipeline.config.histories import history_texts, require_columns_of_their_own
from pipeline.config.schedule import Schedule
from pipeline.config.score import Score
from pipeline.config.source import OTHER_COLUMNS, Column, Files, Source
from pipeline.config.splits import require_splits_fit
from pipeline.config.storage import Storage
from pipeline.config.table_rules import require_comparable, require_rules_fit
from pipeline.config.train import Train
from pipeline.config.types import is_orderable
from pipeline.settings import Name, Settings, require_known
from pipeline.training.tasks import LOSSES, METRICS, TASKS


class Pipeline(Settings):
    """One pipeline, from raw files to predictions."""

    name: Name
    """Also the name of the registered model."""
    lake: str = Field(min_length=1)
    """Folder of the tables; relative paths start at the working directory. Or a folder in an object
    store: `s3://bucket/folder`, `abfss://container@account.dfs.core.windows.net/folder`,
    `gs://bucket/folder`."""
    storage: Storage = Storage()
    seed: int = Field(default=0, ge=0, lt=2**31)
    source: Source
    clean: Clean
    features: SerializeAsAny[Features]
    train: Train = Train()
    score: Score = Score()
    schedule: Schedule | None = None

    @field_validator("lake")
    @classmethod
    def _lake_has_an_address(cls, lake: str) -> str:
        address_of(lake)
        return lake

    @field_validator("features", mode="before")
    @classmethod
    def _kinds_may_be_the_users(cls, features: Any) -> Any:
        return with_own_kinds(features)

    @model_validator(mode="before")
    @classmethod
    def _keys_may_be_made(cls, given: Any) -> Any:
        """Reads `features.keys: auto` as the column that `clean.row_id` makes."""
        features, clean = _section(given, "features"), _section(given, "clean")
        if features.get("keys") != "auto":
            return given
        keyed = {**clean, "row_id": clean.get("row_id", "position")}
        return {**given, "features": {**features, "keys": [ROW_ID]}, "clean": keyed}

    @property
    def raw(self) -> dict[str, Files]:
        """All that is read from outside the lake, by the setting that describes it."""
        joins = {f"clean.joins.{name}": join for name, join in self.clean.joins.items()}
        references = {
            f"clean.table_rules.{name}.reference": rule.reference
            for name, rule in self.clean.table_rules.items()
            if rule.reference is not None and rule.reference.join is None
        }
        return {"source": self.source, **joins, **references}

    def column_of(self, name: str) -> Column | None:
        """The contract of a column of `clean`; None for one that is made of others."""
        for join in self.clean.joins.values():
            if name in join.select:
                return join.column_of(join.select[name])
        return self.source.column_of(name)

    def is_sensitive(self, name: str) -> bool:
        """Whether a column of `clean` is marked as sensitive in its contract."""
        if name == OTHER_COLUMNS:  # what a sensitive column is called elsewhere may be among them
            return any(column.sensitive for column in self.source.columns.values())
        column = self.column_of(name)
        return column is not None and column.sensitive

    def is_sensitive_feature(self, name: str, older: Mapping[str, str] | None = None) -> bool:
        """Whether a column that features are made of is sensitive, or derived from one that is.

        Args:
            name: The column.
            older: Column to the expression by which a model's spec makes it, where that may be
                another one than this description has.
        """
        own = {**history_texts(self.features.histories), **self.features.derive}
        made = {**own, **(older or {})}
        names, seen = {name}, set[str]()
        while names - seen:
            new = names - seen
            seen |= new
            words = [re.findall(r"[\w.]+", made[each]) for each in new if each in made]
            names = {word for each in words for word in each}
        return any(map(self.is_sensitive, seen))

    @model_validator(mode="after")
    def _storage_fits_the_lake(self) -> Self:
        address = address_of(self.lake)
        if address is None:
            return self
        if self.storage.work is None:
            raise ValueError(
                "storage.work is missing: a lake in an object store needs a folder on a disk, for "
                "checkpoints and locks"
            )
        if address.scheme != "s3":
            for name in ("endpoint", "region"):
                if getattr(self.storage, name) is not None:
                    raise ValueError(f"storage.{name} says nothing to {address.scheme}://")
        return self

    @model_validator(mode="after")
    def _raw_data_has_addresses(self) -> Self:
        for setting, files in self.raw.items():
            for path in files.path:
                address_of(_before_wildcards(path), f"{setting}.path")
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        contract = set(self.source.columns)
        if self.source.policies.new_column == "keep":
            contract.add(OTHER_COLUMNS)
        if self.clean.row_id is not None:
            if ROW_ID in contract:
                raise ValueError(f"source.columns.{ROW_ID}: clean.row_id makes this column")
            contract.add(ROW_ID)
        if self.clean.dedupe is not None:
            _require_comparable(self.source, self.clean.dedupe, contract)
        columns = set(contract)
        for name, join in self.clean.joins.items():
            require_known(f"clean.joins.{name}.on", join.on, contract)
            _require_same_time(self.source, join, f"clean.joins.{name}.asof")
            taken = sorted(columns & set(join.select))
            if taken:
                raise ValueError(f"clean.joins.{name}.select.{taken[0]} exists already")
            columns |= set(join.select)
        if self.clean.period.column in columns:
            raise ValueError(f"clean.period.column {self.clean.period.column!r} exists already")
        columns.add(self.clean.period.column)
        require_rules_fit(
            self.clean.table_rules,
            contract=contract,
            columns=columns,
            joins=self.clean.joins,
            column_of=self.column_of,
        )
        require_known("features.keys", self.features.keys, columns)
        require_comparable("features.keys", self.features.keys, self.column_of)
        require_known("features.leakage", self.features.leakage, columns)
        require_splits_fit(
            self.features.splits,
            self.features.entities,
            columns=columns,
            derived={*self.features.derive, *history_texts(self.features.histories)},
            leakage=self.features.leakage,
            column_of=self.column_of,
        )
        histories, outcomes = self.features.histories, self.features.outcomes
        for name, history in {**histories, **outcomes}.items():
            require_known(f"{history.section}.{name}.entity", history.entity, columns)
            require_known(f"{history.section}.{name}.order", history.order, columns)
        require_columns_of_their_own(histories, outcomes, columns)
        columns |= set(history_texts(self.features.histories))
        columns |= set(self.features.derive)
        for kind, name, how in self.features.asked():
            require_known(f"features.{kind.name}", how.reads(name), columns)
        _require_network_fits(self.features, self.train)
        require_classes_known(self.train.class_weights, self.features.label)
        return self


def _require_comparable(source: Source, dedupe: Dedupe, contract: set[str]) -> None:
    """Duplicates are found by columns that are there in every row and can be compared."""
    require_known("clean.dedupe.keys", dedupe.keys, contract)
    require_known("clean.dedupe.latest_by", dedupe.latest_by, contract)
    for key in (*dedupe.keys, *dedupe.latest_by):
        column = source.column_of(key)
        if column is None:
            continue  # made by us, in every row
        if not is_orderable(column.kind):
            raise ValueError(f"clean.dedupe: {key!r} is {column.type}, which cannot be compared")
        if key in dedupe.keys and not column.required:
            raise ValueError(
                f"clean.dedupe.keys: {key!r} may be null, and rows without a key are not "
                f"duplicates; set source.columns.{key}.required: true"
            )


def _before_wildcards(path: str) -> str:
    """The folder that a path begins with; object stores have rules for its characters."""
    folders = itertools.takewhile(lambda part: not set(part) & set("*?["), path.split("/"))
    return "/".join(folders)


def _require_same_time(source: Source, join: Join, setting: str) -> None:
    """Times of both sides of a join are compared as they are, so they are of one type."""
    if join.asof is None:
        return
    left = join.asof.require_ordered(f"{setting}.left", join.asof.left, source)
    right = join.asof.require_ordered(f"{setting}.right", join.asof.right, join)
    if left != right:
        raise ValueError(
            f"{setting}: {join.asof.left!r} is {left} and {join.asof.right!r} is {right}; give "
            "both the same type in their contracts"
        )


def _section(given: Any, name: str) -> dict[str, Any]:
    section = given.get(name) if isinstance(given, dict) else None
    return section if isinstance(section, dict) else {}


def _require_network_fits(features: Features, train: Train) -> None:
    """The family against the task and the kinds of features; loss and metric against the task."""
    task, family = features.label.task, train.model.family
    if not train.model.learns(TASKS[task]):
        raise ValueError(f"train.model.family {family} cannot learn the task {task}")
    for setting, allowed in (("loss", LOSSES[task]), ("metric", METRICS[task])):
        chosen = getattr(train, setting)
        if chosen not in (None, *allowed):
            raise ValueError(
                f"train.{setting} {chosen!r} is none of the task {task}; "
                f"allowed: {', '.join(allowed)}"
            )
    refusal = train.model.refusal(
        Counter(form for _, _, how in features.asked() for form in how.forms)
    )
    if refusal is not None:
        raise ValueError(f"train.model.family {family} {refusal}")
