# The few calls of OpenWrt's procd.sh that the project's init scripts make, without procd: each instance is kept
# running by /usr/libexec/supervise, whose process id lies in /run/supervise/NAME.pid. Sourced by /etc/rc.common.
# shellcheck shell=sh disable=SC2154 # name is that of rc.common

supervised=/run/supervise

procd_open_instance() {
	procd_instance=${1:-instance1}
	procd_respawn=
	procd_term_timeout=5
	procd_env=
	procd_command=
}

procd_set_param() {
	procd_param=$1
	shift
	case $procd_param in
	command) procd_command=$(procd_quoted "$@") ;;
	respawn) procd_respawn=${2:-5} ;;
	term_timeout) procd_term_timeout=$1 ;;
	env) procd_env=$(procd_quoted "$@") ;;
	stdout | stderr | pidfile | reload_signal | limits | nice | file | no_new_privs) ;;
	*) echo "$name: procd_set_param $procd_param is unknown here" >&2 && return 1 ;;
	esac
}

# The words given, each quoted for the shell.
procd_quoted() {
	for procd_word in "$@"; do
		printf "'%s' " "$(printf %s "$procd_word" | sed "s/'/'\\\\''/g")"
	done
}

procd_close_instance() {
	mkdir -p "$supervised"
	eval "set -- '$name.$procd_instance' '$procd_term_timeout' '$procd_respawn' $procd_command"
	if [ $# -eq 3 ]; then
		echo "$name: the instance has no command" >&2
		return 1
	fi
	(
		[ -z "$procd_env" ] || eval "export $procd_env"
		exec setsid /usr/libexec/supervise "$@"
	) </dev/null >/dev/null 2>&1 &
	echo $! >"$supervised/$name.$procd_instance.pid"
}

# procd_send_signal SERVICE [INSTANCE [SIGNAL]]: HUP or USR1, to all instances.
procd_send_signal() {
	for procd_pid in $(procd_supervisors); do
		kill "-${3:-HUP}" "$procd_pid"
	done
}

# Triggers need procd's events: what changes here is reloaded by hand.
procd_add_reload_trigger() { return 0; }
procd_add_restart_trigger() { return 0; }
procd_add_config_trigger() { return 0; }

# The process ids of this script's running supervisors.
procd_supervisors() {
	for procd_file in "$supervised/$name".*.pid; do
		[ -e "$procd_file" ] || continue
		read -r procd_pid <"$procd_file"
		if [ -d "/proc/$procd_pid" ]; then
			echo "$procd_pid"
		else
			rm -f "$procd_file"
		fi
	done
}

running() { [ -n "$(procd_supervisors)" ]; }

start() {
	if running; then
		return 0
	fi
	start_service "$@"
}

stop() {
	if command -v stop_service >/dev/null; then
		stop_service
	fi
	procd_pids=$(procd_supervisors)
	for procd_pid in $procd_pids; do
		kill -TERM "$procd_pid"
	done
	for procd_pid in $procd_pids; do
		while [ -d "/proc/$procd_pid" ]; do sleep 0.1; done
	done
	if command -v service_stopped >/dev/null; then
		service_stopped
	fi
}

reload() {
	if command -v reload_service >/dev/null; then
		reload_service "$@"
	else
		restart
	fi
}
