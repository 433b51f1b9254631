'use strict';
'require view';
'require poll';
'require confine.node as node';

const E = node.element;
const SECONDS = 10;
const WIDTH = 720, ROW = 56, LEFT = 150, MIDDLE = 290, RIGHT = 470;
const NS = 'http://www.w3.org/2000/svg';

/* An element of the drawing. */
function shape(name, attributes, children) {
	const element = document.createElementNS(NS, name);
	Object.keys(attributes).forEach(key => element.setAttribute(key, attributes[key]));
	(children || []).forEach(child => element.appendChild(typeof child === 'string' ? document.createTextNode(child) : child));
	return element;
}

function box(x, y, width, lines, dashed) {
	const parts = [ shape('rect', {
		x: x, y: y, width: width, height: 44, rx: 6, fill: 'none', stroke: 'currentColor',
		'stroke-dasharray': dashed ? '4 3' : 'none'
	}) ];
	lines.forEach((text, index) => parts.push(shape('text', {
		x: x + 8, y: y + 18 + 17 * index, fill: 'currentColor', 'font-size': index ? 11 : 13
	}, [ text ])));
	return parts;
}

function wire(x1, y1, x2, y2) {
	return shape('line', { x1: x1, y1: y1, x2: x2, y2: y2, stroke: 'currentColor', 'stroke-width': 1.5 });
}

/* The bridges and devices that slivers' interfaces hang on: [{key, title, about}]. */
function hubs(doc) {
	const addrs = doc.node.addrs || {};
	const found = [
		{ key: 'private', title: _('private'), about: addrs.internal_ipv4 || '' },
		{ key: 'management', title: _('management'), about: addrs.mgmt || _('not set') },
		{ key: 'public', title: _('community'), about: '' }
	];
	(doc.node.direct_ifaces || []).forEach(name => found.push({ key: 'isolated:' + name, title: name, about: _('lent directly') }));
	return found;
}

function hubOf(face) {
	if (face.type === 'isolated')
		return 'isolated:' + face.parent_name;
	return { private: 'private', management: 'management' }[face.type] || 'public';
}

function lines(doc) {
	const list = [];
	doc.slivers.forEach(sliver => (sliver.interfaces || []).forEach(face => list.push({ sliver: sliver, face: face })));
	return list;
}

function drawing(doc) {
	const places = hubs(doc), ends = lines(doc);
	const height = 16 + ROW * Math.max(places.length, ends.length, 1);
	const parts = [];
	const yOf = {};
	parts.push(...box(8, 8, LEFT - 30, [ _('this node'), doc.node.name || '' ]));
	places.forEach((hub, index) => {
		const y = yOf[hub.key] = 8 + ROW * index;
		parts.push(wire(LEFT - 22, 30, MIDDLE - 110, y + 22), ...box(MIDDLE - 110, y, 200, [ hub.title, hub.about ]));
	});
	ends.forEach((end, index) => {
		const y = 8 + ROW * index, from = yOf[hubOf(end.face)];
		if (from != null)
			parts.push(wire(MIDDLE + 90, from + 22, RIGHT, y + 22));
		const tag = end.face.vlan_tag ? ' VLAN ' + end.face.vlan_tag : '';
		parts.push(...box(RIGHT, y, WIDTH - RIGHT - 8, [
			(end.sliver.slice_name || end.sliver.id) + ' · ' + end.face.name + tag,
			end.face.ipv4_addr || end.face.ipv6_addr || end.face.mac_addr || ''
		], end.sliver.state !== 'started'));
	});
	return shape('svg', {
		viewBox: '0 0 ' + WIDTH + ' ' + height, width: '100%', role: 'img', 'aria-labelledby': 'confine-drawing-title'
	}, [ shape('title', { id: 'confine-drawing-title' }, [ _('The node, what slivers hang on, and their interfaces; the table below says the same') ]) ].concat(parts));
}

function table(doc) {
	const titles = [ _('Sliver'), _('Interface'), _('Type'), _('Addresses') ];
	return E('table', { 'class': 'table', 'id': 'confine-interfaces' }, [
		E('tr', { 'class': 'tr table-titles' }, titles.map(title => E('th', { 'class': 'th', 'scope': 'col' }, title)))
	].concat(lines(doc).map(end => E('tr', { 'class': 'tr' }, [
		E('td', { 'class': 'td', 'data-title': _('Sliver') }, end.sliver.slice_name || end.sliver.id),
		E('td', { 'class': 'td', 'data-title': _('Interface') }, end.face.name),
		E('td', { 'class': 'td', 'data-title': _('Type') }, end.face.type),
		E('td', { 'class': 'td', 'data-title': _('Addresses') },
			[ end.face.ipv4_addr, end.face.ipv6_addr, end.face.mac_addr ].filter(word => word).join(' '))
	]))));
}

return view.extend({
	load: function() {
		return node.ask('status').catch(error => error);
	},

	show: function(doc) {
		if (doc instanceof Error)
			return E('div', { 'class': 'alert-message danger', 'role': 'alert' }, doc.message);
		return E('div', {}, [ drawing(doc), table(doc) ]);
	},

	render: function(doc) {
		const place = E('div', { 'id': 'confine-network' }, this.show(doc));
		poll.add(() => this.load().then(now => node.renew(place, this.show(now))), SECONDS);
		return E([], [ E('h2', {}, _('What goes where')), place ]);
	},

	handleSave: null,
	handleSaveApply: null,
	handleReset: null
});
