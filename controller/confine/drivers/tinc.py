"""What tinc itself is asked and told: keys, whether it runs, whom it reaches. tinc 1.0 and 1.1 alike."""

import os
import socket
import subprocess

from confine import durable
from confine.core import overlay_files, rsa
from confine.core.overlay import PeerSeen
from confine.core.overlay_documents import is_name
from confine.errors import StepError

KEY = "rsa_key.priv"
KEY_BITS = 2048
KEY_S = 300.0
IFF_UP = 1


def running(pid_file: str) -> "int | None":
    """The tincd that the pid file tells, if that process is one."""
    try:
        with open(pid_file, encoding="ascii") as file:
            pid = int(file.read(64).split()[0])  # 1.1 writes its control cookie behind it
        with open("/proc/{}/stat".format(pid), encoding="ascii", errors="replace") as file:
            name, _, rest = file.read().partition("(")[2].rpartition(")")
    except (OSError, ValueError, IndexError):
        return None
    return pid if name == "tincd" and rest.split()[0] not in ("Z", "X") else None


def peers_seen(directory: str) -> "dict[str, PeerSeen]":
    """What share/overlay-peer left: a file for each peer, "up ADDRESS PORT" or "down", as old as that."""
    found = {}
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                if is_name(entry.name):
                    with open(entry.path, encoding="ascii", errors="replace") as file:
                        words = file.read(128).split()
                    if words:
                        found[entry.name] = PeerSeen(words[0] == "up", entry.stat().st_mtime, " ".join(words[1:]))
    except OSError:
        pass
    return found


def interface_right(name: str, up: "str | None") -> bool:
    """Whether tincd's interface is up, with the MTU and the address that the tinc-up script `up` gives it."""
    base = "/sys/class/net/" + name
    try:
        with open(base + "/flags", encoding="ascii") as file:
            is_up = int(file.read(), 16) & IFF_UP
        with open(base + "/mtu", encoding="ascii") as file:
            mtu = int(file.read())
        with open("/proc/net/if_inet6", encoding="ascii") as file:
            addresses = [line.split() for line in file]
    except (OSError, ValueError):
        return False
    there = [words[0] for words in addresses if len(words) == 6 and words[5] == name and words[2] == "30"]
    wanted = [line.split()[4].partition("/")[0] for line in (up or "").splitlines() if "replace" in line]
    return bool(is_up) and mtu == overlay_files.MTU and all(packed(address) in there for address in wanted)


def usable_key(text: str) -> "rsa.Numbers | None":
    """The public numbers of a whole private key, else None."""
    try:
        return rsa.numbers(text, rsa.PRIVATE)
    except ValueError:
        return None


def packed(address: str) -> str:
    """An IPv6 address as /proc/net/if_inet6 has it."""
    try:
        return socket.inet_pton(socket.AF_INET6, address).hex()
    except OSError:
        return address


def address_of(line: str) -> "tuple[str, int]":
    """(host, port) of the value of an Address line."""
    words = line.split()
    port = int(words[1]) if len(words) > 1 and words[1].isdigit() else 655
    return words[0], port


def installed(program: str) -> bool:
    """Whether `program` is on the path."""
    return any(os.access(os.path.join(directory, program), os.X_OK) for directory in os.get_exec_path())


def make_key(etc: str) -> str:
    """A new private key, made by tinc itself (1.1 by its program tinc, 1.0 by tincd) in a directory of its own."""
    import shutil  # lazy: memory of the daemon's

    scratch = os.path.join(etc, durable.TEMPORARY + "key")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        os.mkdir(scratch, 0o700)
        os.mkdir(os.path.join(scratch, "hosts"), 0o700)
        with open(os.path.join(scratch, "tinc.conf"), "w", encoding="ascii") as file:
            file.write("Name = new\n")
        if installed("tinc"):
            command = ["tinc", "-b", "-c", scratch, "generate-rsa-keys", str(KEY_BITS)]
        else:
            command = ["tincd", "-c", scratch, "-K{}".format(KEY_BITS)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=KEY_S, check=False)
        with open(os.path.join(scratch, KEY), encoding="ascii") as file:
            return file.read()
    except FileNotFoundError as error:
        said = " ".join(done.stderr.decode("utf-8", "replace").split())[-300:] if "done" in locals() else str(error)
        raise StepError("tinc made no key: " + said)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StepError("no key can be made in {}: {}".format(etc, error))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
