"""Robustness sets, survival of protected text, paired tests, and evaluation through a service's API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import sacrebleu

from model.cli import cli, run
from model.config import EngineConfig, GenerationConfig
from model.errors import ConfigurationError, CorpusError, UnavailableError
from model.evaluation.evaluate import EvaluationResult
from model.evaluation.evaluate_run import SetReport, evaluate_sets, show, survival, with_robustness
from model.evaluation.metrics import paired_tests
from model.evaluation.remote import API_KEY_VARIABLE, RemoteTranslator
from model.evaluation.robustness import SURVIVING, DevSet, robustness_sets
from model.translator import Translator
from tests.unit.stub_translator import Install

SOURCES = tuple(f"Le voisin numéro {n} regarde la gare." for n in range(10))
REFERENCES = tuple(f"Neighbour number {n} looks at the station." for n in range(10))
DEV = DevSet("news", "fr", "en", SOURCES, REFERENCES)


class Echo:
    """Stands in for a translator whose translation is the source, less what it loses."""

    languages = ("fr", "en")

    def __init__(self, lost: str = "\0") -> None:
        self.lost = lost

    def translate(self, texts: Sequence[str], *_: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(text=text.replace(self.lost, ""), warnings=()) for text in texts]


# Sets


def test_every_kind_of_set() -> None:
    made = {dev.name: dev for dev in robustness_sets(DEV)}
    assert list(made) == [
        f"news.{kind}" for kind in ("upper_case", "title_case", "no_punctuation", "typos", "joined", "protected")
    ]
    assert all((dev.source, dev.target) == ("fr", "en") for dev in made.values())
    upper = made["news.upper_case"]
    assert upper.references == tuple(reference.upper() for reference in REFERENCES)
    assert all(line.isupper() for line in upper.sources)
    assert made["news.title_case"].sources[3] == "Le Voisin Numéro 3 Regarde La Gare."
    assert made["news.title_case"].references[3] == "Neighbour Number 3 Looks at the Station."
    assert made["news.no_punctuation"].sources == tuple(line.removesuffix(".") for line in SOURCES)
    assert made["news.no_punctuation"].references == tuple(line.removesuffix(".") for line in REFERENCES)
    typos = made["news.typos"]
    assert typos.references == REFERENCES
    assert sum(left != right for left, right in zip(typos.sources, SOURCES, strict=True)) >= 8
    assert list(robustness_sets(DEV)) == list(made.values())  # nothing is drawn anew


def test_joined_lines_are_all_there_in_order() -> None:
    joined = next(dev for dev in robustness_sets(DEV) if dev.name == "news.joined")
    assert [line.count(".") for line in joined.sources] == [2, 3, 4, 1]
    assert " ".join(joined.sources) == " ".join(SOURCES)
    assert " ".join(joined.references) == " ".join(REFERENCES)
    assert [line.count(".") for line in joined.references] == [2, 3, 4, 1]


def test_protected_lines_hold_their_pieces_on_both_sides() -> None:
    protected = next(dev for dev in robustness_sets(DEV) if dev.name == "news.protected")
    for index, (source, reference, own) in enumerate(
        zip(protected.sources, protected.references, protected.pieces, strict=True)
    ):
        assert len(own) == (2 if index % 3 == 2 else 1)
        assert all(source.count(piece) == reference.count(piece) == 1 for piece in own)
        bare = source
        for piece in own:
            bare = bare.replace(piece, "")
        assert bare.replace(" ", "") == SOURCES[index].replace(" ", "")
        assert source.endswith(f" {own[0]}.")
    assert {piece for own in protected.pieces for piece in own} == set(SURVIVING)


def test_survival_is_the_share_of_lines_that_keep_all() -> None:
    dev = DevSet("x", "fr", "en", ("a",) * 4, ("b",) * 4, (("{a}",), ("{a}", "%s"), (), ("%s",)))
    assert survival(dev, ["so {a}", "{a} %s", "nothing", "%s"]) == 1
    assert survival(dev, ["so {a}", "{a}", "", "%s"]) == pytest.approx(2 / 3)
    assert survival(dev, ["{a} {a}", "{a} %s", "", "%d"]) == pytest.approx(1 / 3)
    assert survival(DEV, REFERENCES) is None


def test_all_sets_are_evaluated() -> None:
    reports = list(evaluate_sets(cast(Translator, Echo("{name}")), with_robustness(iter([DEV])), GenerationConfig()))
    assert [report.dev.name for report in reports] == ["news", *(dev.name for dev in robustness_sets(DEV))]
    protected = reports[-1].dev
    lost = sum("{name}" in own for own in protected.pieces)
    assert 0 < lost < 10
    assert reports[-1].survived == 1 - lost / 10
    assert all(report.survived is None for report in reports[:-1])
    assert reports[0].result.hypotheses == SOURCES


# Paired tests


def test_paired_tests_tell_better_from_equal() -> None:
    bad = [line.replace("looks at", "sees") if n % 2 else line for n, line in enumerate(REFERENCES)]
    tests = paired_tests(REFERENCES, bad, REFERENCES, num_samples=200)
    assert [test.name for test in tests] == ["BLEU", "chrF2++"]
    assert tests[0].other == pytest.approx(sacrebleu.corpus_bleu(bad, [list(REFERENCES)]).score)
    assert tests[1].other == pytest.approx(sacrebleu.corpus_chrf(bad, [list(REFERENCES)], word_order=2).score)
    for test in tests:
        assert test.difference == pytest.approx(100 - test.other)
        assert test.p_value < 0.05
    same = paired_tests(bad, bad, REFERENCES, num_samples=200)
    assert [test.difference for test in same] == [0, 0]
    assert [test.p_value for test in same] == [1, 1]
    assert paired_tests(REFERENCES, bad, REFERENCES, num_samples=200) == tests  # the seed is fixed


def test_paired_tests_need_the_same_lines() -> None:
    with pytest.raises(CorpusError, match="2 and 1 hypotheses must match 2 references"):
        paired_tests(["a", "b"], ["a"], ["a", "b"])


def test_a_second_model_translates_the_same_lines() -> None:
    (report,) = evaluate_sets(
        cast(Translator, Echo()), iter([DEV]), GenerationConfig(), cast(Translator, Echo("numéro"))
    )
    other = sacrebleu.corpus_bleu([line.replace("numéro", "") for line in SOURCES], [list(REFERENCES)]).score
    assert report.tests[0].other == pytest.approx(other)
    assert report.as_mapping()["against"][0]["name"] == "BLEU"


def test_a_report_for_people_and_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    result = EvaluationResult(40.0, 60.0, "bleu|1", "chrf|2", 2.0, ("a", "b"), 1, {"copied": 1})
    report = SetReport(DEV, result, 0.995, paired_tests(SOURCES, SOURCES, REFERENCES, num_samples=20))
    show(report, as_json=False)
    shown = capsys.readouterr().out
    assert "news fr to en: 2 lines in 2.0 s, 1 with a warning (copied 1)" in shown
    assert "protected text whole in 99.50% of the lines" in shown
    assert "BLEU +0.00 against" in shown
    show(report, as_json=True)
    values = json.loads(capsys.readouterr().out)
    assert values["survived"] == 0.995
    assert values["warning_codes"] == {"copied": 1}
    assert "hypotheses" not in values


# Services


class Service(BaseHTTPRequestHandler):
    """Answers as the native API does: each text in upper case, with a warning for a question."""

    requests: list[tuple[str, dict[str, Any] | None, str | None]] = []  # noqa: RUF012 - the class is made per test
    status = 200
    reply: Any = None

    def do_GET(self) -> None:
        self._answer(None, {"languages": [{"code": "en"}, {"code": "fr"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(
            body,
            {
                "translations": [
                    {"text": text.upper(), "warnings": [{"code": "copied"}] if "?" in text else []}
                    for text in body["texts"]
                ]
            },
        )

    def _answer(self, body: dict[str, Any] | None, reply: Any) -> None:
        self.requests.append((self.path, body, self.headers["Authorization"]))
        content = json.dumps(reply if body is None or self.reply is None else self.reply).encode()
        self.send_response(200 if body is None else self.status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def service() -> Iterator[tuple[str, type[Service]]]:
    """Return the address of a running service, and its class."""
    handler = type("OneService", (Service,), {"requests": []})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()
        thread.join()


def test_lines_go_through_a_service(service: tuple[str, type[Service]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, handler = service
    monkeypatch.setenv(API_KEY_VARIABLE, "secret")
    translator = RemoteTranslator(url + "/")
    assert translator.languages == ("en", "fr")
    texts = [f"un {n}?" if n == 3 else f"un {n}" for n in range(40)]
    found = translator.translate(texts, "fr", "en", GenerationConfig(beam_size=2, banned_tokens=(7,)))
    assert [each.text for each in found] == [text.upper() for text in texts]
    assert [n for n, each in enumerate(found) if each.warnings] == [3]
    bodies = [body for path, body, _ in handler.requests if path == "/v1/translate" and body is not None]
    assert [text for body in bodies for text in body["texts"]] == texts
    assert len(bodies) > 1
    assert all(body["options"] == {"beam_size": 2, "banned_tokens": [7]} for body in bodies)
    assert {key for _, _, key in handler.requests} == {"Bearer secret"}
    translator.translate(["un"], "fr", "en")
    assert handler.requests[-1][1] == {"texts": ["un"], "source": "fr", "target": "en"}


def test_what_a_service_refuses_is_told(service: tuple[str, type[Service]]) -> None:
    url, handler = service
    translator = RemoteTranslator(url)
    handler.status, handler.reply = 503, {"detail": "the queue is full"}
    with pytest.raises(UnavailableError, match="answered 503: the queue is full"):
        translator.translate(["un"], "fr", "en")
    handler.status, handler.reply = 200, {"translatedText": "one"}
    with pytest.raises(UnavailableError, match="did not answer as a Dragoman service"):
        translator.translate(["un"], "fr", "en")
    handler.reply = {"translations": []}
    with pytest.raises(UnavailableError, match="0 translations of 1 texts"):
        translator.translate(["un"], "fr", "en")
    with pytest.raises(ConfigurationError, match="must not be given with a service"):
        translator.translate(["un"], "fr", "en", GenerationConfig(target_prefix=(5,)))


def test_addresses_that_lead_nowhere() -> None:
    with pytest.raises(ConfigurationError, match="must begin with http"):
        RemoteTranslator("file:///etc/passwd")
    with HTTPServer(("127.0.0.1", 0), Service) as closed:
        port = closed.server_port
    with pytest.raises(UnavailableError, match="did not answer"):
        RemoteTranslator(f"http://127.0.0.1:{port}")


# The command


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "news.fr").write_text("un deux trois quatre.\n", encoding="utf-8")
    (tmp_path / "dev" / "news.en").write_text("UN DEUX TROIS QUATRE.\n", encoding="utf-8")
    return tmp_path


def test_the_command_evaluates_a_service(
    files: Path, service: tuple[str, type[Service]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--dev-dir", str(files / "dev"), "--url", service[0], "--robustness", "--json"]
    assert run(cli, [*arguments, "--output", str(files / "out")]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(reports) == 2 * 7
    into_english = {report["set"]: report for report in reports if report["target"] == "en"}
    assert into_english["news"]["bleu"] == pytest.approx(100)
    assert into_english["news.protected"]["survived"] == 0  # this service shouts at placeholders, too
    assert len(list((files / "out").iterdir())) == 14
    assert (files / "out" / "news.upper_case.fr-en").read_text(encoding="utf-8") == "UN DEUX TROIS QUATRE.\n"


def test_the_command_compares_two_models(files: Path, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    loaded: list[Path | None] = []

    class Loader(Echo):
        def close(self, drain: bool = True) -> None:
            assert drain

        @classmethod
        def load(cls, path: Path | None, _: EngineConfig) -> Loader:
            loaded.append(path)
            return cls("deux" if path else "\0")

    install("model.translator", Translator=Loader)
    arguments = ["evaluate", "--dev-dir", str(files / "dev"), "--against", str(files), "--json"]
    assert run(cli, arguments) == 0
    assert loaded == [None, files]
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [[test["name"] for test in report["against"]] for report in reports] == [["BLEU", "chrF2++"]] * 2


def test_a_model_and_a_service_exclude_each_other(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", "--dev-dir", str(files), "--url", "http://127.0.0.1:1", "--model", str(files)]
    assert run(cli, arguments) == 2
    assert "not both" in capsys.readouterr().err
