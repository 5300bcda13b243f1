"""The documentation site: built strictly, whole in itself, every page reachable and every command of it run."""

import html.parser
import json
import re
import subprocess
import sys
from urllib.parse import unquote, urlsplit

import pytest

from tests.helpers.pages import blocks
from tests.helpers.paths import DOCS, TESTS

ROOT = DOCS.parent
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NOTEBOOKS = sorted(DOCS.glob("examples/*.ipynb"))
# `make docs` puts it there, for it takes longer than all pages together.
GALLERY = "gallery/index.html"


class Links(html.parser.HTMLParser):
    """What a page links to, what it loads, and the places in it that can be linked to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loaded, self.places = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.places |= {given.get("id"), given.get("name")}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next"):
            self.loaded.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loaded.append(given["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site: the page's file → its links."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocs_jupyter")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, {path: Links(path.read_text()) for path in out.rglob("*.html")}


@pytest.mark.slow("the whole site is built")
def test_every_link_within_the_site_leads_somewhere(site):
    out, pages = site
    checked = 0
    for page, found in pages.items():
        if page.name == "404.html":
            continue  # its links are those of a server's root
        for link in (*found.links, *found.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or link.startswith("data:"):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if target == (out / GALLERY).resolve():
                continue
            assert target.is_file(), f"{page.relative_to(out)} links to {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].places, f"{page.relative_to(out)}: {link}"
            checked += 1
    assert checked > 500


@pytest.mark.slow("the whole site is built")
def test_nothing_is_loaded_from_elsewhere(site):
    out, pages = site
    for page, found in pages.items():
        for address in found.loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.relative_to(out)} loads {address}"
        styles = re.findall(r"<style.*?</style>", page.read_text(), re.DOTALL)
        assert not any(re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style) for style in styles)
    for sheet in out.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", sheet.read_text()), sheet.name


@pytest.mark.slow("the whole site is built")
def test_a_browser_asks_nobody_else(site, browser):
    out, _ = site
    page = browser.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    for name in ("index", "algebra", "api/shapes", "examples/author_and_train"):
        page.goto((out / f"{name}.html").as_uri())
        assert page.inner_text("h1")
    assert len(asked) > 10 and complaints == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in asked), asked
    page.close()


@pytest.mark.slow("the whole site is built")
def test_every_page_and_notebook_is_in_the_navigation(site):
    out, pages = site
    front = pages[out / "index.html"]
    reached = {(out / unquote(urlsplit(link).path)).resolve() for link in front.links}
    for name in (*PAGES, *(path.relative_to(DOCS).as_posix() for path in NOTEBOOKS)):
        assert (out / name).with_suffix(".html") in reached, f"{name} is in no navigation"


@pytest.mark.slow("the whole site is built")
def test_the_api_pages_show_what_the_package_exports(site):
    import fdif_jax as fd

    _, pages = site
    shown = set().union(*(found.places for page, found in pages.items() if page.parent.name == "api"))
    for name in fd.__all__:
        thing = getattr(fd, name)
        assert f"{thing.__module__}.{thing.__qualname__}" in shown, f"the API pages lack {name}"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_with_commands_is_run_by_a_test(name):
    text = (DOCS / name).read_text()
    for language, _, block in blocks(text):
        assert language or not re.match("(fdif|python|pip|make) ", block), (
            f"{name}: not marked as sh:\n{block}"
        )
    if any(language in ("sh", "python") for language, _, _ in blocks(text)):
        tests = "".join(path.read_text() for path in TESTS.rglob("test_*.py"))
        assert re.search(rf"(run_page|run_here)\(\s*\"{name}\"|(DOCS|\"docs\") / \"{name}\"", tests), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_committed_as_they_ran(path):
    assert path.stat().st_size < 500_000
    text = path.read_text()
    assert not re.search(r"/work/|/home/|/root/|/tmp/|/Users/", text)
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs and all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any(output.get("name") == "stderr" for output in outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_import_nothing_of_the_package_but_fd(path):
    import fdif_jax as fd

    cells = [cell["source"] for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(lines) for lines in cells)
    assert re.findall(r"^.*import.*fdif_jax.*$|^.*from fdif_jax.*$", code, re.MULTILINE) == code.count(
        "import fdif_jax as fd"
    ) * ["import fdif_jax as fd"]
    names = set(re.findall(r"\bfd\.(\w+)", code))
    assert len(names) > 8 and all(hasattr(fd, name) for name in names) and names <= set(dir(fd))
    assert not hasattr(fd, "fits")


@pytest.mark.slow("a kernel for each notebook, at the sizes that readers run")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    nbclient = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()
