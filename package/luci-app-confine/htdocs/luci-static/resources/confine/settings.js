'use strict';
'require baseclass';
'require ui';
'require confine.node as node';

const E = node.element;

/* Forms over the configuration `confine`: before anything is saved, the daemon itself is asked whether it could use it. */
return baseclass.extend({
	/* {"section.option": value} of all options of a form; an empty one is not set. */
	values: function(map) {
		const found = {};
		map.children.forEach(section => section.children.forEach(option => {
			if (section.section)
				found[section.section + '.' + option.option] = option.formvalue(section.section);
		}));
		return found;
	},

	/* What the daemon would say to the form as it is filled in: [{member, message}]. */
	refused: function(map) {
		return node.ask('settings', { values: JSON.stringify(this.values(map)) }).then(answer => answer.problems);
	},

	/* Save with `save` if the daemon can use all of it; else show its own words, and keep what was typed. */
	checked: function(map, save) {
		return this.refused(map).then(problems => {
			if (!problems.length)
				return save();
			ui.addNotification(_('Not saved'), E('ul', { 'role': 'alert', 'class': 'confine-refused' },
				problems.map(one => E('li', {}, one.member.substring(1).replace('/', '.') + ': ' + one.message))), 'danger');
		}, error => node.tell(error));
	}
});
