"""Many devices and processes: the same losses as one, whatever is divided; run in processes of their own.

The runs have a curriculum, so that the samples themselves follow what all devices have learnt.
"""

import json
import os
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from fdif_jax.errors import FdifError
from fdif_jax.training.devices import Devices, local_devices
from fdif_jax.training.processes import join_processes, lost_process, processes_here
from fdif_jax.training.runs import load_run
from tests.helpers.paths import ROOT

# Trains the small stand-in of helpers/training on so many devices, perhaps as one of several processes.
TRAIN = """
import json, sys
sys.path.insert(0, {root!r})
from fdif_jax.training import devices, processes
each, shard, how, path, steps = json.loads(sys.argv[1])
devices.divide_cpu(each)
if how:
    processes.join_processes(how)
from fdif_jax.training.loop import fit
from fdif_jax.objectives.losses import dice_cross_entropy
from fdif_jax.training.plan import TrainingPlan
from fdif_jax.training.runs import open_run
from fdif_jax.training.network import functional
from tests.helpers import training as t
import jax
place = devices.Devices(each, shard)
plan = TrainingPlan(steps=24, seed=3, batch_size=16, accumulate=2, learning_rate=1e-2, warmup=2, ema=0.9)
class Stop(Exception): pass
def report(step, _):
    if step == steps: raise Stop
network = functional(t.Noisy(features=64))
with open_run(path, t.DOCUMENT) as run:
    try:
        fit(network, t.BOXES, None, plan, run, loss=dice_cross_entropy, devices=place, checkpoint_every=8,
              course=t.COURSE, log_every=1, report=report, validate=t.Validation(network.apply), validate_every=12)
    except Stop:
        pass
print(place.count, jax.process_count())
"""


def _start(path, each, *, shard=False, how=None, steps=24):
    script = TRAIN.format(root=str(ROOT))
    options = json.dumps([each, shard, how, os.fspath(path), steps])
    return subprocess.Popen(
        [sys.executable, "-c", script, options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _train(path, each, **options):
    process = _start(path, each, **options)
    out, err = process.communicate()
    assert process.returncode == 0, err[-2000:]
    assert out.split()[-2] == str(max(each, 1))
    return path


def _losses(path):
    return np.array([m["loss"] for m in load_run(path).history])


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    return _train(tmp_path_factory.mktemp("devices") / "one", 1)


def _same_run(path, other, rtol=2e-4):
    np.testing.assert_allclose(_losses(path), _losses(other), rtol=rtol)
    ours, theirs = load_run(path).weights(), load_run(other).weights()
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-2, atol=2e-3, err_msg=name)
    dice = [[m["dice"] for m in load_run(p).history if "dice" in m] for p in (path, other)]
    assert len(dice[1]) == 2
    known = [[m["competence"] for m in load_run(p).history] for p in (path, other)]
    assert known[1][-1] > known[1][0]
    np.testing.assert_allclose(*known, rtol=1e-3)
    np.testing.assert_allclose(*dice, atol=0.03)


@pytest.mark.slow("processes that compile a training each")
def test_eight_devices_have_the_loss_curve_of_one(tmp_path, one_device):
    _same_run(_train(tmp_path / "run", 8, shard=True), one_device)


@pytest.mark.slow("two processes more; eight devices are above")
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, one_device):
    _train(tmp_path / "run", 4, shard=True, steps=17)
    assert len(_losses(tmp_path / "run")) == 17
    _same_run(_train(tmp_path / "run", 2), one_device)


@pytest.mark.slow("two processes more; eight devices are above")
def test_two_processes_equal_one(tmp_path, one_device):
    processes = [_start(tmp_path / "run", 2, shard=True, how=how) for how in processes_here(2)]
    for process in processes:
        out, err = process.communicate()
        assert process.returncode == 0, err[-2000:]
        assert out.split()[-2:] == ["4", "2"]
    _same_run(tmp_path / "run", one_device)


def test_large_arrays_are_divided_along_their_longest_axis_and_small_ones_copied():
    class Four(Devices):
        count = 4

    spec = lambda *shape: Four(shard_weights=True).sharding(jnp.zeros(shape)).spec  # noqa: E731
    assert tuple(spec(3, 3, 3, 64, 128)) == (None, None, None, None, "data")
    assert tuple(spec(512, 101)) == ("data", None)
    assert tuple(spec(101, 103, 7)) == () and tuple(spec(64)) == ()
    assert tuple(Four().sharding(jnp.zeros((512, 512))).spec) == ()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("node0", "must be auto"),
        ("node0:1,2", "must be auto"),
        ("node0:1,2/2", "below 2"),
    ],
)
def test_processes_that_cannot_be_joined_are_refused(how, message):
    with pytest.raises(FdifError, match=message):
        join_processes(how)


def test_processes_that_do_not_find_each_other_are_told_why(monkeypatch):
    def no_cluster(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", no_cluster)
    with pytest.raises(FdifError, match=r"auto: .* no cluster here says who is who"):
        join_processes("auto")
    monkeypatch.setattr("fdif_jax.training.processes._WAIT_SECONDS", 0.1)
    with socket.socket() as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        with pytest.raises(FdifError, match=rf"port {port} cannot be listened at: .*in use"):
            join_processes(f"localhost:{port},0/2")
        with pytest.raises(FdifError, match=rf"process 0 does not listen at localhost:{port}: .*refused"):
            join_processes(f"localhost:{port},1/2")


def test_a_port_of_a_run_that_has_just_ended_is_free(monkeypatch):
    """Its connections are kept by the system for a minute, which is no reason to refuse the same command."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("localhost", 0))
        listener.listen()
        port = listener.getsockname()[1]
        client = socket.create_connection(("localhost", port))
        accepted, _ = listener.accept()
        accepted.close()  # the side that closes first keeps the connection
        client.close()
    with socket.socket() as plain, pytest.raises(OSError):
        plain.bind(("", port))
    joined = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **where: joined.append(where))
    join_processes(f"localhost:{port},0/2")
    assert len(joined) == 1


def test_devices_that_are_not_there_are_refused_and_so_is_a_batch_that_they_cannot_share():
    with pytest.raises(FdifError, match="--devices 99: there "):
        local_devices(99)
    with pytest.raises(FdifError, match="must be 0"):
        local_devices(-1)

    class Eight(Devices):
        count = 8

    Eight().check_batch(16, 2)
    with pytest.raises(FdifError, match=r"a batch of 12 cannot be divided over 8 devices; give 16"):
        Eight().check_batch(12)


def test_a_name_that_is_not_there_yet_is_waited_for(monkeypatch, capsys):
    """As Kubernetes knows the name of a pod only once it runs."""
    tried = []

    def connect(address, **_):
        tried.append(address)
        if len(tried) < 3:
            raise socket.gaierror(-2, "Name or service not known")
        return socket.socket()

    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("time.sleep", lambda _: None)
    joined = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda **where: joined.update(where))
    join_processes("job-0.service:9876,1/2")
    assert tried == [("job-0.service", 9876)] * 3
    assert joined == {"coordinator_address": "job-0.service:9876", "num_processes": 2, "process_id": 1}
    told = capsys.readouterr().err
    assert told == "waiting for process 0 at job-0.service:9876: [Errno -2] Name or service not known\n"


def test_what_an_exchange_says_of_a_process_that_has_ended_is_told_in_a_line(monkeypatch):
    error = RuntimeError("UNKNOWN: Gloo AllReduce failed: Connection closed by peer [10.0.0.2]:77\nmore")
    assert lost_process(error) is None  # nobody trains with this process
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    told = lost_process(error)
    assert "another process of this training has ended" in told and "[10.0.0.2]:77)" in told
    assert "more" not in told and lost_process(RuntimeError("shapes differ")) is None


@pytest.mark.slow("two processes that compile nothing, but begin")
def test_a_process_that_fails_does_not_wait_for_the_others():
    """JAX has a process wait at its end until all others end, too; they were to wait for what this one never does."""
    script = (
        "import sys, time\nfrom fdif_jax.training import processes\n"
        "processes.join_processes(sys.argv[1])\n"
        "if sys.argv[1].endswith('1/2'):\n    print('gone')\n    processes.leave_others(2)\n"
        "time.sleep(500)\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", script, how], stdout=subprocess.PIPE)
        for how in processes_here(2)
    ]
    out, _ = started[1].communicate(timeout=100)
    assert started[1].returncode == 2 and out == b"gone\n"
    assert started[0].wait(timeout=200) not in (0, None)  # told by JAX, which has not heard of it for 100 s
