"""Bookings and the boot number survive; damage is named, set aside and rebuilt."""

import json
import os

import pytest

from confine.core.model import Booking, Step
from confine.errors import StepError
from confine.journal import Journal
from confine.paths import Paths


@pytest.fixture
def paths(tmp_path):
    return Paths(data=str(tmp_path / "data"), run=str(tmp_path / "run"))


def book(journal, name, nr, key="5@1"):
    booking = Booking(key, name, nr, 64, 128)
    journal.book(Step("journal", "book", name, "test", booking=booking))
    return booking


def test_tags_and_public_addresses_survive_and_unusable_ones_are_forgotten(paths: Paths) -> None:
    kept = Booking("5@1", "sliver", 7, 64, 128, 0x123, {"2": "192.0.2.1/24"})
    Journal(paths).book(Step("journal", "book", "sliver", "test", None, kept))
    assert Journal(paths).bookings() == {"sliver": kept}
    path = os.path.join(paths.journal, "bookings.json")
    doc = {**kept.as_doc(), "vlan_tag": 5, "addresses": [1]}
    with open(path, "w") as file:
        json.dump([doc], file)
    assert Journal(paths).bookings() == {"sliver": Booking("5@1", "sliver", 7, 64, 128)}


def test_a_booking_is_there_after_a_restart(paths):
    booking = book(Journal(paths), "sliver", 1)
    assert Journal(paths).bookings() == {"sliver": booking}


def test_a_number_is_never_given_twice(paths):
    journal = Journal(paths)
    book(journal, "first", 1)
    with pytest.raises(StepError, match="number 1 is held by first"):
        book(journal, "second", 1)
    assert list(Journal(paths).bookings()) == ["first"]


def test_booking_and_releasing_again_change_nothing(paths):
    journal = Journal(paths)
    book(journal, "sliver", 1)
    book(journal, "sliver", 1)
    for _ in range(2):
        journal.release(Step("journal", "release", "sliver", "test"))
    assert Journal(paths).bookings() == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[" * 99999])
def test_damaged_bookings_are_named_set_aside_and_rebuilt_from_what_is_allocated(paths, damage):
    book(Journal(paths), "sliver", 7)
    file = os.path.join(paths.journal, "bookings.json")
    with open(file, "wb") as handle:
        handle.write(damage)
    journal = Journal(paths)
    assert file in journal.problems[0]
    assert os.path.exists(file + ".damaged")
    journal.recover({"sliver": {"key": "5@1", "name": "sliver", "nr": 7, "memory_mib": 64, "disk_mib": 128}})
    assert Journal(paths).bookings() == {"sliver": Booking("5@1", "sliver", 7, 64, 128)}


@pytest.mark.parametrize("docs", ["[1, null, {}]", '{"a": 1}', '[{"key": "5@1", "name": "x", "nr": 400}]'])
def test_bookings_that_make_no_sense_are_not_believed(paths, docs):
    os.makedirs(paths.journal)
    with open(os.path.join(paths.journal, "bookings.json"), "w") as handle:
        handle.write(docs)
    assert Journal(paths).bookings() == {}


def test_the_boot_number_is_durable_before_the_reboot_and_written_once(paths, monkeypatch):
    journal = Journal(paths)
    assert journal.boot_sn_done is None
    journal.record_boot_sn(4)
    assert Journal(paths).boot_sn_done == 4
    monkeypatch.setattr("confine.durable.write_json", lambda *args: pytest.fail("written again"))
    journal.record_boot_sn(4)


def test_a_reboot_that_a_killed_daemon_did_not_bring_about_is_asked_for_again(paths, tmp_path):
    kernel = tmp_path / "boot_id"
    kernel.write_text("first\n")
    Journal(paths, str(kernel)).record_boot_sn(4)
    assert Journal(paths, str(kernel)).boot_sn_done == 4  # the first one seen stands for no reboot
    journal = Journal(paths, str(kernel))
    journal.record_boot_sn(5)
    assert journal.boot_sn_done == 5
    assert Journal(paths, str(kernel)).boot_sn_done == 4
    kernel.write_text("second\n")
    assert Journal(paths, str(kernel)).boot_sn_done == 5


def test_a_full_disk_is_a_failed_step_and_keeps_the_bookings(paths, monkeypatch):
    journal = Journal(paths)
    book(journal, "first", 1)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("confine.durable.write_json", full)
    with pytest.raises(StepError, match="No space"):
        book(journal, "second", 2)
    assert list(journal.bookings()) == ["first"]


def test_a_file_of_an_earlier_version_is_read(paths):
    os.makedirs(paths.journal)
    with open(os.path.join(paths.journal, "bookings.json"), "w") as handle:
        handle.write('[{"disk_mib":128,"key":"5@1","memory_mib":64,"name":"sliver","nr":7}]')
    with open(os.path.join(paths.journal, "boot.json"), "w") as handle:
        handle.write('{"boot_sn":4}')
    journal = Journal(paths)
    assert journal.problems == []
    assert journal.bookings() == {"sliver": Booking("5@1", "sliver", 7, 64, 128)}
    assert journal.boot_sn_done == 4


def test_a_digit_that_flipped_is_not_believed(paths):
    """A lower boot number would have the node reboot; another sliver number would move ids and addresses."""
    journal = Journal(paths)
    journal.record_boot_sn(6)
    book(journal, "sliver", 7)
    for name, old, new in (("boot.json", b":6", b":4"), ("bookings.json", b'"nr":7', b'"nr":3')):
        file = os.path.join(paths.journal, name)
        with open(file, "rb") as handle:
            content = handle.read()
        with open(file, "wb") as handle:
            handle.write(content.replace(old, new))
    journal = Journal(paths)
    assert journal.boot_sn_done is None
    assert journal.bookings() == {}
    assert len(journal.problems) == 2
    assert "its checksum is wrong" in journal.problems[0]


def test_a_damaged_file_that_cannot_be_moved_stops_nothing(paths, monkeypatch):
    book(Journal(paths), "sliver", 7)
    with open(os.path.join(paths.journal, "bookings.json"), "w") as handle:
        handle.write("{")

    def read_only(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("confine.durable.set_aside", read_only)
    journal = Journal(paths)
    assert journal.bookings() == {}
    assert "cannot be set aside (Read-only file system)" in journal.problems[0]
