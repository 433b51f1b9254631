"""What the tests have in common that play scenarios in network namespaces of their own (*_world.py)."""

import os
import subprocess
import sys
import time

WAIT_S = 60.0


def wait(sentence, predicate):
    """Poll until true; gives it back."""
    deadline = time.monotonic() + WAIT_S
    while not (value := predicate()):
        assert time.monotonic() < deadline, "not in time: " + sentence
        time.sleep(0.05)
    return value


def play(script, scenario, directory):
    """Run `scenario` of `script`, a file beside this one, in a namespace that ends with it. Fails with what it said."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), script)
    command = ["unshare", "-n", "-m", "setpriv", "--pdeathsig", "KILL", sys.executable, path, scenario, str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
