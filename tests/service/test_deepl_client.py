"""DeepL's own Python client against a real server: whatever it sends is understood, whatever it reads is there."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepl
import pytest
from deepl.api_data import MultilingualGlossaryDictionaryEntries
from fastapi import FastAPI

from app.keys import ApiKey, KeyStore
from model import EngineClosedError, OverloadedError
from tests.service.running_server import serve

if TYPE_CHECKING:
    from tests.service.conftest import StubTranslator

Connect = Callable[[str], deepl.DeepLClient]
NOBODY = "00000000-0000-4000-8000-000000000000"
TERMS = {"chat": "cat", "chien": "dog"}


@pytest.fixture(autouse=True)
def _no_second_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the client report an error at once; by itself it waits and asks again."""
    monkeypatch.setattr(deepl.http_client, "max_network_retries", 0)


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Makes clients of an address, and closes them in the end."""
    made: list[deepl.DeepLClient] = []

    def make(address: str, key: str = "any key") -> deepl.DeepLClient:
        made.append(deepl.DeepLClient(key, server_url=address, send_platform_info=False))
        return made[-1]

    yield make
    for client in made:
        client.close()  # type: ignore[no-untyped-call]


@pytest.fixture
def client(make_app: Callable[..., FastAPI], connect: Connect) -> Iterator[deepl.DeepLClient]:
    """A client of a running service that needs no key."""
    with serve(make_app()) as address:
        yield connect(address)


def one(result: deepl.TextResult | list[deepl.TextResult]) -> deepl.TextResult:
    """Return the result of one text."""
    assert isinstance(result, deepl.TextResult)
    return result


# Translation


def test_one_text_and_several(client: deepl.DeepLClient) -> None:
    result = one(client.translate_text("été", target_lang="EN-GB"))
    assert (result.text, result.detected_source_lang, result.billed_characters) == ("<en>été", "FR", 3)
    results = client.translate_text(iter(["été", "😀"]), source_lang="FR", target_lang=deepl.Language.ENGLISH_AMERICAN)
    assert isinstance(results, list)
    assert [(each.text, each.detected_source_lang, each.billed_characters) for each in results] == [
        ("<en>été", "FR", 3),
        ("😀", "FR", 1),
    ]


def test_every_option_is_accepted(client: deepl.DeepLClient, stub: StubTranslator) -> None:
    result = client.translate_text(
        ["<p>été</p>"],
        source_lang="fr",
        target_lang="en-us",
        context="about the seasons",
        split_sentences=deepl.SplitSentences.OFF,
        preserve_formatting=True,
        formality=deepl.Formality.PREFER_MORE,
        tag_handling="xml",
        tag_handling_version="v2",
        outline_detection=False,
        non_splitting_tags="b,i",
        splitting_tags=["p", "div"],
        ignore_tags=["code"],
        model_type="prefer_quality_optimized",
        extra_body_parameters={"something_new": True},
    )
    assert isinstance(result, list)
    assert [(each.text, each.model_type_used) for each in result] == [("<en><p>été</p>", "quality_optimized")]
    options = stub.submitted[0].options
    assert options is not None
    assert (options.format, options.splitting) == ("xml", "none")
    assert options.markup.ignore_tags == ("code",)
    assert options.markup.splitting_tags == ("p", "div")
    assert options.markup.non_splitting_tags == ("b", "i")


def test_the_test_above_knows_every_option() -> None:
    """A newer client may send what has never been looked at; these others are looked at elsewhere."""
    source = inspect.getsource(test_every_option_is_accepted)
    elsewhere = {"self", "text", "glossary", "glossary_ids", "style_rule", "custom_instructions"}
    elsewhere |= {"translation_memory", "translation_memory_threshold"}
    names = set(inspect.signature(deepl.DeepLClient.translate_text).parameters) - elsewhere
    assert [name for name in names if f"{name}=" not in source] == []


def test_texts_arrive_as_they_are(client: deepl.DeepLClient) -> None:
    texts = ["", " ", "\r\n\t", "a\u2028b", "e\u0301 " * 3, "👩‍👩‍👧‍👦 🂡", '{"a": "<b>&amp;"}', "x" * 50_000]
    results = client.translate_text(texts, source_lang="FR", target_lang="EN-GB")
    assert isinstance(results, list)
    marked = [text if text in ("", " ", "\r\n\t", "👩‍👩‍👧‍👦 🂡") else f"<en>{text}" for text in texts]
    assert [each.text for each in results] == marked
    assert [each.billed_characters for each in results] == list(map(len, texts))


def test_what_is_not_supported_has_a_message(client: deepl.DeepLClient) -> None:
    for arguments, message in (
        ({"target_lang": "XX"}, "Value for 'target_lang' not supported"),
        ({"target_lang": "EN-GB", "source_lang": "XX"}, "Value for 'source_lang' not supported"),
        ({"target_lang": "EN-GB", "split_sentences": "x"}, "Value for 'split_sentences' not supported"),
        ({"target_lang": "EN-GB", "formality": "more"}, "formality"),
        ({"target_lang": "EN-GB", "style_rule": NOBODY}, "Value for 'style_id' not supported"),
        ({"target_lang": "EN-GB", "custom_instructions": ["x"]}, "Value for 'custom_instructions' not supported"),
    ):
        with pytest.raises(deepl.DeepLException, match=f"Bad request.*{message}") as caught:
            client.translate_text("été", **arguments)
        assert caught.value.http_status_code == 400


def test_a_busy_or_closed_service_may_be_asked_again(
    client: deepl.DeepLClient, stub: StubTranslator, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.refuses_after = 0
    for refusal, status in ((OverloadedError("full", 1.0), 529), (EngineClosedError("closed"), 503)):
        stub.refusal = refusal
        with pytest.raises(deepl.DeepLException) as caught:
            client.translate_text("été", target_lang="EN-GB")
        assert caught.value.http_status_code == status
    waits: list[int] = []

    def do_not_wait(timer: Any) -> None:
        timer._num_retries += 1
        waits.append(timer._num_retries)

    monkeypatch.setattr(deepl.http_client, "max_network_retries", 1)
    monkeypatch.setattr("deepl.http_client._BackoffTimer.sleep_until_deadline", do_not_wait)
    stub.refusal = OverloadedError("full", 1.0)
    with pytest.raises(deepl.DeepLException):
        client.translate_text("été", target_lang="EN-GB")
    assert waits == [1]  # it took the status for one that is worth a second attempt


# Languages and usage


def test_languages(client: deepl.DeepLClient) -> None:
    assert [(each.code, each.name) for each in client.get_source_languages()] == [("EN", "English"), ("FR", "French")]
    targets = client.get_target_languages()
    assert [each.code for each in targets] == ["EN-GB", "EN-US", "FR"]
    assert [each.supports_formality for each in targets] == [False, False, False]
    pairs = {(pair.source_lang, pair.target_lang) for pair in client.get_glossary_languages()}
    assert pairs == {("en", "fr"), ("fr", "en")}


def test_usage(client: deepl.DeepLClient) -> None:
    usage = client.get_usage()
    assert usage.character.valid
    assert not usage.any_limit_reached


def test_keys_quotas_and_limits(
    make_app: Callable[..., FastAPI], connect: Callable[..., deepl.DeepLClient], tmp_path: Path
) -> None:
    keys = KeyStore(tmp_path)
    keys.create(ApiKey("1", "ann", created=0.0, characters_per_month=10), "key of ann")
    keys.create(ApiKey("2", "bob", created=0.0, requests_per_minute=2), "key of bob")
    keys.close()
    with serve(make_app(data_directory=tmp_path, require_key=True)) as address:
        ann, bob, nobody = (connect(address, key) for key in ("key of ann", "key of bob", "no key"))
        with pytest.raises(deepl.AuthorizationException):
            nobody.translate_text("été", target_lang="EN-GB")
        ann.translate_text("bel été", target_lang="EN-GB")
        assert (ann.get_usage().character.count, ann.get_usage().character.limit) == (7, 10)
        with pytest.raises(deepl.QuotaExceededException):
            ann.translate_text("bel été", target_lang="EN-GB")
        assert ann.get_usage().character.count == 7
        glossary = bob.create_glossary("of bob", "FR", "EN", TERMS)
        with pytest.raises(deepl.GlossaryNotFoundException):
            ann.get_glossary(glossary.glossary_id)
        assert ann.list_glossaries() == []
        bob.translate_text("été", target_lang="EN-GB")
        with pytest.raises(deepl.TooManyRequestsException):
            bob.translate_text("été", target_lang="EN-GB")


# Glossaries of one dictionary


def test_a_glossary_is_created_read_used_and_deleted(client: deepl.DeepLClient, stub: StubTranslator) -> None:
    before = datetime.now(UTC)
    glossary = client.create_glossary("animals", source_lang="fr", target_lang="en-us", entries=TERMS)
    assert (glossary.name, glossary.ready, glossary.entry_count) == ("animals", True, 2)
    assert (glossary.source_lang, glossary.target_lang) == ("FR", "EN")
    assert abs(glossary.creation_time - before) < timedelta(minutes=1)
    assert client.get_glossary(glossary.glossary_id).name == "animals"
    assert [each.glossary_id for each in client.list_glossaries()] == [glossary.glossary_id]
    assert client.get_glossary_entries(glossary) == TERMS

    client.translate_text("le chat", source_lang="FR", target_lang="EN-US", glossary=glossary)
    client.translate_text_with_glossary("le chat", glossary)
    client.translate_text("le chat", source_lang="FR", target_lang="EN-GB", glossary=glossary.glossary_id)
    client.translate_text("le chat", source_lang="FR", target_lang="EN-GB", glossary_ids=[glossary])
    used = [work.options.glossaries for work in stub.submitted if work.options]
    assert [[each.entries for each in glossaries] for glossaries in used] == [[tuple(TERMS.items())]] * 4

    client.delete_glossary(glossary)
    for action in (client.get_glossary, client.delete_glossary, client.get_glossary_entries):
        with pytest.raises(deepl.GlossaryNotFoundException):
            action(glossary.glossary_id)


def test_a_glossary_of_csv(client: deepl.DeepLClient) -> None:
    csv = 'chat,cat,fr,en\n"chien, grand","dog, ""big""",fr,en\n'
    glossary = client.create_glossary_from_csv("animals", "FR", "EN", csv)
    assert client.get_glossary_entries(glossary) == {"chat": "cat", "chien, grand": 'dog, "big"'}


def test_ten_thousand_entries_come_back(client: deepl.DeepLClient) -> None:
    entries = {f"clé %=&+{number} 🂡": f"wert;'\"\\{number}" for number in range(10_000)}
    glossary = client.create_glossary("large", "FR", "EN", entries)
    assert glossary.entry_count == 10_000
    assert client.get_glossary_entries(glossary) == entries


def test_glossaries_that_are_refused(client: deepl.DeepLClient) -> None:
    with pytest.raises(deepl.DeepLException, match="Unsupported glossary source and target language pair"):
        client.create_glossary("animals", "FR", "XX", TERMS)
    with pytest.raises(deepl.DeepLException, match="Bad request"):
        client.get_glossary("no uuid")
    with pytest.raises(deepl.GlossaryNotFoundException):
        client.get_glossary(NOBODY)
    with pytest.raises(deepl.DeepLException, match=r"Not found.*no glossary"):
        client.translate_text("chat", source_lang="FR", target_lang="EN-GB", glossary=NOBODY)
    glossary = client.create_glossary("animals", "FR", "EN", TERMS)
    with pytest.raises(deepl.DeepLException, match=r"Bad request.*no dictionary from en to fr"):
        client.translate_text("cat", source_lang="EN", target_lang="FR", glossary=glossary.glossary_id)
    assert client.list_glossaries() != []


# Glossaries of several dictionaries


def test_a_multilingual_glossary_is_created_changed_and_deleted(
    client: deepl.DeepLClient, stub: StubTranslator
) -> None:
    there = MultilingualGlossaryDictionaryEntries("FR", "EN", TERMS)
    back = MultilingualGlossaryDictionaryEntries("EN", "FR", {"cat": "chat"})
    glossary = client.create_multilingual_glossary("animals", [there, back])
    counts = {(each.source_lang, each.target_lang): each.entry_count for each in glossary.dictionaries}
    assert counts == {("FR", "EN"): 2, ("EN", "FR"): 1}
    assert [each.glossary_id for each in client.list_multilingual_glossaries()] == [glossary.glossary_id]
    assert client.get_multilingual_glossary(glossary.glossary_id).name == "animals"

    assert client.update_multilingual_glossary_name(glossary, "beasts").name == "beasts"
    more = MultilingualGlossaryDictionaryEntries("FR", "EN", {"ours": "bear", "chat": "tomcat"})
    updated = client.update_multilingual_glossary_dictionary(glossary, more)
    assert [each.entry_count for each in updated.dictionaries] == [3, 1]
    [entries] = client.get_multilingual_glossary_entries(glossary, "FR", "EN-GB").dictionaries
    assert (entries.source_lang, entries.target_lang) == ("fr", "en")
    assert deepl.convert_tsv_to_dict(str(entries.entries)) == {"chat": "tomcat", "chien": "dog", "ours": "bear"}
    replaced = client.replace_multilingual_glossary_dictionary(glossary, back)
    assert (replaced.source_lang, replaced.target_lang, replaced.entry_count) == ("EN", "FR", 1)

    client.translate_text("cat", source_lang="EN", target_lang="FR", glossary=glossary)
    options = stub.submitted[0].options
    assert options is not None
    assert [each.entries for each in options.glossaries] == [(("cat", "chat"),)]

    client.delete_multilingual_glossary_dictionary(glossary, source_lang="EN", target_lang="FR")
    with pytest.raises(deepl.GlossaryNotFoundException):
        client.get_multilingual_glossary_entries(glossary, "EN", "FR")
    client.delete_multilingual_glossary(glossary)
    assert client.list_multilingual_glossaries() == []


def test_a_multilingual_glossary_of_csv(client: deepl.DeepLClient) -> None:
    glossary = client.create_multilingual_glossary_from_csv("animals", "FR", "EN", "chat,cat\n")
    client.update_multilingual_glossary_dictionary_from_csv(glossary, "EN", "FR", "cat,chat\n")
    client.replace_multilingual_glossary_dictionary_from_csv(glossary, "FR", "EN", "ours,bear\nchien,dog\n")
    found = client.get_multilingual_glossary(glossary.glossary_id)
    assert [each.entry_count for each in found.dictionaries] == [2, 1]
