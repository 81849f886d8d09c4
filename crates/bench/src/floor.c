/*
 * The floor and the ceiling of serving page faults from user space, in one file.
 *
 *   floor SOCKET FILE            one thread; poll, read one event, copy one 4 KiB page
 *   floor SOCKET FILE ceiling    copies everything from the start on, 2 MiB at a time
 *
 * Both listen on SOCKET, take one handshake a connection (a JSON array of regions and a userfaultfd),
 * copy from a mapping of FILE, and serve a VM until it hangs up, one after the other. The floor is
 * what the handlers do that ship as examples; nothing here deals with an error but by ending.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096ull
#define PIECE (2ull << 20)
#define MAX_REGIONS 64

struct region {
	uint64_t base, size, offset;
};

static struct region regions[MAX_REGIONS];
static int region_count;
static char *file;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* The number behind "name": in `object`. */
static uint64_t field(const char *object, const char *name)
{
	const char *at = strstr(object, name);

	if (!at)
		die(name);
	return strtoull(strchr(at, ':') + 1, NULL, 10);
}

/* Takes the regions and the userfaultfd that a VMM sends. */
static int handshake(int vmm)
{
	static char json[65536];
	char control[CMSG_SPACE(3 * sizeof(int))];
	struct iovec part = { json, sizeof(json) - 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof(control),
	};
	ssize_t len = recvmsg(vmm, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	char *object;
	int uffd;

	if (len <= 0 || !header || header->cmsg_type != SCM_RIGHTS)
		die("handshake");
	json[len] = 0;
	memcpy(&uffd, CMSG_DATA(header), sizeof(uffd));
	region_count = 0;
	for (object = strchr(json, '{'); object; object = strchr(object + 1, '{')) {
		if (region_count == MAX_REGIONS)
			die("regions");
		regions[region_count++] = (struct region) {
			.base = field(object, "\"base_host_virt_addr\""),
			.size = field(object, "\"size\""),
			.offset = field(object, "\"offset\""),
		};
	}
	return uffd;
}

static void copy(int uffd, uint64_t to, const char *from, uint64_t len)
{
	struct uffdio_copy request = { .dst = to, .src = (uintptr_t)from, .len = len };
	struct uffdio_range there = { .start = to, .len = len };

	while (ioctl(uffd, UFFDIO_COPY, &request)) {
		if (errno == EAGAIN)
			continue;
		if (errno == EEXIST)
			ioctl(uffd, UFFDIO_WAKE, &there);
		else if (errno != ESRCH)
			die("UFFDIO_COPY");
		return;
	}
}

static void serve_faults(int vmm, int uffd)
{
	struct pollfd fds[2] = { { uffd, POLLIN, 0 }, { vmm, POLLIN, 0 } };
	struct uffd_msg event;

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			die("poll");
		if (fds[0].revents && read(uffd, &event, sizeof(event)) == sizeof(event)) {
			uint64_t at = event.arg.pagefault.address & ~(PAGE - 1);

			for (int n = 0; n < region_count; n++)
				if (at - regions[n].base < regions[n].size)
					copy(uffd, at, file + regions[n].offset + (at - regions[n].base), PAGE);
		}
		if (fds[1].revents)
			return;
	}
}

static void copy_everything(int vmm, int uffd)
{
	struct pollfd hung_up = { vmm, POLLIN, 0 };

	for (int n = 0; n < region_count; n++)
		for (uint64_t at = 0; at < regions[n].size; at += PIECE) {
			uint64_t left = regions[n].size - at;

			copy(uffd, regions[n].base + at, file + regions[n].offset + at,
			     left < PIECE ? left : PIECE);
		}
	poll(&hung_up, 1, -1);
}

int main(int argc, char **argv)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ceiling = argc == 4 && !strcmp(argv[3], "ceiling");
	struct stat stat;
	int fd;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc < 3 || strlen(argv[1]) >= sizeof(address.sun_path))
		die("usage: floor SOCKET FILE [ceiling]");
	fd = open(argv[2], O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &stat))
		die(argv[2]);
	/* The ceiling has the whole file mapped before anybody comes. */
	file = mmap(NULL, stat.st_size, PROT_READ, MAP_PRIVATE | (ceiling ? MAP_POPULATE : 0), fd, 0);
	if (file == MAP_FAILED)
		die("mmap");
	strcpy(address.sun_path, argv[1]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 8))
		die(argv[1]);
	for (;;) {
		int vmm = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
		int uffd;

		if (vmm < 0)
			die("accept");
		uffd = handshake(vmm);
		if (ceiling)
			copy_everything(vmm, uffd);
		else
			serve_faults(vmm, uffd);
		close(uffd);
		close(vmm);
	}
}
