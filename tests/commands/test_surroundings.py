"""Whatever is around a command: it works, or says in one line what is wrong, with exit status 2."""

import errno
import importlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import platformdirs
import pytest

from fdif_jax.errors import FdifError
from fdif_jax.io.files import check_out, write_atomic, write_csv
from fdif_jax.io.nifti import write_nifti
from fdif_jax.scripts import cli
from fdif_jax.scripts.console import surroundings

LONG = "x" * 300


def error_of(capsys, command, *arguments):
    with pytest.raises(SystemExit) as done:
        cli.run(command, list(map(str, arguments)))
    told = capsys.readouterr().err.strip()
    assert done.value.code == 2 and "\n" not in told and told.startswith(f"fdif {command}: error: ")
    return told.removeprefix(f"fdif {command}: error: ")


@pytest.fixture
def folders(tmp_path):
    for name in ("predictions", "labels"):
        (tmp_path / name).mkdir()
        label = np.zeros((6, 6, 6), np.uint8)
        label[1:4, 1:4, 1:4] = 1
        write_nifti(tmp_path / name / "a.nii.gz", label)
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "names.json").write_text('{"1": "organ"}')
    return tmp_path


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("evaluate", "predictions labels --out labels", "labels: is a folder; give the name of a file"),
        ("evaluate", "predictions labels --out file/scores.csv", "scores.csv: cannot be written: "),
        ("evaluate", f"predictions labels --out {LONG}.csv", "File name too long"),
        ("evaluate", f"predictions labels --out labels/{LONG}/scores.csv", "File name too long"),
        ("like", "labels --out labels", "labels: is a folder"),
        ("bank", "build labels/a.nii.gz --names names.json --out folder.npz", "folder.npz: is a folder"),
        ("export", "nowhere --out folder.pth", "folder.pth: is a folder"),
        ("fit-family", "a b --shape ball --out folder.py", "folder.py: is a folder"),
        ("finetune", "nowhere --init scratch --out file", "file: is a file; give the name of a folder"),
        ("generate", f"--out {LONG}", "File name too long"),
        ("pretrain", f"--out {LONG}", "File name too long"),
        ("predict", f"--model a --input b --out {LONG}", "File name too long"),
        ("gallery", f"--out {LONG}", "File name too long"),
    ],
)
def test_where_nothing_can_be_written_is_told_before_any_work(
    folders, command, arguments, says, capsys, monkeypatch
):
    monkeypatch.chdir(folders)
    before = sorted(folders.rglob("*"))
    assert says in error_of(capsys, command, *arguments.split())
    assert sorted(folders.rglob("*")) == before


def test_a_folder_that_takes_no_files_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(FdifError, match="takes no files"):
        check_out(tmp_path / "new" / "scores.csv")
    check_out(tmp_path.parent / "scores.csv")


def test_the_longest_names_can_be_written(tmp_path):
    for name in ("x" * 255, "ü" * 127):
        write_atomic(tmp_path / name, b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"
    name = os.fsdecode(b"scan_\xff")  # no text, but a file's name
    write_csv(tmp_path / "scores.csv", [["case"], [name]])
    assert (tmp_path / "scores.csv").read_bytes() == b"case\nscan_\xff\n"


@pytest.mark.parametrize(
    ("raised", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "cannot write output: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system", "a/b"), "cannot write a/b: Read-only file system"),
        (PermissionError(errno.EACCES, "Permission denied", "scans"), "scans: Permission denied"),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "x: Is a directory"),
        (
            FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
            "No usable temp",
        ),
        (OSError("Matplotlib requires access to a writable cache directory"), "Matplotlib requires access"),
        (MemoryError("Unable to allocate 227. TiB"), "too little memory: Unable to allocate 227. TiB"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"),
            "the device has too little memory: RES",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(raised, says, capsys, monkeypatch):
    def refused(config):
        raise raised

    monkeypatch.setattr(importlib.import_module("fdif_jax.scripts.check"), "run", refused)
    assert error_of(capsys, "check", "mine.py").startswith(says.replace("output", "check"))


def test_a_device_that_is_not_there_is_one_line_and_other_errors_are_not_hidden(capsys, monkeypatch):
    def wrong(config):
        raise AssertionError("a mistake of ours")

    monkeypatch.setattr(importlib.import_module("fdif_jax.scripts.check"), "run", wrong)
    with pytest.raises(AssertionError, match="a mistake of ours"):
        cli.run("check", ["mine.py"])

    def none():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert error_of(capsys, "check", "mine.py").startswith("JAX_PLATFORMS=cuda: JAX has no such device here")


@pytest.mark.parametrize("found", ["none", "~/.cache", "taken"])
def test_a_user_without_a_home_gets_one_for_the_time_of_a_command(found, monkeypatch, tmp_path):
    (tmp_path / "file").write_bytes(b"")

    def user_cache_path(*_, **__):
        if found == "none":
            raise RuntimeError("could not determine the home directory")
        if found == "taken":
            (tmp_path / "file" / "cache").mkdir(parents=True)
        return Path(found)

    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, "nowhere")
    monkeypatch.setattr(platformdirs, "user_cache_path", user_cache_path)
    monkeypatch.setattr(surroundings.atexit, "register", lambda end: ends.append(end))
    ends = []
    surroundings.find_home()
    lent = Path(os.environ["HOME"])
    assert lent.is_dir() and os.environ["XDG_CACHE_HOME"] == str(lent)
    ends[0]()
    assert not lent.exists()


@pytest.mark.slow("a process with an empty cache, in which Matplotlib looks for fonts")
def test_a_command_whose_reader_goes_ends_its_work(folders):
    """As to `head`; its streams are of ASCII, its terminal has 20 columns, the home takes no files."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG", "JAX_C"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "fdif_jax.scripts.evaluate", "predictions", "labels", "--out", "scores.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folders,
        env=kept | {"PYTHONIOENCODING": "ascii", "COLUMNS": "20", "HOME": "/proc/nowhere"},
    )
    process.stdout.close()
    assert process.wait() == 0
    assert (folders / "scores.csv").read_text().startswith("case,class,dice")
    assert (folders / "scores_worst/1.png").is_file()


SAYING = f"""
import os, runpy, sys
runpy.run_path({surroundings.__file__!r})["prepare_streams"]()
print("2 \u00d7 3 \u2026", "\\udcff")
if len(sys.argv) > 1:
    open(sys.argv[1], "w").write("x")
    os.write(1, b"none") and os.write(2, b"none")
"""


def test_any_text_can_be_said_in_ascii():
    options = {"env": os.environ | {"PYTHONIOENCODING": "ascii"}, "capture_output": True}
    done = subprocess.run([sys.executable, "-c", SAYING], **options)
    assert done.returncode == 0 and done.stdout == b"2 x 3 ... ?\n" and not done.stderr


def test_no_file_gets_the_number_of_a_stream_that_is_closed(tmp_path):
    begun = ["sh", "-c", '"$0" "$@" <&- >&- 2>&-', sys.executable, "-c", SAYING, str(tmp_path / "file")]
    assert subprocess.run(begun).returncode == 0
    assert (tmp_path / "file").read_bytes() == b"x"


_ALLOCATE = """
import resource, sys, threading
from fdif_jax.scripts.console.memory import keep_memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * 40_000_000
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

found = []
if sys.argv[1] == "kept":
    keep_memory()
for _ in range(2):
    thread = threading.Thread(target=pages)
    thread.start()
    thread.join()
print(found[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_training_command_keeps_the_pages_of_freed_arrays():
    def pages(how):
        done = subprocess.run(
            [sys.executable, "-c", _ALLOCATE, how], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert pages("kept") < 100 < 5000 < pages("given back")
