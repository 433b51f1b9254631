'use strict';
'require view';
'require form';
'require rpc';
'require confine.node as node';
'require confine.settings as settings';

const devices = rpc.declare({ object: 'luci-rpc', method: 'getNetworkDevices', expect: { '': {} } });

function amount(section, option, title, unit, about) {
	const value = section.option(form.Value, option, title + ' (' + unit + ')', about);
	value.datatype = 'uinteger';
	value.optional = true;
	value.rmempty = true;
	return value;
}

function whole(map) {
	const section = map.section(form.NamedSection, 'policy', 'policy', _('In all'));
	amount(section, 'memory_total', _('Memory for all slivers'), 'MiB', _('Empty: what the device has, but the reserve.'));
	amount(section, 'memory_reserve', _('Memory kept for the node itself'), 'MiB').placeholder = '64';
	amount(section, 'disk_total', _('Disk for all slivers'), 'MiB', _('Empty: what is free, but the reserve.'));
	amount(section, 'disk_reserve', _('Disk kept for the node itself'), 'MiB').placeholder = '128';
	amount(section, 'slice_share', _('At most for one slice'), '%').placeholder = '100';
	amount(section, 'egress_kbit', _('Bandwidth for what slivers send'), 'kbit/s', _('All together, shared evenly. Empty: no limit.'));
	amount(section, 'ingress_kbit', _('Bandwidth for what slivers receive'), 'kbit/s');
}

function each(map) {
	const section = map.section(form.NamedSection, 'sliver', 'sliver', _('For one sliver'));
	amount(section, 'memory_max', _('Memory at most'), 'MiB');
	amount(section, 'disk_max', _('Disk at most'), 'MiB');
	amount(section, 'memory_default', _('Memory if it does not say'), 'MiB').placeholder = '64';
	amount(section, 'disk_default', _('Disk if it does not say'), 'MiB').placeholder = '128';
	amount(section, 'cpu_percent_max', _('CPU at most'), '%', _('100 is one whole CPU.'));
	amount(section, 'pids_max', _('Processes at most'), _('processes')).placeholder = '512';
	amount(section, 'io_mib_s', _('Disk traffic at most'), 'MiB/s');
	amount(section, 'egress_kbit_max', _('Sends at most'), 'kbit/s');
	amount(section, 'ingress_kbit_max', _('Receives at most'), 'kbit/s');
	amount(section, 'egress_kbit_default', _('Sends, if it does not say'), 'kbit/s');
	amount(section, 'ingress_kbit_default', _('Receives, if it does not say'), 'kbit/s');
}

function who(map) {
	const section = map.section(form.NamedSection, 'policy', 'policy', _('Who is accepted'));
	const groups = section.option(form.DynamicList, 'accept_groups', _('Only slices of these groups'),
		_('Numbers of groups in the registry. Empty: all.'));
	groups.datatype = 'uinteger';
	const slices = section.option(form.DynamicList, 'refuse_slices', _('Never these slices'));
	slices.datatype = 'uinteger';
}

function lines(map, found) {
	const section = map.section(form.NamedSection, 'node', 'node', _('Network'));
	const names = Object.keys(found).filter(name => found[name].devtype === 'ethernet' && name !== 'lo').sort();
	/* LuCI's own list of choices fails, and the page with it, when there is none. */
	const kind = names.length ? form.MultiValue : form.DynamicList;
	const parents = section.option(kind, 'rd_if_iso_parents', _('Devices lent directly'),
		_('Slices get VLANs of their own on them. Never the device you reach this node by.'));
	names.forEach(name => parents.value(name, name + (found[name].mac ? ' (' + found[name].mac + ')' : '')));
	parents.optional = true;
}

function word(section, kind, option, title, about) {
	const value = section.option(kind, option, title, about);
	value.optional = kind !== form.ListValue;
	value.rmempty = true;
	return value;
}

/* Addresses of the community's network for slivers. */
function addresses(map) {
	const section = map.section(form.NamedSection, 'node', 'node', _('Public addresses for slivers'));
	const how = word(section, form.ListValue, 'sl_public_ipv4_proto', _('IPv4 addresses'));
	how.value('none', _('are not given'));
	how.value('dhcp', _('come from the network’s own DHCP server'));
	how.value('static', _('are these'));
	how.default = 'none';
	amount(section, 'public_ipv4_avail', _('So many at most'), _('addresses'), _('With DHCP.'));
	word(section, form.DynamicList, 'sl_public_ipv4_addrs', _('These'), _('Like 192.0.2.10/24.'));
	word(section, form.Value, 'sl_public_ipv4_gw', _('Their gateway'));
	word(section, form.Value, 'sl_public_ipv6_prefix64', _('IPv6 prefix'), _('Like 2001:db8:0:1::/64; empty: none are given.'));
	word(section, form.Value, 'sl_public_ipv6_gw', _('Its gateway'));
}

return view.extend({
	load: function() {
		return devices().catch(() => ({}));
	},

	render: function(found) {
		const map = this.map = new form.Map('confine', _('What this node lends'),
			_('The registry can only book within these bounds. Slivers that run keep what they have until they are made anew.'));
		whole(map);
		each(map);
		who(map);
		lines(map, found);
		addresses(map);
		return map.render();
	},

	handleSaveApply: function(event, mode) {
		return settings.checked(this.map, () => this.super('handleSaveApply', [ event, mode ]));
	},

	handleSave: function(event) {
		return settings.checked(this.map, () => this.super('handleSave', [ event ]));
	}
});
