"""The daemon as it is, but it says on stdout when it has made its first plan."""

import os
import sys

from confine import daemon
from confine.core import plan

_plan = plan.plan


def first(*arguments, **options):
    found = _plan(*arguments, **options)
    plan.plan = _plan
    os.write(1, b"planned\n")
    return found


plan.plan = first
sys.exit(daemon.main())
