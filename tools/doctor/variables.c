/* Values of variables that only the job itself would stumble over: the library looks at them when they are used. */
#include "doctor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VALUE_SIZE = 4096, SECRET_MIN = 16 }; /* bytes of a secret: see WEIR_SECRET_FILE */

/* Decimal digits alone, at most `most`. */
static bool is_number(const char *text, long most)
{
    size_t len = strlen(text);
    return len > 0 && len < 10 && strspn(text, "0123456789") == len && atol(text) <= most;
}

static void look_at_secret(struct doctor *doctor, const char *path, int fd)
{
    struct stat about;
    if (fstat(fd, &about) != 0 || !S_ISREG(about.st_mode))
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_SECRET_FILE=%s: it is not a file -> name a file with the secret", path);
    else if (about.st_mode & S_IWOTH)
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_SECRET_FILE=%s: everybody may write to it -> chmod 600 %s", path, path);
    else if (about.st_size < SECRET_MIN)
        doctor_say(doctor, DOCTOR_FAIL,
                   "WEIR_SECRET_FILE=%s: its secret has less than %d bytes -> openssl rand -hex 32 > %s", path,
                   SECRET_MIN, path);
    else if (about.st_mode & S_IROTH)
        doctor_say(doctor, DOCTOR_WARN, "WEIR_SECRET_FILE=%s: everybody on this host may read it -> chmod 600 %s", path,
                   path);
    else
        doctor_say(doctor, DOCTOR_OK, "WEIR_SECRET_FILE=%s can be read", path);
}

void check_secret(struct doctor *doctor)
{
    char path[VALUE_SIZE];
    doctor_variable("WEIR_SECRET_FILE", path, sizeof(path));
    if (!path[0])
        return;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not hold us */
    if (fd < 0) {
        doctor_say(doctor, DOCTOR_FAIL,
                   "WEIR_SECRET_FILE=%s: %s -> put the job's secret there, readable to its user, on all hosts", path,
                   strerror(errno));
        return;
    }
    look_at_secret(doctor, path, fd);
    close(fd);
}

/* [ADDRESS:]PORT; an IPv6 address stands in brackets. */
static bool is_place(const char *where)
{
    char host[INET6_ADDRSTRLEN];
    unsigned char address[sizeof(struct in6_addr)];
    const char *colon = strrchr(where, ':');
    if (!is_number(colon ? colon + 1 : where, 65535))
        return false;
    if (!colon)
        return true;
    bool bracketed = colon - where > 2 && where[0] == '[' && colon[-1] == ']';
    size_t len = (size_t)(colon - where) - (bracketed ? 2 : 0);
    if (len >= sizeof(host))
        return false;
    memcpy(host, where + bracketed, len);
    host[len] = '\0';
    return inet_pton(bracketed ? AF_INET6 : AF_INET, host, address) == 1;
}

void check_metrics(struct doctor *doctor)
{
    char where[VALUE_SIZE];
    doctor_variable("WEIR_METRICS_LISTEN", where, sizeof(where));
    if (where[0] && !is_place(where))
        doctor_say(doctor, DOCTOR_WARN,
                   "WEIR_METRICS_LISTEN=%s: not a place to listen, so nothing will be served -> use e.g. 9400, "
                   "0.0.0.0:9400 or [::]:9400",
                   where);
}

void check_numa(struct doctor *doctor)
{
    char node[VALUE_SIZE];
    doctor_variable("WEIR_NUMA", node, sizeof(node));
    if (strcmp(node, "auto") == 0 || strcmp(node, "off") == 0)
        return;
    if (!is_number(node, 65535))
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_NUMA=%s: not a choice -> use auto, off or the number of a node", node);
    else if (!path_exists(doctor->root, "/sys/devices/system/node/node%ld", atol(node)))
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_NUMA=%s: there is no such node -> use one of /sys/devices/system/node",
                   node);
    else
        doctor_say(doctor, DOCTOR_OK, "WEIR_NUMA=%s is a node of this host", node);
}
