/* Values of variables that can be read, but that only the job itself would stumble over: what they name is missing. */
#include "doctor.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { VALUE_SIZE = 4096, SECRET_MIN = 16 }; /* bytes of a secret: see WEIR_SECRET_FILE */

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

void check_numa(struct doctor *doctor)
{
    char node[VALUE_SIZE];
    doctor_variable("WEIR_NUMA", node, sizeof(node));
    if (strcmp(node, "auto") == 0 || strcmp(node, "off") == 0)
        return;
    if (!path_exists(doctor->root, "/sys/devices/system/node/node%ld", atol(node)))
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_NUMA=%s: there is no such node -> use one of /sys/devices/system/node",
                   node);
    else
        doctor_say(doctor, DOCTOR_OK, "WEIR_NUMA=%s is a node of this host", node);
}
