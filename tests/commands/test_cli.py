"""The command line: every command explains itself, and errors are one line with exit status 2."""

import dataclasses
import importlib
import re
import sys
import typing
from collections.abc import Iterator

import pytest

from fdif_jax.scripts import cli


def forms() -> Iterator[tuple[str, type]]:
    """Every command, where it has subcommands each of those, with its options."""
    for command in cli.COMMANDS:
        config = cli.module_of(command).Config
        if dataclasses.is_dataclass(config):
            yield command, config
        for form in typing.get_args(config):
            yield f"{command} {form.__metadata__[0].name}", form.__origin__


@pytest.mark.parametrize(("command", "config"), list(forms()))
def test_help_shows_an_example_and_explains_every_option(command, config, capsys):
    with pytest.raises(SystemExit) as done:
        cli.run(command.split()[0], [*command.split()[1:], "--help"])
    text = capsys.readouterr().out
    assert done.value.code == 0 and f"fdif {command}" in text.split("Example:")[1]
    for field in dataclasses.fields(config):
        kind = str(field.type)
        if "Positional" not in kind and "Suppress" not in kind:
            named = re.search(r"name='(\w+)'", kind)
            option = (named[1] if named else field.name).replace("_", "-")
            # What a preset has switched on can only be switched off.
            assert f"--{option}" in text or f"--no-{option}" in text, field.name


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generat"], "did you mean 'generate'"),
        (["generate", "--recipe", "fdiff"], "did you mean 'fdif'"),
        (["generate", "--multi-task"], "multi_task excludes"),
        (["render", "none.json"], "none.json does not exist"),
        (["bench", "render", "--runs", "0"], "--runs must be at least 1"),
        (["bench", "networks", "--batch-size", "0"], "--batch-size must be at least 1"),
        (["bench", "networks", "--networks", "vnett"], "did you mean 'vnet'"),
        (["pretrain", "--out", "x", "--val-samples", "0"], "val"),
        (["export", "nowhere", "--out", "w.pth"], "not a run directory"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "keep_memory", lambda: None)  # this process is not the command's
    monkeypatch.setattr(sys, "argv", ["fdif", *arguments])
    with pytest.raises(SystemExit) as done:
        cli.main()
    error = capsys.readouterr().err.strip()
    assert done.value.code == 2
    assert says in error and "\n" not in error and "Traceback" not in error
    assert not list(tmp_path.iterdir())


def test_interruption_is_said_in_one_line(capsys, monkeypatch):
    module = importlib.import_module("fdif_jax.scripts.render")

    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run", interrupted)
    with pytest.raises(SystemExit) as done:
        cli.run("render", ["scenes.json"])
    assert done.value.code == 130 and capsys.readouterr().err.count("\n") == 1
