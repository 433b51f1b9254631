"""Runs the core's example tests under MicroPython (or CPython): `micropython run_micropython.py PACKAGE_DIR [TEST...]`.

Imports each module of TESTS and calls its test_* functions. Prints a traceback for each that fails, then one line
of counts; exit status 1 if any failed.
"""

import sys

TESTS = (
    "test_core_addressing",
    "test_core_booking",
    "test_core_decisions",
    "test_core_desired",
    "test_core_expiry",
    "test_core_firewall",
    "test_core_interfaces",
    "test_core_keys",
    "test_core_overlay",
    "test_core_network",
    "test_core_network_change",
    "test_core_plan",
    "test_core_plan_damage",
    "test_core_plan_limits",
    "test_core_plan_node",
    "test_core_report",
    "test_core_resources",
    "test_core_settings",
    "test_core_states",
    "test_core_text",
    "test_core_wiring",
)


def report(name: str, error: BaseException) -> None:
    """Name the test and print the traceback, with what the interpreter has for it."""
    print("FAILED " + name)
    try:
        sys.print_exception(error)  # type: ignore[attr-defined]
    except AttributeError:
        import traceback

        traceback.print_exception(error)


def run(module_name: str) -> "tuple[int, int]":
    """(passed, failed) of one module."""
    module = __import__(module_name)
    passed = failed = 0
    for name in sorted(dir(module)):
        if not name.startswith("test_"):
            continue
        try:
            getattr(module, name)()
            passed += 1
        except Exception as error:
            failed += 1
            report(module_name + "." + name, error)
    return passed, failed


def main(arguments: "list[str]") -> int:
    """Run the named modules, or all. Returns the exit status."""
    here = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
    sys.path.insert(0, here)
    sys.path.insert(0, arguments[0])
    passed = failed = 0
    for module_name in arguments[1:] or TESTS:
        good, bad = run(module_name)
        passed += good
        failed += bad
    print(str(passed) + " passed, " + str(failed) + " failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
