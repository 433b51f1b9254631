"""Runs that are drawn at random and can be repeated: SEED=N in the environment says which one."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

USUAL = 1  # of `make test`, which is to end the same way each time; `make torture` draws one


def seed() -> int:
    """The seed of this run."""
    return int(os.environ.get("SEED") or USUAL)


@contextmanager
def example(what: str, number: int) -> Iterator[random.Random]:
    """The random numbers of the example `number` of `what`; what fails inside says how to repeat it."""
    try:
        yield random.Random(f"{seed()}/{what}/{number}")
    except BaseException as error:
        error.add_note(f"repeat with SEED={seed()}: example {number} of {what}")
        raise


def numbers(count: int, seconds: float = 3000.0) -> Iterator[int]:
    """0 to `count` - 1. AssertionError if that takes longer than `seconds`: then too few would be tried unnoticed."""
    end = time.monotonic() + seconds
    for number in range(count):
        assert time.monotonic() < end, f"only {number} of {count} examples in {seconds:.0f} s"
        yield number
