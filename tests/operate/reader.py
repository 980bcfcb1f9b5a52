from __future__ import annotations

from html.parser import HTMLParser


class Reader(HTMLParser):
    """Collects a page's elements, attributes and text, and refuses unbalanced ones."""

    VOID = ("meta", "rect", "line", "path", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag != "meta" and not (self.get_starttag_text() or "").endswith("/>"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        elif tag not in self.VOID:
            raise AssertionError(f"</{tag}> closes {self.open}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def shown(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.text).split())
