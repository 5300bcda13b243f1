"""Print a script by which a shell completes the names of commands and options.

It completes by the Python (python3) that is found where the shell is used. Print it anew after an update.

Example:
    fdif completion bash > ~/.local/share/bash-completion/completions/fdif
    fdif completion zsh > ~/.zfunc/_fdif
"""

import contextlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import Positional

from fdif_jax.errors import FdifError
from fdif_jax.scripts import cli


@dataclass(frozen=True)
class Config:
    """Options of ``fdif completion``."""

    shell: Positional[Literal["bash", "zsh"]]
    """Whose script to print: that of bash or zsh."""


def run(config: Config) -> None:
    """Print the script; commands whose libraries are not installed are not completed."""
    forms: list[Any] = []
    for name, summary in cli.COMMANDS.items():
        with contextlib.suppress(FdifError):
            form = cli.module_of(name).Config
            forms.append(Annotated[form, tyro.conf.subcommand(name, description=summary)])
    every: Any = Union[tuple(forms)]  # noqa: UP007  # of a list that is computed
    with contextlib.suppress(SystemExit):  # by which tyro ends once it has printed
        tyro.cli(every, prog="fdif", args=["--tyro-print-completion", config.shell])


if __name__ == "__main__":
    cli.run("completion")
