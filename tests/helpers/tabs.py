"""Pages in a browser, and what they say."""

from pathlib import Path


def open_page(browser, page: Path, width: int, height: int):
    """A file in a tab, and a growing list of all that it says on the console or asks of anybody."""
    tab = browser.new_page(viewport={"width": width, "height": height})
    said: list[str] = []
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("request", lambda request: request.url.startswith(("data:", "file:")) or said.append(request.url))
    tab.goto(page.as_uri())
    return tab, said
