"""What is said of the package agrees: versions, bounds, constraints, the citation, the image for Docker."""

import fnmatch
import importlib.metadata
import re
import shutil
import subprocess
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import fdif_jax as fd
from fdif_jax.extras import EXTRAS
from tests.helpers.paths import ROOT, TESTS

DOCUMENT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = DOCUMENT["project"]
RELEASE = DOCUMENT["tool"]["setuptools_scm"]["fallback_version"]
OPTIONAL = PROJECT["optional-dependencies"]


def requirements(*lists):
    """By name, what these lists ask for of other packages than this one."""
    found = (Requirement(text) for texts in lists for text in texts)
    return {canonicalize_name(one.name): one for one in found if one.name != PROJECT["name"]}


def exact(path):
    """The versions of a file of ``name==version``."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    pairs = [re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines]
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs)
    return {canonicalize_name(name): version for name, version in pairs}


CORE = requirements(
    PROJECT["dependencies"], *(OPTIONAL[name] for name in ("formats", "pictures", "surfaces", "tensorboard"))
)


def test_the_lowest_versions_are_those_that_the_package_allows():
    lowest, tools = exact(TESTS / "lowest.txt"), requirements(OPTIONAL["test"])
    assert CORE.keys() <= lowest.keys()
    for name, version in lowest.items():
        wanted = (CORE | tools)[name]
        (bound,) = wanted.specifier
        parts, least = version.split("."), bound.version.split(".")
        assert bound.operator == ">=" and parts == least + ["0"] * (len(parts) - len(least)), str(wanted)


def test_the_constraints_hold_all_that_make_installs():
    versions = exact(ROOT / "constraints.txt")
    wanted = requirements(
        PROJECT["dependencies"], *(OPTIONAL[e] for e in OPTIONAL if e not in ("cuda", "torch"))
    )
    for name, requirement in wanted.items():
        if name != "torch":  # the Makefile's TORCH
            assert requirement.specifier.contains(versions[name]), requirement
    makefile = (ROOT / "Makefile").read_text()
    installs = re.findall(r"^\t(.*pip install(?!.*--upgrade pip).*|\$\(INSTALL\).*)$", makefile, re.MULTILINE)
    assert len(installs) >= 5 and all(
        "$(INSTALL)" in line or "-c tests/lowest.txt" in line for line in installs
    )


def test_extras_are_those_that_errors_name():
    assert EXTRAS.keys() <= OPTIONAL.keys()
    (all_,) = OPTIONAL["all"]
    assert Requirement(all_).extras == EXTRAS.keys() - {"torch", "onnx"}


def test_the_citation_is_of_the_last_release_and_names_no_person():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what the format requires
    assert str(citation["version"]) == RELEASE and citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert set(citation["keywords"]) <= set(PROJECT["keywords"])


def test_the_last_release_is_the_newest_tag():
    """Of a checkout with tags ``v1.2.3``; others, and archives without git, have none."""
    git = ["git", "-C", str(ROOT), "tag", "--merged", "HEAD", "--list", "v[0-9]*"]
    tags = subprocess.run(git, capture_output=True, text=True).stdout.split() if shutil.which("git") else []
    assert not tags or max(Version(tag) for tag in tags) == Version(RELEASE)


def test_what_is_installed_says_its_version():
    assert Version(fd.__version__) == Version(importlib.metadata.version("fdif-jax"))
    assert "__version__" in dir(fd)


def instructions(text):
    """Pairs of an instruction of a Dockerfile and its words."""
    joined = re.sub(r"\\\n", " ", text)
    return [line.partition(" ")[::2] for line in joined.splitlines() if line.strip() and line[0] != "#"]


def test_the_image_is_built_from_the_wheel_and_runs_the_doctor():
    found = instructions((ROOT / "Dockerfile").read_text())
    stages = [number for number, (name, _) in enumerate(found) if name == "FROM"]
    assert len(stages) == 2 and found[stages[0]][1].endswith("AS build")
    last = found[stages[1] :]
    assert ("RUN", "fdif doctor") in last and last[-2:] == [("ENTRYPOINT", '["fdif"]'), ("CMD", '["doctor"]')]
    assert last.index(("USER", "fdif")) < last.index(("RUN", "fdif doctor"))
    assert any(words.startswith("--from=build /wheels") for name, words in last if name == "COPY")
    shown = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        source
        for name, words in found
        if name == "COPY" and not words.startswith("--from")
        for source in words.split()[:-1]
    ]
    assert set(copied) == set(shown)
    assert all((ROOT / source).exists() for source in copied)
    folders = {
        line.split("/")[0]
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
            "package-dir"
        ].values()
    }
    assert folders <= set(copied) and not any(fnmatch.fnmatch(".venv", pattern) for pattern in shown)


@pytest.mark.slow("an image is built, where Docker runs")
def test_the_image_builds():
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("Docker does not run here")
    tag = "fdif-jax:test"
    subprocess.run(["docker", "build", "-t", tag, str(ROOT)], check=True)
    try:
        told = subprocess.run(
            ["docker", "run", "--rm", tag], capture_output=True, text=True, check=True
        ).stdout
        assert "ok" in told and "FAILED" not in told
    finally:
        subprocess.run(["docker", "image", "rm", "-f", tag], check=True)
