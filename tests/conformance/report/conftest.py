"""Reports made by hand, and a page read as a browser would: its text, its tags, its links."""

from html.parser import HTMLParser

import pytest

from conformance.report.jsonl import Report
from conformance.verdict import Outcome, Verdict

PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0", "peft": "0.21.2"}


def make_report(*verdicts, name="c17", with_shim=True, complete=True, packages=PACKAGES, **header):
    environment = {"name": name, "python": "3.11.7", "device": "cpu", "packages": packages}
    return Report(
        {"kind": "header", "format": 1, "environment": environment, "settings": {"with_shim": with_shim}, **header},
        verdicts,
        {"kind": "footer", "complete": complete, "seconds": 3.0},
    )


def make_verdict(outcome="pass", model="bert", check="rows_are_right", clauses=("R1",), **more):
    return Verdict(model, check, clauses, Outcome(outcome), **more)


class Page(HTMLParser):
    """What a browser would make of a page, as far as tests ask.

    contents: for each tag the texts that directly follow it, up to the next tag of any kind.
    """

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.attributes, self.words, self.inside = [], [], [], [], None
        self.contents = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.inside = tag
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        self.ids += [value for name, value in attributes if name == "id"]
        self.contents.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside not in ("style", "script"):
            self.words.append(data)
        if self.inside:
            self.contents[self.inside][-1] += data

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    def values(self, attribute):
        return [value for _, name, value in self.attributes if name == attribute]

    def dead_links(self):
        """Return the links into the page that lead nowhere."""
        return [link for link in self.values("href") if link.startswith("#") and link[1:] not in set(self.ids)]

    def loaded(self):
        """Return what a browser would fetch for this page, or run although it is not the page's own script."""
        fetching = ("src", "srcset", "data", "poster", "action", "formaction", "background", "manifest", "xlink:href")
        found = [f"{tag} {name}={value}" for tag, name, value in self.attributes if name in fetching]
        found += [f"{tag} {name}" for tag, name, _ in self.attributes if name.startswith("on") or name == "style"]
        found += [f"{tag} {v}" for tag, name, v in self.attributes if name == "href" and v[:1] != "#" and v != "data:,"]
        found += [sheet for sheet in self.contents.get("style", []) if "url(" in sheet or "@import" in sheet]
        return found + [tag for tag in self.tags if tag in ("iframe", "object", "embed", "base", "img")]


@pytest.fixture(scope="session")
def report():
    return make_report


@pytest.fixture(scope="session")
def verdict():
    return make_verdict


@pytest.fixture(scope="session")
def read_page():
    return Page
