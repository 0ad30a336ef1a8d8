"""Opens the tour of the network alone on a page, and reads the numbers behind what it shows; it tests nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from app.headers import page_policy

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

FRENCH = "Le chat noir dort."
HTML = """<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tour</title><link rel="icon" href="data:,"><script type="module" src="/page/tour-alone.js"></script></head>
<body><main id="tour"></main></body></html>"""
START = """import {{ openTour }} from "/page/tour.js";
async function request(path, body, signal) {{
  const headers = {{ "content-type": "application/json" }};
  const reply = await fetch(path, {{ method: "POST", headers, body: JSON.stringify(body), signal }});
  const content = await reply.json();
  if (reply.ok) return content;
  throw Object.assign(new Error(content.title), {{ problem: content }});
}}
openTour(document.getElementById("tour"), {{ ...{options}, request }});
"""


def watch(page: Page) -> list[str]:
    """Return a list that what the browser complains about is added to."""
    found: list[str] = []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def open_tour(
    page: Page,
    service: str,
    text: str = FRENCH,
    language: str = "en",
    *,
    awaited: str = "[data-station=join]",
    **options: Any,
) -> Locator:
    """Open the tour alone on a page of the service, under the policy of its pages, and wait for a part of it."""
    given = {"text": text, "translation": None, "source": "fr", "target": "en", **options}
    policy = {"content-security-policy": page_policy([])}
    html, start = HTML.format(language=language), START.format(options=json.dumps(given))
    page.route(
        f"{service}/page/tour-alone.html",
        lambda route: route.fulfill(body=html, content_type="text/html; charset=utf-8", headers=policy),
    )
    page.route(f"{service}/page/tour-alone.js", lambda route: route.fulfill(body=start, content_type="text/javascript"))
    page.goto(f"{service}/page/tour-alone.html")
    root = page.locator("#tour")
    root.locator(awaited).wait_for(timeout=30_000)
    return root


def station(tour: Locator, name: str) -> Locator:
    """Return one station of a tour."""
    return tour.locator(f"[data-station={name}]")


def values(places: Locator) -> list[float]:
    """Return the exact numbers behind what is shown."""
    found: list[float] = places.evaluate_all("all => all.map(each => Number(each.dataset.value))")
    return found


def matrix(table: Locator) -> np.ndarray:
    """Return the exact numbers behind a table's shaded cells."""
    rows: list[list[float]] = table.evaluate(
        "table => [...table.tBodies[0].rows].map("
        "row => [...row.querySelectorAll('[data-row]')].map(cell => Number(cell.dataset.value)))"
    )
    return np.array(rows)


def pick(figure: Locator, layer: int, head: int | str) -> None:
    """Choose a layer and a head, counted from 0, as a reader does."""
    figure.get_by_role("radio", name=f"Layer {layer + 1}", exact=True).check(force=True)
    name = head if isinstance(head, str) else f"Head {head + 1}"
    figure.get_by_role("radio", name=name, exact=True).check(force=True)


def figure(tour: Locator, title: str) -> Locator:
    """Return the figure with a heading."""
    return tour.locator(".tour-figure").filter(has=tour.page.get_by_role("heading", name=title, exact=True))
