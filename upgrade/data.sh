#!/bin/sh
# The data partition, for the script that mounts it: whole_data DEVICE LOG makes it usable, or fails.

# There from before the partition is made until it is whole, in the root's overlay: a making that the power was cut in is
# begun again, and nothing else is ever made anew. Not below /etc, so that no backup brings it back.
BEING_MADE=/usr/lib/confine/data-is-being-made

# True when the first MiB of $1 can be read and holds nothing at all: a partition that was never used.
is_blank() {
	[ "$(dd if="$1" bs=64k count=16 2>/dev/null | wc -c)" -eq 1048576 ] &&
		[ -z "$(dd if="$1" bs=64k count=16 2>/dev/null | tr -d '\000' | head -c 1)" ]
}

make_data() {
	: >"$BEING_MADE"
	sync
	mkfs.ext4 -q -F -L data "$1" >>"$2" 2>&1 || return 1
	rm "$BEING_MADE"
	sync
}

# First what is surely right (-p), then all that can be (-fy): what is found without a name comes to lost+found. From 4
# on e2fsck has not mended all.
mend_data() {
	for how in -p -fy; do
		status=0
		e2fsck "$how" "$1" >>"$2" 2>&1 || status=$?
		[ "$status" -ge 4 ] || return 0
	done
	return 1
}

whole_data() {
	: >"$2"
	if [ -e "$BEING_MADE" ] || is_blank "$1"; then
		make_data "$1" "$2" || return 1
	fi
	mend_data "$1" "$2"
}
