"""Whether this machine can start a kernel from the running one."""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from confine.paths import Paths

QUIRKS = "kexec-quirks"


def can_kexec(paths: "Paths", sys: str = "/sys") -> bool:
    """Can this machine start a kernel from the running one? Not without the kernel's help, nor where it is known to
    hang: the quirks file has lines "vendor / product", as DMI names them; either may end in *."""
    if not os.path.exists(os.path.join(sys, "kernel/kexec_loaded")):
        return False
    own = [word(os.path.join(sys, "class/dmi/id", name)) for name in ("sys_vendor", "product_name")]
    for directory in (paths.share, paths.etc):
        for line in word(os.path.join(directory, QUIRKS)).splitlines():
            vendor, sign, product = line.partition(" / ")
            if sign and _matches(own[0], vendor.strip()) and _matches(own[1], product.strip()):
                return False
    return True


def _matches(text: str, pattern: str) -> bool:
    return text.startswith(pattern[:-1]) if pattern.endswith("*") else text == pattern


def word(path: str) -> str:
    """The text of a small file without blanks around it; "" if there is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""
