"""Builds this repository's packages with a release's SDK.

They are sources and pages only: nothing of what they depend on is compiled (NO_DEPS), and no compiler is started for
them. LuCI's feed is needed for its makefile and for the tool that packs translations.
"""

import glob
import os
import re
import shutil

from firmware.openwrt.download import Say
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.run import Runner

FEED = "confine"
PACKAGES = ("confine-node", "confine-upgrade", "luci-app-confine", "confine")
_SUFFIXES = (".apk", ".ipk")
# luci-i18n-confine-ca-0.1.0-r1.apk, luci-i18n-confine-ca_0.1.0-r1_all.ipk: LuCI's makefile names them.
_TRANSLATION = re.compile(r"luci-i18n-confine-([a-z]+(?:-[a-z]+)*)[-_]\d")
_SECRET = "private-key.pem"  # the names of OpenWrt's rules.mk


def build(sdk: str, repository: str, luci: str, runner: Runner, say: Say) -> list[str]:
    """Build the feed of `repository` in the unpacked SDK; the paths of the packages, sorted.

    luci: a checkout of LuCI's feed, or "": the one the SDK names, fetched by it.
    """
    for old in _made(sdk):
        os.unlink(old)
    _name_feeds(sdk, os.path.join(repository, "package"), luci)
    there = names(repository)
    say(f"packages: {', '.join(there)}")
    runner.run(["./scripts/feeds", "update", "luci", FEED], sdk)
    runner.run(["./scripts/feeds", "install", "-p", "luci", "luci-base"], sdk)
    runner.run(["./scripts/feeds", "install", "-f", "-p", FEED, *there], sdk)
    runner.run(["make", "defconfig"], sdk)
    # Translations are packages of their own, switched on by the language.
    with open(os.path.join(sdk, ".config"), "a", encoding="utf-8") as file:
        file.write("".join(f"CONFIG_LUCI_LANG_{language}=m\n" for language in _languages(repository)))
    runner.run(["make", "defconfig"], sdk)
    _make_key(sdk, runner)
    runner.run(["make", "package/luci-base/host/compile", "NO_DEPS=1", "V=s"], sdk)
    for name in there:
        runner.run(["make", f"package/{name}/compile", "NO_DEPS=1", "V=s"], sdk)
    made = _made(sdk)
    for name in there:
        if not any(os.path.basename(path).startswith((name + "-", name + "_")) for path in made):
            raise FirmwareError(f"the SDK built no package {name}, and said nothing of it: see the log")
    return made


def _make_key(sdk: str, runner: Runner) -> None:
    """The key that apk packages are signed with: a dependency of every package, so NO_DEPS leaves it out. Nobody has to
    trust it: the ImageBuilder takes local packages by their checksums."""
    openssl = "./staging_dir/host/bin/openssl"
    if not os.path.exists(os.path.join(sdk, "staging_dir/host/bin/apk")) or os.path.exists(os.path.join(sdk, _SECRET)):
        return
    runner.run([openssl, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", _SECRET], sdk)
    runner.run([openssl, "ec", "-in", _SECRET, "-pubout", "-out", "public-key.pem"], sdk)


def names(repository: str) -> list[str]:
    """The packages that belong into an image, as far as the repository has them."""
    return [name for name in PACKAGES if os.path.exists(os.path.join(repository, "package", name, "Makefile"))]


def translations(packages: list[str]) -> list[str]:
    """What an image needs beside `names` for the pages in the languages that `packages` (paths) have: those packages,
    and LuCI's own words in the same languages."""
    found = [_TRANSLATION.match(os.path.basename(path)) for path in packages]
    languages = sorted(match[1] for match in found if match)
    return [f"luci-i18n-{part}-{language}" for language in languages for part in ("base", "confine")]


def _made(sdk: str) -> list[str]:
    found = glob.glob(os.path.join(sdk, "bin", "packages", "*", FEED, "*"))
    return sorted(path for path in found if path.endswith(_SUFFIXES))


def _languages(repository: str) -> list[str]:
    po = os.path.join(repository, "package", "luci-app-confine", "po")
    return sorted(name for name in os.listdir(po) if name != "templates") if os.path.isdir(po) else []


def _name_feeds(sdk: str, feed: str, luci: str) -> None:
    """feeds.conf: LuCI as the SDK has it (or a directory), and ours. What an earlier build left is taken away."""
    if luci:
        line = f"src-link luci {os.path.abspath(luci)}"
    else:
        path = os.path.join(sdk, "feeds.conf.default")
        with open(path, encoding="utf-8") as file:
            line = next((line for line in file.read().splitlines() if line.split()[1:2] == ["luci"]), "")
        if not line:
            raise FirmwareError(f"{path} names no feed luci: LUCI=DIRECTORY with a checkout of it")
    for name in ("feeds", "package/feeds", "tmp"):
        shutil.rmtree(os.path.join(sdk, name), ignore_errors=True)
    if os.path.exists(os.path.join(sdk, ".config")):
        os.unlink(os.path.join(sdk, ".config"))
    with open(os.path.join(sdk, "feeds.conf"), "w", encoding="utf-8") as file:
        file.write(f"{line}\nsrc-link {FEED} {os.path.abspath(feed)}\n")
