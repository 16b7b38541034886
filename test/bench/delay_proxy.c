/*
 * delay_proxy.c
 *		A slow network, for measurements.
 *
 * delay_proxy LISTEN SERVER MICROSECONDS listens on the unix socket LISTEN.  It
 * connects each client to the unix socket SERVER.  Whatever one side sends
 * reaches the other side that much later, so a round trip takes twice the
 * delay.  Only the delay is added: several chunks of a stream are under way at
 * the same time, and connections do not wait for each other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define MAX_SOCKETS 128
#define MAX_ON_THE_WAY (4 * 1024 * 1024)
#define MAX_CHUNK 65536

/* What was read at one time. */
typedef struct Chunk
{
	struct Chunk *next;
	long long	due;			/* when it may arrive, in nanoseconds */
	size_t		length;			/* 0: the end of the stream */
	size_t		written;
	char		data[];
} Chunk;

/* One end of a connection, with the stream that is read from it. */
typedef struct End
{
	int			fd;				/* -1: none */
	Chunk	   *first;
	Chunk	   *last;
	size_t		on_the_way;		/* bytes that were read and not yet written */
	int			read_all;		/* the sender has finished */
	int			written_all;	/* and the other end knows it */
	int			blocked;		/* the other end takes no more at the moment */
} End;

/* Number 0 listens; numbers 2n and 2n + 1 are the ends of one connection. */
static End	ends[MAX_SOCKETS];
static struct pollfd polled[MAX_SOCKETS];
static long long delay;

static void
fail(const char *what)
{
	perror(what);
	exit(1);
}

static long long
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int
open_socket(const char *path, int (*attach) (int, const struct sockaddr *, socklen_t))
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int			fd = socket(AF_UNIX, SOCK_STREAM, 0);

	if (strlen(path) >= sizeof(address.sun_path))
	{
		errno = ENAMETOOLONG;
		fail(path);
	}
	strcpy(address.sun_path, path);
	if (fd < 0 || attach(fd, (struct sockaddr *) &address, sizeof(address)) < 0)
		fail(path);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	return fd;
}

static void
forget_first(End *end)
{
	Chunk	   *chunk = end->first;

	end->on_the_way -= chunk->length;
	end->first = chunk->next;
	free(chunk);
}

static void
close_connection(int i)
{
	for (int k = i & ~1; k <= (i | 1); k++)
	{
		close(ends[k].fd);
		ends[k].fd = -1;
		while (ends[k].first)
			forget_first(&ends[k]);
	}
}

static void
accept_client(const char *server)
{
	int			client = accept4(ends[0].fd, NULL, NULL, SOCK_NONBLOCK);

	if (client < 0)
		return;
	for (int i = 2; i < MAX_SOCKETS; i += 2)
	{
		if (ends[i].fd >= 0)
			continue;
		ends[i] = (End) {.fd = client};
		ends[i + 1] = (End) {.fd = open_socket(server, connect)};
		return;
	}
	close(client);
}

/* Reads from end i; returns 0 when the connection is broken. */
static int
read_chunk(int i)
{
	static char buffer[MAX_CHUNK];
	End		   *end = &ends[i];
	ssize_t		length = read(end->fd, buffer, sizeof(buffer));
	Chunk	   *chunk;

	if (length < 0)
		return errno == EAGAIN;
	chunk = malloc(sizeof(Chunk) + length);
	if (!chunk)
		fail("malloc");
	*chunk = (Chunk) {.due = now() + delay, .length = length};
	memcpy(chunk->data, buffer, length);
	if (end->first)
		end->last->next = chunk;
	else
		end->first = chunk;
	end->last = chunk;
	end->on_the_way += length;
	end->read_all = length == 0;
	return 1;
}

/*
 * Writes what was read from end i and is due to the other end; returns 0 when
 * the connection has ended or is broken.
 */
static int
write_due(int i)
{
	End		   *end = &ends[i];
	int			peer = ends[i ^ 1].fd;

	end->blocked = 0;
	while (end->first && end->first->due <= now())
	{
		Chunk	   *chunk = end->first;
		ssize_t		written;

		if (chunk->length == 0)
		{
			shutdown(peer, SHUT_WR);
			end->written_all = 1;
			forget_first(end);
			return !ends[i ^ 1].written_all;
		}
		written = write(peer, chunk->data + chunk->written, chunk->length - chunk->written);
		if (written < 0)
		{
			end->blocked = errno == EAGAIN;
			return end->blocked;
		}
		chunk->written += written;
		if (chunk->written == chunk->length)
			forget_first(end);
	}
	return 1;
}

int
main(int argc, char **argv)
{
	if (argc != 4)
	{
		fprintf(stderr, "usage: delay_proxy LISTEN SERVER MICROSECONDS\n");
		return 1;
	}
	delay = atoll(argv[3]) * 1000;
	signal(SIGPIPE, SIG_IGN);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	prctl(PR_SET_TIMERSLACK, 1);
	umask(0);					/* the servers may run as another user */
	for (int i = 0; i < MAX_SOCKETS; i++)
		ends[i].fd = -1;
	ends[0].fd = open_socket(argv[1], bind);
	if (listen(ends[0].fd, 64) < 0)
		fail(argv[1]);

	for (;;)
	{
		long long	next = -1;
		struct timespec wait;

		polled[0] = (struct pollfd) {.fd = ends[0].fd, .events = POLLIN};
		for (int i = 1; i < MAX_SOCKETS; i++)
		{
			End		   *end = &ends[i];
			short		events = 0;

			polled[i] = (struct pollfd) {.fd = -1};
			if (end->fd < 0)
				continue;
			if (!end->read_all && end->on_the_way < MAX_ON_THE_WAY)
				events |= POLLIN;
			if (ends[i ^ 1].blocked)
				events |= POLLOUT;
			if (events)			/* a hang-up would be reported for ever */
				polled[i] = (struct pollfd) {.fd = end->fd, .events = events};
			if (end->first && !end->blocked && (next < 0 || end->first->due < next))
				next = end->first->due;
		}
		if (next >= 0)
		{
			next -= now();
			if (next < 0)
				next = 0;
			wait = (struct timespec) {next / 1000000000, next % 1000000000};
		}
		if (ppoll(polled, MAX_SOCKETS, next < 0 ? NULL : &wait, NULL) < 0)
			fail("ppoll");

		for (int i = 2; i < MAX_SOCKETS; i++)
		{
			if (ends[i].fd < 0)
				continue;
			if (((polled[i].revents & ~POLLOUT) && !ends[i].read_all && !read_chunk(i)) ||
				!write_due(i))
				close_connection(i);
		}
		if (polled[0].revents & POLLIN)
			accept_client(argv[2]);
	}
}
