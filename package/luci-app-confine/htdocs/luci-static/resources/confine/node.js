'use strict';
'require baseclass';
'require dom';
'require rpc';
'require ui';

/* What all pages share: calls to the node, amounts and moments in words, bars, errors.

   The node's object wants every argument of a method; an empty one counts as not given. */
const METHODS = {
	status: {},
	sliver: { sliver: '' },
	settings: { values: '' },
	log: { lines: 0 },
	history: { sliver: '', lines: 0, since: '' },
	check: {},
	job: { job: 0 },
	setup: { token: '', registry: '', pin: '', node: '', mgmt: '', check: false, publish: '', show: false },
	upgrade_status: {},
	upgrade_history: {},
	upgrade_check: { branch: '' },
	upgrade_install: { what: '', trial: false, branch: '' },
	upgrade_trial: {},
	upgrade_confirm: {},
	upgrade_rollback: {},
	refresh: {},
	pause: { sliver: '', why: '' },
	resume: { sliver: '' },
	reset: { sliver: '', why: '' },
	stop: { sliver: '', all: false, why: '', kill: false },
	stop_show: { sliver: '' },
	release: { sliver: '', all: false }
};

/* Every element of these pages. LuCI takes a bare string for HTML, and a null within a list for the word "null"; much
   of what is shown here was written by strangers. So all that is no node becomes text, and nothing becomes nothing. */
function E(tag, attributes, children) {
	if (Array.isArray(attributes))
		[ attributes, children ] = [ {}, attributes ];
	return window.E(tag, attributes || {}, contents(children));
}

function contents(children) {
	return (Array.isArray(children) ? children : [ children ]).filter(child => child != null);
}

/* What was pressed to open the dialog: the focus goes back there. */
let asked = null;

/* Make `old` what `fresh` is, changing only what differs: focus, a click under way and a reader's place stay. What can
   be pressed is kept only if it would do the same, which its attribute `data-key` says. */
function renew(old, fresh) {
	if (old.isEqualNode(fresh) || (old.classList && old.classList.contains('spinning')))
		return;
	if (old.nodeName !== fresh.nodeName || keyOf(old) !== keyOf(fresh)) {
		const focused = old === document.activeElement;
		if (old === asked)
			asked = fresh;
		old.replaceWith(fresh);
		if (focused)
			fresh.focus();
	}
	else if (old.nodeType === Node.TEXT_NODE)
		old.data = fresh.data;
	else {
		[ ...old.attributes ].forEach(one => fresh.hasAttribute(one.name) || old.removeAttribute(one.name));
		[ ...fresh.attributes ].forEach(one => old.setAttribute(one.name, one.value));
		const mine = [ ...old.childNodes ], theirs = [ ...fresh.childNodes ];
		theirs.forEach((child, index) => index < mine.length ? renew(mine[index], child) : old.appendChild(child));
		mine.slice(theirs.length).forEach(child => child.remove());
	}
}

function keyOf(one) {
	return one.nodeType === Node.ELEMENT_NODE ? one.getAttribute('data-key') : null;
}

const AGAIN_MS = 1000;
const declared = {};

function declare(method) {
	if (!declared[method])
		declared[method] = rpc.declare({
			object: 'confine.web',
			method: method,
			params: Object.keys(METHODS[method]),
			reject: true
		});
	return declared[method];
}

/* One row of a bar's caption: "12 of 64 MiB". */
function share(used, total, unit) {
	return '%s / %s %s'.format(used == null ? '–' : used, total == null ? '–' : total, unit);
}

return baseclass.extend({
	element: E,

	/* Put `children` in the place of what `place` holds: nodes, and text as text. */
	fill: function(place, children) {
		dom.content(place, contents(children));
	},

	/* Show in `place` the one element `fresh`, keeping what is as it was. */
	renew: function(place, fresh) {
		if (place.firstElementChild)
			renew(place.firstElementChild, fresh);
		else
			this.fill(place, fresh);
	},

	/* The result of a method; the error has the node's own words. given: {argument: value}, the others stay empty. */
	ask: function(method, given) {
		const known = METHODS[method];
		const args = Object.keys(known).map(name => (given && given[name] != null) ? given[name] : known[name]);
		return declare(method).apply(null, args).then(answer => {
			if (!answer.ok)
				throw new Error(answer.error);
			if (!answer.result || answer.result.pending !== true)
				return answer.result;
			/* It takes longer than a call may: what has become of it is asked by its number. */
			return new Promise(done => window.setTimeout(done, AGAIN_MS)).then(() => this.ask('job', { job: answer.result.job }));
		}, problem => {
			throw new Error(this.unreachable(problem));
		});
	},

	unreachable: function(problem) {
		const text = String(problem && problem.message || problem);
		if (/not found/i.test(text))
			return _('The node does not offer its services here: its process on ubus does not run. Try: /etc/init.d/confine-bus restart');
		return text;
	},

	/* Set by a page that shows something: asks and shows anew. */
	again: null,

	/* Do what a button says, with its result or the node's refusal as a notification, and show what has become of it. */
	act: function(method, given) {
		return this.ask(method, given).then(result => {
			ui.addNotification(null, E('p', { 'role': 'status' }, (result && result.message) || _('Done.')), 'info');
		}).catch(error => this.tell(error)).then(() => this.again && this.again());
	},

	tell: function(error) {
		ui.addNotification(_('The node refused'), E('p', { 'role': 'alert' }, error.message), 'danger');
	},

	mib: function(bytes) {
		return bytes == null ? null : Math.round(bytes / 1048576 * 10) / 10;
	},

	ago: function(moment, now) {
		if (moment == null)
			return _('never');
		const seconds = Math.max(0, Math.floor(now - moment));
		if (seconds < 90)
			return _('%d s ago').format(seconds);
		if (seconds < 5400)
			return _('%d min ago').format(Math.round(seconds / 60));
		if (seconds < 172800)
			return _('%d h ago').format(Math.round(seconds / 3600));
		return _('%d days ago').format(Math.round(seconds / 86400));
	},

	/* A bar with its amount in words, for eyes and screen readers alike. */
	bar: function(label, used, total, unit) {
		const part = total ? Math.min(100, 100 * (used || 0) / total) : 0;
		const text = share(used, total, unit);
		return E('div', {
			'class': 'cbi-progressbar', 'style': 'min-width:8em',
			'role': 'meter', 'aria-label': label, 'aria-valuemin': 0, 'aria-valuemax': total || 0,
			'aria-valuenow': used || 0, 'aria-valuetext': text, 'title': text
		}, E('div', { 'style': 'width:%.1f%%'.format(part) }));
	},

	stateWords: function(sliver) {
		const words = {
			registered: _('registered'), allocated: _('allocated'), deployed: _('deployed'), started: _('started'),
			fail_allocate: _('cannot be allocated'), fail_deploy: _('cannot be deployed'), fail_start: _('cannot be started')
		};
		const state = words[sliver.state] || sliver.state;
		if (sliver.stopped)
			return state + ', ' + _('stopped');
		return sliver.paused ? state + ', ' + _('paused') : state;
	},

	nodeWords: function(state) {
		return {
			production: _('It lends itself out: slivers run as the registry asks.'),
			safe: _('It is ready, but the registry lets no slivers run.'),
			debug: _('Something has to be put right before new slivers come up. What runs goes on.'),
			failure: _('The registry declared it broken: no slivers are kept.')
		}[state] || '';
	},

	errors: function(list) {
		if (!list || !list.length)
			return E([]);
		return E('ul', { 'class': 'alert-message warning', 'style': 'list-style-position:inside' },
			list.map(one => E('li', {}, (one.member ? one.member + ': ' : '') + one.message)));
	},

	/* Keys and the like have lines of their own. */
	said: function(text) {
		return text.startsWith('\n') ? E('pre', { 'style': 'white-space:pre-wrap;word-break:break-all' }, text.trim()) : text;
	},

	/* What was looked at, and what to do: answers to `check` and `setup`. */
	findings: function(list) {
		const words = { ok: _('good'), warn: _('doubtful'), fail: _('wrong') };
		return E('table', { 'class': 'table' }, list.map(one => E('tr', { 'class': 'tr' }, [
			E('td', { 'class': 'td', 'width': '10%' }, E('strong', {}, words[one.state] || one.state)),
			E('td', { 'class': 'td', 'width': '20%' }, one.what),
			E('td', { 'class': 'td' }, [ this.said(one.said) ].concat(one.state === 'ok' || !one.todo ? [] : [ E('br'), '→ ' + one.todo ]))
		])));
	},

	/* Ask before something is done that takes from others; why: the reason that is kept. */
	confirm: function(title, text, button, act) {
		asked = document.activeElement;
		const close = () => { ui.hideModal(); asked.focus(); };
		const why = E('input', { 'type': 'text', 'class': 'cbi-input-text', 'maxlength': 200, 'id': 'confine-why' });
		ui.showModal([ title ], [
			E('p', {}, text),
			E('label', { 'for': 'confine-why' }, _('Reason (kept and shown)')), ' ', why,
			E('div', { 'class': 'right' }, [
				E('button', { 'class': 'btn', 'click': close }, _('Cancel')), ' ',
				E('button', {
					'class': 'btn cbi-button-negative important',
					'click': ui.createHandlerFn(this, () => Promise.resolve(act(why.value)).finally(close))
				}, button)
			])
		]);
		why.focus();
	}
});
