"""Opening what a crash or a bad disk left: every truncation, every damaged byte, and what is kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.errors import ResultsDamaged
from engine.journal import Journal
from engine.output import Line, seal
from engine.recover import Scan, scan
from tests.journal_kit import MemoryIo, QuickIo, answer, failure, files, short

LINES = [answer(1), answer(2, text="zwei 🙂", custom_id='a"b\\c 🙂'), answer(3, text="")]
WHOLE = b"".join(line.data for line in LINES)
FIRST, SECOND = LINES[0].data, LINES[1].data
SHORT = [short(1, "a"), short(2, 'b"🙂'), short(3, "")]
SHORT_WHOLE = b"".join(line.data for line in SHORT)
NEW = short(9, "new")


def _looked_at(content: bytes) -> tuple[Scan, list[bytes]]:
    good: list[bytes] = []
    return scan(Path("output.jsonl"), io=MemoryIo(content), on_line=lambda _, line: good.append(line + b"\n")), good


async def _reopened(folder: Path) -> Journal:
    """Open, append one line, close, open again."""
    journal = Journal.open(folder, io=QuickIo())
    await journal.append(NEW)
    await journal.close()
    again = Journal.open(folder, io=QuickIo())
    await again.close()
    assert not again.damage
    assert not again.torn
    return journal


async def test_every_truncation_keeps_whole_lines_and_the_next_append_is_safe(tmp_path: Path) -> None:
    ends = [0]
    for line in SHORT:
        ends.append(ends[-1] + len(line.data))
    path = tmp_path / "output.jsonl"
    torn_file = tmp_path / "output.jsonl.torn"
    for n in range(len(SHORT_WHOLE) + 1):
        path.write_bytes(SHORT_WHOLE[:n])
        journal = await _reopened(tmp_path)
        whole = max(end for end in ends if end <= n + 1)  # only the newline is missing: the line is whole
        rest = SHORT_WHOLE[whole:n]
        assert path.read_bytes() == SHORT_WHOLE[:whole] + NEW.data, n
        assert not journal.damage, n
        if rest:
            assert [(t.offset, t.length) for t in journal.torn] == [(whole, len(rest))], n
            assert torn_file.read_bytes() == rest + b"\n", n
            torn_file.unlink()
        else:
            assert not journal.torn, n
            assert not torn_file.exists(), n


@pytest.mark.parametrize(("lines", "bits"), [(SHORT, range(8)), (LINES, (0,))], ids=["every bit", "real lines"])
def test_every_flipped_bit_is_seen_and_costs_no_neighbour(lines: list[Line], bits: Sequence[int]) -> None:
    whole = b"".join(line.data for line in lines)
    line_of = [n for n, line in enumerate(lines) for _ in line.data]
    for at in range(len(whole)):
        untouched = [line.data for n, line in enumerate(lines) if n != line_of[at]]
        for bit in bits:
            broken = bytearray(whole)
            broken[at] ^= 1 << bit
            found, good = _looked_at(bytes(broken))
            assert not found.sound, (at, bit)
            assert [line for line in good if line in untouched] == untouched, (at, bit)
            assert set(good) <= {line.data for line in lines}, (at, bit)


async def test_every_zeroed_byte_is_mended_and_only_that_line_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    start = 0
    for line in SHORT:
        stop = start + len(line.data)
        for at in range(start, stop):
            path.write_bytes(SHORT_WHOLE[:at] + b"\0" + SHORT_WHOLE[at + 1 :])
            journal = Journal.open(tmp_path, io=QuickIo())
            await journal.close()
            kept = path.read_bytes()
            if at == stop - 1:  # a newline: no line is lost
                assert kept == SHORT_WHOLE, at
                spots = [d.offset for d in journal.damage] or [t.offset for t in journal.torn]
                assert spots == [at], at
            else:
                assert kept == SHORT_WHOLE[:start] + SHORT_WHOLE[stop:], at
                assert [(d.offset, d.length) for d in journal.damage] == [(start, len(line.data))], at
                aside = tmp_path / "output.jsonl.corrupt"
                assert aside.read_bytes() == line.data[: at - start] + b"\0" + line.data[at - start + 1 :], at
            for name in ("output.jsonl.corrupt", "output.jsonl.torn"):
                (tmp_path / name).unlink(missing_ok=True)
        start = stop


@pytest.mark.parametrize("sector", range(-(-len(WHOLE) // 512)))
async def test_a_zeroed_sector_costs_the_lines_it_touches(tmp_path: Path, sector: int) -> None:
    at, stop = sector * 512, min(sector * 512 + 512, len(WHOLE))
    (tmp_path / "output.jsonl").write_bytes(WHOLE[:at] + b"\0" * (stop - at) + WHOLE[stop:])
    journal = await _reopened(tmp_path)
    kept, start = [], 0
    for line in LINES:
        text_end = start + len(line.data) - 1  # a line that only lost its newline is whole
        if stop <= start or at >= text_end:
            kept.append(line.data)
        start = text_end + 1
    assert (tmp_path / "output.jsonl").read_bytes() == b"".join(kept) + NEW.data
    assert journal.damage or journal.torn


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        pytest.param(WHOLE + b"\0" * 700, WHOLE, id="NUL tail"),
        pytest.param(WHOLE + SECOND[:-30] + b"\0" * 70, WHOLE, id="half a line, then NULs"),
        pytest.param(WHOLE + '{"id":"ä'.encode()[:-1], WHOLE, id="half a UTF-8 character"),
        pytest.param(WHOLE[:-1], WHOLE, id="only the newline is missing"),
        pytest.param(FIRST[:-1] + SECOND, FIRST + SECOND, id="glued"),
        pytest.param(FIRST[:-1] + SECOND[:-1], FIRST + SECOND, id="glued, unended"),
        pytest.param(FIRST[:40] + SECOND, SECOND, id="appended behind a torn line"),
        pytest.param(FIRST + b"\n" + SECOND, FIRST + SECOND, id="empty line"),
        pytest.param(FIRST * 2 + SECOND, FIRST + SECOND, id="doubled"),
        pytest.param(FIRST + SECOND + FIRST, FIRST + SECOND, id="doubled later"),
        pytest.param(FIRST[:-1] * 2 + b"\n" + SECOND, FIRST + SECOND, id="doubled, glued"),
        pytest.param(FIRST + FIRST[:-1], FIRST, id="doubled, unended"),
        pytest.param(FIRST + b'{"custom_id":"x"}\n' + SECOND, FIRST + SECOND, id="unsealed"),
        pytest.param(b"\0" * 4096 + WHOLE, WHOLE, id="NULs before the first line"),
        pytest.param(b"", b"", id="empty"),
    ],
)
async def test_known_shapes_of_damage(tmp_path: Path, content: bytes, kept: bytes) -> None:
    (tmp_path / "output.jsonl").write_bytes(content)
    journal = await _reopened(tmp_path)
    assert (tmp_path / "output.jsonl").read_bytes() == kept + NEW.data
    # a line that only lacks its newline was cut at the luckiest place; everything else is told
    assert bool(journal.damage or journal.torn) is (content not in (kept, kept[:-1]))


async def test_damage_is_named_by_line_offset_and_request(tmp_path: Path) -> None:
    broken = bytearray(WHOLE)
    at = len(LINES[0].data) + len(LINES[1].data) - 20
    broken[at] ^= 1
    (tmp_path / "output.jsonl").write_bytes(bytes(broken))
    journal = await _reopened(tmp_path)
    (damage,) = journal.damage
    assert (damage.file, damage.line, damage.offset) == ("output.jsonl", 2, len(LINES[0].data))
    assert damage.custom_id == 'a"b\\c 🙂'
    assert "seal" in damage.sentence()


async def test_done_yields_only_what_survived(tmp_path: Path) -> None:
    (tmp_path / "output.jsonl").write_bytes(LINES[0].data + LINES[1].data[:50] + b"\n" + LINES[2].data)
    (tmp_path / "errors.jsonl").write_bytes(failure(7).data + failure(8).data[:10])
    journal = Journal.open(tmp_path)
    found = [(d.custom_id, d.ok) for chunk in journal.done() for d in chunk]
    await journal.close()
    assert found == [("r-1", True), ("r-3", True), ("r-7", False)]


async def test_equal_failures_of_two_attempts_are_two_lines_where_their_times_differ(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    first, second = failure(1), failure(1)
    assert first.data == second.data  # the same moment: indistinguishable from a doubled line
    await journal.append(first)
    await journal.append(answer(1))
    await journal.close()
    again = Journal.open(tmp_path)
    assert sum(len(chunk) for chunk in again.done()) == 2
    await again.close()


async def test_a_sound_journal_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "output.jsonl").write_bytes(WHOLE)
    inode = (tmp_path / "output.jsonl").stat().st_ino
    journal = Journal.open(tmp_path)
    await journal.close()
    assert (tmp_path / "output.jsonl").stat().st_ino == inode
    assert {n: d for n, d in files(tmp_path).items() if n != "journal.lock"} == {
        "output.jsonl": WHOLE,
        "errors.jsonl": b"",
    }


async def test_damage_twice_is_kept_from_both_times(tmp_path: Path) -> None:
    path = tmp_path / "output.jsonl"
    for junk in (b"first junk\n", b"second junk\n"):
        path.write_bytes(path.read_bytes() + junk if path.exists() else junk)
        with path.open("ab") as file:
            file.write(answer(len(junk)).data)
        journal = Journal.open(tmp_path)
        await journal.close()
    assert (tmp_path / "output.jsonl.corrupt").read_bytes() == b"first junk\nsecond junk\n"


async def test_a_sealed_line_of_an_unknown_form_is_an_error_and_not_thrown_away(tmp_path: Path) -> None:
    line = seal({"something": "newer"})
    (tmp_path / "output.jsonl").write_bytes(WHOLE + line)
    journal = Journal.open(tmp_path)
    with pytest.raises(ResultsDamaged, match=f"byte {len(WHOLE)}"):
        list(journal.done())
    await journal.close()
    assert (tmp_path / "output.jsonl").read_bytes() == WHOLE + line


async def test_a_long_line_is_no_problem(tmp_path: Path) -> None:
    big = answer(1, text="x" * 5_000_000)
    journal = Journal.open(tmp_path)
    await journal.append(big)
    await journal.append(answer(2))
    await journal.close()
    again = Journal.open(tmp_path)
    assert sum(len(chunk) for chunk in again.done()) == 2
    await again.close()
