"""The node on ubus: a process of its own that offers the verbs to LuCI, scripts and other programs of OpenWrt."""
