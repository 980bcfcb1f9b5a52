from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from pipeline.config import load_pipeline
from pipeline.errors import ConfigError

FLIGHTS = Path(__file__).parent.parent / "conf" / "pipelines" / "flights.yaml"


def test_set_overrides_and_interpolation_resolves() -> None:
    pipeline = load_pipeline(FLIGHTS, ["train.epochs=3", "lake=/somewhere"])
    assert pipeline.train.epochs == 3
    assert pipeline.source.path == ("/somewhere/raw/flights",)


@pytest.mark.parametrize(
    ("override", "where", "told"),
    [
        ("train.epoch=3", "train.epoch", "Did you mean epochs?"),
        (
            "clean.joins.weather.columns.temp.typ=x",
            "typ",
            "Did you mean type? Allowed here: decimal_separator, default, format, from",
        ),
        ("train.epochs=x", "train.epochs", "'x'"),
        ("train.epochs=0", "train.epochs", "greater than 0"),
        ("train.learning_rate=.inf", "train.learning_rate", "a finite number"),
        ("train.hang_seconds=.inf", "train.hang_seconds", "less than or equal to 31536000"),
        ("features.label.name=split", "features.label", "'split' is the column that tells"),
        ("clean.rules.origin_is_new_york.action=delete", "action", "'drop', 'quarantine', 'warn'"),
        ("features.numeric.distanc.scale=none", "flights.yaml", "did you mean distance?"),
        ("features.leakage=[nothing]", "flights.yaml", "no column 'nothing'"),
        ("features.numeric.arr_delay.scale=none", "features", "arr_delay is listed under leakage"),
        ("features.keys=[dep_time]", "features", "dep_time is listed under leakage"),
        ("source.columns.carrier.required=false", "flights.yaml", "'carrier' may be null"),
        ("clean.period.column=month", "flights.yaml", "'month' exists already"),
        ("clean.joins.planes.select.year=year", "flights.yaml", "select.year exists already"),
        ("schedule.jobs.score.cron=often", "schedule.jobs.score.cron", "'often' has 1 fields"),
        ("schedule.jobs.score.cron=61 * * * *", "score.cron", "higher than the maximum value (59)"),
        ("schedule.jobs.score.cron=0 0 30 2 *", "score.cron", "names no day that exists"),
        ("schedule.jobs.score.cron=0 0 1 * 1", "score.cron", "make it two jobs"),
        ("schedule.jobs.score.cron=0 0 * * 8", "score.cron", "'8' is no day of the week"),
        ("schedule.jobs.score.cron=0 0 * * mon-sat/9", "score.cron", "is no day of the week"),
        ("schedule.jobs.score.cron=0 0 * * sat-mon", "score.cron", "ends before it begins"),
        ("schedule.jobs.score.stages=[scor]", "schedule.jobs.score.stages.0", "'scor'"),
        ("schedule.jobs.score.stages=[]", "schedule.jobs.score.stages", "at least 1 item"),
        ("schedule.jobs.score.retry=1", "schedule.jobs.score.retry", "Did you mean retries?"),
        ("schedule.jobs.nightly.cron=0 3 * * *", "schedule.jobs.nightly.stages", "is missing"),
        ("schedule.time_zone=Europe/Berln", "time_zone", "did you mean Europe/Berlin?"),
        ("schedule.health_port=65536", "schedule.health_port", "65536"),
        ("lake=${nowhere}", "lake", "nowhere"),
        ("just-a-word", "--set", "no `=`"),
        ("source.columns={'a.b': {type: int}}", "source.columns.a.b", "'a.b'"),
        ("clean.joins.planes.select._label=model", "planes.select._label", "'_label'"),
    ],
)
def test_a_wrong_setting_is_named_with_value_and_remedy(
    override: str, where: str, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(FLIGHTS, [override])
    assert where in caught.value.where
    assert told in str(caught.value)
    assert "Traceback" not in str(caught.value)


REMOTE = (
    "lake=s3://bucket/lake",
    "storage.work=work",
    "source.path=raw/flights",
    "clean.joins.weather.path=raw/weather",
    "clean.joins.planes.path=raw/planes",
)


def test_a_lake_may_be_in_a_store() -> None:
    pipeline = load_pipeline(FLIGHTS, [*REMOTE, "storage.endpoint=http://127.0.0.1:9000"])
    assert pipeline.lake == "s3://bucket/lake"
    assert pipeline.storage.endpoint == "http://127.0.0.1:9000"


@pytest.mark.parametrize(
    ("override", "where", "told"),
    [
        ("lake=ftp://host/lake", "lake", "in no store that is known: ftp://"),
        ("lake=s3://", "lake", "names no bucket"),
        ("lake=s3:///lake", "lake", "names no bucket"),
        ("lake=s3://bucket/a b", "lake", "stores spell differently"),
        ("lake=s3://bucket/lake?endpoint_override=x", "lake", "stores spell differently"),
        ("lake=abfss://container/lake", "lake", "names no container and account"),
        ("storage.work=null", "flights.yaml", "storage.work is missing"),
        ("storage.endpoint=minio:9000", "storage.endpoint", "minio:9000"),
        ("storage.endpiont=http://x", "storage.endpiont", "Did you mean endpoint?"),
        ("source.path=s3://b@d/raw", "source.path", "the URI holds more than a bucket"),
        ("source.path=ftp://host/raw", "source.path", "is in no store that is known"),
        ("lake=gs://bucket/lake", "flights.yaml", "storage.region says nothing to gs://"),
    ],
)
def test_a_wrong_place_in_a_store_is_named(override: str, where: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(FLIGHTS, [*REMOTE, "storage.region=eu-west-1", override])
    assert where in caught.value.where
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        "storage.secret_key=hunter2",
        "storage.aws_access_key_id=hunter2",
        "storage.sas_token=hunter2",
        "storage.endpoint=http://me:hunter2@minio:9000",
        "lake=s3://me:hunter2@bucket/lake",
        "lake=abfss://me:hunter2@account.dfs.core.windows.net/lake",
    ],
)
def test_a_secret_of_a_store_is_refused_and_not_shown(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_pipeline(FLIGHTS, [*REMOTE, override])
    assert "environment" in caught.value.remedy
    told = "".join(traceback.format_exception(caught.value))
    assert "hunter2" not in told


def test_a_job_named_after_a_stage_runs_it() -> None:
    pipeline = load_pipeline(FLIGHTS, ["schedule.jobs.report.cron=0 6 * * *"])
    assert pipeline.schedule is not None
    assert pipeline.schedule.jobs["report"].stages == ("report",)
    assert pipeline.schedule.jobs["score"].stages == ("clean", "score")


def test_a_secret_in_the_file_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError, match="is a secret") as caught:
        load_pipeline(FLIGHTS, ["schedule.webhook_env=https://chat/T0KEN"])
    assert "T0KEN" not in str(caught.value)


def test_a_missing_setting_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("name: p\nlake: x\n")
    with pytest.raises(ConfigError, match=r"^source: is missing.*Also at fault: clean, features"):
        load_pipeline(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("text", "told"),
    [("a: [", "is not YAML"), ("", "is missing"), ("- 1", "holds no settings")],
)
def test_a_file_that_is_no_description_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_pipeline(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        load_pipeline(tmp_path / "none.yaml")


def test_yaml_runs_no_code(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "p.yaml").write_text(f"name: !!python/object/apply:os.mkdir ['{mark}']\n")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_pipeline(tmp_path / "p.yaml")
    assert not mark.exists()


def test_a_contract_may_name_thousands_of_columns(tmp_path: Path) -> None:
    lines = FLIGHTS.read_text().splitlines()
    place = lines.index("  columns:") + 1
    many = [f"    f{number}: {{type: double}}" for number in range(5000)]
    path = tmp_path / "wide.yaml"
    path.write_text("\n".join([*lines[:place], *many, *lines[place:]]))
    assert len(load_pipeline(path).source.columns) == 5017
    bomb = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    bomb += [
        f"{c}: &{c} [{', '.join(['*' + b] * 10)}]" for b, c in zip("abcdef", "bcdefg", strict=True)
    ]
    path.write_text("\n".join([*bomb, *lines]))
    with pytest.raises(ConfigError, match="is not YAML"):
        load_pipeline(path)
