"""Runs in the node, inside the real daemon: kills it (SIGKILL) at a chosen point of a chosen kind of step.

Put beside the daemon's code as sitecustomize.py, so that every daemon which the init script starts carries it; the
product knows nothing of it. It wraps `Machine.do`, the one way steps are carried out:

    /root/crash/orders   what is still to be done, JSON: [{"driver", "verb", "at": "before" | N | "T ms" | "after"}]
                         N: after the N-th system call of the step that may have changed something
                         T ms: that long after the step began, wherever it then is: in the middle of a long system
                         call, while a program that it started runs; with "children": true those are killed, too
    /root/crash/done     the orders carried out, one JSON line each
    /root/crash/steps    the steps carried out to their end: "driver verb subject calls ms", a line each
    /root/crash/fault    "driver verb": this kind of step is made non-idempotent, each run leaves one thing more

An order is taken off the list, durably, before the daemon dies of it: it is carried out once.
"""

import json
import os
import signal
import sys
import threading
import time

HOME = "/root/crash"
# They only look: a daemon killed after one of these leaves what one killed before it leaves.
LOOKING = """
access fspath fstat fstatvfs getcwd getpid getppid listdir lseek lstat pread read readlink readv scandir stat statvfs
sysconf uname fsencode fsdecode get_terminal_size getuid geteuid urandom strerror cpu_count major minor makedev
WIFSTOPPED WIFEXITED WEXITSTATUS WIFSIGNALED waitstatus_to_exitcode
"""
LOOKING_NAMES = frozenset(LOOKING.split())
MODULES = ("posix", "_posixsubprocess", "fcntl")
lock = threading.Lock()


def orders():
    """What is still to be done."""
    try:
        with open(HOME + "/orders") as file:
            return json.load(file)
    except FileNotFoundError:
        return []


def die_of(order):
    """Carry `order` out."""
    with lock:
        left = orders()
        if order not in left:
            return  # another thread dies of it already
        left.remove(order)
        with open(HOME + "/orders.new", "w") as file:
            json.dump(left, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(HOME + "/orders.new", HOME + "/orders")
        note("done", json.dumps(order))
        for pid in children() if order.get("children") else []:
            os.kill(pid, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)


def children():
    """The programs that the daemon has started and that run."""
    found = []
    for thread in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{thread}/children") as file:
                found += [int(pid) for pid in file.read().split()]
        except FileNotFoundError:
            pass  # it has just ended
    return found


def note(name, line):
    handle = os.open(HOME + "/" + name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.write(handle, line.encode() + b"\n")
    os.fsync(handle)
    os.close(handle)


def changes_something(event, frame, function):
    """Whether the profiler's event is the end of a system call that may have changed something."""
    if event == "c_return":
        if getattr(function, "__module__", None) in MODULES:
            return function.__name__ not in LOOKING_NAMES
        kind = type(getattr(function, "__self__", None)).__module__
        return kind in ("_io", "_socket", "_ssl") and function.__name__ in ("write", "send", "sendall", "connect")
    return event == "return" and frame.f_globals.get("__name__") == "confine.drivers.syscalls"


class Calls:
    """Counts a step's system calls, in its own thread, and dies after the one that `order` names."""

    def __init__(self, order):
        self.count = 0
        self.order = order

    def __call__(self, frame, event, function):
        if not changes_something(event, frame, function):
            return
        self.count += 1
        if self.order is not None and self.count == self.order["at"]:
            sys.setprofile(None)
            die_of(self.order)


def pending(step):
    """The first order for the kind of `step`, or None."""
    return next((one for one in orders() if (one["driver"], one["verb"]) == (step.driver, step.verb)), None)


def wrapped(real):
    def do(machine, step):
        order = pending(step)
        if order is not None and order["at"] == "before":
            die_of(order)
        calls = Calls(order)
        alarm = set_alarm(order)
        begun = time.monotonic()
        sys.setprofile(calls)
        try:
            real(machine, step)
            leave_something(step)
        finally:
            sys.setprofile(None)
        took = 1000 * (time.monotonic() - begun)
        note("steps", f"{step.driver} {step.verb} {step.subject} {calls.count} {took:.0f}")
        if alarm is not None:
            alarm.cancel()
        if order is not None:  # "after", or the step had fewer calls this time, or was quicker
            die_of(order)

    return do


def set_alarm(order):
    """A thread that dies of `order` when its time has come; None for orders without one."""
    if order is None or not str(order["at"]).endswith(" ms"):
        return None
    alarm = threading.Timer(float(order["at"][:-3]) / 1000, die_of, [order])
    alarm.start()
    return alarm


def leave_something(step):
    """A non-idempotent step: it makes one more thing each time, and only one of them will be undone."""
    try:
        with open(HOME + "/fault") as file:
            faulty = file.read().split() == [step.driver, step.verb]
    except FileNotFoundError:
        return
    if faulty:
        above = "/sys/fs/cgroup/confine/" + step.subject
        os.mkdir("{}/again-{}".format(above, len([name for name in os.listdir(above) if name.startswith("again")])))


if "confine.daemon" in sys.orig_argv:
    from confine.machine import Machine

    os.makedirs(HOME, exist_ok=True)
    Machine.do = wrapped(Machine.do)
