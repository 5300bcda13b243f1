"""The examples for clusters: their commands are ours, and run here as SLURM and Kubernetes would run them.

What the programs of a cluster do is played by small scripts: `srun` begins a process for every task, `scontrol` notes
what it is asked, and `fdif` notes its words, or runs with options that make it small.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from fdif_jax.scripts import cli
from fdif_jax.scripts.generate import _parse_shard
from fdif_jax.training.processes import free_port
from fdif_jax.training.runs import load_run
from tests.helpers.paths import DOCS
from tests.helpers.trees import tree

EXAMPLES = DOCS / "examples/cluster"
PAGE = (DOCS / "scale.md").read_text()
SRUN = """
while [[ $1 == --* ]]; do shift; done
status=0 tasks=()
for ((i = 0; i < SLURM_NTASKS; i++)); do
  SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NODELIST=localhost "$@" & tasks+=($!)
done
for task in "${tasks[@]}"; do
  wait "$task" || { code=$?; [ "$code" -le "$status" ] || status=$code; }
done
exit "$status"
"""
SCENES = "--grid 8 8 8 --primitives sphere --sdf-mappers inverse_cube --displacement-functions none"
SCENES += " --min-objects 1 --max-objects 2"
SMALL = {
    "generate": f"{SCENES} --num-samples 5 --workers 1",
    "pretrain": f"{SCENES} --network resenc_unet --size features=[2,4] blocks=1 --dtype float32 --batch-size 4"
    " --steps 60 --warmup 2 --lr 1e-2 --val-every 0 --checkpoint-every 5 --max-loss 1000",
}


def slurm_options(name):
    """What a script asks SLURM for."""
    text = (EXAMPLES / name).read_text()
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", text, re.MULTILINE))


def documents(name):
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def container_of(job):
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return container


class Cluster:
    """A folder with the commands of a cluster, in which scripts run."""

    def __init__(self, folder, small):
        self.folder, self.env = folder, os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        (folder / "bin").mkdir(parents=True)
        note = 'printf "%s\\0" "$@" > "$0.$$"'
        run = (
            f"{note}\ncase $1 in\n"
            + "".join(f"{name}) more=({options}) ;;\n" for name, options in SMALL.items())
            + f'esac\nexec {shlex.quote(sys.executable)} -c "from fdif_jax.scripts.cli import main; main()" '
            '"$@" "${more[@]}"'
        )
        for name, text in {"srun": SRUN, "scontrol": note, "fdif": run if small else note}.items():
            path = folder / "bin" / name
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)

    def start(self, *command, **env):
        with open(self.folder / "output.txt", "a") as output:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.env | env, stdout=output, stderr=subprocess.STDOUT
            )

    def script(self, name, small=(), **env):
        """Begin a script, in which words are replaced."""
        text = (EXAMPLES / name).read_text()
        for old, new in dict(small).items():
            assert old in text
            text = text.replace(old, new)
        path = self.folder / name
        path.write_text(text)
        return self.start("bash", str(path), **env)

    def pod(self, job, index, small=()):
        """Begin a pod's container, in whose command words are replaced."""
        *command, line = [*container_of(job)["command"], *container_of(job)["args"]]
        for old, new in dict(small).items():
            assert old in line
            line = line.replace(old, new)
        given = {variable["name"]: variable["value"] for variable in container_of(job)["env"]}
        given.pop("JAX_COMPILATION_CACHE_DIR", None)  # what lies in a volume that is not here
        return self.start(*command, line, JOB_COMPLETION_INDEX=str(index), **given)

    def calls(self, name):
        """The words that a command was given, call by call, and the process that it was."""
        paths = sorted((self.folder / "bin").glob(f"{name}.*"), key=lambda path: path.stat().st_mtime_ns)
        return {int(path.suffix[1:]): path.read_text().split("\0")[:-1] for path in paths}

    def said(self):
        return (self.folder / "output.txt").read_text()


def parsed(words):
    return cli.parsed(words[0], cli.module_of(words[0]), words[1:])


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path, small=False)


@pytest.mark.parametrize("name", ["generate.sbatch", "pretrain.sbatch", "generate.yaml", "pretrain.yaml"])
def test_the_page_shows_the_files(name):
    text = (EXAMPLES / name).read_text()
    assert f'title="{name}"\n{text}```' in PAGE
    if name.endswith(".sbatch"):
        subprocess.run(["bash", "-n", EXAMPLES / name], check=True)


def test_slurm_gives_every_task_of_an_array_its_shard(cluster):
    options = slurm_options("generate.sbatch")
    first, last = map(int, options["array"].split("-"))
    shards = []
    for task in range(first, last + 1):
        env = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_CPUS_PER_TASK": options["cpus-per-task"]}
        assert cluster.script("generate.sbatch", **env).wait() == 0, cluster.said()
    for words in cluster.calls("fdif").values():
        config = parsed(words)
        shards.append(_parse_shard(config.shard))
        assert config.workers == int(options["cpus-per-task"]) and config.num_samples == 1_000_000
    assert sorted(shards) == [(i, last + 1) for i in range(last + 1)]


def test_kubernetes_gives_every_pod_its_shard(cluster):
    (job,) = documents("generate.yaml")
    count = job["spec"]["completions"]
    assert job["spec"]["completionMode"] == "Indexed" and job["spec"]["parallelism"] <= count
    for index in range(count):
        assert cluster.pod(job, index).wait() == 0, cluster.said()
    shards = [_parse_shard(parsed(words).shard) for words in cluster.calls("fdif").values()]
    assert sorted(shards) == [(i, count) for i in range(count)]
    _check_volumes(job, next(iter(cluster.calls("fdif").values())))


def _check_volumes(job, words):
    """What is written lies in a volume that the pod has."""
    pod, config = job["spec"]["template"]["spec"], parsed(words)
    mounts = {mount["name"]: mount["mountPath"] for mount in container_of(job)["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert str(config.out).startswith(f"{mounts['data']}/")
    for variable in container_of(job)["env"]:
        assert variable["value"][0] != "/" or variable["value"].startswith(f"{mounts['data']}/")


def test_slurm_begins_a_process_for_every_gpu(cluster):
    options = slurm_options("pretrain.sbatch")
    tasks = int(options["nodes"]) * int(options["ntasks-per-node"])
    assert options["ntasks-per-node"] == options["gpus-per-node"] and options["signal"].startswith("TERM@")
    env = {"SLURM_NTASKS": str(tasks), "SLURM_CPUS_PER_TASK": "8", "SLURM_JOB_ID": "7"}
    assert cluster.script("pretrain.sbatch", **env).wait() == 0, cluster.said()
    calls = list(cluster.calls("fdif").values())
    assert len(calls) == tasks and not cluster.calls("scontrol")
    config = parsed(calls[0])
    assert config.distributed == "auto" and config.batch_size % tasks == 0
    # What ends otherwise than asked to stop is not begun again.
    (cluster.folder / "bin/fdif").write_text("#!/bin/bash\nexit 2\n")
    assert cluster.script("pretrain.sbatch", **env).wait() == 2 and not cluster.calls("scontrol")
    (cluster.folder / "bin/fdif").write_text("#!/bin/bash\nexit 130\n")
    assert cluster.script("pretrain.sbatch", **env).wait() == 130
    assert list(cluster.calls("scontrol").values()) == [["requeue", "7"]]


def test_kubernetes_tells_every_pod_who_listens(cluster):
    service, job = documents("pretrain.yaml")
    pods, name = job["spec"]["completions"], job["metadata"]["name"]
    assert service["spec"] == {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": {"job-name": name},
    }
    assert job["spec"]["completionMode"] == "Indexed" and job["spec"]["parallelism"] == pods
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"] and pod["restartPolicy"] == "Never"
    for index in range(pods):
        assert cluster.pod(job, index).wait() == 0, cluster.said()
    configs = [parsed(words) for words in cluster.calls("fdif").values()]
    host = f"{name}-0.{pod['subdomain']}"  # what Kubernetes calls the pod of index 0
    assert [c.distributed for c in configs] == [f"{host}:9876,{i}/{pods}" for i in range(pods)]
    gpus = container_of(job)["resources"]["limits"]["nvidia.com/gpu"]
    assert configs[0].batch_size % (pods * gpus) == 0
    _check_volumes(job, next(iter(cluster.calls("fdif").values())))
    ignored = [rule.get("onExitCodes", {}).get("values") for rule in job["spec"]["podFailurePolicy"]["rules"]]
    assert [130] in ignored


@pytest.mark.slow("processes that compile")
def test_tasks_and_pods_write_the_bytes_of_one_call(tmp_path):
    cluster = Cluster(tmp_path, small=True)
    same = {"XLA_FLAGS": "--xla_cpu_max_isa=AVX2"}  # as the examples have it
    whole = cluster.start("fdif", "generate", "--recipe", "fdif", "--seed", "0", "--out", "whole", **same)
    assert whole.wait() == 0, cluster.said()
    env = {"SLURM_CPUS_PER_TASK": "1"}
    tasks = [
        cluster.script("generate.sbatch", {"shards=8": "shards=2"}, SLURM_ARRAY_TASK_ID=str(i), **env)
        for i in range(2)
    ]
    assert [task.wait() for task in tasks] == [0, 0], cluster.said()
    assert tree(tmp_path / "data/fdif") == tree(tmp_path / "whole")
    (job,) = documents("generate.yaml")
    small = {"INDEX/8": "INDEX/2", "/data/fdif": "pods"}
    pods = [cluster.pod(job, i, small) for i in range(2)]
    assert [pod.wait() for pod in pods] == [0, 0], cluster.said()
    assert tree(tmp_path / "pods") == tree(tmp_path / "whole")


def wait_for_step(run, step, processes):
    path, end = run / "metrics.jsonl", time.monotonic() + 500
    while not (path.exists() and f'"step": {step},' in path.read_text()):
        assert time.monotonic() < end and all(process.poll() is None for process in processes)
        time.sleep(0.05)


@pytest.mark.slow("five processes that compile a training")
def test_a_job_that_is_asked_to_stop_goes_on_and_ends_as_one_process_of_two_devices(tmp_path):
    cluster = Cluster(tmp_path, small=True)
    job = str(free_port())  # from which JAX takes its port
    env = {"SLURM_NTASKS": "2", "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": job}
    batch = cluster.script("pretrain.sbatch", **env)
    wait_for_step(tmp_path / "runs/resencl", 20, [batch])
    for task in cluster.calls("fdif"):
        os.kill(task, signal.SIGTERM)
    assert batch.wait() == 130, cluster.said()
    assert list(cluster.calls("scontrol").values()) == [["requeue", job]]
    stopped = load_run(tmp_path / "runs/resencl").history[-1]["step"]
    assert 20 <= stopped < 60
    assert cluster.script("pretrain.sbatch", **env).wait() == 0, cluster.said()
    one = cluster.start("fdif", "pretrain", "--preset", "fdif-resencl", "--out", "one", "--devices", "2")
    assert one.wait() == 0, cluster.said()
    runs = [load_run(tmp_path / name) for name in ("runs/resencl", "one")]
    losses = [{m["step"]: m["loss"] for m in run.history if m["step"] % 10 == 0} for run in runs]
    assert list(losses[0]) == list(losses[1]) == [10, 20, 30, 40, 50, 60]
    np.testing.assert_allclose(list(losses[0].values()), list(losses[1].values()), rtol=1e-4)
    ours, theirs = (run.weights() for run in runs)
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.slow("four processes that compile a training")
def test_pods_of_which_one_is_killed_end_and_go_on(tmp_path):
    cluster = Cluster(tmp_path, small=True)
    _, job = documents("pretrain.yaml")
    small = {"fdif-pretrain-0.fdif-pretrain:9876": f"localhost:{free_port()}", "/data/runs/resencl": "run"}
    pods = [cluster.pod(job, index, small) for index in range(2)]
    wait_for_step(tmp_path / "run", 20, pods)
    killed = next(pid for pid, words in cluster.calls("fdif").items() if "1/2" in " ".join(words))
    assert killed == pods[1].pid  # a container's command is the process that is asked to stop
    pods[1].kill()
    assert pods[0].wait(timeout=200) not in (0, 130), cluster.said()
    assert load_run(tmp_path / "run").history[-1]["step"] < 60
    pods = [cluster.pod(job, index, small) for index in range(2)]
    assert [pod.wait() for pod in pods] == [0, 0], cluster.said()
    run = load_run(tmp_path / "run")
    assert [m["step"] for m in run.history if m["step"] % 10 == 0] == [10, 20, 30, 40, 50, 60]
    assert all(np.isfinite(array).all() for array in run.weights().values())
