"""Take the picture of `fdif browse` in docs/generate.md: a dataset's first case in a headless Chromium.

Example:
    python docs/make_browse.py tests/data/hippocampus docs/browse.png
"""

import shutil
import sys
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

from fdif_jax.datasets.reader import load_dataset
from fdif_jax.scripts.browse import Cases, server_of

WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def main(dataset: str, path: str) -> None:
    """Show the dataset's first case and write what is seen to ``path``."""
    with (
        server_of(Cases(load_dataset(dataset), Path(dataset).name), 0) as server,
        sync_playwright() as playwright,
    ):
        threading.Thread(target=server.serve_forever).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=WEBGL)
        page = browser.new_page(viewport={"width": 1100, "height": 640})
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("body[data-state^=shown]")
        page.screenshot(path=path)
        browser.close()
        server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
