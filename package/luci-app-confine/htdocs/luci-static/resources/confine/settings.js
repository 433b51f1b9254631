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
			const value = option.formvalue(section.section);
			if (value != null)  /* a section that is not in the configuration is not shown */
				found[section.section + '.' + option.option] = value;
		}));
		return found;
	},

	/* What the daemon would say to the form as it is filled in: [{member, message}]. */
	refused: function(map) {
		return node.ask('settings', { values: JSON.stringify(this.values(map)) }).then(answer => answer.problems);
	},

	/* Save with `save` if the daemon can use all of it; else show its own words, keep what was typed, and fail: what
	   comes after saving must not happen. */
	checked: function(map, save) {
		return this.refused(map).then(problems => {
			if (!problems.length)
				return save();
			ui.addNotification(_('Not saved'), E('ul', { 'role': 'alert', 'class': 'confine-refused' },
				problems.map(one => E('li', {}, one.member.substring(1).replace('/', '.') + ': ' + one.message))), 'danger');
			throw new Error(_('Not saved'));
		}, error => {
			node.tell(error);
			throw error;
		});
	}
});
