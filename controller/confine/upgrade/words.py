"""What the boot loader told the kernel: the words `confine.NAME=VALUE` of its command line."""

COMMAND_LINE = "/proc/cmdline"


def boot_words(path: str = COMMAND_LINE) -> "dict[str, str]":
    """The words of the running kernel, name to value; none where no boot loader of ours started it.

    slot: a or b. confirmed: the slot the pointer named. pointer: where that was read. boot: counted, uncounted,
    byhand, trial.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        pairs = [word.partition("=") for word in file.read().split()]
    return {name[len("confine.") :]: value for name, sign, value in pairs if sign and name.startswith("confine.")}
