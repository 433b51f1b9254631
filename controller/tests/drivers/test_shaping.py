"""A bound counts only as the kernel says it is kept."""

import pytest

from confine.drivers import shaping
from confine.drivers.shaping import Refused, Shaping

BOUND = {"up": {"rate": 1000, "ceil": 2000, "total": None}, "down": None}


class Message(dict):
    """An answer of the kernel, as pyroute2 gives it."""

    def get_attr(self, name):
        return self["attrs"].get(name)


class LyingKernel:
    """Says yes to all, and keeps bounds a tenth lower."""

    def __init__(self, part):
        self.part = part
        self.classes = []

    def tc(self, command, kind, index, handle=0, **values):
        if command == "replace-class":
            kept = {"rate": int(values["rate"] * self.part), "ceil": int(values["ceil"] * self.part)}
            options = Message(attrs={"TCA_HTB_PARMS": kept})
            self.classes.append(Message(handle=handle, attrs={"TCA_KIND": "htb", "TCA_OPTIONS": options}))

    def link(self, *_, **__):
        pass

    def get_qdiscs(self, index):
        return []

    def get_classes(self, index):
        return self.classes


@pytest.fixture(autouse=True)
def device(monkeypatch):
    monkeypatch.setattr(shaping, "index_of", lambda name: 7 if name == "shape-up" else None)


def test_a_bound_that_the_kernel_does_not_keep_is_refused():
    Shaping(LyingKernel(1), 3, BOUND).apply()
    with pytest.raises(Refused, match=r"up: the kernel keeps \(900, 1800\) kbit/s"):
        Shaping(LyingKernel(0.9), 3, BOUND).apply()
