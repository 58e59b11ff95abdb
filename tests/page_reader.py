"""Reads the report's page as a browser would: what is there, what it loads, whether its pictures decode."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser

from PIL import Image

_VOID = {"meta", "link", "img", "br", "line", "circle", "polyline"}
_LOADING = ("src", "srcset", "href", "data", "poster", "action", "xlink:href")


class PageReader(HTMLParser):
    """Collects the parts of a page; `broken` names tags that are not closed as they were opened.

    Attributes
    ----------
    sections : list of str
        Ids.
    links, loaded : list of str
        Addresses that a reader may follow; those that the page itself would fetch.
    images : list of dict
        Attributes of pictures.
    text : str
    """

    def __init__(self, page: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.images: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.broken: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(page)
        self.close()
        self.broken += self._open
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        if tag not in _VOID:
            self._open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "section":
            self.sections.append(values["id"])
        if tag == "img":
            self.images.append(values)
        if tag == "a":
            self.links.append(values["href"])
        else:
            self.loaded += [values[name] for name in _LOADING if name in values]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open[-1] != tag:
            self.broken.append(f"</{tag}>")
        else:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self._text.append(data)

    def decode(self) -> list[Image.Image]:
        """Decode every picture."""
        pictures = []
        for image in self.images:
            head, _, body = image["src"].partition(",")
            assert head == "data:image/webp;base64"
            picture = Image.open(io.BytesIO(base64.b64decode(body)))
            picture.load()
            pictures.append(picture)
        return pictures
