"""What slivers ask for, what they get, what is refused."""

from core_world import limits, messages, node_target, settings, sliver_target

from confine.core import resources
from confine.core.model import Observed

OFFERS = {"disk": (2000, 256), "memory": (1024, 128)}


def asked(**amounts: int) -> "dict[str, object]":
    return {"resources": [{"name": name, "req": req, "unit": "MiB"} for name, req in amounts.items()]}


def sizes(
    sliver: "dict[str, object]", defaults: "dict[str, object]", offers: "dict[str, tuple[int | None, int]]"
) -> "tuple[int, int]":
    found, problems = resources.effective(sliver, defaults, offers, settings())
    assert problems == []
    return found.memory_mib, found.disk_mib


def test_a_sliver_asks_itself_then_its_slice_then_the_node_then_the_settings() -> None:
    assert sizes(asked(memory=10, disk=20), asked(memory=30, disk=40), OFFERS) == (10, 20)
    assert sizes(asked(memory=10), asked(memory=30, disk=40), OFFERS) == (10, 40)
    assert sizes({}, asked(disk=40), OFFERS) == (128, 40)
    assert sizes({}, {}, {}) == (64, 128)
    assert sizes({}, {}, {"disk": (2000, 0)}) == (64, 128)


def test_the_other_limits_are_those_of_the_node() -> None:
    mine = settings(cpu_percent_max=50, cpu_weight=7, pids_max=9, io_mib_s=3, io_ops=4)
    found, _ = resources.effective({}, {}, {}, mine)
    assert (found.cpu_percent, found.cpu_weight, found.pids, found.io_mib_s, found.io_ops) == (50, 7, 9, 3, 4)


def test_a_request_that_is_no_size_is_a_problem() -> None:
    for request in ({"name": "disk", "req": 0, "unit": "MiB"}, {"name": "disk", "req": -5, "unit": "MiB"},
                    {"name": "disk", "req": "5", "unit": "MiB"}, {"name": "disk", "req": True, "unit": "MiB"},
                    {"name": "disk", "req": 5, "unit": "GiB"}, {"name": "disk", "req": 5}):  # fmt: skip
        _, problems = resources.effective({"resources": [request]}, {}, OFFERS, settings())
        assert len(problems) == 1 and problems[0].member == "/resources", request


def test_what_is_lent_is_the_lower_of_machine_and_policy_without_the_reserve() -> None:
    observed = Observed({}, [], [], True, True, 4000, 4000, 512)
    total = resources.lent(observed, settings(memory_reserve_mib=64, disk_reserve_mib=128))
    assert (total.memory, total.disk) == (448, 3872)
    total = resources.lent(observed, settings(memory_total_mib=9999, disk_total_mib=1000, disk_reserve_mib=100))
    assert (total.memory, total.disk) == (448, 900)
    total = resources.lent(observed, settings(memory_reserve_mib=1000))
    assert total.memory == 0


def test_the_maximum_is_the_lowest_of_registry_member_and_share() -> None:
    total = resources.Size(1000, 1000)
    node = node_target(resources={"disk": (500, 1), "memory": (None, 1)})
    assert resources.maxima(node, settings(), total) == {"memory": 1000, "disk": 500}
    assert resources.maxima(node, settings(sliver_disk_max_mib=400), total)["disk"] == 400
    assert resources.maxima(node, settings(slice_share_percent=25), total) == {"memory": 250, "disk": 250}


def test_over_the_maximum_is_refused_with_what_was_asked_and_what_is_allowed() -> None:
    problems = resources.refuse(limits(60, 700), {"memory": 60, "disk": 500}, resources.Size(1000, 1000))
    assert len(problems) == 1
    assert problems[0].member == "/resources"
    assert "disk" in problems[0].message and "700" in problems[0].message and "500" in problems[0].message


def test_more_than_is_left_is_refused() -> None:
    problems = resources.refuse(limits(60, 70), {"memory": None, "disk": None}, resources.Size(59, 70))
    assert "memory: asked for 60 MiB" in messages(problems) and "59 MiB" in messages(problems)


def test_the_member_says_whose_slivers_come_in() -> None:
    sliver = sliver_target(5, group_id=2)
    for policy, let_in in (
        ({}, True),
        ({"refuse_slices": [5]}, False),
        ({"refuse_slices": [6]}, True),
        ({"accept_slices": [5]}, True),
        ({"accept_slices": [6]}, False),
        ({"accept_groups": [2]}, True),
        ({"accept_groups": [3]}, False),
        ({"accept_groups": [3], "accept_slices": [5]}, True),
        ({"accept_groups": [2], "refuse_slices": [5]}, False),
    ):
        assert (resources.accepts(sliver, settings(**policy)) is None) is let_in, policy
