"""The page in a real browser: around a stand-in translator with known answers, and once with the shipped model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from tests.service.conftest import StubTranslator
from tests.service.running_server import serve

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = sync_api.expect
expect.set_options(timeout=15_000)  # a busy machine; what is there is seen at once

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

PATIENCE = 300
"""Seconds until the model is there: on a new machine its decoder is compiled first."""
TEXT = "Un chat dort. Un chien court."
WORDS = [{"word": "Dog", "probability": 0.5, "prefix": "Dog"}, {"word": "Cat", "probability": 0.25, "prefix": "Cat"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service keeps glossaries and documents."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[str]:
    """The address of a service around a stand-in translator."""
    settings = Settings(data_directory=folder, cache_megabytes=0)
    with serve(create_app(settings, translators=[StubTranslator()])) as url:
        yield url


@pytest.fixture
def troubles(page: Page) -> Iterator[list[str]]:
    """What the browser complained about; a test takes out what it expects, and nothing else may be left."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    yield found
    assert found == []


@pytest.fixture
def opened(page: Page, service: str, troubles: list[str]) -> Page:  # noqa: ARG001 - watches
    """The page, loaded, asking nobody but the service."""
    hosts: list[str] = []
    page.on("request", lambda request: hosts.append(request.url))
    page.goto(service)
    expect(page.locator("#target-language option")).to_have_count(2)
    assert all(url.startswith((service, "blob:", "data:")) for url in hosts)
    return page


def answer(body: Any, status: int = 200, **headers: str) -> Callable[[Route], None]:
    """Return what answers a request in the place of the service."""
    return lambda route: route.fulfill(status=status, body=json.dumps(body), headers=headers)


def events(*sent: tuple[str, Any]) -> Callable[[Route], None]:
    """Return what answers a request with a stream of events in the place of the service."""
    body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in sent)
    return lambda route: route.fulfill(body=body, headers={"content-type": "text/event-stream"})


def segment(number: int, start: int, end: int, text: str) -> dict[str, Any]:
    """Return a segment's event, as the service writes it."""
    return {"segment": number, "start": start, "end": end, "text": text, "alternatives": [], "words": None}


def translation(text: str, segments: tuple[Any, ...] = (), warnings: Any = ()) -> dict[str, Any]:
    """Return a translation's event, as the service writes it."""
    rest: dict[str, Any] = {"glossary_hits": [], "detected": None, "finish_reason": "end"}
    return {"text": text, "segments": segments, "warnings": warnings, **rest}


def translated(page: Page, text: str, expected: str) -> None:
    """Type a text and wait for its translation."""
    page.locator("#source").fill(text)
    expect(page.locator("#target")).to_have_text(expected)
    expect(page.locator("#status")).to_have_text("Translated.")


def choose(page: Page, selector: str, name: str, data: bytes) -> None:
    """Choose a file."""
    page.locator(selector).set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": data})


def body_of(caught: Any) -> Any:
    """Return the JSON body of a request that was caught."""
    return caught.value.post_data_json


def test_what_is_typed_is_translated_and_its_language_told(opened: Page) -> None:
    opened.locator("#source").press_sequentially("été")
    expect(opened.locator("#target")).to_have_text("<en>été")
    expect(opened.locator("#source-language option:checked")).to_have_text("French (detected)")
    expect(opened.locator("#count")).to_have_text("3 characters")
    opened.locator("#clear").click()
    expect(opened.locator("#target")).to_have_text("")


def test_a_text_in_the_target_language_turns_the_direction_around(opened: Page) -> None:
    translated(opened, "hello", "<fr>hello")
    assert opened.locator("#target-language").input_value() == "fr"


def test_swap_takes_the_translation_as_the_text(opened: Page) -> None:
    translated(opened, "été", "<en>été")
    opened.keyboard.press("Alt+s")
    expect(opened.locator("#source")).to_have_value("<en>été")
    assert opened.locator("#source-language").input_value() == "en"
    assert opened.locator("#target-language").input_value() == "fr"


def test_a_newer_text_takes_the_place_of_one_under_way(opened: Page) -> None:
    held: list[Route] = []

    def hold(route: Route) -> None:
        if "premier" in (route.request.post_data or ""):
            held.append(route)
        else:
            route.continue_()

    opened.route("**/v1/translate", hold)
    with opened.expect_request("**/v1/translate"):
        opened.locator("#source").fill("le premier été")
    with opened.expect_event("requestfailed", lambda request: request.url.endswith("/v1/translate")):
        opened.locator("#source").fill("le second été")
    expect(opened.locator("#target")).to_have_text("<en>le second été")
    [given_up] = held
    given_up.abort()


def test_a_word_is_replaced_and_its_sentence_written_anew(opened: Page) -> None:
    asked: list[Any] = []

    def complete(route: Route) -> None:
        asked.append(route.request.post_data_json)
        reply = {"text": "Cat sleeps.", "alternatives": [], "source": "fr", "target": "en", "finish_reason": "end"}
        route.fulfill(body=json.dumps(reply))

    opened.route("**/v1/alternatives", answer({"alternatives": WORDS}))
    opened.route("**/v1/complete", complete)
    opened.locator("#source-language").select_option("fr")
    translated(opened, TEXT, f"<en>{TEXT}")
    opened.locator(".word", has_text="chat").focus()
    opened.keyboard.press("Enter")
    options = opened.locator("#alternatives [role=option]")
    expect(options).to_have_text([re.compile("^Dog *50%$"), re.compile("^Cat *25%$"), f"<en1>{TEXT}", f"<en2>{TEXT}"])
    expect(options.first).to_be_focused()
    opened.keyboard.press("ArrowDown")
    opened.keyboard.press("Enter")
    expect(opened.locator("#target")).to_have_text("Cat sleeps.")
    [body] = asked
    assert (body["text"], body["prefix"], body["source"], body["target"]) == (TEXT, "Cat", "fr", "en")
    expect(opened.locator(".word", has_text="Cat")).to_be_focused()


def test_one_sentence_after_another_is_written_anew(opened: Page) -> None:
    asked: list[Any] = []

    def alternatives(route: Route) -> None:
        prefix = json.loads(route.request.post_data or "")["prefix"]
        route.fulfill(
            body=json.dumps({"alternatives": [{"word": "new", "probability": 0.5, "prefix": prefix + "new"}]})
        )

    def complete(route: Route) -> None:
        body = json.loads(route.request.post_data or "")
        asked.append((body["text"], body["prefix"]))
        route.fulfill(body=json.dumps({"text": f"{asked[-1][1]} end."}))

    parts = (segment(0, 0, 13, "A cat sleeps."), segment(1, 14, 29, "A dog runs."))
    done: tuple[str, Any] = ("done", {})
    opened.route("**/v1/translate", events(("translation", translation("A cat sleeps. A dog runs.", parts)), done))
    opened.route("**/v1/alternatives", alternatives)
    opened.route("**/v1/complete", complete)
    opened.locator("#source").fill(TEXT)
    for word, expected in (("cat", "A new end. A dog runs."), ("dog", "A new end. A new end.")):
        opened.locator(".word", has_text=word).click()
        opened.get_by_role("option", name="new").click()
        expect(opened.locator("#target")).to_have_text(expected)
    assert asked == [("Un chat dort.", "A new"), ("Un chien court.", "A new")]


def test_a_stream_that_breaks_off_shows_what_is_final_and_nothing_of_the_source(opened: Page) -> None:
    opened.locator("#source-language").select_option("fr")
    opened.route("**/v1/translate", events(("segment", segment(0, 0, 13, "A cat sleeps."))), times=1)
    opened.locator("#source").fill(TEXT)
    expect(opened.locator("#status")).to_contain_text("The service cannot be reached.")
    expect(opened.locator("#target")).to_have_text("A cat sleeps.")
    expect(opened.locator("#target")).to_have_attribute("aria-busy", "false")
    opened.get_by_role("button", name="Try again").click()
    expect(opened.locator("#target")).to_have_text(f"<en>{TEXT}")


def test_segments_may_come_in_any_order(opened: Page) -> None:
    opened.route("**/v1/translate", events(("segment", segment(1, 14, 29, "A dog runs."))))
    opened.locator("#source").fill(TEXT)
    expect(opened.locator("#target")).to_have_text("A dog runs.")
    parts = (segment(2, 30, 45, "A bird sings."), segment(0, 0, 13, "A cat sleeps."))
    opened.route("**/v1/translate", events(*(("segment", part) for part in parts)))
    opened.locator("#source").fill(f"{TEXT} Un oiseau vole.")
    expect(opened.locator("#target")).to_have_text("A cat sleeps. … A bird sings.")


def test_escape_closes_the_list_and_goes_back(opened: Page) -> None:
    opened.route("**/v1/alternatives", answer({"alternatives": WORDS}))
    translated(opened, "été", "<en>été")
    word = opened.locator(".word", has_text="été")
    word.click()
    expect(opened.locator("#alternatives [role=option]")).to_have_count(4)
    opened.keyboard.press("Escape")
    expect(opened.locator("#alternatives")).to_be_hidden()
    expect(word).to_be_focused()


def test_arrow_keys_move_between_words(opened: Page) -> None:
    opened.locator("#source-language").select_option("fr")
    translated(opened, "un deux", "<en>un deux")
    opened.locator(".word").first.focus()
    for _ in range(3):
        opened.keyboard.press("ArrowRight")
    expect(opened.locator(".word:focus")).to_have_text("un")
    assert opened.locator(".word[tabindex='0']").count() == 1


def test_options_reach_the_service(opened: Page) -> None:
    opened.locator("summary").click()
    opened.get_by_label("Draw words at random").check()
    opened.get_by_label("Temperature").fill("0.7")
    opened.get_by_label("Words to leave as they are").fill("Dragoman, SNCF")
    with opened.expect_request("**/v1/translate") as caught:
        opened.locator("#source").fill("été")
    body = body_of(caught)
    assert body["options"] == {"sampling": True, "beam_size": 1, "temperature": 0.7, "top_k": 0, "top_p": 1}
    assert body["protect"] == {"literals": ["Dragoman", "SNCF"]}
    expect(opened.get_by_label("Beam size")).to_be_disabled()


def test_warnings_show_their_part_of_the_text(opened: Page) -> None:
    warning = {"code": "numbers", "message": "a number is missing", "start": 2, "end": 4, "unit": 0}
    opened.route("**/v1/translate", events(("translation", translation("two 12", warnings=[warning])), ("done", {})))
    opened.locator("#source").fill("😀 12 chats")  # offsets count characters, and the first one is two in a browser
    opened.locator("#warnings li").hover()
    expect(opened.locator("#mirror mark")).to_have_text("12")
    mark, text = (opened.locator(each).evaluate("e => getComputedStyle(e).font") for each in ("#mirror", "#source"))
    assert mark == text  # or the mark would not lie under its words
    opened.locator("#clear").hover()
    expect(opened.locator("#mirror mark")).to_have_count(0)
    opened.locator("#warnings button").focus()
    expect(opened.locator("#mirror mark")).to_have_text("12")
    opened.locator("#warnings button").click()
    expect(opened.locator("#warnings")).to_contain_text("a number is missing")
    selected = opened.locator("#source").evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)")
    assert selected == "12"


def test_a_busy_service_is_asked_again_and_a_broken_rule_is_told(opened: Page, troubles: list[str]) -> None:
    opened.route("**/v1/translate", answer({"detail": "the queue is full"}, 503, **{"Retry-After": "1"}), times=1)
    opened.locator("#source").fill("été")
    expect(opened.locator("#status")).to_contain_text("the queue is full")
    expect(opened.locator("#target")).to_have_text("<en>été")
    opened.locator("summary").click()
    opened.get_by_label("Beam size").fill("0")
    expect(opened.locator("#status")).to_contain_text("must be between 1 and")
    assert [text for text in troubles if "status of 503" in text or "status of 422" in text] == troubles
    troubles.clear()


def test_a_key_is_asked_for_and_sent(opened: Page, troubles: list[str]) -> None:
    opened.route("**/v1/translate", answer({"detail": "Invalid API key"}, 403), times=1)
    opened.locator("#source").fill("été")
    opened.locator("#key").fill("secret")
    with opened.expect_request("**/v1/translate") as caught:
        opened.get_by_role("button", name="Use it").click()
    assert caught.value.headers["x-api-key"] == "secret"
    expect(opened.locator("#target")).to_have_text("<en>été")
    assert len(troubles) == 1
    troubles.clear()


def test_a_file_is_translated_and_saved(opened: Page, tmp_path: Path) -> None:
    opened.get_by_role("tab", name="Files").click()
    opened.locator("#source-language").evaluate("e => { e.value = 'fr' }")
    choose(opened, "#file", "note.txt", "été\n".encode())
    with opened.expect_download() as caught:
        opened.get_by_role("button", name="Download note.txt").click()
    caught.value.save_as(tmp_path / "saved")
    assert caught.value.suggested_filename == "note.en.txt"
    assert (tmp_path / "saved").read_text("utf-8") == "<en>été\n"
    opened.reload()
    opened.get_by_role("tab", name="Files").click()
    expect(opened.get_by_role("button", name="Download note.txt")).to_be_visible()
    opened.get_by_role("button", name="Delete note.txt").click()
    expect(opened.locator("#documents li")).to_have_count(0)


def test_a_dropped_file_is_followed_through_a_busy_moment(opened: Page, troubles: list[str]) -> None:
    opened.route("**/v1/documents/*", answer({"detail": "busy"}, 503, **{"Retry-After": "0"}), times=1)
    data = opened.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['été'], 'a.txt')); return data; }"
    )
    opened.dispatch_event("body", "drop", {"dataTransfer": data})  # beside the place that is meant for it
    expect(opened.get_by_role("button", name="Download a.txt")).to_be_visible()
    opened.get_by_role("button", name="Delete a.txt").click()
    assert ["status of 503" in text for text in troubles] == [True]
    troubles.clear()


def test_a_file_that_is_deleted_while_it_is_sent_is_not_sent(opened: Page) -> None:
    held: list[Route] = []
    opened.route("**/v1/documents", lambda route: held.append(route))
    opened.get_by_role("tab", name="Files").click()
    with opened.expect_request("**/v1/documents"):
        choose(opened, "#file", "b.txt", b"one")
    with opened.expect_event("requestfailed"):
        opened.get_by_role("button", name="Delete b.txt").click()
    expect(opened.locator("#documents li")).to_have_count(0)
    expect(opened.locator("#status")).to_have_text("")
    [given_up] = held
    given_up.abort()


def test_a_file_that_cannot_be_read_says_why(opened: Page, troubles: list[str]) -> None:
    opened.get_by_role("tab", name="Files").click()
    choose(opened, "#file", "a.exe", b"MZ")
    expect(opened.locator("#documents li")).to_contain_text("must have a name that ends in one of")
    assert len(troubles) == 1
    troubles.clear()


def test_a_glossary_is_made_changed_and_deleted(opened: Page) -> None:
    opened.get_by_role("tab", name="Glossaries").click()
    opened.get_by_role("button", name="New glossary").click()
    opened.get_by_label("Name").fill("Animals")
    opened.locator("#glossary-source").select_option("fr")
    opened.locator("#glossary-target").select_option("en")
    opened.get_by_label("Term 1").fill("chat")
    opened.get_by_label("Translation 1").fill("feline")
    opened.get_by_role("button", name="Add a row").click()
    opened.get_by_label("Term 2").fill("chien")
    opened.get_by_label("Translation 2").fill("canine")
    opened.get_by_role("button", name="Save").click()
    line = opened.locator("#glossaries li")
    expect(line).to_contain_text("French → English, entries: 2")
    expect(opened.get_by_label("Apply Animals")).to_be_checked()
    expect(opened.locator("#file-languages")).to_contain_text("Glossaries apply to files only if")
    opened.get_by_role("button", name="Edit Animals").click()
    expect(opened.get_by_label("Term 2")).to_have_value("chien")
    opened.get_by_role("button", name="Remove row 2").click()
    opened.get_by_role("button", name="Save").click()
    expect(line).to_contain_text("entries: 1")
    opened.get_by_role("tab", name="Text").click()
    opened.locator("#source-language").select_option("fr")
    with opened.expect_request("**/v1/translate") as caught:
        opened.locator("#source").fill("chat")
    assert len(body_of(caught)["glossaries"]) == 1
    opened.get_by_role("tab", name="Glossaries").click()
    opened.get_by_role("button", name="Delete Animals").click()
    opened.locator("#confirm-dialog").get_by_role("button", name="Delete").click()
    expect(line).to_have_text(["There are none yet."])


def test_a_glossary_comes_from_a_file(opened: Page) -> None:
    opened.get_by_role("tab", name="Glossaries").click()
    opened.get_by_role("button", name="New glossary").click()
    opened.locator("#glossary-source").select_option("fr")
    opened.locator("#glossary-target").select_option("en")
    choose(opened, "#glossary-file", "terms.csv", b'chat,"cat, feline"\n')
    expect(opened.get_by_label("Translation 1")).to_have_value("cat, feline")
    opened.get_by_role("button", name="Cancel").click()
    opened.get_by_role("button", name="Delete terms").click()
    opened.locator("#confirm-dialog").get_by_role("button", name="Delete").click()
    expect(opened.locator("#glossaries li")).to_have_text(["There are none yet."])


def test_tabs_theme_and_help_work_by_keyboard(opened: Page) -> None:
    opened.get_by_role("tab", name="Text").focus()
    opened.keyboard.press("ArrowRight")
    expect(opened.get_by_role("tabpanel", name="Files")).to_be_visible()
    expect(opened.get_by_role("tab", name="Files")).to_be_focused()
    background = "getComputedStyle(document.body).backgroundColor"
    before = opened.locator("body").evaluate(f"() => {background}")
    opened.locator("#theme").press("Enter")
    expect(opened.locator("#theme")).to_have_text("Theme: light")
    opened.locator("#theme").press("Enter")
    expect(opened.locator("#theme")).to_have_text("Theme: dark")
    assert opened.locator("body").evaluate(f"() => {background}") != before
    opened.locator("#help").press("Enter")
    expect(opened.get_by_role("dialog")).to_contain_text("swap the languages")
    opened.keyboard.press("Escape")
    expect(opened.get_by_role("dialog")).to_be_hidden()


def test_nothing_of_a_text_is_kept(opened: Page) -> None:
    translated(opened, "un été secret", "<en>un été secret")
    kept = opened.locator("body").evaluate(
        "() => JSON.stringify([{...localStorage}, {...sessionStorage}, location.href, document.cookie])"
    )
    assert "secret" not in kept


def test_a_phone_shows_it_without_scrolling_sideways(opened: Page) -> None:
    opened.set_viewport_size({"width": 360, "height": 740})
    translated(
        opened,
        "Un été très long, qui n'en finit pas. " * 5,
        "<en>" + "Un été très long, qui n'en finit pas. " * 4 + "Un été très long, qui n'en finit pas.",
    )
    for name in ("Text", "Files", "Glossaries"):
        opened.get_by_role("tab", name=name).click()
        assert opened.locator("html").evaluate("e => e.scrollWidth <= e.clientWidth"), name


def test_the_page_speaks_french_to_those_who_do(browser: Any, service: str) -> None:
    context = browser.new_context(locale="fr-FR")
    page = context.new_page()
    page.goto(service)
    expect(page.get_by_role("tab", name="Dans le modèle")).to_be_visible()
    expect(page.locator("html")).to_have_attribute("lang", "fr")
    context.close()


def test_the_shipped_model_behind_the_page(page: Page, troubles: list[str]) -> None:  # noqa: ARG001 - watches
    with serve(create_app(Settings(num_threads=1))) as url:
        httpx.get(f"{url}/readyz", timeout=PATIENCE).raise_for_status()
        page.goto(url)
        page.locator("#source").fill("J'aime beaucoup les chats. Le chien dort.")
        expect(page.locator("#target")).to_contain_text("cats")
        expect(page.locator("#status")).to_have_text("Translated.")
        page.locator(".word", has_text="cats").click()
        expect(page.locator("#alternatives [aria-selected=true]")).to_contain_text("cats")
        other = page.locator("#alternatives [aria-selected=false]").first
        chosen = other.locator("span").first.inner_text()
        other.click()
        expect(page.locator("#status")).to_have_text("The sentence was written anew.")
        expect(page.locator("#target .segment").first).to_contain_text(chosen)
        expect(page.locator("#target .segment").nth(1)).to_contain_text("dog")
        page.get_by_role("tab", name="Inside the model").click()
        expect(page.locator("#tour [data-station=join]")).to_be_visible()
        page.goto("about:blank")  # closes what is open, so that the service may stop
