'use strict';
'require view';
'require poll';
'require ui';
'require confine.node as node';

const E = node.element;
const SECONDS = 3;

function stateWords(doc) {
	return {
		idle: _('nothing under way'), checking: _('asking the mirrors'), fetching: _('fetching'), writing: _('writing'),
		'reading back': _('reading back what was written'), trial: _('on trial'), unavailable: _('not possible on this device')
	}[doc.state] || doc.state;
}

function moment(seconds) {
	return seconds ? new Date(seconds * 1000).toLocaleString() : '–';
}

function progress(doc) {
	if (!doc.progress || !doc.progress.total)
		return E([]);
	const mib = 1048576;
	return node.bar(_('Progress'), Math.round(doc.progress.done / mib), Math.round(doc.progress.total / mib), 'MiB');
}

/* {a, b}, each with starts, whole and version; empty where the disk cannot be read. */
function both(doc) {
	return (doc.slots || {}).slots || {};
}

function slots(doc) {
	const there = both(doc), titles = [ _('Slot'), _('Version'), '' ];
	return E('table', { 'class': 'table', 'id': 'confine-slots' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(title => E('th', { 'class': 'th', 'scope': 'col' }, title)))
	].concat(Object.keys(there).sort().map(slot => {
		const words = [];
		if (doc.running === slot)
			words.push(_('runs now'));
		if (doc.confirmed === slot)
			words.push(_('confirmed'));
		if (!there[slot].whole)
			words.push(_('holds no whole system'));
		return E('tr', { 'class': 'tr' }, [
			E('td', { 'class': 'td', 'data-title': _('Slot') }, slot.toUpperCase()),
			E('td', { 'class': 'td', 'data-title': _('Version') }, there[slot].version || '–'),
			E('td', { 'class': 'td' }, words.join(', '))
		]);
	})));
}

function offered(doc) {
	if (!doc.offered)
		return E('p', {}, doc.reason || _('Nothing newer is known.'));
	return E('div', { 'class': 'alert-message info' }, [
		E('h4', {}, _('Version %s is offered').format(doc.offered.version)),
		E('p', {}, doc.offered.notes || ''),
		E('p', {}, [ doc.reason || '', doc.due ? ' ' + moment(doc.due) : '' ])
	]);
}

/* Only what can be done now can be pressed. */
function actions(doc) {
	const busy = doc.state !== 'idle' && doc.state !== 'trial', trial = doc.state === 'trial';
	const known = doc.running || doc.confirmed, other = both(doc)[known === 'a' ? 'b' : 'a'] || {};
	const there = known && other.whole, back = doc.running && there && !trial && ![ null, 'never' ].includes(other.starts);
	const press = (label, kind, method, able, given, text) => E('button', {
		'class': 'btn cbi-button cbi-button-' + kind, 'data-key': method, 'disabled': able ? null : '',
		'click': text ? () => sure(label, text, method, given) : ui.createHandlerFn(node, 'act', method, given)
	}, label);
	return E('p', {}, [
		press(_('Check now'), 'action', 'upgrade_check', !busy, {}), ' ',
		press(_('Install'), 'apply', 'upgrade_install', !busy && doc.offered, {}), ' ',
		press(_('Start the other slot on trial'), 'apply', 'upgrade_trial', !busy && !trial && there, {},
			_('The node starts the other slot. If that is not well, or anything resets it, it is back here by itself.')), ' ',
		press(_('Confirm'), 'apply', 'upgrade_confirm', trial, {}), ' ',
		press(_('Go back'), 'negative', 'upgrade_rollback', !busy && back, {},
			_('The node starts the system of the other slot again.'))
	]);
}

function sure(title, text, method, given) {
	ui.showModal([ title ], [
		E('p', {}, text),
		E('div', { 'class': 'right' }, [
			E('button', { 'class': 'btn', 'click': ui.hideModal }, _('Cancel')), ' ',
			E('button', { 'class': 'btn cbi-button-negative important',
				'click': () => { ui.hideModal(); node.act(method, given); } }, title)
		])
	]);
}

function told(events) {
	if (!events.length)
		return E('p', {}, E('em', {}, _('No upgrade was made yet.')));
	return E('table', { 'class': 'table', 'id': 'confine-history' }, events.slice(-20).reverse().map(event => E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td' }, moment(event.time)),
		E('td', { 'class': 'td' }, event.event),
		E('td', { 'class': 'td' }, [ event.version, event.slot ? event.slot.toUpperCase() : null, event.why ].filter(word => word).join(' · '))
	])));
}

return view.extend({
	load: function() {
		return Promise.all([ node.ask('upgrade_status'), node.ask('upgrade_history') ]).catch(error => error);
	},

	show: function(found) {
		if (found instanceof Error)
			return E('div', { 'class': 'alert-message danger', 'role': 'alert' }, found.message);
		const doc = found[0];
		return E('div', {}, [
			E('p', { 'id': 'confine-upgrade-state', 'aria-live': 'polite' }, [ E('strong', {}, stateWords(doc)), ' ', doc.state === 'unavailable' ? doc.reason : '' ]),
			progress(doc),
			doc.state === 'unavailable' ? E([]) : E([], [ slots(doc), offered(doc), actions(doc) ]),
			node.errors((doc.problems || []).map(text => ({ message: text }))),
			E('h3', {}, _('History')), told(found[1])
		]);
	},

	render: function(found) {
		const place = E('div', { 'id': 'confine-upgrade' }, this.show(found));
		node.again = () => this.load().then(now => node.renew(place, this.show(now)));
		poll.add(node.again, SECONDS);
		return E([], [ E('h2', {}, _('Upgrade')), place ]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
