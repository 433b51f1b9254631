"""What `make bench` says, apart from the figures."""

import os
import subprocess
import sys

import pytest

from bench import run, table

RUN = run.__file__


def bench(only):
    argv = [sys.executable, RUN]
    return subprocess.run(argv, env={**os.environ, "ONLY": only}, capture_output=True, text=True, timeout=50)


@pytest.mark.slow
def test_one_figure_alone_is_printed_with_machine_versions_and_what_is_to_be_reached():
    done = bench("package")
    assert done.returncode == 0, done.stderr
    assert "squashfs-xz" in done.stdout and "<= 150 KiB" in done.stdout
    assert "UTC" in done.stdout and "Python " in done.stdout and "kernel " in done.stdout


def test_a_name_that_is_none_is_refused_with_those_there_are():
    done = bench("speed")
    assert done.returncode == 2
    assert "speed" in done.stderr and "idle" in done.stderr and "sliver" in done.stderr


def test_every_part_has_names_of_its_own_and_gives_figures():
    modules = run.parts()
    names = [name for module in modules.values() for name in module.NAMES]
    assert len(names) == len(set(names))
    assert {"host", "virtual", "api_bench"} <= set(modules)
    for module in modules.values():
        assert callable(module.figures)


def test_a_part_that_breaks_off_keeps_the_lines_it_had_and_says_why(capsys):
    def breaks():
        yield table.missing("one", "no reason")
        raise RuntimeError("the node is gone")

    found = list(run.guarded("a part", breaks()))
    assert [figure.name for figure in found] == ["one", "a part"]
    assert "the node is gone" in found[1].measured


def test_a_ratio_over_what_is_to_be_reached_is_not_reached():
    assert table.at_most("x", 3.0, 2.0, 1.4, "s", "y").reached is False
    assert table.at_most("x", 2.0, 2.0, 1.0, "s", "y").reached is True
