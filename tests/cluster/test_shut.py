"""What the cluster shows to whom: pages on the loopback, nothing to who lacks the secret."""

from __future__ import annotations

import socket
import subprocess

import pytest

from tests.cluster.conftest import PROJECT, USER, Cluster, inspected, ran, until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(3600)]

SERVICES = ("spark-master", "spark-worker", "history", "mlflow", "scheduler")


def test_every_service_becomes_healthy_and_runs_as_nobody_special(cluster: Cluster) -> None:
    found = {service: cluster.containers(service) for service in SERVICES}
    assert all(found.values()), found
    containers = [each for those in found.values() for each in those]
    until(
        "health of all services",
        lambda: (
            {each for [each] in inspected("{{.State.Health.Status}}", *containers)} == {"healthy"}
        ),
    )
    for container in containers:
        owners = ran("docker", "exec", container, "bash", "-c", "stat -c %u /proc/[0-9]*")
        assert set(owners.split()) == {str(USER)}, container


def test_limits_and_restarts(cluster: Cluster) -> None:
    what = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.RestartPolicy.Name}}"
    for service in SERVICES:
        for memory, cpus, restart in inspected(what, *cluster.containers(service)):
            assert int(memory) > 0, service
            assert int(cpus) > 0, service
            assert restart == "unless-stopped", service


def test_pages_are_published_on_the_loopback_only(cluster: Cluster) -> None:
    gateway = ran(
        "docker", "network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}",
        f"{PROJECT}_default",
    )  # fmt: skip
    for port in cluster.ports.values():
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((gateway, port), timeout=60)
    what = "{{range .HostConfig.PortBindings}}{{range .}}{{.HostIp}} {{end}}{{end}}"
    bound = [
        ip for each in SERVICES for ips in inspected(what, *cluster.containers(each)) for ip in ips
    ]
    assert bound == ["127.0.0.1"] * len(cluster.ports)


def test_jobs_are_not_taken_over_http(cluster: Cluster) -> None:
    [worker, _] = cluster.containers("spark-worker")

    def opens(port: int) -> bool:
        there = f"exec 3<>/dev/tcp/spark-master/{port}"
        tried = subprocess.run(
            ["docker", "exec", worker, "bash", "-c", there], capture_output=True, check=False
        )
        return tried.returncode == 0

    assert opens(7077)
    assert not opens(6066)


@pytest.mark.parametrize(
    "lie", ["spark.authenticate=false", "spark.authenticate.secret=a-guess-of-somebody-else"]
)
def test_who_does_not_know_the_secret_is_refused(cluster: Cluster, lie: str) -> None:
    before = cluster.applications()
    tried = cluster.submit("spark-submit", "--conf", lie, "jobs/report.py", "/lake/idle.yaml")
    code, out, err = tried.finish()
    assert code != 0, out
    # Where spark-submit puts all that Python says.
    assert "lakestorm: EnvironmentFault: Spark" in out, out[-5000:] + err[-5000:]
    assert cluster.applications() == before


def test_the_secret_is_told_to_nobody(cluster: Cluster) -> None:
    """While a job runs: not on a command line, in a container's settings, a log or a page."""
    [master] = cluster.containers("spark-master")
    secret = ran("docker", "exec", master, "cat", "/secret/spark")
    assert len(secret) > 30
    cluster.new_lake("watched")
    job = cluster.start("clean", "watched")
    until("a task of a job", lambda: job.ended() or cluster.busy_worker())
    told = [ran("ps", "-ewwo", "args"), *cluster.environment_pages()]
    containers = ran("docker", "ps", "-aq", "--filter", f"name={PROJECT}").split()
    told += [ran("docker", "inspect", *containers)]
    job.summary()
    for container in containers:
        logs = subprocess.run(
            ["docker", "logs", container], capture_output=True, text=True, check=False
        )
        told.append(logs.stdout + logs.stderr)
    assert "spark.authenticate.secret" in "".join(told)  # by its name, on the pages
    assert not [text for text in told if secret in text]


def test_workers_are_as_many_as_asked_for(cluster: Cluster) -> None:
    up = ("up", "--detach", "--no-build", "--no-recreate")
    cluster.compose(*up, WORKERS="3")
    until("three workers", lambda: cluster.workers() == 3)
    cluster.compose(*up)
    until("two workers", lambda: cluster.workers() == 2)
