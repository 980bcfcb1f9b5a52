"""One section of the YAML as what each engine is told: Spark's Hadoop, delta-rs, Arrow.

None of it is a secret. Each engine finds credentials by itself, in the environment of its process
or by the machine's role; where Hadoop cannot, its settings name the variable, and each process puts
its own value in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

from pipeline.address import Address
from pipeline.config import Storage
from pipeline.errors import ConfigError

# What Spark shows of its settings, in pages and logs, is blank where a name or a value fits this:
# its own default, and what it lacks for Azure and Google.
REDACTED = (
    r"(?i)secret|password|token|access[.]?key|account[.]?key|sas[.]fixed|credential|private[.]?key"
)
_PROVIDERS = (
    # What Spark takes from the driver's environment and hands to executors.
    "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider",
    "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
    # The environment, a web identity, a profile, the role of the container or the machine.
    "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
)
_OAUTH = "org.apache.hadoop.fs.azurebfs.oauth2"


@dataclass(frozen=True, kw_only=True)
class Hadoop:
    """What Spark is told of a store."""

    filesystem: str
    """Class that reads and writes it; not among Spark's own."""
    packages: tuple[str, ...] = ()
    """Maven coordinates that bring the class."""
    jars: tuple[str, ...] = ()
    """Paths of jars that do."""
    settings: Mapping[str, str] = field(default_factory=dict)


def hadoop(address: Address, storage: Storage) -> Hadoop:
    """Spark's settings and jars for a store.

    Raises:
        ConfigError: There is no jar that fits by itself.
    """
    classes = {
        "s3": "org.apache.hadoop.fs.s3a.S3AFileSystem",
        "abfss": "org.apache.hadoop.fs.azurebfs.SecureAzureBlobFileSystem",
        "gs": "com.google.cloud.hadoop.fs.gcs.GoogleHadoopFileSystem",
    }
    told = {
        "s3": lambda: _s3a(address, storage),
        "abfss": lambda: _abfs(address.bucket.partition("@")[2], os.environ),
        "gs": lambda: {
            "fs.gs.impl": classes["gs"],
            "fs.gs.auth.type": "APPLICATION_DEFAULT",
        },
    }[address.scheme]()
    wanted = _own_jars(address) if storage.jars is None else storage.jars
    return Hadoop(
        filesystem=classes[address.scheme],
        packages=tuple(each for each in wanted if _is_coordinate(each)),
        jars=tuple(each for each in wanted if not _is_coordinate(each)),
        settings={f"spark.hadoop.{name}": value for name, value in told.items()},
    )


def delta_options(address: Address, storage: Storage) -> dict[str, str]:
    """Options of delta-rs for a store."""
    if address.scheme != "s3":
        return {}
    # The commit: a file of the log is put only if there is none of its name.
    options = {"aws_conditional_put": "etag"}
    endpoint, region = s3_endpoint(storage), s3_region(storage)
    if endpoint:
        options["aws_endpoint"] = endpoint
        options["aws_allow_http"] = str(endpoint.startswith("http:")).lower()
        options["aws_virtual_hosted_style_request"] = "false"
    if region:
        options["aws_region"] = region
    return options


def query(address: Address, storage: Storage) -> str:
    """What is appended to the URI of an object, for `reading` and for whoever it is handed to."""
    given = {"endpoint_override": storage.endpoint, "region": storage.region}
    known = {name: value for name, value in given.items() if value is not None}
    return f"?{urlencode(known)}" if known and address.scheme == "s3" else ""


def s3_endpoint(storage: Storage) -> str | None:
    """Where S3 is, if not at Amazon's."""
    named = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return storage.endpoint or named or None


def s3_region(storage: Storage) -> str | None:
    """The bucket's region, if it was named; a store that is not Amazon's has the first of all."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return storage.region or named or ("us-east-1" if s3_endpoint(storage) else None)


def hadoop_version() -> str:
    """The version of the Hadoop client that comes with pyspark."""
    spark = find_spec("pyspark")
    places = spark.submodule_search_locations if spark else None
    found = [
        path.stem
        for place in places or ()
        for path in Path(place, "jars").glob("hadoop-client-api-*.jar")
    ]
    if not found:
        raise ConfigError(
            "storage.jars",
            "is missing, and pyspark comes without Hadoop here, so no version is known",
            "Name the connector's jar, or an empty list where Spark has it.",
        )
    return found[0].removeprefix("hadoop-client-api-")


def _s3a(address: Address, storage: Storage) -> dict[str, str]:
    told = {
        "fs.s3a.aws.credentials.provider": ",".join(_PROVIDERS),
        # Half a file of a task that was lost must not be taken for a whole one.
        "mapreduce.fileoutputcommitter.algorithm.version": "1",
    }
    bucket = f"fs.s3a.bucket.{address.bucket}"
    endpoint, region = s3_endpoint(storage), s3_region(storage)
    if endpoint:
        told[f"{bucket}.endpoint"] = endpoint
        told[f"{bucket}.path.style.access"] = "true"
        told[f"{bucket}.connection.ssl.enabled"] = str(endpoint.startswith("https:")).lower()
    if region:
        told[f"{bucket}.endpoint.region"] = region
    return told


def _abfs(account: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Whichever of its four ways of signing in the environment has; else the machine's role."""
    if environment.get("AZURE_STORAGE_ACCOUNT_KEY"):
        return {
            f"fs.azure.account.auth.type.{account}": "SharedKey",
            f"fs.azure.account.key.{account}": "${env.AZURE_STORAGE_ACCOUNT_KEY}",
        }
    if environment.get("AZURE_STORAGE_SAS_TOKEN"):
        return {
            f"fs.azure.account.auth.type.{account}": "SAS",
            f"fs.azure.sas.fixed.token.{account}": "${env.AZURE_STORAGE_SAS_TOKEN}",
        }
    oauth = {f"fs.azure.account.auth.type.{account}": "OAuth"}
    provider = f"fs.azure.account.oauth.provider.type.{account}"
    if not environment.get("AZURE_STORAGE_CLIENT_SECRET"):
        return oauth | {provider: f"{_OAUTH}.MsiTokenProvider"}
    client = "fs.azure.account.oauth2.client"
    tenant = environment.get("AZURE_STORAGE_TENANT_ID", "")
    return oauth | {
        provider: f"{_OAUTH}.ClientCredsTokenProvider",
        f"{client}.id.{account}": "${env.AZURE_STORAGE_CLIENT_ID}",
        f"{client}.secret.{account}": "${env.AZURE_STORAGE_CLIENT_SECRET}",
        f"{client}.endpoint.{account}": f"https://login.microsoftonline.com/{tenant}/oauth2/token",
    }


def _own_jars(address: Address) -> tuple[str, ...]:
    if address.scheme == "gs":
        raise ConfigError(
            "storage.jars",
            "is missing: of Google's connector only the shaded jar goes with Spark, and Maven "
            "coordinates cannot name that one",
            "Give the path of gcs-connector-...-shaded.jar, or an empty list where Spark has it.",
        )
    artifact = {"s3": "hadoop-aws", "abfss": "hadoop-azure"}[address.scheme]
    return (f"org.apache.hadoop:{artifact}:{hadoop_version()}",)


def _is_coordinate(jar: str) -> bool:
    return jar.count(":") == 2 and "/" not in jar
