"""Pages of docs/ run as they are printed: in this process, as most of a command's time is Python
starting, or in a shell.

Sizes are made small by replacing a few words of a page, each of which must be there.
"""

import re
import shlex
import subprocess
from collections.abc import Mapping
from glob import glob
from pathlib import Path

import pytest

from fdif_jax.scripts import browse, cli
from tests.helpers.paths import DOCS

_BLOCK = re.compile(r'^```(\w*)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks(page):
    """Language and file name (each may be empty) and text of a page's blocks."""
    return _BLOCK.findall(page)


def check_said(text, said):
    """Every line of ``text`` was said, whatever its numbers."""
    said = " ".join(said.split())
    for line in text.splitlines():
        pattern = re.sub(r"\d+(?:\\?[.,]\d+)*", r"[\\d.,]+", re.escape(" ".join(line.split())))
        assert re.search(pattern, said), f"{line!r} is not said by\n{said}"


def _run(command, arguments):
    """Run a command; one that serves until it is interrupted is interrupted at once, and takes any port."""
    if command != "browse":
        cli.run(command, arguments)
        return

    def interrupted(server, *_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(browse._Server, "serve_forever", interrupted)
        patch.setattr(browse.webbrowser, "open", lambda url: True)
        cli.run(command, [*arguments, "--port", "0"])


def run_here(name, small: Mapping[str, str], capsys):
    """Run a page in the current folder: write its files, run its `sh` and `python`, compare what the `text` shows.

    Returns the names that its Python made.
    """
    page = (DOCS / name).read_text()
    for old, new in small.items():
        assert old in page, f"{name} does not say {old}"
        page = page.replace(old, new)
    names: dict = {}
    said = ""
    for language, file, code in blocks(page):
        if file:
            Path(file).write_text(code)
        elif language == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                words = [
                    found
                    for word in shlex.split(line, comments=True)
                    for found in sorted(glob(word)) or [word]
                ]
                assert words[0] == "fdif", f"{name}: a block with {words[0]} goes to run_page"
                _run(words[1], words[2:])
            said = capsys.readouterr().out
        elif language == "python":
            exec(compile(code, name, "exec"), names)
        elif language == "text":
            check_said(code, said)
    return names


def run_page(
    name: str,
    folder: Path,
    env: Mapping[str, str],
    replacements: Mapping[str, str],
    after: Mapping[int, str] | None = None,
) -> None:
    """Run the page's blocks in ``folder``; ``after`` has further commands, by the number of the block they follow."""
    page = (DOCS / name).read_text()
    for old, new in replacements.items():
        assert old in page, f"{name} does not say {old}"
        page = page.replace(old, new)
    found = re.findall(r"```sh\n(.*?)```(?:(?:(?!```).)*?\n```text\n(.*?)```)?", page, re.DOTALL)
    assert len(found) == page.count("```sh\n") and sum(bool(text) for _, text in found) == page.count(
        "```text"
    )
    end = "=== end of a block ==="
    script = "\n".join(
        f"{code}{(after or {}).get(number, '')}\necho '{end}'" for number, (code, _) in enumerate(found, 1)
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    said = done.stdout.split(end)
    for (_, text), output in zip(found, said, strict=False):
        check_said(text, output)
