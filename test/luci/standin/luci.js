'use strict';
/* A page that offers those classes of LuCI that the pages of this project use, and no others, under LuCI's own names.
   It stands in where no LuCI is at hand; the same tests run against a real one. */
(() => {

// ---- classes: extend and super as LuCI's ---------------------------------------------------------------------------

class Base {
	static extend(members) {
		const parent = this;
		const made = class extends parent {};
		Object.assign(made.prototype, members);
		made.prototype.super = function(name, args) { return parent.prototype[name].apply(this, args || []); };
		return made;
	}
}

// ---- elements -------------------------------------------------------------------------------------------------------

/* As LuCI's dom.append(), to the letter: members of a list become text (a null the word "null", a list within it its
   members with commas), but what stands alone and is no node is HTML. */
function append(element, children) {
	if (Array.isArray(children))
		children.forEach(child => element.appendChild(isNode(child) ? child : document.createTextNode(`${child}`)));
	else if (typeof children === 'function')
		append(element, children(element));
	else if (isNode(children))
		element.appendChild(children);
	else if (children != null)
		element.innerHTML = `${children}`;
}

function isNode(one) {
	return one != null && typeof one === 'object' && 'nodeType' in one;
}

/* As LuCI's dom.create(). */
function E(tag, attributes, children) {
	if (!(attributes instanceof Object) || Array.isArray(attributes))
		[ attributes, children ] = [ null, attributes ];
	let element = tag;
	if (Array.isArray(tag)) {
		element = document.createDocumentFragment();
		tag.forEach(one => element.appendChild(E(one)));
	}
	else if (!isNode(tag))
		element = document.createElement(tag);
	Object.entries(attributes || {}).forEach(([ name, value ]) => {
		if (typeof value === 'function')
			element.addEventListener(name, value);
		else if (value != null)
			element.setAttribute(name, typeof value === 'object' ? JSON.stringify(value) : value);
	});
	append(element, children);
	return element;
}

// ---- String.format: the forms that are used: %s %d %04x %.1f %1024.1mB ---------------------------------------------

String.prototype.format = function(...values) {
	return this.replace(/%(\d*)(?:\.(\d+))?([sdxfm%])B?/g, (all, width, digits, kind) => {
		if (kind === '%')
			return '%';
		const value = values.shift();
		if (kind === 's')
			return String(value);
		if (kind === 'f')
			return Number(value).toFixed(digits || 0);
		if (kind === 'm') {
			let amount = Number(value), unit = 0;
			while (amount >= 1024 && unit < 4) { amount /= 1024; unit++; }
			return amount.toFixed(digits || 0) + ' ' + [ 'B', 'KB', 'MB', 'GB', 'TB' ][unit];
		}
		const text = Math.trunc(Number(value)).toString(kind === 'x' ? 16 : 10);
		return text.padStart(Number(width) || 0, width[0] === '0' ? '0' : ' ');
	});
};

const _ = text => (window.translations || {})[text] || text;

// ---- rpc: the envelope of uhttpd's /ubus ---------------------------------------------------------------------------

const STATUS = { 1: 'Invalid command', 2: 'Invalid argument', 3: 'Method not found', 4: 'Not found', 5: 'No data', 6: 'Permission denied', 7: 'Request timed out' };
let number = 0;
const session = new URLSearchParams(location.search).get('session') || '0'.repeat(32);

async function call(object, method, data) {
	const body = { jsonrpc: '2.0', id: ++number, method: 'call', params: [ session, object, method, data ] };
	const response = await fetch('/ubus/?' + Date.now(), { method: 'POST', body: JSON.stringify(body) });
	const answer = await response.json();
	if (answer.error)
		throw new Error('RPC call to %s/%s failed with error %d: %s'.format(object, method, answer.error.code, answer.error.message));
	if (answer.result[0] !== 0)
		throw new Error('RPC call to %s/%s failed with ubus code %d: %s'.format(object, method, answer.result[0], STATUS[answer.result[0]]));
	return answer.result[1];
}

const rpc = {
	declare: options => (...args) => {
		const data = {};
		(options.params || []).forEach((name, index) => { if (args[index] !== undefined) data[name] = args[index]; });
		return call(options.object, options.method, data).then(answer => answer === undefined ? (options.expect || {})[''] : answer);
	}
};

// ---- poll, dom, ui --------------------------------------------------------------------------------------------------

const poll = { add: (work, seconds) => setInterval(work, (seconds || 5) * 1000) };
const dom = { content: (place, children) => { place.replaceChildren(); append(place, children); } };

const ui = {
	addNotification(title, content, kind) {
		const note = E('div', { 'class': 'alert-message ' + (kind || '') }, [ title ? E('h4', {}, title) : '' ]);
		append(note, content);
		document.getElementById('notifications').appendChild(note);
		return note;
	},
	showModal(title, content) {
		ui.hideModal();
		const dialog = E('div', { 'role': 'dialog', 'aria-modal': 'true', 'aria-labelledby': 'modal-title' }, E('h4', { 'id': 'modal-title' }, title));
		append(dialog, content);
		document.body.appendChild(E('div', { 'id': 'modal' }, dialog));
	},
	hideModal() {
		const modal = document.getElementById('modal');
		if (modal)
			modal.remove();
	},
	createHandlerFn(context, work, ...args) {
		const run = typeof work === 'string' ? context[work] : work;
		return event => {
			const button = event.currentTarget;
			button.disabled = true;
			button.classList.add('spinning');
			button.blur();
			Promise.resolve(run.call(context, ...args, event)).finally(() => { button.disabled = false; button.classList.remove('spinning'); });
		};
	}
};

// ---- uci and forms --------------------------------------------------------------------------------------------------

const sections = {};
const uci = {
	load: config => call('uci', 'get', { config: config }).then(answer => { sections[config] = answer.values; }),
	has: (config, section) => section in sections[config],
	get: (config, section, option) => (sections[config][section] || {})[option],
	save: (config, section, values) => call('uci', 'set', { config: config, section: section, values: values }),
	apply: () => call('uci', 'apply', { rollback: true, timeout: 30 }).then(() => call('uci', 'confirm', {}))
};

let widgets = 0;

const Value = Base.extend({
	value(key, label) { (this.choices = this.choices || []).push([ key, label || key ]); },
	stored() { return uci.get(this.map.config, this.section.section, this.option); },
	widget(id) {
		const stored = this.stored();
		return E('input', { 'type': 'text', 'id': id, 'placeholder': this.placeholder, 'value': stored == null ? '' : stored });
	},
	formvalue() { return this.id && this.read(document.getElementById(this.id)); },
	read(widget) { return widget.value.trim(); },
	render() {
		this.id = 'widget.' + (++widgets);
		return E('div', { 'class': 'cbi-value', 'data-name': this.option }, [
			E('label', { 'for': this.id }, this.title), ' ', this.widget(this.id),
			this.description ? E('div', { 'class': 'cbi-value-description' }, this.description) : ''
		]);
	}
});

const Flag = Value.extend({
	widget(id) {
		const box = E('input', { 'type': 'checkbox', 'id': id });
		box.checked = (this.stored() || this.default) === '1';
		return box;
	},
	read(widget) { return widget.checked ? '1' : '0'; }
});

const ListValue = Value.extend({
	widget(id) {
		const list = E('select', { 'id': id }, (this.choices || []).map(([ key, label ]) => E('option', { 'value': key }, label)));
		list.value = this.stored() || this.default || '';
		return list;
	}
});

const DynamicList = Value.extend({
	widget(id) {
		const stored = this.stored() || [];
		return E('input', { 'type': 'text', 'id': id, 'value': Array.isArray(stored) ? stored.join(' ') : stored });
	},
	read(widget) { return widget.value.split(/\s+/).filter(word => word); }
});

const MultiValue = Value.extend({
	widget(id) {
		const stored = this.stored() || [], chosen = Array.isArray(stored) ? stored : stored.split(/\s+/);
		return E('span', { 'id': id, 'role': 'group', 'aria-label': this.title }, this.choices.map(([ key, label ]) => {
			const box = E('input', { 'type': 'checkbox', 'value': key });
			box.checked = chosen.includes(key);
			return E('label', {}, [ box, label, ' ' ]);
		}));
	},
	read(widget) { return [ ...widget.querySelectorAll('input:checked') ].map(box => box.value); }
});

const NamedSection = Base.extend({
	option(kind, name, title, description) {
		const option = new kind();
		Object.assign(option, { map: this.map, section: this, option: name, title: title, description: description });
		this.children.push(option);
		return option;
	},
	render() {
		/* As LuCI: what is not in the configuration has a heading and no more. */
		const shown = uci.has(this.map.config, this.section) ? this.children.map(option => option.render()) : [];
		return E('fieldset', {}, [ E('legend', {}, E('h3', {}, this.title)) ].concat(shown));
	},
	save() {
		const values = {};
		this.children.forEach(option => {
			const value = option.formvalue();
			if (value != null && JSON.stringify(value) !== JSON.stringify(option.stored() == null ? (Array.isArray(value) ? [] : '') : option.stored()))
				values[option.option] = value;
		});
		return Object.keys(values).length ? uci.save(this.map.config, this.section, values) : Promise.resolve();
	}
});

class FormMap {
	constructor(config, title, description) {
		Object.assign(this, { config: config, title: title, description: description, children: [] });
	}
	section(kind, section, type, title) {
		const made = new kind();
		Object.assign(made, { map: this, section: section, type: type, title: title, children: [] });
		this.children.push(made);
		return made;
	}
	render() {
		maps.push(this);
		return uci.load(this.config).then(() => E('div', { 'class': 'cbi-map' }, [
			E('h2', {}, this.title), E('p', {}, this.description)
		].concat(this.children.map(section => section.render()))));
	}
	async save() {
		for (const section of this.children)
			await section.save();
	}
}

const maps = [];
const form = { Map: FormMap, NamedSection: NamedSection, Value: Value, Flag: Flag, ListValue: ListValue, DynamicList: DynamicList, MultiValue: MultiValue };

// ---- view -----------------------------------------------------------------------------------------------------------

const view = Base.extend({
	load() {},
	handleSave() { return Promise.all(maps.map(map => map.save())); },
	handleSaveApply(event) { return this.handleSave(event).then(uci.apply).then(() => ui.addNotification(null, E('p', {}, _('Saved.')), 'info')); },
	handleReset() { location.reload(); },
	footer() {
		const buttons = [ [ 'handleSaveApply', _('Save & Apply') ], [ 'handleSave', _('Save') ], [ 'handleReset', _('Reset') ] ];
		return E('p', { 'class': 'right' }, buttons.filter(([ name ]) => this[name])
			.map(([ name, label ]) => E('button', { 'class': 'btn', 'click': ui.createHandlerFn(this, name) }, label)));
	},
	async open(place) {
		const shown = await this.render(await this.load());
		dom.content(place, [ shown, this.footer() ]);
	}
});

// ---- loading modules as LuCI does: 'require a.b as c' at the top of a file -------------------------------------------

const own = { baseclass: Base, rpc: rpc, poll: poll, dom: dom, ui: ui, uci: uci, form: form, view: view };
const loaded = {};

async function module(name) {
	if (own[name])
		return own[name];
	if (!loaded[name])
		loaded[name] = read(name);
	return loaded[name];
}

async function read(name) {
	const source = await (await fetch('/luci-static/resources/' + name.replace(/\./g, '/') + '.js')).text();
	const wanted = [ ...source.matchAll(/^'require (\S+?)(?: as (\w+))?';$/gm) ];
	const found = await Promise.all(wanted.map(match => module(match[1])));
	const made = new Function('window', 'document', 'L', ...wanted.map(match => match[2] || match[1]), source)(window, document, L, ...found);
	return new made();
}

const L = window.L = { url: path => '/' + path.replace('admin/confine/', '') + location.search };
window.E = E;
window._ = _;

async function start() {
	const menu = await (await fetch('/menu')).json();
	const page = location.pathname.substring(1) || 'overview';
	append(document.getElementById('menu'), menu.map(one => E('a', {
		'href': L.url('admin/confine/' + one.name), 'aria-current': one.name === page ? 'page' : null
	}, one.title)));
	const language = new URLSearchParams(location.search).get('lang');
	if (language)
		window.translations = await (await fetch('/po/' + language)).json();
	try {
		await (await module('view.confine.' + page)).open(document.getElementById('view'));
	} catch (problem) {
		ui.addNotification('Error', E('p', { 'role': 'alert' }, [ problem.message ]), 'danger');
		throw problem;
	}
	document.body.setAttribute('data-page', page);
}

start();
})();
