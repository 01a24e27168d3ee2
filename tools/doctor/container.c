/* In which kind of container this process is, and what is done there instead. */
#include "doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The kernel's first namespaces have fixed numbers (PROC_*_INIT_INO); a container has at least one of its own. */
static const struct {
    const char *name, *initial;
} namespaces[] = {
    {"pid", "pid:[4026531836]"},   {"user", "user:[4026531837]"},     {"uts", "uts:[4026531838]"},
    {"ipc", "ipc:[4026531839]"},   {"cgroup", "cgroup:[4026531835]"},
};

static bool has_own(const struct doctor *doctor, size_t index)
{
    char name[READ_NAME];
    return read_link_name(doctor->root, name, sizeof(name), "/proc/self/ns/%s", namespaces[index].name) &&
           strcmp(name, namespaces[index].initial) != 0;
}

static bool has_own_namespace(const struct doctor *doctor)
{
    for (size_t i = 0; i < sizeof(namespaces) / sizeof(namespaces[0]); i++)
        if (has_own(doctor, i))
            return true;
    return false;
}

void doctor_find_container(struct doctor *doctor)
{
    char first[256];
    doctor->user_namespace = has_own(doctor, 1);
    doctor->container = CONTAINER_NONE;
    if (!has_own_namespace(doctor)) /* a marker may lie around in a copy of a container's files */
        return;
    read_text(doctor->root, first, sizeof(first), "/proc/1/cgroup");
    if (getenv("KUBERNETES_SERVICE_HOST") || strstr(first, "kubepods") ||
        path_exists(doctor->root, "/var/run/secrets/kubernetes.io"))
        doctor->container = CONTAINER_KUBERNETES;
    else if (path_exists(doctor->root, "/run/.containerenv"))
        doctor->container = CONTAINER_PODMAN;
    else if (path_exists(doctor->root, "/.dockerenv"))
        doctor->container = CONTAINER_DOCKER;
    else
        doctor->container = CONTAINER_OTHER;
}

const char *doctor_mend_devices(const struct doctor *doctor)
{
    static const char *const mends[] = {
        [CONTAINER_NONE] = "modprobe -a ib_uverbs rdma_ucm",
        [CONTAINER_DOCKER] = "docker run --device=/dev/infiniband (and on the host: modprobe -a ib_uverbs rdma_ucm)",
        [CONTAINER_PODMAN] = "podman run --device=/dev/infiniband (and on the host: modprobe -a ib_uverbs rdma_ucm)",
        [CONTAINER_KUBERNETES] = "let an RDMA device plugin give the pod /dev/infiniband (resources: limits: rdma/...)",
        [CONTAINER_OTHER] = "pass /dev/infiniband into the container (and on the host: modprobe -a ib_uverbs rdma_ucm)",
    };
    return mends[doctor->container];
}

/* The kernel asks for CAP_IPC_LOCK of the host: root of a user namespace does not have it. */
const char *doctor_mend_memlock(const struct doctor *doctor)
{
    static const char *const mends[] = {
        [CONTAINER_NONE] = "ulimit -l unlimited (limits.conf: memlock; systemd: LimitMEMLOCK=infinity)",
        [CONTAINER_DOCKER] = "docker run --ulimit memlock=-1 (or --cap-add=IPC_LOCK)",
        [CONTAINER_PODMAN] = "podman run --ulimit memlock=-1 (or --cap-add=IPC_LOCK)",
        [CONTAINER_KUBERNETES] = "securityContext: capabilities: add: [IPC_LOCK]",
        [CONTAINER_OTHER] = "raise the memlock limit of the container, or give it CAP_IPC_LOCK",
    };
    if (doctor->container != CONTAINER_NONE && doctor->user_namespace)
        return "raise the memlock limit on the host, for who starts the container: CAP_IPC_LOCK of a user namespace "
               "does not lift it";
    return mends[doctor->container];
}

const char *doctor_mend_pids(const struct doctor *doctor)
{
    static const char *const mends[] = {
        [CONTAINER_NONE] = "",
        [CONTAINER_DOCKER] = "docker run --pid=host, or --pid=container:OTHER",
        [CONTAINER_PODMAN] = "podman run --pid=host, or --pid=container:OTHER",
        [CONTAINER_KUBERNETES] = "one pod with shareProcessNamespace: true, or hostPID: true",
        [CONTAINER_OTHER] = "let the containers share a PID namespace",
    };
    return mends[doctor->container];
}
