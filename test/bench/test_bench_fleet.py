"""The simulation of many nodes' polling does what the client does, and its figures can be had again."""

import pytest

from bench import fleet, fleet_measured
from bench.fleet_simulated import Rules, mean, peak, simulate, within
from confine.registry import client, index

FEW = 300


def test_without_jitter_nodes_that_started_together_come_together_for_ever() -> None:
    load = simulate(Rules(FEW, jitter=0.0, walk=20, first_pause=False), 1900)
    assert peak(load.between(1800, 1900)) == FEW


def test_nodes_that_get_their_power_back_together_do_not_ask_together() -> None:
    herd = simulate(Rules(FEW, walk=20, first_pause=False), 60)
    spread = simulate(Rules(FEW, walk=20), 60)
    assert peak(herd.requests) == FEW * 20
    assert peak(spread.requests) < FEW * 20 / 8


def test_the_clients_jitter_spreads_them() -> None:
    requests = simulate(Rules(FEW, walk=20), 3600).between(1800, 3600)
    assert peak(requests) < FEW / 10
    assert mean(requests) == pytest.approx(FEW / 60, rel=0.1)


def test_a_round_without_news_is_one_request_but_each_hundredth() -> None:
    rounds = index.WALK_EVERY * 2
    load = simulate(Rules(1, jitter=0.0, walk=20), int(rounds * 60))
    assert load.served == rounds
    assert sum(load.requests) == 20 + 2 * 21 + (rounds - 3)
    assert sum(simulate(Rules(1, jitter=0.0, walk=20, with_index=False), 600).requests) == 10 * 20


def test_nodes_back_off_during_an_outage_and_do_not_come_back_together() -> None:
    outage = (600.0, 4200.0)
    patient = simulate(Rules(FEW, walk=20), 6000, outage)
    eager = simulate(Rules(FEW, walk=20, backs_off=False), 6000, outage)
    assert mean(patient.between(3600, 4200)) < mean(eager.between(3600, 4200)) / 5
    assert len(patient.read_again) == FEW
    assert within(patient.read_again, 1.0) <= client.LAST_PAUSE_S * (1 + client.JITTER) + 60 * 1.2
    assert peak(patient.between(4200, 6000)) < FEW / 5


def test_the_same_seed_gives_the_same_load() -> None:
    one, same, other = (simulate(Rules(FEW), 900, (300, 400), seed).requests for seed in (1, 1, 2))
    assert one == same
    assert one != other


@pytest.mark.slow
def test_what_is_measured_is_what_the_simulation_takes_for_granted() -> None:
    found = fleet_measured.all_kinds(2)
    assert found["registry, walk"]["nothing changed"].requests == Rules(1).walk
    for registry in ("registry, index", "static, index"):
        assert found[registry]["first"].requests == Rules(1).walk
        assert found[registry]["nothing changed"].requests == 1
        assert found[registry]["one document changed"].requests == 2
    assert len(fleet.costs(found)) == 1 + 4 * 3
