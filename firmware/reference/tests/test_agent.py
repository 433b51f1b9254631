"""The harness's agent: what comes over the port is put together into lines, however it is cut up."""

import os
import threading

from firmware.reference.agent import Connection

PAGE = 4096


def lines_of(pieces, count):
    """The first `count` lines that the agent reads of what is sent piece by piece."""
    reader, writer = os.pipe()

    def send():
        for piece in pieces:
            for start in range(0, len(piece), PAGE):
                os.write(writer, piece[start : start + PAGE])

    sending = threading.Thread(target=send)
    sending.start()
    lines = Connection(reader).lines()
    found = [next(lines) for _ in range(count)]
    sending.join()
    os.close(reader)
    os.close(writer)
    return found


def test_a_line_of_many_megabytes_arrives_whole_and_so_does_the_next():
    large = bytes(range(97, 122)) * (1 << 18)
    assert lines_of([b"\n", large, b"\nsecond\n"], 2) == [large, b"second"]


def test_several_lines_in_one_piece_and_one_line_in_several_are_told_apart():
    assert lines_of([b"a\n\n b", b"c\nd\n", b"e", b"f\n"], 4) == [b"a", b" bc", b"d", b"ef"]
