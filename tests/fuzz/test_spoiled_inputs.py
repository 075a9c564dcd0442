"""The first of the spoilt inputs; ``python tests/fuzz/spoiled_inputs.py`` takes a thousand."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from spoiled_inputs import KINDS, Case, Seen, faults_of, prepared, run, unreadable
from spoiling import CANARY

PER_KIND = 5


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with prepared() as folder:
        yield folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_input_is_refused_in_one_line_or_does_no_harm(kind: str, root: Path) -> None:
    cases = [Case(0, number, (kind,), quick=True) for number in range(PER_KIND)]
    failed = {case.number: (wrong, case.words, case.spoilt, case.seen) for case in cases if (wrong := case.check(root))}
    assert failed == {}
    assert any(case.refused for case in cases)


def test_faults_are_seen(root: Path, tmp_path: Path) -> None:
    line = ["ghostify: wrong"]
    good = Seen(2, "", line)
    assert faults_of(good, {"x": b""}, {"x": b""}) == []
    assert faults_of(Seen(0, "{}", []), {}, {"out": None}) == []
    assert faults_of(good, {}, {"out": None}) == ["written: out"]
    assert faults_of(good, {"out/a": b"1"}, {"out/a": b"2"}) == ["written: out/a"]
    assert faults_of(good, {}, {CANARY: b""})[0] == "code of a file was run"
    assert faults_of(Seen(2, "", line * 2), {}, {}) == ["2 lines on standard error"]
    assert "no plain line" in faults_of(Seen(2, "", ["a" * 500]), {}, {})[0]
    assert "no plain line" in faults_of(Seen(2, "", ["a\x1b[2J"]), {}, {})[0]
    assert faults_of(Seen(2, "{}", line), {}, {}) == ["something on standard output"]
    assert faults_of(Seen(1, "", line), {}, {}) == ["status 1"]
    assert "NaN is no JSON" in faults_of(Seen(0, '{"a": NaN}', []), {}, {})[0]
    assert faults_of(Seen(0, "{}", []), {}, {"out/.a.partial": b""}) == ["left behind: out/.a.partial"]
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.safetensors").write_bytes(b"")
    assert len(unreadable(tmp_path)) == 2


def test_what_a_command_raises_and_prints_is_seen(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(["models", "--json"])
    assert (seen.status, seen.error, seen.trace) == (0, [], "")
    assert "resnet20" in seen.out
    assert run(["models", "extra"]).status == 2

    def fails(words: object) -> int:
        raise KeyError("name")

    monkeypatch.setattr("spoiled_inputs.main", fails)
    seen = run(["models"])
    assert seen.status is None
    assert faults_of(seen, {}, {})[0] == "KeyError: 'name'"
