#!/bin/sh
# Installs the Debian packages listed in the file $1 (name, then a reason, one a line) as far as they are missing.
set -eu

missing=
while read -r name _; do
	case "$name" in '' | '#'*) continue ;; esac
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing="$missing $name"
done <"$1"

[ -n "$missing" ] || exit 0
echo "Debian packages:$missing"
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086  # a list of package names
apt-get install -q -y --no-install-recommends $missing
