"""The page's files as they are served, and what they may hold: nothing of other hosts, no id that is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

FOLDER = Path(__file__).parents[2] / "app" / "static" / "page"
FILES = sorted(file for file in FOLDER.iterdir())
SCRIPTS = [file for file in FILES if file.suffix == ".js"]
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}


def test_the_page_is_at_the_root(client: TestClient) -> None:
    reply = client.get("/")
    assert reply.status_code == 200
    assert reply.text == (FOLDER / "index.html").read_text(encoding="utf-8")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert client.head("/").headers["content-length"] == str(len(reply.content))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_each_file_is_served_as_what_it_is(client: TestClient, file: Path) -> None:
    reply = client.get(f"/page/{file.name}")
    assert reply.content == file.read_bytes()
    assert reply.headers["content-type"].startswith(TYPES[file.suffix])
    assert reply.headers["cache-control"] == "no-cache"
    again = client.get(f"/page/{file.name}", headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert "content-security-policy" not in again.headers  # it would replace the page's own in the browser's cache


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/none.js",
        "/page/../page.py",
        "/page/..%2f..%2fmain.py",
        "/page/%2e%2e/docs.html",
        "/page//etc/passwd",
    ],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_is_asked_of_other_hosts(file: Path) -> None:
    found = re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'`)]*", file.read_text(encoding="utf-8"))
    assert [address for address in found if not address.endswith("www.w3.org/2000/svg")] == []


def test_every_name_that_is_used_is_there() -> None:
    page = (FOLDER / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="([\w-]+)"', page))
    words = (FOLDER / "wording.js").read_text(encoding="utf-8")
    english, french = (set(re.findall(r"^    (\w+): ", part, re.MULTILINE)) for part in words.split("  fr: {"))
    assert english == french
    assert set(re.findall(r'data-(?:text|label|placeholder)="(\w+)"', page)) <= english
    for file in SCRIPTS:
        if file.name.startswith("tour"):
            continue
        script = file.read_text(encoding="utf-8")
        assert set(re.findall(r'(?:byId|getElementById)\("([\w-]+)"\)', script)) <= ids, file.name
        assert set(re.findall(r'say\("(\w+)"', script)) <= english, file.name


def test_every_import_is_a_file_of_the_page() -> None:
    for file in SCRIPTS:
        for name in re.findall(r'(?:from|import\()\s*"\./([\w.-]+)"', file.read_text(encoding="utf-8")):
            assert (FOLDER / name).is_file(), (file.name, name)
