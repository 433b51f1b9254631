#!/bin/sh
# Run on the device after the package was installed: test.sh PACKAGE VERSION. It brings no file of its own.
set -eu

[ "$1" = confine ] || exit 0
command -v confine >/dev/null
[ -d /usr/lib/confine/confine/upgrade ]
[ -s /usr/share/rpcd/acl.d/luci-app-confine.json ]
