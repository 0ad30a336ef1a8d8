"""The tour of the network in a real browser, against what the service says when it is asked directly."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest

from app.main import create_app
from app.settings import Settings
from tests.browser.tour_page import FRENCH, figure, matrix, open_tour, pick, station, values, watch
from tests.service.running_server import serve

sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
expect = sync_api.expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Request, Route

SHOWN = {"num_candidates": 8, "num_dimensions": 32}
"""What the tour asks for, besides the text."""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """The address of the whole service with the embedded model."""
    with serve(create_app(Settings(num_threads=1))) as url:
        httpx.get(f"{url}/readyz", timeout=300).raise_for_status()  # on a new machine the decoder is compiled
        yield url


@pytest.fixture(scope="module")
def explain(service: str) -> Iterator[Callable[..., Any]]:
    """Ask the service itself for what the tour shows."""
    with httpx.Client(base_url=service, timeout=60) as client:

        @cache
        def answer(body: str) -> Any:
            reply = client.post("/v1/explain", content=body, headers={"content-type": "application/json"})
            assert reply.status_code == 200, reply.text
            return reply.json()["explanation"]

        def ask(text: str = FRENCH, **fields: Any) -> Any:
            return answer(json.dumps({"text": text, "source": "fr", "target": "en", **SHOWN, **fields}))

        yield ask


@pytest.fixture(scope="module")
def shared_tour(browser: Browser, service: str) -> Iterator[Locator]:
    """A tour that is only looked at: each test chooses what it looks at, and asks for nothing."""
    page = browser.new_page()
    found = watch(page)
    yield open_tour(page, service)
    page.close()
    assert found == []


@pytest.fixture(scope="module")
def kept_page(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A page and what the browser complains about there; a new one for each test would cost most of their time."""
    page = browser.new_page(locale="en-GB")
    yield page, watch(page)
    page.close()


@pytest.fixture
def page(kept_page: tuple[Page, list[str]]) -> Iterator[Page]:
    """The page that is kept, without what the test did to it."""
    yield kept_page[0]
    kept_page[0].unroute_all(behavior="ignoreErrors")
    kept_page[0].set_viewport_size({"width": 1280, "height": 720})


@pytest.fixture
def troubles(kept_page: tuple[Page, list[str]]) -> Iterator[list[str]]:
    """What the browser complained about; a test takes out what it expects, and nothing else may be left."""
    kept_page[1].clear()
    yield kept_page[1]
    assert kept_page[1] == []


@pytest.fixture
def tour(page: Page, service: str, troubles: list[str]) -> Callable[..., Locator]:  # noqa: ARG001 - watches
    """Open a tour of a test's own, with a text and a language."""
    return partial(open_tour, page, service)


def test_tokens_are_those_of_the_model(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    tokens = explain()["source_tokens"]
    part = station(shared_tour, "tokens")
    chips = part.locator(".tour-chip")
    assert chips.locator(".tour-piece").all_inner_texts() == [token["piece"] for token in tokens]
    assert chips.locator(".tour-id").all_inner_texts() == [str(token["id"]) for token in tokens]
    special = chips.evaluate_all("all => all.map(each => each.classList.contains('is-special'))")
    assert special == [token["special"] for token in tokens]
    assert part.locator(".tour-text").inner_text() == FRENCH
    for index in (1, 3):
        chips.nth(index).hover()
        expect(part.locator(".tour-part.is-linked")).to_have_text(FRENCH[tokens[index]["start"] : tokens[index]["end"]])
    part.locator(".tour-part", has_text="chat").hover()
    expect(part.locator(".tour-chip.is-linked .tour-piece")).to_have_text("▁chat")


def test_characters_are_counted_as_the_service_counts_them(tour: Callable[..., Locator]) -> None:
    text = "😀 <b> dort"
    part = station(tour(text), "tokens")
    assert part.locator(".tour-text").inner_text() == text
    assert part.locator(".tour-text b").count() == 0
    part.locator(".tour-part", has_text="dort").hover()
    number = part.locator(".is-linked .tour-id").inner_text()
    expect(part.locator(".tour-readout")).to_have_text(f"▁dort: number {number}, characters 7 to 10")
    part.locator(".tour-part", has_text="😀").hover()
    assert part.locator(".tour-chip.is-linked").count() == 4  # the bytes of one character


def test_vectors_and_positions_are_those_of_the_model(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    expected = explain()
    vectors, positions = np.array(expected["embeddings"]), np.array(expected["positions"])
    np.testing.assert_array_equal(matrix(station(shared_tour, "embeddings").get_by_role("grid")), vectors)
    pattern, total = station(shared_tour, "positions").get_by_role("grid").all()
    np.testing.assert_array_equal(matrix(pattern), positions)
    station(shared_tour, "positions").get_by_role("combobox").select_option("3")
    shown = matrix(total)
    width = shown.shape[1]
    np.testing.assert_allclose(shown, [vectors[3, :width], positions[3, :width], (vectors + positions)[3, :width]])
    names = {token["id"]: token["piece"] for token in expected["source_tokens"]}
    assert station(shared_tour, "embeddings").locator(".tour-point text").count() == len(names)


def test_a_network_without_added_positions_says_so(tour: Callable[..., Locator], page: Page) -> None:
    def without(route: Route) -> None:
        reply = route.fetch()
        content = reply.json()
        content["explanation"]["positions"] = []
        route.fulfill(response=reply, json=content)

    page.route("**/v1/explain", without)
    part = station(tour(), "positions")
    expect(part).to_contain_text("relative positions")
    assert part.get_by_role("grid").count() == 0


def test_every_head_of_every_layer_can_be_looked_at(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    weights = np.array(explain()["encoder_attention"])
    part = station(shared_tour, "attention")
    for layer, head in ((0, 0), (4, 3), (2, 1)):
        pick(part, layer, head)
        np.testing.assert_array_equal(matrix(part.get_by_role("grid")), weights[layer, head])
        expect(part.get_by_role("heading", name=f"All weights of layer {layer + 1}, head {head + 1}")).to_be_visible()
    all_drawn = part.evaluate(
        """part => [...part.querySelectorAll(".tour-head")].map(button => {
          button.click();
          return [...part.querySelectorAll("td[data-row]")].map(cell => Number(cell.dataset.value));
        })"""
    )
    np.testing.assert_array_equal(np.reshape(all_drawn, weights.shape), weights)
    part.locator(".tour-from").nth(2).click()
    shares = part.locator(".tour-share").all_text_contents()
    last = weights[-1, -1, 2]
    assert [share for share in shares if share] == [f"{weight:.0%}" for weight in last if weight >= 0.005]
    expect(part.locator("tr.is-chosen th")).to_have_text("▁chat")


def test_small_pictures_show_the_heads_and_choose_them(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    weights = np.array(explain()["encoder_attention"])
    part = station(shared_tour, "attention")
    heads = part.locator(".tour-head")
    assert heads.count() == weights.shape[0] * weights.shape[1]
    layer, head = 2, 1
    button = heads.nth(layer * weights.shape[1] + head)
    count = weights.shape[-1]
    alphas = button.locator("canvas").evaluate(
        """(canvas, count) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.width);
          const middle = (i) => Math.floor(((i + 0.5) * canvas.width) / count);
          const pixel = (i, j) => data[4 * (middle(i) * canvas.width + middle(j)) + 3];
          return Array.from({ length: count }, (_, i) => Array.from({ length: count }, (_, j) => pixel(i, j)));
        }""",
        count,
    )
    drawn = np.array(alphas) / 255
    np.testing.assert_allclose(drawn ** (1 / 0.6), weights[layer, head], atol=0.02)  # 8 bits, and a power of them
    button.click()
    np.testing.assert_array_equal(matrix(part.get_by_role("grid")), weights[layer, head])
    expect(part.get_by_role("radio", name="Layer 3")).to_be_checked()
    expect(part.get_by_role("radio", name="Head 2")).to_be_checked()
    expect(part.locator(".tour-head[aria-pressed=true]")).to_have_count(1)


def test_each_step_shows_its_distribution(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    steps = explain()["steps"]
    part = station(shared_tour, "decoder")
    part.get_by_role("button", name="First step").click()
    for index, step in enumerate(steps):
        expect(part.locator("output")).to_have_text(f"Step {index + 1} of {len(steps)}")
        written = [*(each["input"]["piece"] for each in steps[: index + 1]), step["chosen"]["piece"]]
        assert part.locator(".tour-so-far .tour-piece").all_inner_texts() == written
        rows = part.locator(".tour-candidates tbody")
        chosen = [" chosen" if each["id"] == step["chosen"]["id"] else "" for each in step["candidates"]]
        assert rows.locator("th").all_inner_texts() == [
            each["piece"] + mark.strip() for each, mark in zip(step["candidates"], chosen, strict=True)
        ]
        numbers = np.reshape(values(rows.locator("td")), (-1, 3))
        columns = ("logit", "probability", "reshaped")
        assert numbers.tolist() == [[each[column] for column in columns] for each in step["candidates"]]
        texts = rows.locator(".tour-probability").all_inner_texts()
        assert texts == [percent(each["probability"]) for each in step["candidates"]]
        total = sum(each["log_prob"] for each in steps[: index + 1])
        facts = [step["probability"], step["entropy"], step["num_survivors"], pytest.approx(total)]
        assert values(part.locator("[data-fact]")) == facts
        part.get_by_role("button", name="Next step").click()
    expect(part.locator("output")).to_have_text(f"Step {len(steps)} of {len(steps)}")  # there is none after the last
    expect(part.locator(".tour-so-far .is-chosen")).to_have_text("</s>")


def percent(probability: float) -> str:
    return "< 0.01%" if 0 < probability < 1e-4 else f"{probability:.2%}"


def test_the_decoder_shows_where_it_looks(shared_tour: Locator, explain: Callable[..., Any]) -> None:
    steps = explain()["steps"]
    part = station(shared_tour, "decoder")
    part.locator(".tour-step").nth(3).click()
    cross = figure(part, "Cross-attention: where in the source the decoder looks")
    own = figure(part, "Self-attention: where in its own output it looks")
    for layer, head in ((0, 0), (1, 3), (0, 2)):
        pick(cross, layer, head)
        pick(own, layer, head)
        assert values(cross.locator("li")) == steps[3]["cross_attention"][layer][head]
        assert values(own.locator("li")) == steps[3]["self_attention"][layer][head]
        expected = [step["cross_attention"][layer][head] for step in steps]
        np.testing.assert_array_equal(matrix(part.get_by_role("grid")), expected)
    pick(cross, 1, "Mean of all heads")
    means = np.mean(steps[3]["cross_attention"][1], axis=0)
    np.testing.assert_allclose(values(cross.locator("li")), means, atol=1e-12)  # sums in another order
    best = explain()["source_tokens"][int(np.argmax(means))]["piece"]
    expect(cross.locator("li.is-best .tour-piece")).to_have_text(best)


def test_playing_goes_to_the_end_token(browser: Browser, service: str) -> None:
    page = browser.new_page()  # whose clock stays the test's
    page.clock.install()
    part = station(open_tour(page, service, "Oui."), "decoder")
    part.get_by_role("button", name="Play").click()
    expect(part.get_by_role("button", name="Pause")).to_be_visible()
    page.clock.run_for(60_000)
    expect(part.locator(".tour-so-far .is-chosen")).to_have_text("</s>")
    expect(part.get_by_role("button", name="Play")).to_be_visible()
    page.close()


def test_settings_reshape_and_leave_the_probabilities(
    tour: Callable[..., Locator], explain: Callable[..., Any]
) -> None:
    plain = explain()
    root = tour()
    part = station(root, "play")
    part.locator("[data-setting=temperature]").fill("0.5")
    part.locator("[data-setting=top_k]").fill("3")
    changed = explain(temperature=0.5, top_k=3, translation=plain["target"])
    for index in range(2):
        rows = part.locator(".tour-candidates tbody tr")
        expect(part.locator(".is-out")).to_have_count(5)
        assert values(rows.locator(".tour-probability")) == [
            each["probability"] for each in plain["steps"][index]["candidates"]
        ]
        assert values(rows.locator(".tour-reshaped")) == [
            each["reshaped"] for each in changed["steps"][index]["candidates"]
        ]
        expect(rows.locator(".tour-reshaped").nth(4)).to_have_text("left out")
        decoder = station(root, "decoder")
        assert values(decoder.locator(".tour-reshaped[data-value]")) == values(rows.locator(".tour-reshaped"))
        assert values(decoder.locator("[data-fact=survivors]")) == [3]
        part.get_by_role("button", name="Next step").click()
    part.get_by_role("button", name="Reset").click()
    expect(part.locator(".is-out")).to_have_count(0)


def test_settings_that_cannot_be_asked_for_say_so(
    tour: Callable[..., Locator], page: Page, troubles: list[str]
) -> None:
    part = station(tour(), "play")
    page.route("**/v1/explain", lambda route: route.abort())
    part.locator("[data-setting=top_k]").fill("3")
    expect(part.get_by_role("alert")).to_contain_text("could not be reached")
    page.unroute("**/v1/explain")
    part.locator("[data-setting=top_k]").fill("2")
    expect(part.locator(".is-out")).to_have_count(6)
    expect(part.get_by_role("alert")).to_be_empty()
    [complaint] = troubles
    assert "ERR_FAILED" in complaint
    troubles.clear()


def test_an_older_request_is_ended(tour: Callable[..., Locator], page: Page) -> None:
    root = tour()
    held: list[Route] = []

    def hold_first(route: Route) -> None:
        if not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/v1/explain", hold_first)
    with page.expect_request("**/v1/explain") as first:
        station(root, "play").locator("[data-setting=top_k]").fill("9")
    failed: Callable[[Request], bool] = lambda request: request == first.value  # noqa: E731
    with page.expect_event("requestfailed", failed):
        station(root, "play").locator("[data-setting=top_k]").fill("2")
    expect(station(root, "play").locator(".is-out")).to_have_count(6)


def test_three_ways_to_a_translation_are_compared(tour: Callable[..., Locator], explain: Callable[..., Any]) -> None:
    root = tour()
    part = station(root, "play")
    part.locator("[data-setting=temperature]").fill("1.5")
    part.get_by_role("spinbutton", name="Seed").fill("7")
    drawn = {"sampling": True, "beam_size": 1, "temperature": 1.5, "top_k": 0, "top_p": 1.0, "seed": 7}
    ways = [("greedy", {"beam_size": 1}), ("beam", {"beam_size": 4}), ("draw", drawn)]
    rows = part.locator(".tour-comparison tbody tr")
    for number, (button, _) in enumerate(ways):
        part.locator(f"[data-ask={button}]").click()
        expect(rows).to_have_count(number + 1)
    replies = [explain(options=options) for _, options in ways]
    shown = rows.locator("td:nth-child(2) .tour-hidden").all_inner_texts()
    assert shown == [reply["target"] for reply in replies]
    means = [np.mean([step["log_prob"] for step in reply["steps"]]) for reply in replies]
    assert values(rows.locator(".tour-logit")) == pytest.approx(means)
    assert part.get_by_role("spinbutton", name="Seed").input_value() == "8"
    assert replies[2]["target"] != replies[1]["target"], "choose another seed for this test"
    rows.nth(2).get_by_role("button").click()
    expect(station(root, "join").locator(".tour-result")).to_have_text(replies[2]["target"])
    expect(station(root, "decoder").locator(".tour-step")).to_have_count(len(replies[2]["steps"]))


def test_pieces_are_joined_to_the_translation(tour: Callable[..., Locator], explain: Callable[..., Any]) -> None:
    given = "The black cat is dozing."
    root = tour(translation=given)
    part = station(root, "join")
    pieces = part.locator(".tour-chip .tour-piece").all_inner_texts()
    assert pieces == [token["piece"] for token in explain(translation=given)["target_tokens"]]
    assert "".join(pieces).replace("▁", " ").strip() == given
    expect(part.locator(".tour-result")).to_have_text(given)


def test_a_sentence_that_is_too_long_is_refused_clearly(
    tour: Callable[..., Locator], page: Page, troubles: list[str]
) -> None:
    root = tour()
    root.get_by_label("Your sentence").fill("chat " * 70)
    with page.expect_response("**/v1/explain") as refused:
        root.get_by_role("button", name="Look inside").click()
    assert refused.value.status == 422
    expect(root.locator("form").get_by_role("alert")).to_contain_text("at most 62 tokens")
    expect(root.get_by_label("Your sentence")).to_have_attribute("aria-invalid", "true")
    [complaint] = troubles
    assert "422" in complaint
    troubles.clear()
    root.get_by_label("Your sentence").fill("Bonjour.")
    root.get_by_label("Your sentence").press("Enter")
    expect(station(root, "tokens").locator(".tour-text")).to_have_text("Bonjour.")
    expect(root.locator("form").get_by_role("alert")).to_be_hidden()


def test_the_first_sentence_of_a_text_is_taken_and_others_can_be(tour: Callable[..., Locator]) -> None:
    root = tour("M. Dupont dort.  Il fait froid.\nBonjour !", translation="not of this sentence alone")
    expect(root.get_by_label("Your sentence")).to_have_value("M. Dupont dort.")
    assert "not of" not in station(root, "join").inner_text()
    options = root.get_by_label("Sentence of your text").locator("option").all_inner_texts()
    assert options == ["M. Dupont dort.", "Il fait froid.", "Bonjour !"]
    root.get_by_label("Sentence of your text").select_option("1")
    expect(station(root, "tokens").locator(".tour-text")).to_have_text("Il fait froid.")


def test_languages_are_swapped(tour: Callable[..., Locator]) -> None:
    root = tour("Merci.", source=None)
    expect(root.locator(".tour-direction")).to_have_text("French to English")
    translation = station(root, "join").locator(".tour-result").inner_text()
    root.get_by_role("button", name="Swap the languages").click()
    expect(station(root, "tokens").locator(".tour-text")).to_have_text(translation)
    expect(root.locator(".tour-direction")).to_have_text("English to French")
    expect(station(root, "tokens").locator(".tour-piece").first).to_have_text("<2fr>")


def test_it_can_be_walked_through_with_the_keyboard_alone(tour: Callable[..., Locator], page: Page) -> None:
    root = tour("Le chat dort.")
    keyboard = page.keyboard

    def tab_to(selector: str) -> None:
        """Press tab until the focus is there; the whole tour has less than 120 stops."""
        for _ in range(120):
            keyboard.press("Tab")
            if page.evaluate("selector => document.activeElement.matches(selector)", selector):
                return
        pytest.fail(f"the tab key does not lead to {selector}")

    tab_to("textarea")
    keyboard.press("Control+a")
    keyboard.type("Oui, le chat dort.")
    keyboard.press("Enter")
    expect(station(root, "tokens").locator(".tour-text")).to_have_text("Oui, le chat dort.")
    tab_to(".tour-box")
    tab_to(".tour-stations a")
    tab_to("[data-station=tokens] .tour-chip")
    keyboard.press("ArrowRight")
    expect(station(root, "tokens").locator(".tour-part.is-linked")).to_have_text("Oui")
    tab_to("[data-station=embeddings] td")
    keyboard.press("ArrowDown")
    expect(station(root, "embeddings").locator(".tour-matrix .tour-readout")).to_contain_text("▁Oui, number 1:")
    tab_to(".tour-point")
    tab_to("[data-station=attention] input[type=radio]")
    keyboard.press("ArrowRight")
    tab_to(".tour-head")
    keyboard.press("Home")
    keyboard.press("Enter")
    tab_to(".tour-from")
    keyboard.press("ArrowDown")
    keyboard.press("Enter")
    expect(station(root, "attention").locator("tr.is-chosen th")).to_have_count(1)
    tab_to("[data-station=attention] td")
    keyboard.press("End")
    expect(station(root, "attention").locator(".tour-matrix .tour-readout")).to_contain_text("</s>")
    tab_to("[data-station=decoder] input[type=range]")
    keyboard.press("End")
    expect(station(root, "decoder").locator(".tour-so-far .is-chosen")).to_have_text("</s>")
    tab_to(".tour-step")
    keyboard.press("Home")
    keyboard.press("Enter")
    expect(station(root, "decoder").locator("output")).to_contain_text("Step 1 of")
    tab_to("[data-setting=top_k]")
    keyboard.press("ArrowRight")
    expect(station(root, "play").locator(".is-out")).to_have_count(7)
    tab_to("[data-ask=greedy]")
    keyboard.press("Enter")
    expect(station(root, "play").locator(".tour-comparison tbody tr")).to_have_count(1)
    tab_to("[data-station=join] .tour-chip")


def test_the_map_has_the_networks_numbers_and_leads_to_the_stations(shared_tour: Locator) -> None:
    chart = shared_tour.get_by_role("navigation", name="Map of this network")
    for text in ("vocabulary of 8,000", "256 numbers each", "4 heads a layer", "256 → 1,024 → 256", "(5 layers)"):
        expect(chart.get_by_text(text).first).to_be_visible()
    chart.get_by_role("link", name="Cross-attention").press("Enter")
    expect(shared_tour.get_by_role("heading", name="The decoder, step by step")).to_be_focused()
    expect(shared_tour.get_by_role("heading", name="The decoder, step by step")).to_be_in_viewport()


def test_it_speaks_french(tour: Callable[..., Locator], explain: Callable[..., Any], page: Page) -> None:
    root = tour(language="fr")
    expect(root.get_by_role("heading", name=re.compile("intérieur du modèle"))).to_be_visible()
    first = explain()["steps"][0]["candidates"][0]["probability"]
    shown = station(root, "decoder").locator(".tour-candidates tbody .tour-probability").first.inner_text()
    assert shown.replace("\u202f", " ").replace("\xa0", " ") == f"{first:.2%}".replace(".", ",").replace("%", " %")
    page.evaluate("document.documentElement.lang = 'en'")
    expect(root.get_by_role("heading", name="Inside the model")).to_be_visible()


def test_a_sentence_in_the_targets_language_is_refused_clearly(
    tour: Callable[..., Locator], troubles: list[str]
) -> None:
    root = tour("The cat is sleeping.", source=None, awaited="[role=alert]")
    expect(root.locator("form").get_by_role("alert")).to_contain_text("in English already")
    expect(root.get_by_role("button", name="Swap the languages")).to_be_disabled()
    [complaint] = troubles
    assert "422" in complaint
    troubles.clear()


def test_the_page_opens_it_on_the_readers_text(page: Page, service: str, troubles: list[str]) -> None:
    assert troubles == []
    page.goto(service)
    page.get_by_role("textbox", name="Text to translate").fill("Le chat dort.")
    expect(page.locator("#target[aria-busy=false]")).to_contain_text("cat", timeout=30_000)
    page.get_by_role("tab", name="Inside the model").click()
    shown = page.locator("[data-station=tokens] .tour-text")
    expect(shown).to_have_text("Le chat dort.", timeout=30_000)
    page.locator("[data-station=decoder]").get_by_role("button", name="Last step").click()
    page.get_by_role("tab", name="Text", exact=True).click()
    page.get_by_role("tab", name="Inside the model").click()
    expect(page.locator("[data-station=decoder] .tour-so-far .is-chosen")).to_have_text("</s>")  # it is as it was


@pytest.mark.parametrize("width", [390, 1280])
def test_only_figures_scroll_sideways(tour: Callable[..., Locator], page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    root = tour("Les nouvelles règles sur la protection des données seront appliquées dans tous les pays de l'Union.")
    station(root, "play").locator("[data-ask=greedy]").click()
    expect(root.locator(".tour-comparison tbody tr")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
