'use strict';
'require view';
'require poll';
'require confine.node as node';

const E = node.element;
const SECONDS = 5;

function row(label, value) {
	return E('tr', { 'class': 'tr' }, [
		E('th', { 'class': 'td left', 'scope': 'row', 'width': '33%' }, label),
		E('td', { 'class': 'td left' }, value)
	]);
}

/* CPU in percent of one, between two looks. */
const before = {};

function cpu(sliver, now) {
	const usage = sliver.usage, last = before[sliver.name];
	if (!usage || usage.cpu_usec == null)
		return null;
	before[sliver.name] = { at: now, usec: usage.cpu_usec };
	if (!last || now <= last.at)
		return null;
	return Math.max(0, Math.round((usage.cpu_usec - last.usec) / (now - last.at) / 1e4));
}

function head(doc) {
	const lent = doc.lent, registry = doc.registry;
	return E('table', { 'class': 'table' }, [
		row(_('Node'), [ E('strong', {}, doc.node.name || _('without a name')), ' ',
			doc.node.id ? '%04x'.format(doc.node.id) : _('(no id yet)') ]),
		row(_('State'), [ E('strong', { 'id': 'confine-state', 'aria-live': 'polite' }, doc.node.state), ' – ', node.nodeWords(doc.node.state) ]),
		row(_('Registry'), [ (registry.uris || []).join(', ') || _('none set'), E('br'),
			registry.error ? E('span', { 'class': 'error' }, registry.error)
				: _('read %s').format(node.ago(registry.last_read, doc.time)) ]),
		doc.overlay ? row(_('Overlay'), overlay(doc.overlay)) : E([]),
		row(_('Lent memory'), [ node.bar(_('Lent memory'), lent.memory_booked, lent.memory_total, 'MiB') ]),
		row(_('Lent disk'), [ node.bar(_('Lent disk'), lent.disk_booked, lent.disk_total, 'MiB') ])
	]);
}

function overlay(doc) {
	const peers = doc.peers || [];
	const there = peers.filter(peer => peer.reachable).length;
	return (doc.error ? doc.error : _('%d of %d peers reachable').format(there, peers.length));
}

function slivers(doc) {
	if (!doc.slivers.length)
		return E('p', {}, E('em', {}, _('No slivers are asked for.')));
	const rows = doc.slivers.map(sliver => {
		const usage = sliver.usage || {}, limits = sliver.limits || {}, percent = cpu(sliver, doc.time);
		const cores = limits.cpu_percent || 100 * (doc.node.cpus || 1);
		return E('tr', { 'class': 'tr' }, [
			E('td', { 'class': 'td', 'data-title': _('Sliver') },
				E('a', { 'data-key': sliver.id, 'href': L.url('admin/confine/slivers') + '#' + sliver.id }, sliver.slice_name || sliver.id)),
			E('td', { 'class': 'td', 'data-title': _('State') }, node.stateWords(sliver)),
			E('td', { 'class': 'td', 'data-title': _('Memory') },
				node.bar(_('Memory'), node.mib(usage.memory_bytes), limits.memory_mib, 'MiB')),
			E('td', { 'class': 'td', 'data-title': _('CPU') }, node.bar(_('CPU'), percent, cores, '%')),
			E('td', { 'class': 'td', 'data-title': _('Disk') },
				node.bar(_('Disk'), node.mib(usage.disk_bytes), limits.disk_mib, 'MiB')),
			E('td', { 'class': 'td', 'data-title': _('Network') }, traffic(usage))
		]);
	});
	const titles = [ _('Sliver'), _('State'), _('Memory'), _('CPU'), _('Disk'), _('Network') ];
	return E('table', { 'class': 'table', 'id': 'confine-slivers' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(title => E('th', { 'class': 'th', 'scope': 'col' }, title)))
	].concat(rows));
}

function traffic(usage) {
	if (usage.sent_bytes == null)
		return '–';
	return '↑ %1024.1mB ↓ %1024.1mB'.format(usage.sent_bytes, usage.received_bytes);
}

return view.extend({
	load: function() {
		return node.ask('status').catch(error => error);
	},

	show: function(doc) {
		if (doc instanceof Error)
			return E('div', { 'class': 'alert-message danger', 'role': 'alert' }, doc.message);
		return E('div', {}, [ head(doc), node.errors(doc.node.errors), E('h3', {}, _('Slivers')), slivers(doc) ]);
	},

	render: function(doc) {
		const place = E('div', { 'id': 'confine-overview' }, this.show(doc));
		poll.add(() => this.load().then(now => node.renew(place, this.show(now))), SECONDS);
		return E([], [ E('h2', {}, _('What this node lends to whom')), place ]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
