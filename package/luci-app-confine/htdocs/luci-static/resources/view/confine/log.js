'use strict';
'require view';
'require poll';
'require confine.node as node';

const E = node.element;
const SECONDS = 5;
const LINES = 300;

return view.extend({
	load: function() {
		return node.ask('log', { lines: LINES }).then(answer => answer.message, error => error.message);
	},

	render: function(text) {
		const place = E('pre', {
			'id': 'confine-log', 'tabindex': 0, 'role': 'log', 'aria-label': _('Log of the node'),
			'style': 'max-height:60vh;overflow:auto;white-space:pre-wrap'
		}, text);
		const found = E('div', { 'id': 'confine-check', 'aria-live': 'polite' });
		const check = () => node.ask('check').then(list => node.fill(found, node.findings(list)), error => node.tell(error));
		poll.add(() => this.load().then(now => {
			const end = place.scrollTop + place.clientHeight >= place.scrollHeight - 4;
			if (place.textContent === now)
				return;
			node.fill(place, now);
			if (end)
				place.scrollTop = place.scrollHeight;
		}), SECONDS);
		return E([], [
			E('h2', {}, _('Log')),
			E('p', {}, [
				E('button', { 'class': 'btn cbi-button cbi-button-action', 'click': check }, _('Check the set-up')), ' ',
				E('button', { 'class': 'btn cbi-button', 'click': () => node.act('refresh') }, _('Read the registry now'))
			]),
			found, place
		]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
