"""What Spark, delta-rs and Arrow are told of a store: the same place, and no secret."""

from __future__ import annotations

import os
import re

import pytest

from pipeline.address import Address, address_of
from pipeline.config import Storage
from pipeline.errors import ConfigError
from pipeline.stores.folder import StoreFolder, folder_of, plain
from pipeline.stores.settings import REDACTED, delta_options, hadoop, hadoop_version

SECRET = "wJalrXUtnFEMI-K7MDENG"  # noqa: S105 - nobody's
MINIO = Storage(endpoint="http://minio:9000", region="eu-west-1")


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)


def at(lake: str) -> Address:
    found = address_of(lake)
    assert found is not None
    return found


def test_one_section_says_the_same_to_all_engines() -> None:
    place = at("s3a://bucket/lake/")
    told = hadoop(place, MINIO)
    assert told.packages == (f"org.apache.hadoop:hadoop-aws:{hadoop_version()}",)
    bucket = "spark.hadoop.fs.s3a.bucket.bucket"
    assert told.settings[f"{bucket}.endpoint"] == "http://minio:9000"
    assert told.settings[f"{bucket}.endpoint.region"] == "eu-west-1"
    assert told.settings[f"{bucket}.path.style.access"] == "true"
    assert told.settings[f"{bucket}.connection.ssl.enabled"] == "false"
    assert delta_options(place, MINIO) == {
        "aws_conditional_put": "etag",
        "aws_endpoint": "http://minio:9000",
        "aws_allow_http": "true",
        "aws_virtual_hosted_style_request": "false",
        "aws_region": "eu-west-1",
    }
    folder = folder_of("s3a://bucket/lake", MINIO)
    assert folder.root == "s3://bucket/lake"
    assert folder.spark_path("t/x=a%2Fb") == "s3a://bucket/lake/t/x=a%2Fb"
    assert folder.uri("t/x=a%2Fb") == (
        "s3://bucket/lake/t/x%3Da%252Fb?endpoint_override=http%3A%2F%2Fminio%3A9000"
        "&region=eu-west-1"
    )


def test_amazons_own_needs_no_setting_and_the_environments_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = at("s3://bucket/lake")
    assert delta_options(place, Storage()) == {"aws_conditional_put": "etag"}
    assert not [name for name in hadoop(place, Storage()).settings if "bucket" in name]
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://minio:9000")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    told = hadoop(place, Storage()).settings
    assert told["spark.hadoop.fs.s3a.bucket.bucket.endpoint"] == "https://minio:9000"
    assert delta_options(place, Storage())["aws_allow_http"] == "false"


@pytest.mark.parametrize(
    ("variable", "kind"),
    [
        ("AZURE_STORAGE_ACCOUNT_KEY", "SharedKey"),
        ("AZURE_STORAGE_SAS_TOKEN", "SAS"),
        ("AZURE_STORAGE_CLIENT_SECRET", "OAuth"),
        ("UNRELATED", "OAuth"),
    ],
)
def test_azures_settings_name_the_variable_and_never_its_value(
    variable: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRET)
    lake = "abfs://container@account.dfs.core.windows.net/lake"
    told = hadoop(at(lake), Storage())
    account = "account.dfs.core.windows.net"
    assert told.settings[f"spark.hadoop.fs.azure.account.auth.type.{account}"] == kind
    assert SECRET not in str(told)
    named = [name for name, value in told.settings.items() if f"${{env.{variable}}}" in value]
    assert len(named) == (variable != "UNRELATED")
    assert all(re.search(REDACTED, name) for name in named)
    assert folder_of(lake).root == "abfss://container@account.dfs.core.windows.net/lake"


def test_googles_jar_must_be_named() -> None:
    with pytest.raises(ConfigError, match="shaded"):
        hadoop(at("gs://bucket/lake"), Storage())
    told = hadoop(at("gs://bucket/lake"), Storage(jars=("/opt/gcs-connector-shaded.jar",)))
    assert told.jars == ("/opt/gcs-connector-shaded.jar",)
    assert told.packages == ()


def test_jars_that_are_there_are_not_fetched() -> None:
    told = hadoop(at("s3://bucket/lake"), Storage(jars=()))
    assert (told.packages, told.jars) == ((), ())


@pytest.mark.parametrize(
    "name",
    [
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.s3a.access.key",
        "spark.hadoop.fs.s3a.session.token",
        "spark.hadoop.fs.azure.account.key.account.dfs.core.windows.net",
        "spark.hadoop.fs.azure.sas.fixed.token.account",
        "spark.hadoop.fs.gs.auth.service.account.private.key",
        "spark.executorEnv.AWS_SECRET_ACCESS_KEY",
    ],
)
def test_spark_shows_no_secret(name: str) -> None:
    assert re.search(REDACTED, name)


def test_an_error_of_a_store_is_told_on_one_line_without_what_signs_it() -> None:
    told = plain(OSError("a\n \x1b[31m↳\x1b[0m GET https://x/y?sv=1&sig=abc%2F&x=1\n"))
    assert told == "a GET https://x/y?sv=...&sig=...&x=1"


def test_a_bucket_that_is_not_there_and_a_closed_door_are_told_apart() -> None:
    folder = folder_of("s3://bucket/lake")
    assert isinstance(folder, StoreFolder)
    for text, problem in {
        "AWS Error NO_SUCH_BUCKET during X": "there is no such bucket",
        "AWS Error ACCESS_DENIED during X": "does not let us in",
        "server returned 403 Forbidden": "does not let us in",
        "Connection refused": "does not answer",
    }.items():
        assert problem in folder.fault(OSError(text)).problem
