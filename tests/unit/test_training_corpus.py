"""Reading, filtering, tokenising and caching of parallel text, with every way in which a file can be bad."""

from __future__ import annotations

import bz2
import dataclasses
import functools
import gzip
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from model.errors import CorpusError
from model.text.tokenizer import Tokenizer, train_tokenizer
from model.training import corpus as corpus_module
from model.training import text_file
from model.training.corpus import (
    Corpus,
    SourceReport,
    fingerprint,
    load_corpus,
    read_pairs,
    read_sentences,
)
from model.training.filters import STRICT, rejection
from model.training_config import DataConfig, SourceConfig
from tests.unit.tiny_training import sentence_pairs, tokenizer, write_pairs

TEXT = "Bonjour à tous.\tHello everyone.\nÇa va ?\tHow are you?\n".encode()
PAIRS = [("Bonjour à tous.", "Hello everyone."), ("Ça va ?", "How are you?")]
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "tsv": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": functools.partial(lzma.compress, preset=0),
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
COMPRESSED = [name for name in COMPRESSORS if name != "tsv"]
LONG = "".join(f"phrase {number}\tsentence {number * 7919 % 10007}\n" for number in range(6_000)).encode()


def data_config(folder: Path, **changes: Any) -> DataConfig:
    return dataclasses.replace(DataConfig(str(folder), (SourceConfig("pairs.tsv"),), max_tokens=60), **changes)


def assert_same(left: Corpus, right: Corpus) -> None:
    for language in (0, 1):
        assert np.array_equal(left.ids[language], right.ids[language])
        assert np.array_equal(left.offsets[language], right.offsets[language])
    assert np.array_equal(left.source_of, right.source_of)
    assert left.ids[0].dtype == right.ids[0].dtype == np.uint16
    assert left.offsets[0].dtype == right.offsets[0].dtype == np.int64
    assert left.weights == right.weights


# Reading


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_reads_plain_and_compressed_files(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    path.write_bytes(COMPRESSORS[ending](TEXT))
    assert list(read_pairs(path)) == PAIRS


@pytest.mark.parametrize("ending", COMPRESSED)
def test_reads_files_made_of_several_compressed_parts(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    first, second = TEXT.splitlines(keepends=True)
    path.write_bytes(COMPRESSORS[ending](first) + COMPRESSORS[ending](second))
    assert list(read_pairs(path)) == PAIRS


@pytest.mark.parametrize("ending", COMPRESSED)
def test_reads_more_than_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.setattr(text_file, "_BLOCK_BYTES", 1000)
    path = tmp_path / f"pairs.{ending}"
    path.write_bytes(COMPRESSORS[ending](LONG))
    pairs = list(read_pairs(path))
    assert len(pairs) == 6_000
    assert pairs[5_999] == ("phrase 5999", f"sentence {5_999 * 7919 % 10007}")


@pytest.mark.parametrize("ending", COMPRESSED)
def test_a_file_cut_short_is_an_error_not_a_shorter_corpus(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    whole = COMPRESSORS[ending](LONG)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorpusError, match=f"cannot read .*pairs.{ending}.*ended before"):
        list(read_pairs(path))


@pytest.mark.parametrize("ending", COMPRESSED)
def test_damage_inside_is_an_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    whole = COMPRESSORS[ending](LONG)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 64]) + whole[middle + 64 :])
    with pytest.raises(CorpusError, match=f"pairs.{ending}"):
        list(read_pairs(path))


@pytest.mark.parametrize("ending", COMPRESSED)
def test_plain_text_under_a_compressed_name_is_an_error(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"pairs.{ending}"
    path.write_bytes(TEXT)
    with pytest.raises(CorpusError, match=f"cannot read .*pairs.{ending}"):
        list(read_pairs(path))


def test_zst_without_its_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.zst"
    path.write_bytes(COMPRESSORS["zst"](TEXT))
    monkeypatch.setitem(sys.modules, "zstandard", None)  # makes the import fail
    with pytest.raises(CorpusError, match=r"needs the package zstandard \(extra 'train'\)"):
        list(read_pairs(path))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*absent\.tsv: No such file"):
        list(read_pairs(tmp_path / "absent.tsv"))


def test_bad_utf8_is_told_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"ok\tok\n" * 20_000 + b"caf\xe9\tcoffee\n")
    with pytest.raises(CorpusError, match=r"pairs\.tsv, after line 1\d{4}: must be UTF-8"):
        list(read_pairs(path))


def test_missing_column_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("un\tone\ndeux two\n", encoding="utf-8")
    with pytest.raises(CorpusError, match=r"pairs\.tsv, line 2: must have two tab-separated columns, got one"):
        list(read_pairs(path))


def test_columns_are_normalised_and_further_ones_ignored(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    # A decomposed e-acute, a no-break space, outer spaces, a Windows line end, a lone carriage return inside a column.
    path.write_bytes("cafe\u0301\u00a0!\t  coffee \tCC-BY\r\nun\rdeux\tone\rtwo\n".encode())
    assert list(read_pairs(path)) == [("caf\u00e9 !", "coffee"), ("un deux", "one two")]


def test_sentences_for_the_tokeniser_are_all_sides(tmp_path: Path) -> None:
    paths = [
        write_pairs(tmp_path / "a.tsv", [("un", "one"), ("deux", "")]),
        write_pairs(tmp_path / "b.tsv", [("x", "y")]),
    ]
    assert list(read_sentences(paths)) == ["un", "one", "deux", "x", "y"]


# Filtering


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("", "hello", "empty side"),
        ("bonjour", "", "empty side"),
        ("123 !", "one", "no letters"),
        ("un", "1 ...", "no letters"),
        ("12 : 30", "12:30", "no letters"),
        ("a" * 46, "b" * 10, "length ratio"),
        ("b" * 10, "a" * 46, "length ratio"),
        ("a" * 45, "b" * 10, None),  # 2.5 * 10 + 20 is allowed
        ("ceci est une copie", "ceci est une copie", "copy"),
        ("Jean de Paris", "Jean de Paris", None),  # names stay as they are
        ("Notre-Dame \ufffd", "Notre-Dame", "damaged characters"),
        ("Notre-Dame", "Notre-Dame \ufffd", "damaged characters"),
        ("Bonjour.", "Hello.", None),
        ("你好", "Здравствуйте", None),
    ],
)
def test_each_filter(first: str, second: str, reason: str | None) -> None:
    assert rejection(first, second, max_ratio=2.5) == reason


def test_the_report_counts_every_line_once(tmp_path: Path) -> None:
    long = "le chat voit la maison " * 8
    first = [
        ("le chat.", "the cat."),
        ("le chat.", "the cat."),
        ("", "x"),
        ("1", "2"),
        (long, long.replace("le", "the")),
    ]
    second = [("le chat.", "the cat."), ("le chat.", "a cat."), ("ici", "h" * 80), ("x\ufffd", "y")]
    write_pairs(tmp_path / "one.tsv", first)
    write_pairs(tmp_path / "two.tsv", second)
    config = data_config(tmp_path, sources=(SourceConfig("one.tsv"), SourceConfig("two.tsv", 0.5)), max_tokens=12)
    corpus, reports = load_corpus(config, tokenizer())
    assert reports == [
        SourceReport("one.tsv", 5, 1, {"duplicate": 1, "empty side": 1, "no letters": 1, "too many tokens": 1}),
        SourceReport("two.tsv", 4, 1, {"duplicate": 1, "length ratio": 1, "damaged characters": 1}),
    ]
    assert len(corpus) == 2
    assert corpus.source_of.tolist() == [0, 1]
    assert corpus.weights == (1.0, 0.5)
    assert [tokenizer().decode(corpus.side(language, 1).tolist()) for language in (0, 1)] == ["le chat.", "a cat."]


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv", [("1", "2")])
    with pytest.raises(CorpusError, match=r"no pair is left after filtering pairs\.tsv"):
        load_corpus(data_config(tmp_path), tokenizer())


# Tokenising


def test_arrays_hold_what_the_tokeniser_gives_for_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "_TOKENIZE_LINES", 100)  # 256 pairs: two full blocks and a part
    write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    corpus, _ = load_corpus(data_config(tmp_path), tokenizer())
    assert len(corpus) == 256
    for language in (0, 1):
        expected = [tokenizer().encode_target(pair[language]) for pair in sentence_pairs()]
        assert [corpus.side(language, index).tolist() for index in range(256)] == expected
        assert corpus.lengths(language).tolist() == [len(ids) for ids in expected]


def test_max_tokens_is_the_longest_side_that_stays(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    longest = [max(len(tokenizer().encode_target(side)) for side in pair) for pair in sentence_pairs()]
    limit = sorted(longest)[128]
    corpus, _ = load_corpus(data_config(tmp_path, max_tokens=limit), tokenizer())
    assert len(corpus) == sum(length <= limit for length in longest)


# The cache


def test_a_cached_corpus_equals_a_fresh_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pairs(tmp_path / "pairs.tsv", [*sentence_pairs(), ("", "x")])
    config = data_config(tmp_path)
    fresh, fresh_reports = load_corpus(config, tokenizer(), tmp_path / "cache")

    assert isinstance(fresh.ids[0], np.memmap)

    def unexpected(path: Path) -> None:
        raise AssertionError(f"{path} is read although its cache is there")

    monkeypatch.setattr(corpus_module, "read_pairs", unexpected)
    cached, cached_reports = load_corpus(config, tokenizer(), tmp_path / "cache")
    assert_same(cached, fresh)
    assert cached_reports == fresh_reports


def test_weights_are_not_part_of_the_cache(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    load_corpus(data_config(tmp_path), tokenizer(), tmp_path / "cache")
    heavier = data_config(tmp_path, sources=(SourceConfig("pairs.tsv", 3.0),))
    corpus, _ = load_corpus(heavier, tokenizer(), tmp_path / "cache")
    assert corpus.weights == (3.0,)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    "damage", ["ids0.npy cut", "offsets1.npy cut", "source_of.npy gone", "facts.json cut", "ids1.npy of another corpus"]
)
def test_a_damaged_cache_is_made_anew(tmp_path: Path, damage: str) -> None:
    write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    fresh, _ = load_corpus(data_config(tmp_path), tokenizer())
    load_corpus(data_config(tmp_path), tokenizer(), tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    name, _, what = damage.partition(" ")
    if what == "cut":
        (folder / name).write_bytes((folder / name).read_bytes()[:-20])
    elif what == "gone":
        (folder / name).unlink()
    else:
        np.save(folder / name, fresh.ids[1][:-1])
    again, _ = load_corpus(data_config(tmp_path), tokenizer(), tmp_path / "cache")
    assert_same(again, fresh)
    assert (folder / "source_of.npy").exists()


def test_large_vocabularies_need_wider_ids(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.tsv", sentence_pairs()[:3])
    narrow, _ = load_corpus(data_config(tmp_path), tokenizer())
    large = Tokenizer(tokenizer().serialized)
    large.vocab_size = 70_000
    wide, _ = load_corpus(data_config(tmp_path), large)
    assert wide.ids[0].dtype == np.uint32
    assert wide.ids[0].tolist() == narrow.ids[0].tolist()


def test_worker_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_module, "_TOKENIZE_LINES", 20)  # more blocks than are read ahead
    pairs = sentence_pairs()
    write_pairs(tmp_path / "pairs.tsv", [*pairs, *pairs[:30], ("", "x"), ("la version 3", "version 4")])
    config = data_config(tmp_path, filters=STRICT)
    alone, alone_reports = load_corpus(config, tokenizer())
    shared, shared_reports = load_corpus(config, tokenizer(), num_workers=2)
    assert_same(shared, alone)
    assert shared_reports == alone_reports
    assert {"duplicate", "empty side", "different numbers"} <= set(alone_reports[0].rejected)


def test_fingerprint_changes_with_all_that_decides_the_corpus(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    write_pairs(tmp_path / "more.tsv", [("un", "one")])
    os.utime(path, ns=(10**18, 10**18))
    config = data_config(tmp_path)
    begun = fingerprint(config, tokenizer())
    assert fingerprint(config, Tokenizer(tokenizer().serialized)) == begun
    assert fingerprint(data_config(tmp_path, sources=(SourceConfig("pairs.tsv", 9.0),)), tokenizer()) == begun

    other_tokenizer = train_tokenizer(
        (side for pair in sentence_pairs()[:40] for side in pair), tmp_path / "t.model", vocab_size=310, num_threads=1
    )
    others = {
        fingerprint(data_config(tmp_path, max_tokens=61), tokenizer()),
        fingerprint(data_config(tmp_path, max_ratio=2.6), tokenizer()),
        fingerprint(data_config(tmp_path, sources=(SourceConfig("more.tsv"),)), tokenizer()),
        fingerprint(data_config(tmp_path, sources=(SourceConfig("pairs.tsv"), SourceConfig("more.tsv"))), tokenizer()),
        fingerprint(config, other_tokenizer),
    }
    os.utime(path, ns=(10**18, 10**18 + 1))
    assert fingerprint(config, tokenizer()) == begun
    elsewhere = write_pairs(tmp_path / "moved" / "other.tsv", sentence_pairs())
    moved = data_config(elsewhere.parent, sources=(SourceConfig("other.tsv"),))
    assert fingerprint(moved, tokenizer()) == begun
    with path.open("a", encoding="utf-8") as file:
        file.write("deux\ttwo\n")
    os.utime(path, ns=(10**18, 10**18))
    others.add(fingerprint(config, tokenizer()))
    assert len(others - {begun}) == 6


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "pairs.tsv", sentence_pairs())
    load_corpus(data_config(tmp_path), tokenizer(), tmp_path / "cache")
    write_pairs(path, sentence_pairs()[:10])
    corpus, _ = load_corpus(data_config(tmp_path), tokenizer(), tmp_path / "cache")
    assert len(corpus) == 10


def test_fingerprint_of_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"cannot read .*pairs\.tsv: No such file"):
        fingerprint(data_config(tmp_path), tokenizer())
