#!/bin/sh
# Run on the device after the package was installed: test.sh PACKAGE VERSION.
set -eu

[ "$1" = confine-upgrade ] || exit 0
# Without slots it says so in its own words, not that it is not installed.
said=$(confine upgrade 2>&1) || true
case $said in
'' | *Traceback* | *'not installed'*)
	echo "confine upgrade: $said" >&2
	exit 1
	;;
esac
for script in confine-upgrade confine-grow confine-started; do
	sh -n "/etc/init.d/$script"
done
[ -s /usr/lib/confine/upgrade/boot/grub.cfg ]
