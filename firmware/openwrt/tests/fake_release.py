"""A release of OpenWrt that is none: an SDK and an ImageBuilder that imitate the interface as far as it is used.

The list of checksums and its signature are real, by a key made for the test. The fake SDK packs nothing: a package is
its Makefile. The fake ImageBuilder's kernel is a text; its root is a real squashfs with what was laid over it and the
names of the packages it was given.
"""

import hashlib
import os
import subprocess

VERSION, TARGET = "25.12.2", "x86/64"
NAMES = {
    "sdk": "openwrt-sdk-25.12.2-x86-64_gcc-14.3.0_musl.Linux-x86_64.tar.gz",
    "imagebuilder": "openwrt-imagebuilder-25.12.2-x86-64.Linux-x86_64.tar.gz",
}
FEEDS = """#!/bin/sh
set -eu
echo "fake feeds: $*"
[ "$1" = update ] && exit 0
shift
mkdir -p package/feeds
for word in "$@"; do
	case $word in -*|luci|confine) [ "$word" = confine ] && [ "$last" != -p ] || { last=$word; continue; } ;; esac
	last=$word
	echo "$word" >>package/feeds/installed
done
"""
SDK_MAKEFILE = """
FEED = $(word 3,$(shell grep confine feeds.conf))
defconfig:
\ttouch .config
# As OpenWrt's: packages are signed, and the key is a dependency, which NO_DEPS leaves out.
package/%/compile:
	test -s private-key.pem -a -s public-key.pem
\t@test "$(NO_DEPS)" = 1
\t@grep -qx "$*" package/feeds/installed || test "$*" = luci-base/host
\tmkdir -p bin/packages/all/confine
\ttest "$*" = luci-base/host || cp "$(FEED)/$*/Makefile" "bin/packages/all/confine/$*-0.1.0-r1.apk"
\ttest "$*" != luci-app-confine || for l in $$(sed -n s/^CONFIG_LUCI_LANG_//p .config); do \
\t\techo words >bin/packages/all/confine/luci-i18n-confine-$${l%=m}-0.1.0-r1.apk; done
"""
BUILDER_MAKEFILE = """
NAME = $(BIN_DIR)/openwrt-25.12.2-x86-64-generic
image:
\ttest "$(PROFILE)" = generic || { echo 'Profile "$(PROFILE)" does not exist!'; exit 1; }
\tls packages/confine-*.apk
\trm -rf root && cp -r "$(FILES)" root
\techo "$(PACKAGES)" >root/packages
\tmksquashfs root root.squashfs -noappend -all-root -no-xattrs -quiet -no-progress -processors 1
\ttruncate -s $(ROOTFS_PARTSIZE)M root.squashfs
\tgzip -9nc root.squashfs >$(NAME)-squashfs-rootfs.img.gz
\techo "what follows is not looked at" >>$(NAME)-squashfs-rootfs.img.gz
\techo "a kernel that is none" >$(NAME)-kernel.bin
\tfor name in base-files $(filter-out -%,$(PACKAGES)); do echo "$$name - 1.0-r1"; done >$(NAME).manifest
"""


# The ImageBuilder's GRUB for machines of another kind; fake.
GRUB_MKIMAGE = """#!/bin/sh
set -eu
all=$*
while [ "$1" != -o ]; do shift; done
echo "a GRUB that is none: $all" >"$2"
"""


def kernel_config(*without: str) -> str:
    """A kernel configuration with all that is asked for, but for some."""
    from firmware.openwrt import boards, kernel

    options = {*kernel.EVERYWHERE, *(f"FILLER_{number}" for number in range(100))}
    for name in boards.names():
        options |= {*boards.find(name).kernel, *boards.find(name).kernel_wanted}
    lines = [f"# CONFIG_{name} is not set" if name in without else f"CONFIG_{name}=y" for name in sorted(options)]
    return "\n".join(lines) + "\n"


def make(directory, config: str) -> None:
    """Make the release's files in `directory`/release, and the key's in `directory`/keys."""
    release, keys = directory / "release", directory / "keys"
    release.mkdir()
    keys.mkdir()
    _archive(directory / "sdk", release / NAMES["sdk"], {
        "Makefile": SDK_MAKEFILE, "scripts/feeds": FEEDS, "feeds.conf.default": "src-git luci https://nowhere.invalid/luci\n",
        "staging_dir/host/bin/openssl": '#!/bin/sh\nexec openssl "$@"\n', "staging_dir/host/bin/apk": "#!/bin/sh\n",
    })  # fmt: skip
    _archive(directory / "builder", release / NAMES["imagebuilder"], {
        "Makefile": BUILDER_MAKEFILE, "build_dir/target-x86_64_musl/linux-x86_64/linux-6.12.74/.config": config,
        "packages/README.md": "", "dl/python3-light-3.13.apk": "a package that is none",
        "staging_dir/host/bin/grub-mkimage": GRUB_MKIMAGE, "staging_dir/host/lib/grub/arm64-efi/normal.mod": "",
    })  # fmt: skip
    key(keys / "25.12")
    sign(directory, keys / "25.12.sec")


def key(path) -> None:
    """A pair of keys for a test: `path`.pub and `path`.sec."""
    subprocess.run(["signify-openbsd", "-G", "-n", "-p", f"{path}.pub", "-s", f"{path}.sec"], check=True)


def sign(directory, secret) -> None:
    """List and sign what is in `directory`/release."""
    release = directory / "release"
    names = sorted(name for name in os.listdir(release) if not name.startswith("sha256sums"))
    listed = "".join(f"{hashlib.sha256((release / name).read_bytes()).hexdigest()} *{name}\n" for name in names)
    (release / "sha256sums").write_text(listed + "0" * 64 + " *packages/index.json\n")
    argv = ["signify-openbsd", "-S", "-s", secret, "-m", release / "sha256sums"]
    subprocess.run([*argv, "-x", release / "sha256sums.sig"], check=True)


def _archive(work, path, files) -> None:
    top = work / path.name.split(".tar")[0]
    for name, content in files.items():
        file = top / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(0o755 if content.startswith("#!") else 0o644)
    subprocess.run(["tar", "-C", work, "-czf", path, top.name], check=True)
