"""A Markdown page as what can be tested of it: blocks of code, shell commands, headings, links, paths."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

_BLOCK = re.compile(
    r"^```(?P<language>\w*)\n(?P<code>.*?)^```$|^<!-- setup:\n(?P<setup>.*?)^-->$", re.DOTALL | re.MULTILINE
)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_PATH = re.compile(r"`((?:shim|conformance|tests|docs|examples|results|\.ci|\.github)/[\w./-]*)`")
_ANY = "…"


@dataclass(frozen=True)
class Block:
    """A fenced block, or a hidden one (`<!-- setup: -->`) of the language "setup"; line: of its first line of code."""

    language: str
    code: str
    line: int


@dataclass(frozen=True)
class Page:
    """One file."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> Page:
        """Return the page at `path`."""
        return cls(path, path.read_text("utf-8"))

    @property
    def blocks(self) -> List[Block]:
        """Every block of code, in order."""
        found = []
        for match in _BLOCK.finditer(self.text):
            hidden = match["setup"] is not None
            code, start = (match["setup"], match.start("setup")) if hidden else (match["code"], match.start("code"))
            found.append(Block("setup" if hidden else match["language"], code, self.text.count("\n", 0, start) + 1))
        return found

    @property
    def prose(self) -> str:
        """The page without its blocks."""
        return _BLOCK.sub("", self.text)

    @property
    def links(self) -> List[str]:
        """The targets of links and pictures that lie in this project."""
        targets = (next(filter(None, match.groups())) for match in _LINK.finditer(self.prose))
        return [target for target in targets if not re.match(r"\w+:", target)]

    @property
    def paths(self) -> List[str]:
        """The files and folders that are named as code."""
        return _PATH.findall(self.prose)

    @property
    def anchors(self) -> List[str]:
        """What a link may name after `#`: the headings as GitHub and mkdocs both shorten them."""
        headings = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return [re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-") for heading in headings]

    def run(self) -> None:
        """Run the blocks of Python, in order, in one namespace.

        A block of text that follows one is what it prints; in it `…` stands for any text.
        """
        namespace: Dict[str, Any] = {"__name__": "page"}
        printed, after = "", ""
        for block in self.blocks:
            if block.language in ("python", "setup"):
                with contextlib.redirect_stdout(io.StringIO()) as out:
                    exec(compile("\n" * (block.line - 1) + block.code, str(self.path), "exec"), namespace)
                printed = out.getvalue()
            elif block.language == "text" and after == "python":
                expect_printed(block, printed, self.path)
            after = block.language


def expect_printed(block: Block, printed: str, path: Path) -> None:
    """Raise `AssertionError` where the block of text is not what was printed."""
    pattern = ".*".join(map(re.escape, block.code.strip().split(_ANY)))
    assert re.fullmatch(pattern, printed.strip(), re.DOTALL), (
        f"{path}:{block.line} shows\n{block.code}\nbut:\n{printed}"
    )


def commands(page: Page) -> Iterator[Tuple[str, List[str]]]:
    """Yield the program and the arguments of each `python -m PROGRAM …` in the blocks of shell."""
    for block in page.blocks:
        if block.language != "bash":
            continue
        for line in block.code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for command in _divided(words):
                for index in range(len(command) - 2):
                    if re.search(r"(^|/)python3?$", command[index]) and command[index + 1] == "-m":
                        yield command[index + 2], command[index + 3 :]
                        break


def _divided(words: List[str]) -> Iterator[List[str]]:
    """Yield the commands between `&&`, `|` and `;`."""
    command: List[str] = []
    for word in words:
        if word in ("&&", "|", ";"):
            yield command
            command = []
        else:
            command.append(word)
    yield command


def broken_links(page: Page) -> List[str]:
    """Return the links of the page whose file or anchor is not there."""
    return [target for target in page.links if not _resolves(page, target)]


def _resolves(page: Page, target: str) -> bool:
    name, _, anchor = target.partition("#")
    if not name:
        return anchor in page.anchors
    path = page.path.parent / name
    return path.exists() and (not anchor or anchor in Page.read(path).anchors)
