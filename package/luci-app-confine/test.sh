#!/bin/sh
# Run on the device after the package was installed: test.sh PACKAGE VERSION.
set -eu

[ "$1" = luci-app-confine ] || exit 0
for file in /usr/share/luci/menu.d/luci-app-confine.json /usr/share/rpcd/acl.d/luci-app-confine.json; do
	jsonfilter -i "$file" -e '@' >/dev/null
done
[ -s /www/luci-static/resources/view/confine/overview.js ]
