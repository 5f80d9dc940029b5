"""Captures of every kind are read alike; what is none is refused in a sentence; damage only ends the reading."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.capfile import CaptureFile
from lab.errors import UsageError
from lab.wire import read_pcap
from tests.captures import pcap, pcapng

FRAMES = [b"first frame", b"second", b"", b"the fourth"]

KINDS = {
    "pcap, nanoseconds": pcap(FRAMES),
    "pcap, microseconds": pcap(FRAMES, nanoseconds=False),
    "pcap, big-endian": pcap(FRAMES, order=">"),
    "pcap, big-endian, microseconds": pcap(FRAMES, order=">", nanoseconds=False),
    "pcapng": pcapng(FRAMES),
    "pcapng, big-endian": pcapng(FRAMES, order=">"),
    "pcapng, nanoseconds": pcapng(FRAMES, resolution=9),
    "pcapng, powers of two": pcapng(FRAMES, resolution=0x80 | 30),
}


def frames_of(path: Path, data: bytes) -> tuple[list[tuple[float, int, bytes, int]], str]:
    """What the reader makes of a file with this content, and the damage it found."""
    path.write_bytes(data)
    file = CaptureFile(path)
    return list(file), file.damage


@pytest.mark.parametrize("data", KINDS.values(), ids=list(KINDS))
def test_every_kind_of_capture_gives_the_same_frames_at_the_same_times(data: bytes, tmp_path: Path) -> None:
    frames, damage = frames_of(tmp_path / "file", data)
    assert [frame for _, _, frame, _ in frames] == FRAMES
    assert [time for time, _, _, _ in frames] == pytest.approx([1000.0, 1000.001, 1000.002, 1000.003], abs=1e-6)
    assert {link for _, link, _, _ in frames} == {1}
    assert [length for _, _, _, length in frames] == [len(frame) for frame in FRAMES]
    assert damage == ""


def test_scapy_reads_the_same_from_the_files_of_these_tests(tmp_path: Path) -> None:
    from scapy.utils import RawPcapReader

    for number, data in enumerate((pcap(FRAMES), pcapng(FRAMES))):
        path = tmp_path / str(number)
        path.write_bytes(data)
        with RawPcapReader(str(path)) as reader:
            assert [frame for frame, _ in reader] == FRAMES


def test_a_capture_with_a_snap_length_tells_how_long_the_frames_were(tmp_path: Path) -> None:
    frames, _ = frames_of(tmp_path / "file", pcap(FRAMES, snaplen=6))
    assert [(frame, length) for _, _, frame, length in frames] == [
        (b"first ", 11), (b"second", 6), (b"", 0), (b"the fo", 10),
    ]  # fmt: skip


@pytest.mark.parametrize("data", KINDS.values(), ids=list(KINDS))
def test_a_capture_cut_anywhere_gives_the_frames_before_the_cut(data: bytes, tmp_path: Path) -> None:
    seen = set()
    for end in range(24, len(data)):
        frames, _ = frames_of(tmp_path / "file", data[:end])
        assert [frame for _, _, frame, _ in frames] == FRAMES[: len(frames)]
        seen.add(len(frames))
    assert seen == {0, 1, 2, 3}


def test_a_cut_within_a_packet_is_told(tmp_path: Path) -> None:
    whole = {len(pcap(FRAMES[:count])) for count in range(5)}
    data = pcap(FRAMES)
    for end in range(24, len(data) + 1):
        _, damage = frames_of(tmp_path / "file", data[:end])
        assert damage == ("" if end in whole else "the file ends in the middle of a packet")
    assert frames_of(tmp_path / "file", pcapng(FRAMES)[:-1])[1] == "the file ends in the middle of a block"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "it is empty"),
        (b"\x1f\x8b\x08" + bytes(40), "unpack it with gunzip"),
        (b"snoop\0\0\0" + bytes(40), "editcap"),
        (b"%PDF-1.7 and so on and so on", "is no pcap or pcapng file$"),
        (pcap([])[:20], "breaks off in its header"),
    ],
)
def test_what_is_no_capture_is_refused_with_the_way_out(data: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(UsageError, match=why):
        CaptureFile(tmp_path / "file")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nowhere.pcap: No such file"):
        CaptureFile(tmp_path / "nowhere.pcap")
    with pytest.raises(UsageError, match="Is a directory"):
        CaptureFile(tmp_path)


def test_a_length_that_cannot_be_is_damage_and_takes_no_memory(tmp_path: Path) -> None:
    data = pcap([b"good"]) + b"\0" * 8 + b"\xff\xff\xff\x7f" * 2
    frames, damage = frames_of(tmp_path / "file", data)
    assert [frame for _, _, frame, _ in frames] == [b"good"]
    assert "2147483647 bytes cannot be" in damage


@given(start=st.sampled_from(list(KINDS.values())), at=st.integers(0, 400), bytes_=st.binary(min_size=1, max_size=40))
def test_garbage_in_a_capture_ends_the_reading_at_worst(
    start: bytes, at: int, bytes_: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    at %= len(start)
    path.write_bytes(start[:at] + bytes_ + start[at + len(bytes_) :])
    try:
        for time, _, frame, length in CaptureFile(path):
            assert isinstance(time, float)
            assert length >= len(frame)
    except UsageError:
        assert at < 24


def test_the_short_classification_reads_the_same_files(tmp_path: Path) -> None:
    for data in KINDS.values():
        (tmp_path / "file").write_bytes(data)
        assert [frame for _, _, frame in read_pcap(tmp_path / "file")] == FRAMES
