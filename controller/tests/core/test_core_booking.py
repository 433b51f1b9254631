"""Sliver numbers."""

from core_world import limits, name_of, node_target, settings, sliver_target

from confine.core import booking
from confine.core.booking import Ledger
from confine.core.model import Booking, Observed, SliverObserved
from confine.core.resources import Size

PLENTY = Size(1 << 20, 1 << 20)


def booked(slice_id: int, nr: int, memory: int = 10, disk: int = 20) -> Booking:
    return Booking(str(slice_id) + "@42", name_of(slice_id), nr, memory, disk)


def observed(**allocations: "dict[str, object]") -> Observed:
    found = {name[1:]: SliverObserved(name[1:], allocation) for name, allocation in allocations.items()}
    return Observed(found, [], [], True, True, 1000, 1000, 1000)


def allocation(slice_id: int, nr: int) -> "dict[str, object]":
    return {"key": str(slice_id) + "@42", "nr": nr, "memory_mib": 30, "disk_mib": 40}


def test_the_lowest_free_number_is_taken() -> None:
    assert booking.lowest_free([]) == 1
    assert booking.lowest_free([1, 2, 4]) == 3
    assert booking.lowest_free(list(range(1, 126))) is None


def test_a_sliver_keeps_its_number_when_a_lower_one_is_free() -> None:
    ledger = Ledger({name_of(5): booked(5, 9)}, observed())
    admitted, problems = ledger.admit(sliver_target(5), node_target(), settings(), PLENTY)
    assert problems == [] and admitted is not None and admitted.nr == 9


def test_what_a_sliver_has_booked_itself_is_not_in_its_way() -> None:
    ledger = Ledger({name_of(5): booked(5, 1, 50, 100)}, observed())
    admitted, _ = ledger.admit(sliver_target(5, limits=limits(60, 100)), node_target(), settings(), Size(60, 100))
    assert admitted is not None and admitted.memory_mib == 60
    assert ledger.left(Size(60, 100), name_of(6)).memory == 0


def test_more_slivers_than_numbers_is_a_problem_of_the_last_one_alone() -> None:
    ledger = Ledger({}, observed())
    numbers = []
    for slice_id in range(1, 126):
        admitted, _ = ledger.admit(sliver_target(slice_id, limits=limits(1, 1)), node_target(), settings(), PLENTY)
        assert admitted is not None
        numbers.append(admitted.nr)
    assert numbers == list(range(1, 126))
    admitted, problems = ledger.admit(sliver_target(200, limits=limits(1, 1)), node_target(), settings(), PLENTY)
    assert admitted is None and "All 125 sliver numbers" in problems[0].message


def test_a_lost_booking_is_read_back_from_the_allocation() -> None:
    ledger = Ledger({}, observed(**{"_" + name_of(5): allocation(5, 7)}))
    assert ledger.entries[name_of(5)] == booked(5, 7, 30, 40)
    assert ledger.number(name_of(6)) == 1


def test_of_two_allocations_with_one_number_only_one_keeps_it() -> None:
    ledger = Ledger({}, observed(**{"_" + name_of(5): allocation(5, 7), "_" + name_of(6): allocation(6, 7)}))
    assert ledger.clashing == [name_of(6)]
    assert ledger.entries[name_of(6)].nr == 0 and ledger.entries[name_of(6)].disk_mib == 40
    assert ledger.number(name_of(6)) == 1


def test_a_booking_wins_over_the_allocation_of_another_sliver() -> None:
    ledger = Ledger({name_of(6): booked(6, 7)}, observed(**{"_" + name_of(5): allocation(5, 7)}))
    assert ledger.clashing == [name_of(5)]
    assert ledger.entries[name_of(6)].nr == 7


def test_an_allocation_that_says_nothing_usable_is_not_counted() -> None:
    for wrong in ({}, {"nr": 0}, {"nr": 126}, {"nr": "7"}, {"nr": True}):
        doc: "dict[str, object]" = allocation(5, 7)
        doc.update(wrong)
        if wrong:
            assert booking.of_allocation("x", doc) is None
    assert booking.of_allocation("x", None) is None
