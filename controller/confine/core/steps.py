"""The table of all kinds of steps: the one place that says which there are and what failing at one means.

A driver implements exactly the verbs that stand here for it; a test holds drivers and table together.
"""

from confine.core.model import FAIL_ALLOCATE, FAIL_DEPLOY, FAIL_START

NODE = "node"
NETWORK = "network"  # subject of steps for the node's own network: their failures are kept apart
ALLOCATE = "allocate"
DEPLOY = "deploy"
START = "start"
DOWN = "down"

# (driver, verb): (phase, what it does). The order is that of bringing a sliver up, then taking it down.
STEPS = {
    ("network", "configure"): (NODE, "write the node's own sections into UCI and have them applied"),
    ("network", "confirm"): (NODE, "keep a change of the network after which all answers as before"),
    ("network", "undo"): (NODE, "put the network back as it was before a change"),
    ("links", "bridge"): (NODE, "make the bridge of the private interfaces, with its addresses"),
    ("firewall", "install"): (NODE, "put up the node's own nftables tables"),
    ("overlay", "key"): (NODE, "make the node's own key for the tinc overlay"),
    ("overlay", "configure"): (NODE, "write the overlay's files: its name, its peers, its address"),
    ("overlay", "start"): (NODE, "start tincd, or start it anew"),
    ("overlay", "reload"): (NODE, "have tincd read its files again; what is connected stays so"),
    ("overlay", "confirm"): (NODE, "keep the overlay's changed files: a peer is reached with them"),
    ("overlay", "undo"): (NODE, "put the overlay's files back as they were before a change"),
    ("overlay", "stop"): (NODE, "stop tincd"),
    ("boot", "reboot"): (NODE, "reboot the node, once for each grown boot_sn"),
    ("journal", "book"): (ALLOCATE, "book the sliver's number, memory and disk"),
    ("cache", "fetch_template"): (ALLOCATE, "fetch the template and check its sha256"),
    ("cache", "fetch_data"): (ALLOCATE, "fetch the sliver's data and check its sha256"),
    ("storage", "allocate"): (ALLOCATE, "make the sliver's directory and its disk image, allocated in full"),
    ("storage", "mend"): (ALLOCATE, "write the sliver's damaged documents anew from what else is known of it"),
    ("cache", "unpack_template"): (DEPLOY, "make the template ready to be mounted"),
    ("storage", "format"): (DEPLOY, "make an empty file system in the disk image"),
    ("storage", "mount"): (DEPLOY, "mount disk image, id-mapped template and overlay"),
    ("storage", "populate"): (DEPLOY, "unpack the data; write host name, resolver and keys"),
    ("limits", "apply"): (START, "make the sliver's cgroup, set its limits and read them back"),
    ("firewall", "admit"): (START, "let the sliver's interfaces say what they may, and nothing else"),
    ("containers", "start"): (START, "write the container's configuration and start it"),
    ("interfaces", "attach"): (START, "make the running sliver's interfaces what they should be"),
    ("limits", "verify"): (START, "check that the running sliver is held by its limits"),
    ("storage", "keys"): (START, "bring the keys allowed into the sliver up to date"),
    ("limits", "thaw"): (START, "let the sliver's processes run again"),
    ("limits", "freeze"): (DOWN, "keep the sliver's processes from running, as they are"),
    ("containers", "stop"): (DOWN, "stop the container, in order if it obeys in time"),
    ("interfaces", "detach"): (DOWN, "remove what is left of the sliver's interfaces"),
    ("firewall", "dismiss"): (DOWN, "let the sliver's interfaces say nothing any more"),
    ("limits", "remove"): (DOWN, "remove the sliver's cgroup"),
    ("storage", "unmount"): (DOWN, "unmount overlay, template and disk image; give the loop devices back"),
    ("storage", "undeploy"): (DOWN, "throw the sliver's file system away, keep its allocation"),
    ("storage", "remove"): (DOWN, "remove the sliver's directory and disk image"),
    ("journal", "release"): (DOWN, "give the sliver's number, memory and disk back"),
}

# The state a sliver shows while the last try of such a step failed (node API).
FAIL_STATES = {ALLOCATE: FAIL_ALLOCATE, DEPLOY: FAIL_DEPLOY, START: FAIL_START}


def phase(driver: str, verb: str) -> str:
    """The phase of a kind of step. KeyError for one that is not in the table."""
    return STEPS[(driver, verb)][0]
