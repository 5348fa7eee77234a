"""Takes docs/report-light.png and docs/report-dark.png of the page that results/matrix comes to.

    python .ci/screenshots.py

Wants playwright (`pip install playwright`) and a Chromium of the system's (Debian: `apt-get install chromium`).
"""

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from conformance.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
# Each row beside its own run, in c17 without the shim.
CELL = ".model[data-model=swin] tr:nth-child(3) td:nth-child(38) a"


def take(folder: Path) -> None:
    """Make the page in `folder`, and write a picture of it in light and in dark."""
    page_file = folder / "page.html"
    main(["report", *map(str, sorted((ROOT / "results" / "matrix").glob("*.jsonl"))), "--html", str(page_file)])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1440, "height": 900}, color_scheme=scheme)
            page.goto(page_file.as_uri())
            page.select_option("[name=model]", "swin")
            page.evaluate("document.querySelector('#matrix').scrollIntoView()")
            page.click(CELL)
            page.mouse.move(0, 0)
            page.screenshot(path=str(ROOT / "docs" / f"report-{scheme}.png"))
        browser.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as found:
        take(Path(found))
