#!/bin/sh
# Run on the device after the package was installed: test.sh PACKAGE VERSION.
set -eu

[ "$1" = confine-node ] || exit 0
confine --version | grep -qxF "confine $2"
# The configuration is read by Python's own binding of uci; one that cannot be used is named, and no failure here.
confine settings --json | grep -q '"settings"' || [ $? -eq 1 ]
# What is missing on this device is said, not stumbled upon.
confine check --json >/tmp/confine-check.json || [ $? -eq 1 ]
grep -q '"what": "kernel"' /tmp/confine-check.json
rm -f /tmp/confine-check.json
confine completion >/dev/null
for script in confine confine-bus confine-network confine-overlay; do
	sh -n "/etc/init.d/$script"
done
