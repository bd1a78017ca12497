"""Draws the pages' Mermaid charts as docs/figures/chart_*.svg, which the site shows; GitHub draws the text itself.

npm pack mermaid@11.17.2 && tar xzf mermaid-11.17.2.tgz
python docs/figures/charts.py package/dist/mermaid.min.js

So the site needs no script of Mermaid's, which has 3.5 MB. Each picture holds the digest of its text: the site is not
built where they differ. It needs Chromium (ICMFORMER_CHROMIUM or on PATH), by playwright.
"""

import hashlib
import os
import re
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[1]
FENCE = re.compile(r"^```mermaid\n(.*?)^```$", re.M | re.S)
LOOK = {
    "startOnLoad": False,
    "theme": "base",
    "htmlLabels": False,
    "flowchart": {
        "htmlLabels": False,
        "useMaxWidth": False,
        "padding": 10,
        "nodeSpacing": 30,
        "rankSpacing": 36,
        "wrappingWidth": 420,
    },
    "themeVariables": {  # for a light page and for a dark one
        "fontFamily": "DejaVu Sans, Verdana, sans-serif",
        "fontSize": "13px",
        "primaryColor": "#e0f2f1",
        "primaryBorderColor": "#00796b",
        "primaryTextColor": "#12302c",
        "lineColor": "#789390",
        "edgeLabelBackground": "#e0f2f1",
        "clusterBkg": "#78939022",
        "clusterBorder": "#789390",
        "titleColor": "#5f8580",
    },
}


def main(script: str) -> None:
    """Draws all charts."""
    chromium = os.environ.get("ICMFORMER_CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<body></body>")
        page.add_script_tag(path=script)
        page.evaluate("look => mermaid.initialize(look)", LOOK)
        for path in sorted(DOCS.glob("*.md")):
            charts = FENCE.findall(path.read_text())
            if len(charts) > 1:
                raise ValueError(f"{path.name} has several charts; pictures are named after pages")
            for text in charts:
                downwards = text.replace("flowchart LR", "flowchart TD")  # a page of the site is narrow
                drawn = page.evaluate("async text => (await mermaid.render('chart', text)).svg", downwards)
                digest = hashlib.sha256(text.encode()).hexdigest()
                out = DOCS / "figures" / f"chart_{path.stem}.svg"
                out.write_text(f"{drawn}\n<!-- of the text with the SHA-256 {digest} -->\n")
                print(f"{out.name}: {out.stat().st_size} bytes")
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])
