"""Pages of docs/ run as they are printed, in this process: most of a command's time is Python starting.

Sizes are made small by replacing a few words of a page, each of which must be there.
"""

import re
import shlex
from collections.abc import Mapping
from glob import glob
from pathlib import Path

import pytest

from fdif_jax.scripts import browse, cli

DOCS = Path(__file__).parent.parent / "docs"
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
                assert words[0] == "fdif", f"{name}: a block with {words[0]} goes to test_docs.run_page"
                _run(words[1], words[2:])
            said = capsys.readouterr().out
        elif language == "python":
            exec(compile(code, name, "exec"), names)
        elif language == "text":
            check_said(code, said)
    return names
