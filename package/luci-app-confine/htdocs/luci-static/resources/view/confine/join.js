'use strict';
'require view';
'require ui';
'require confine.node as node';

const E = node.element;

function field(id, label, about, wide, secret) {
	return E('div', { 'class': 'cbi-value' }, [
		E('label', { 'class': 'cbi-value-title', 'for': 'confine-' + id }, label),
		E('div', { 'class': 'cbi-value-field' }, [
			E('input', { 'type': secret ? 'password' : 'text', 'class': 'cbi-input-text', 'id': 'confine-' + id, 'autocomplete': 'off',
				'spellcheck': 'false', 'style': wide ? 'width:100%' : '', 'aria-describedby': 'confine-' + id + '-about' }),
			E('div', { 'class': 'cbi-value-description', 'id': 'confine-' + id + '-about' }, about)
		])
	]);
}

const FIELDS = [ 'token', 'registry', 'pin', 'node', 'mgmt' ], SECRET = 'publish';

/* secret: with the member's own token, which is sent only where it is needed. */
function given(secret) {
	const values = {};
	FIELDS.concat(secret ? [ SECRET ] : []).forEach(name => { values[name] = document.getElementById('confine-' + name).value.trim(); });
	return values;
}

return view.extend({
	try: function(place, check) {
		node.fill(place, E('p', {}, E('em', {}, _('Looking…'))));
		return node.ask('setup', Object.assign(given(!check), { check: check })).then(found => {
			const good = found.every(one => one.state !== 'fail');
			node.fill(place, [
				node.findings(found),
				E('p', { 'role': 'alert', 'class': 'alert-message ' + (good ? 'info' : 'danger') }, !good
					? _('This device has not joined; nothing was changed.')
					: check ? _('All is well: it can join.') : _('It has joined. The overview shows what happens now.'))
			]);
		}).catch(error => { node.fill(place, []); node.tell(error); });
	},

	show: function(place) {
		node.fill(place, E('p', {}, E('em', {}, _('Looking…'))));
		return node.ask('setup', Object.assign(given(false), { show: true }))
			.then(found => node.fill(place, node.findings(found)))
			.catch(error => { node.fill(place, []); node.tell(error); });
	},

	render: function() {
		const place = E('div', { 'id': 'confine-found', 'aria-live': 'polite' });
		return E([], [
			E('h2', {}, _('Join a testbed')),
			E('p', {}, _('The operator of the testbed gives you a join token, or the address of its registry, the fingerprint of its certificate and the id of your node.')),
			field('token', _('Join token'), _('With a token the rest can stay empty.'), true),
			field('registry', _('Registry'), _('Address of its API, like https://registry.example.org/api/'), true),
			field('pin', _('Fingerprint'), _('SHA-256 of its certificate, 64 hex digits. Empty if a known authority vouches for it.'), true),
			field('node', _('Node id'), _('4 hex digits, given by the registry')),
			field('mgmt', _('Management network'), _('Like fd65:fc41:c50f::/48; empty without an overlay')),
			field(SECRET, _('Member’s token'), _('Of your account in the testbed. With it the node’s keys are entered there at once; without it, show them to the operator. It is not kept.'), true, true),
			E('p', {}, [
				E('button', { 'class': 'btn cbi-button', 'click': ui.createHandlerFn(this, 'try', place, true) },
					_('Look whether it works')), ' ',
				E('button', { 'class': 'btn cbi-button cbi-button-apply important',
					'click': ui.createHandlerFn(this, 'try', place, false) }, _('Join')), ' ',
				E('button', { 'class': 'btn cbi-button', 'click': ui.createHandlerFn(this, 'show', place) },
					_('Show the node’s keys'))
			]),
			place
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
