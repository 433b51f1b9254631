"""The rules of the two tables, as nft reads them. What each is for stands beside it; names in %( )s come from
firewall.py.

Base chains end with "accept", so that whatever else filters on this node (OpenWrt's fw4, say) has its own say. Every
way through `sender` ends in a verdict of ours. What is counted (`spoofed_by` ...) is followed by a `drop` of its own:
where a set is full, `update` ends its rule.
"""

# A later fragment (frag-off) has neither ports nor a type, and the kernel takes what it holds for them. It is let
# through once its addresses are right: without the first one, which is looked at, it is nothing.
#
# The hook is prerouting: it sees what is for the node as well as what is for others, before anything looks at it.
BRIDGE_TABLE = """\
table bridge confine {
%(constants)s	map marks { typeof iifname : meta mark; }
	set macs { typeof iifname . ether saddr; }
	set ipv4 { typeof iifname . ip saddr; }
	set leases { typeof iifname . ip saddr; flags timeout; }
	set ipv6 { typeof iifname . ip6 saddr; }
	set targets { typeof iifname . @th,64,128; }
	set lladdrs { typeof iifname . @th,208,48; }
	set router_lladdrs { typeof iifname . @th,80,48; }
	set asking { typeof iifname; }
	set inner { typeof iifname; }
	set rates { typeof iifname; size 4096; flags dynamic; }
	set spoofed_by { typeof iifname; size 4096; flags dynamic; counter; }
	set refused_by { typeof iifname; size 4096; flags dynamic; counter; }
	set flooded_by { typeof iifname; size 4096; flags dynamic; counter; }
	chain spoofed {
		update @spoofed_by { iifname counter }
		drop
	}
	chain refused {
		update @refused_by { iifname counter }
		drop
	}
	chain flooded {
		update @flooded_by { iifname counter }
		drop
	}
	chain entering {
		type filter hook prerouting priority filter; policy accept;
		iifname "%(prefix)s*" goto sender
	}
	chain sender {
		iifname . ether saddr != @macs goto spoofed
		meta mark set iifname map @marks
		ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 goto refused
		ether type vmap { arp : goto arp_from, ip : goto ipv4_from, ip6 : goto ipv6_from }
		goto refused
	}
	chain arp_from {
		arp htype != 1 goto refused
		arp ptype != 0x0800 goto refused
		arp hlen != 6 goto refused
		arp plen != 4 goto refused
		arp operation != { request, reply } goto refused
		iifname . arp saddr ether != @macs goto spoofed
		iifname . arp saddr ip @ipv4 goto asks
		iifname . arp saddr ip @leases goto asks
		arp saddr ip 0.0.0.0 arp operation request iifname . arp daddr ip @ipv4 goto asks
		arp saddr ip 0.0.0.0 arp operation request iifname . arp daddr ip @leases goto asks
		goto spoofed
	}
	chain asks {
		update @rates { iifname limit rate over %(rate)d/second burst %(burst)d packets } goto flooded
		accept
	}
	chain ipv4_from {
		iifname . ip saddr @ipv4 goto ipv4_own
		iifname . ip saddr @leases goto ipv4_own
		ip saddr 0.0.0.0 ip daddr 255.255.255.255 iifname @asking goto dhcp
		goto spoofed
	}
	chain dhcp {
		ip hdrlength 5 ip frag-off & 0x3fff == 0 udp sport 68 udp dport 67 goto asks
		goto spoofed
	}
	chain ipv4_own {
		ip daddr @excluded4 goto refused
		ip hdrlength != 5 ip protocol != igmp goto refused
		ip protocol != @protocols goto refused
		ip frag-off & 0x1fff != 0 accept
		iifname @asking udp sport 68 udp dport 67 accept
		goto transport
	}
	chain ipv6_from {
		iifname . ip6 saddr @ipv6 goto ipv6_own
		ip6 saddr :: goto unspecified
		goto spoofed
	}
	chain unspecified {
		ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-solicit icmpv6 code 0 ip6 hoplimit 255 goto probe
		ip6 nexthdr 0 ip6 hoplimit 1 meta l4proto icmpv6 icmpv6 type { 131, 143 } goto asks
		goto spoofed
	}
	chain probe {
		iifname . @th,64,128 != @targets goto spoofed
		ip6 length 24 goto asks
		ip6 length 32 @th,192,16 0x0e01 goto asks
		goto spoofed
	}
	chain ipv6_own {
		ip6 daddr @excluded6 goto refused
		ip6 daddr ::ffff:0:0/96 goto refused
%(outside)s		ip6 nexthdr icmpv6 goto icmp6
		ip6 nexthdr 0 ip6 hoplimit 1 meta l4proto icmpv6 icmpv6 type { 131, 132, 143 } goto asks
		ip6 nexthdr 44 goto fragment
		ip6 nexthdr != @protocols goto refused
		goto transport
	}
	chain fragment {
		frag nexthdr icmpv6 frag frag-off 0 meta l4proto icmpv6 icmpv6 type != { 1, 2, 3, 4, 128, 129 } goto refused
		frag nexthdr icmpv6 accept
		frag nexthdr != @protocols goto refused
		frag frag-off != 0 accept
		goto transport
	}
	chain icmp6 {
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit } goto discovery
		icmpv6 type { 1, 2, 3, 4, 128, 129 } accept
		goto refused
	}
	chain discovery {
		ip6 hoplimit != 255 goto refused
		icmpv6 code != 0 goto refused
		icmpv6 type nd-router-solicit ip6 length 8 goto asks
		icmpv6 type nd-router-solicit ip6 length 16 @th,64,16 0x0101 iifname . @th,80,48 @router_lladdrs goto asks
		icmpv6 type nd-neighbor-solicit ip6 length 24 goto asks
		icmpv6 type nd-neighbor-solicit ip6 length 32 @th,192,16 0x0101 iifname . @th,208,48 @lladdrs goto asks
		icmpv6 type nd-neighbor-advert iifname . @th,64,128 @targets goto advertises
		goto spoofed
	}
	chain advertises {
		ip6 length 24 goto asks
		ip6 length 32 @th,192,16 0x0201 iifname . @th,208,48 @lladdrs goto asks
		goto spoofed
	}
	chain transport {
		udp sport { 67, 547 } goto refused
		udp dport { 68, 546 } goto refused
		tcp sport 0-1023 tcp sport != @tcp_ports goto refused
		udp sport 0-1023 udp sport != @udp_ports goto refused
		accept
	}
	chain between {
		type filter hook forward priority filter; policy accept;
		oifname @inner drop
		iifname "%(prefix)s*" oifname "%(prefix)s*" drop
	}
	chain leaving {
		type filter hook postrouting priority filter; policy accept;
		oifname "%(prefix)s*" ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @macs drop
	}
}
"""

# Slivers reach outward, not each other, not the testbed's networks, and of the node itself only what IP needs (ICMP)
# and the services named. Nothing reaches them from outside but answers. What comes from a port on the community's
# bridge has its own way there: the node routes nothing for it. A port that is on no bridge belongs to an isolated
# interface, whose frames never come here as long as it is tied to its VLAN.
INET_TABLE = """\
table inet confine {
%(constants)s	set management { type ipv6_addr; }
	set connections { typeof meta mark; size 4096; flags dynamic; }
	set refused_by { typeof meta mark; size 4096; flags dynamic; counter; }
	set flooded_by { typeof meta mark; size 4096; flags dynamic; counter; }
	chain refused {
		update @refused_by { meta mark counter }
		drop
	}
	chain flooded {
		update @flooded_by { meta mark counter }
		drop
	}
	chain forward {
		type filter hook forward priority filter - 1; policy accept;
		iifname { "slv-*", "iso-*" } goto refused
		iifname "%(bridge)s" goto from_slivers
		meta mark & 0x07000000 != 0 goto refused
		oifname "%(bridge)s" goto to_slivers
	}
	chain from_slivers {
		oifname "%(bridge)s" goto refused
		ip daddr @excluded4 goto refused
		ip6 daddr @excluded6 goto refused
		ct state established,related accept
		ct state invalid goto refused
		add @connections { meta mark ct count over %(connections)d } goto flooded
%(from_management)s		ip saddr != %(ipv4)s goto refused
		ip6 saddr != %(ipv6)s goto refused
%(networks)s		accept
	}
	chain to_slivers {
		ct state established,related accept
%(to_management)s		drop
	}
	chain input {
		type filter hook input priority filter - 1; policy accept;
		iifname { "slv-*", "iso-*" } goto refused
		iifname "%(bridge)s" goto to_node
		meta mark & 0x07000000 != 0 goto to_node
	}
	chain to_node {
		ct state established,related accept
		icmpv6 type { nd-router-advert, nd-redirect } goto refused
		meta l4proto { icmp, ipv6-icmp } accept
		add @connections { meta mark ct count over %(connections)d } goto flooded
%(services)s		goto refused
	}
	chain translate {
		type nat hook postrouting priority srcnat; policy accept;
		oifname != "%(bridge)s" ip saddr %(ipv4)s masquerade
		oifname != "%(bridge)s" ip6 saddr %(ipv6)s masquerade
	}
}
"""

# Over a management interface a sliver reaches the testbed's servers and hosts, and they and the nodes reach it.
MANAGEMENT_RULES = {
    "from": "\t\tip6 saddr @management ip6 daddr %(mgmt)s::/64 accept\n\t\tip6 saddr @management goto refused\n",
    "to": "\t\tip6 daddr @management ip6 saddr %(mgmt)s::/48 accept\n",
    "api": "\t\tip6 saddr @management ip6 daddr %(address)s tcp dport %(port)d accept\n",
}
