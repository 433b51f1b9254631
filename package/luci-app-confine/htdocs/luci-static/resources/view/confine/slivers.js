'use strict';
'require view';
'require poll';
'require ui';
'require confine.node as node';

const E = node.element;
const SECONDS = 5, PAST_MS = 60000;
const LINES = 20;

/* key: what it does to which sliver. */
function button(label, kind, key, click) {
	return E('button', { 'class': 'btn cbi-button cbi-button-' + kind, 'data-key': key, 'click': click }, label);
}

function actions(sliver) {
	const id = sliver.id, list = [];
	if (sliver.stopped)
		return [ button(_('Release'), 'apply', 'release ' + id, ui.createHandlerFn(node, 'act', 'release', { sliver: id })) ];
	if (sliver.paused)
		list.push(button(_('Resume'), 'apply', 'resume ' + id, ui.createHandlerFn(node, 'act', 'resume', { sliver: id })));
	else
		list.push(button(_('Pause'), 'action', 'pause ' + id, () => node.confirm(_('Pause %s').format(id),
			_('Its processes are kept from running until you resume it. Nothing is lost.'), _('Pause'),
			why => node.act('pause', { sliver: id, why: why }))));
	list.push(' ', button(_('Stop now'), 'negative', 'stop ' + id, () => node.confirm(_('Stop %s now').format(id),
		_('Its traffic is cut off at once and its processes are frozen. Only a release ends it.'), _('Stop now'),
		why => node.act('stop', { sliver: id, why: why }))));
	list.push(' ', button(_('Reset'), 'reset', 'reset ' + id, () => node.confirm(_('Reset %s').format(id),
		_('It returns to its template: everything it wrote is lost.'), _('Reset'),
		why => node.act('reset', { sliver: id, why: why }))));
	return list;
}

function line(label, value) {
	return E('tr', { 'class': 'tr' }, [
		E('th', { 'class': 'td left', 'scope': 'row', 'width': '33%' }, label),
		E('td', { 'class': 'td left' }, value == null || value === '' ? '–' : value)
	]);
}

function amounts(sliver) {
	const usage = sliver.usage || {}, limits = sliver.limits || {};
	const held = limits.held === true ? _('held') : limits.held === false ? _('NOT held') : _('not running');
	return [
		line(_('Memory'), node.bar(_('Memory'), node.mib(usage.memory_bytes), limits.memory_mib, 'MiB')),
		line(_('Disk'), node.bar(_('Disk'), node.mib(usage.disk_bytes), limits.disk_mib, 'MiB')),
		line(_('CPU time used'), usage.cpu_usec == null ? null : (usage.cpu_usec / 1e6).toFixed(1) + ' s'),
		line(_('Processes'), usage.pids == null ? null : '%d / %s'.format(usage.pids, limits.pids || '–')),
		line(_('Network'), usage.sent_bytes == null ? null
			: '↑ %1024.1mB ↓ %1024.1mB'.format(usage.sent_bytes, usage.received_bytes)),
		line(_('Limits'), held)
	];
}

/* records: of `history`, or an Error. */
function told(records) {
	if (records instanceof Error || !records.length)
		return E('p', {}, E('em', {}, records.message || _('Nothing is recorded.')));
	return E('table', { 'class': 'table', 'id': 'confine-actions' }, records.slice().reverse().map(record => E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td' }, (record.time_sure ? '' : '~ ') + new Date(record.time * 1000).toLocaleString()),
		E('td', { 'class': 'td' }, record.what),
		E('td', { 'class': 'td' }, record.who),
		E('td', { 'class': 'td' }, (record.more || {}).error || record.why)
	])));
}

function one(sliver, people, records) {
	const faces = (sliver.interfaces || []).map(face => E('li', {},
		[ face.name, face.type, face.mac_addr, face.ipv4_addr, face.ipv6_addr ].filter(word => word).join('  ')));
	return E('div', { 'id': 'confine-sliver' }, [
		E('h3', {}, (sliver.slice_name || '') + ' ' + sliver.id),
		E('div', {}, actions(sliver)),
		node.errors(sliver.errors),
		E('table', { 'class': 'table' }, [
			line(_('State'), node.stateWords(sliver)),
			line(_('Asked for'), sliver.set_state),
			line(_('Decisions'), (sliver.decisions || []).join(' ')),
			line(_('Slice'), sliver.slice_name),
			line(_('People'), people),
			line(_('Template'), sliver.template ? sliver.template.name : null),
			line(_('Expires'), sliver.expires_on)
		].concat(amounts(sliver), [ line(_('Interfaces'), E('ul', {}, faces)) ])),
		E('h4', {}, _('What was done with it')), told(records),
		E('p', {}, E('a', { 'href': '#' }, _('Back to the list')))
	]);
}

function all(slivers) {
	if (!slivers.length)
		return E('p', {}, E('em', {}, _('No slivers are asked for.')));
	const titles = [ _('Slice'), _('Sliver'), _('State'), _('Address'), '' ];
	return E('table', { 'class': 'table', 'id': 'confine-slivers' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(title => E('th', { 'class': 'th', 'scope': 'col' }, title)))
	].concat(slivers.map(sliver => E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td', 'data-title': _('Slice') }, sliver.slice_name || '–'),
		E('td', { 'class': 'td', 'data-title': _('Sliver') }, E('a', { 'data-key': sliver.id, 'href': '#' + sliver.id }, sliver.id)),
		E('td', { 'class': 'td', 'data-title': _('State') }, node.stateWords(sliver)),
		E('td', { 'class': 'td', 'data-title': _('Address') }, sliver.address || '–'),
		E('td', { 'class': 'td' }, actions(sliver))
	]))));
}

return view.extend({
	load: function() {
		const id = decodeURIComponent(location.hash.substring(1));
		return (id ? node.ask('sliver', { sliver: id }).then(sliver => this.past(sliver)) : node.ask('status')).catch(error => error);
	},

	/* With its records, which the node reads from its disk: now and then is enough. */
	past: function(sliver) {
		const key = JSON.stringify([ sliver.id, sliver.state, sliver.decisions, sliver.stopped, Math.floor(Date.now() / PAST_MS) ]);
		if (key !== this.key)
			this.records = node.ask('history', { sliver: sliver.id, lines: LINES }).catch(error => error);
		this.key = key;
		return this.records.then(records => Object.assign(sliver, { records: records }));
	},

	show: function(doc) {
		if (doc instanceof Error)
			return E('div', { 'class': 'alert-message danger', 'role': 'alert' },
				[ doc.message, ' ', E('a', { 'href': '#' }, _('Back to the list')) ]);
		return doc.slivers ? all(doc.slivers) : one(doc, (doc.people || []).map(person => person.name || person.uri).join(', '), doc.records);
	},

	render: function(doc) {
		const place = E('div', {}, this.show(doc));
		const again = node.again = () => this.load().then(now => node.renew(place, this.show(now)));
		window.addEventListener('hashchange', again);
		poll.add(again, SECONDS);
		const everything = button(_('Stop everything now'), 'negative', 'stop', () => node.confirm(_('Stop everything now'),
			_('All slivers are cut off at once and frozen, also those that come later, until you release them.'),
			_('Stop everything now'), why => node.act('stop', { all: true, why: why })));
		const release = button(_('Release all'), 'apply', 'release', ui.createHandlerFn(node, 'act', 'release', { all: true }));
		return E([], [ E('h2', {}, _('Slivers')), E('p', {}, [ everything, ' ', release ]), place ]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
