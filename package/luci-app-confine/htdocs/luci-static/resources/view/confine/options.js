'use strict';
'require view';
'require form';
'require confine.settings as settings';

/* kind: of LuCI's form; what the node takes where nothing is set is shown as such. */
function option(section, kind, name, title, about, unset) {
	const made = section.option(kind, name, title, about);
	made.optional = true;
	made.rmempty = true;
	if (kind === form.Flag) {
		made.default = unset;
		made.rmempty = false;
	}
	else
		made.placeholder = unset;
	return made;
}

function network(map) {
	const section = map.section(form.NamedSection, 'network', 'network', _('Network'));
	option(section, form.Flag, 'manage', _('Manage the sections of the testbed'),
		_('Otherwise its bridges and addresses are yours to make.'), '1');
	option(section, form.Flag, 'recovery', _('Recovery addresses'), _('On the community’s side, to reach a node whose network is wrong.'), '1');
	option(section, form.Value, 'confirm', _('Seconds until a change is undone'),
		_('If it cuts the node off, 10 to 55.'), '45').datatype = 'range(10,55)';
}

function upgrade(map) {
	const section = map.section(form.NamedSection, 'upgrade', 'upgrade', _('Upgrade'));
	const mode = section.option(form.ListValue, 'mode', _('Upgrades'));
	mode.value('auto', _('install by themselves'));
	mode.value('notify', _('are only told of'));
	mode.value('off', _('are not looked for'));
	mode.default = 'notify';
	option(section, form.Value, 'branch', _('Branch'), '', 'stable');
	option(section, form.DynamicList, 'mirror', _('Mirrors'), _('Addresses, like https://upgrades.example.org/'));
	option(section, form.DynamicList, 'hours', _('Only at these hours'), _('Like 3-6, local time.'));
	option(section, form.Value, 'rate', _('Fetch at most'), _('KiB per second; 0: no limit'), '0').datatype = 'uinteger';
	option(section, form.Flag, 'metered', _('Costly connection'), _('Nothing is fetched unasked.'), '0');
	option(section, form.Flag, 'unwatched', _('By themselves also without a hardware watchdog'),
		_('A new system that hangs early then waits for somebody to pull the plug.'), '0');
}

function firewall(map) {
	const section = map.section(form.NamedSection, 'firewall', 'firewall', _('What slivers may do'));
	option(section, form.DynamicList, 'exclude', _('Networks they may not reach'), _('Like 10.0.0.0/8'));
	option(section, form.Value, 'connections', _('Connections of one sliver'), '', '2048').datatype = 'uinteger';
	option(section, form.Flag, 'dns', _('They may ask the node for names'), '', '1');
	option(section, form.Flag, 'api', _('They may read the node’s API'), '', '1');
}

return view.extend({
	render: function() {
		const map = this.map = new form.Map('confine', _('Options'), _('How the node works. What it lends stands in Lend.'));
		network(map);
		upgrade(map);
		firewall(map);
		return map.render();
	},

	handleSaveApply: function(event, mode) {
		return settings.checked(this.map, () => this.super('handleSaveApply', [ event, mode ]));
	},

	handleSave: function(event) {
		return settings.checked(this.map, () => this.super('handleSave', [ event ]));
	}
});
