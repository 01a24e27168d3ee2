/*
 * `weir doctor`: what its files share. A check is a function that looks at one thing and says what it found with
 * doctor_say(): once, or once for each port, file or chain. The table in ../weir_doctor.c lists them all.
 */
#ifndef DOCTOR_H
#define DOCTOR_H

#include "read.h"

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum doctor_level {
    DOCTOR_OK,
    DOCTOR_NOTE, /* good to know; nothing that is in use suffers */
    DOCTOR_WARN, /* works, but slowly or not always */
    DOCTOR_FAIL, /* what was chosen cannot work */
};

/* How much the choice of transport leans on something. */
enum doctor_need { DOCTOR_UNUSED, DOCTOR_WANTED, DOCTOR_NEEDED };

enum doctor_container { CONTAINER_NONE, CONTAINER_DOCKER, CONTAINER_PODMAN, CONTAINER_KUBERNETES, CONTAINER_OTHER };

enum { DOCTOR_FINDINGS_MAX = 128, DOCTOR_TEXT = 480, DOCTOR_NUMERIC = INET6_ADDRSTRLEN + IF_NAMESIZE };

struct doctor_finding {
    const char *area, *check;
    enum doctor_level level;
    char text[DOCTOR_TEXT];
    char mend[DOCTOR_TEXT]; /* what to do; "": nothing */
};

/* The address of this host that peers would reach it by. */
struct doctor_local {
    struct sockaddr_storage ip;
    char text[DOCTOR_NUMERIC]; /* "": there is none, and `why` says why */
    char interface[IF_NAMESIZE];
    char why[DOCTOR_TEXT], mend[DOCTOR_TEXT];
};

struct doctor {
    const char *root; /* where /sys, /proc and /dev are looked up, "" for this machine's own */
    const char *to;   /* the peer that matters, by name or number; NULL: any */
    char to_numeric[DOCTOR_NUMERIC]; /* its address, "" when there is none */
    struct sockaddr_storage to_ip;
    int port;         /* the store's */
    bool visits;      /* the peer serves that port, not this side */
    bool trials;      /* try transports for real */

    char transport[8]; /* WEIR_TRANSPORT */
    enum doctor_need verbs, ucx, shm;
    enum doctor_container container;
    bool user_namespace; /* root here is not root of the host */
    struct doctor_local local;

    double latency_us, to_gb_s, from_gb_s; /* measured with a peer; 0: not so */
    double clock_offset_us;                /* by how much the peer's time of day is ahead */

    const char *area, *check; /* what is being looked at */
    size_t count;
    struct doctor_finding findings[DOCTOR_FINDINGS_MAX];
};

/* ---- report.c ---- */

/*
 * Notes a finding of the check that runs. The text may go on with " -> " and what to do; a finding that is ok has only
 * what is so.
 */
void doctor_say(struct doctor *doctor, enum doctor_level level, const char *format, ...) READ_FORMAT(3);

/* How bad it is when something does not work that is needed so much. */
enum doctor_level doctor_blame(enum doctor_need need);

enum doctor_level doctor_worst(const struct doctor *doctor);

/* Prints the findings from `first` on; `*area` is the heading that was printed last. */
void doctor_print_findings(const struct doctor *doctor, size_t first, const char **area);
void doctor_print_heading(const struct doctor *doctor);
void doctor_print_end(const struct doctor *doctor);
void doctor_print_findings_json(const struct doctor *doctor);

/* ---- setup.c ---- */

/* Fills transport, needs and port from the environment. */
void doctor_read_choice(struct doctor *doctor);

/* The value in force of a WEIR_* variable, "" when it is not set; and as a size in bytes. */
void doctor_variable(const char *name, char *value, size_t size);
uint64_t doctor_size_variable(const char *name);

/* Finds the address of this host that leads to `to`, or that would be taken without a peer (local.c). */
void doctor_find_local(struct doctor *doctor);

/* The address of a name or number; false: `why` says what is wrong with it. */
bool doctor_resolve(const char *name, struct sockaddr_storage *address, char *why, size_t size);

/* The numeric text of an address; `text` has room for DOCTOR_NUMERIC bytes. */
void doctor_address_text(const struct sockaddr *address, char *text);

/* ---- container.c ---- */

void doctor_find_container(struct doctor *doctor);

/* What to do in this kind of container, or outside of one, when something is missing. */
const char *doctor_mend_devices(const struct doctor *doctor);
const char *doctor_mend_memlock(const struct doctor *doctor);
const char *doctor_mend_pids(const struct doctor *doctor);

/* ---- checks, by area ---- */

void check_container(struct doctor *doctor); /* host.c */
void check_processes(struct doctor *doctor);
void check_sharing(struct doctor *doctor);
void check_clock(struct doctor *doctor);
void check_time(struct doctor *doctor);

void check_memlock(struct doctor *doctor); /* limits.c */
void check_files(struct doctor *doctor);
void check_huge_pages(struct doctor *doctor);

/* Errno of a connection to a TCP port, at most `bound_ms` long; 0: it came about, and was closed again (net.c). */
int doctor_try_connect(const struct sockaddr_storage *ip, int port, int bound_ms);

void check_interface(struct doctor *doctor); /* net.c */
void check_route(struct doctor *doctor);
void check_store_port(struct doctor *doctor);
void check_firewall(struct doctor *doctor); /* firewall.c */

void check_devices(struct doctor *doctor); /* devices.c */
void check_modules(struct doctor *doctor);
void check_device_files(struct doctor *doctor);
void check_ports(struct doctor *doctor); /* ports.c */
void check_gids(struct doctor *doctor);
void check_mtu(struct doctor *doctor);
void check_traffic(struct doctor *doctor); /* traffic.c */

void check_master(struct doctor *doctor);
void check_secret(struct doctor *doctor); /* variables.c; they say nothing of what is not set */
void check_numa(struct doctor *doctor);

void check_shm(struct doctor *doctor); /* transports.c */
void check_verbs(struct doctor *doctor);
void check_ucx(struct doctor *doctor);

/*
 * Meets another doctor: serves the store's port until one comes, or goes to `to`; then both connect and measure (peer.c).
 * Unless `quiet`, findings are printed as they come.
 */
void doctor_meet_peer(struct doctor *doctor, bool serve, bool quiet, const char **area);

/*
 * The whole of a process that tries one transport (the one of its environment) with itself and tells on standard output;
 * started by check_verbs() and its like (trial.c).
 */
int doctor_trial_main(void);

#endif
