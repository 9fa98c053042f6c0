"""Fill the help texts of docs/cli.md from the commands themselves; `--check` only says whether they are up to date."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from pathlib import Path

from limosa.app.cli import main

PAGE = Path(__file__).parent / "cli.md"
WIDTH = "100"  # columns of the help texts
BLOCK = re.compile(r"(?<=```text\n)\$ limosa(?P<arguments>[^\n]*--help)\n.*?(?=```\n)", re.DOTALL)


def help_of(arguments: list[str]) -> str:
    """What `limosa ARGUMENTS` prints, as wide as the page."""
    os.environ["COLUMNS"] = WIDTH
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        main(arguments)
    return "\n".join(line.rstrip() for line in printed.getvalue().splitlines()) + "\n"


def filled(text: str) -> str:
    """The page with every help block as the commands print it now."""
    return BLOCK.sub(lambda found: f"$ limosa{found['arguments']}\n{help_of(found['arguments'].split())}", text)


if __name__ == "__main__":
    text = PAGE.read_text()
    if "--check" not in sys.argv:
        PAGE.write_text(filled(text))
    elif filled(text) != text:
        sys.exit("docs/cli.md is out of date; run: make docs")
