/* Runs in slivers.
 *   probe                      makes each call that a sliver may not make; prints its name and the error number (0: done)
 *   probe connect ADDRESS PORT exit status 0 if a TCP connection is accepted within 2 s
 *   probe listen PORT          accepts TCP connections on all IPv4 addresses, for ever
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *name, long result)
{
	printf("%s=%d\n", name, result < 0 ? errno : 0);
}

static int connects(const char *address, int port)
{
	struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
	int is_six = inet_pton(AF_INET6, address, &six.sin6_addr) == 1;
	int handle = socket(is_six ? AF_INET6 : AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, address, &four.sin_addr);
	alarm(2);
	if (is_six)
		return connect(handle, (struct sockaddr *)&six, sizeof six);
	return connect(handle, (struct sockaddr *)&four, sizeof four);
}

static int listens(int port)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
	int handle = socket(AF_INET, SOCK_STREAM, 0);

	if (bind(handle, (struct sockaddr *)&any, sizeof any) || listen(handle, 5))
		return 1;
	for (;;)
		close(accept(handle, NULL, NULL));
}

static int calls(void)
{
	char blob[128] = {0};

	say("kexec_load", syscall(SYS_kexec_load, 0, 0, 0, 0));
	say("kexec_file_load", syscall(SYS_kexec_file_load, 0, 0, 1, "", 0));
	say("init_module", syscall(SYS_init_module, blob, sizeof blob, ""));
	say("finit_module", syscall(SYS_finit_module, 0, "", 0));
	say("delete_module", syscall(SYS_delete_module, "veth", 0));
	say("mount", syscall(SYS_mount, "none", "/mnt", "tmpfs", 0, 0));
	say("umount", syscall(SYS_umount2, "/proc", 0));
	say("fsopen", syscall(SYS_fsopen, "tmpfs", 0));
	say("move_mount", syscall(SYS_move_mount, 0, "", 0, "", 0));
	say("pivot_root", syscall(SYS_pivot_root, "/", "/mnt"));
	say("mknod_char", syscall(SYS_mknodat, AT_FDCWD, "/root/null", S_IFCHR | 0666, 0x103));
	say("mknod_block", syscall(SYS_mknodat, AT_FDCWD, "/root/disk", S_IFBLK | 0666, 0xfe00));
	say("mknod_fifo", syscall(SYS_mknodat, AT_FDCWD, "/root/fifo", S_IFIFO | 0666, 0));
	say("open_by_handle_at", syscall(SYS_open_by_handle_at, 0, blob, 0));
	say("bpf", syscall(SYS_bpf, 0, blob, sizeof blob));
	say("perf_event_open", syscall(SYS_perf_event_open, blob, 0, -1, -1, 0));
	say("keyctl", syscall(SYS_keyctl, 0, -3, 1));
	say("io_uring_setup", syscall(SYS_io_uring_setup, 1, blob));
	say("userfaultfd", syscall(SYS_userfaultfd, 0));
	say("syslog", syscall(SYS_syslog, 10, 0, 0));
	say("settimeofday", syscall(SYS_settimeofday, blob, 0));
	say("unshare_user", syscall(SYS_unshare, CLONE_NEWUSER));
	say("unshare_mounts", syscall(SYS_unshare, CLONE_NEWNS));
	say("clone3", syscall(SYS_clone3, blob, 64));
	say("socket_alg", socket(38, SOCK_SEQPACKET, 0));
	say("socket_vsock", socket(40, SOCK_STREAM, 0));
	say("socket_inet", socket(AF_INET, SOCK_STREAM, 0));
	say("set_hostname", syscall(SYS_sethostname, "x", 1));
	return 0;
}

int main(int count, char **words)
{
	if (count == 4 && !strcmp(words[1], "connect"))
		return connects(words[2], atoi(words[3])) != 0;
	if (count == 3 && !strcmp(words[1], "listen"))
		return listens(atoi(words[2]));
	return calls();
}
