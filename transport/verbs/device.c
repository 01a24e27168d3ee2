/* Which device, port and addresses to use, and the objects that an interface needs of the device. */
#include "core/config.h"
#include "core/error.h"
#include "core/forms.h"
#include "core/log.h"
#include "transport/verbs/verbs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define SYSFS "/sys/class/infiniband"

enum {
    CANDIDATES_MAX = 64,
    SOFT_ROCE_VENDOR = 0xffffff, /* needs care, at least up to Linux 6.1 */
    SOFT_ROCE_WRITE_PACKETS = 16,
};

/* An IP address of this host that leads to an active port. */
struct candidate {
    char device[64];
    uint8_t port;
    bool hinted; /* it, or its network interface, was asked for */
    struct sockaddr_storage ip;
};

/* ---- Why nothing can be used ------------------------------------------------------------------------------------- */

/* Names of the devices in sysfs, for errors; returns how many. */
static int list_sysfs(char *names, size_t size)
{
    int count = 0;
    names[0] = '\0';
    DIR *dir = opendir(SYSFS);
    if (!dir)
        return 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        if (entry->d_name[0] == '.')
            continue;
        size_t used = strlen(names);
        snprintf(names + used, size - used, "%s%s", count ? ", " : "", entry->d_name);
        count++;
    }
    closedir(dir);
    return count;
}

static bool port_is_active(const char *device, unsigned port)
{
    char path[300], text[32] = "";
    snprintf(path, sizeof(path), SYSFS "/%s/ports/%u/state", device, port);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool active = fgets(text, sizeof(text), file) && atoi(text) == IBV_PORT_ACTIVE;
    fclose(file);
    return active;
}

/* May this process open the device files? */
static weir_status check_access(const char *path)
{
    if (access(path, R_OK | W_OK) == 0)
        return WEIR_OK;
    if (errno == ENOENT)
        return wi_error(WEIR_ERR_NO_DEVICE,
                        "verbs: %s is missing; load its module (modprobe ib_uverbs rdma_ucm), or in a "
                        "container pass it in (--device=/dev/infiniband)",
                        path);
    return wi_error(WEIR_ERR_NO_DEVICE, "verbs: %s: %s; give this user read and write access to it", path,
                    strerror(errno));
}

/* Is there a device with an active port that this process may open? */
static weir_status check_devices(void)
{
    char names[256], path[128];
    if (list_sysfs(names, sizeof(names)) == 0)
        return wi_error(WEIR_ERR_NO_DEVICE,
                        "verbs: no RDMA device: " SYSFS " is empty; load the adapter's driver, or make "
                        "a soft-RoCE device (rdma link add rxe0 type rxe netdev DEV)");
    if (access("/dev/infiniband", F_OK) != 0)
        return check_access("/dev/infiniband");
    int count = 0;
    struct ibv_device **list = ibv_get_device_list(&count);
    weir_status status = WEIR_OK;
    if (count == 0)
        status =
            wi_error(WEIR_ERR_NO_DEVICE, "verbs: libibverbs has no driver for %s; install ibverbs-providers", names);
    bool active = false;
    for (int i = 0; i < count && status == WEIR_OK; i++) {
        for (unsigned port = 1; port < 256 && !active; port++) {
            snprintf(path, sizeof(path), SYSFS "/%.63s/ports/%u", list[i]->name, port);
            if (access(path, F_OK) != 0)
                break;
            active = port_is_active(list[i]->name, port);
        }
        snprintf(path, sizeof(path), "/dev/infiniband/%.63s", list[i]->dev_name);
        if (active)
            status = check_access(path);
        if (active)
            break;
    }
    if (list)
        ibv_free_device_list(list);
    if (status == WEIR_OK && !active)
        status = wi_error(WEIR_ERR_NO_DEVICE,
                          "verbs: no port of %s is active; check cable, link and subnet manager "
                          "(ibv_devinfo)",
                          names);
    return status == WEIR_OK ? check_access("/dev/infiniband/rdma_cm") : status;
}

/* ---- Candidates -------------------------------------------------------------------------------------------------- */

/* Does an address of a network interface fit what was asked for (an interface's name, or a numeric address)? */
static bool is_hinted(const struct ifaddrs *entry, const char *hint)
{
    unsigned char number[16];
    const struct sockaddr *ip = entry->ifa_addr;
    if (!hint[0])
        return false;
    if (strcmp(entry->ifa_name, hint) == 0)
        return true;
    if (ip->sa_family == AF_INET)
        return inet_pton(AF_INET, hint, number) == 1 &&
               memcmp(number, &((const struct sockaddr_in *)(const void *)ip)->sin_addr, 4) == 0;
    return inet_pton(AF_INET6, hint, number) == 1 &&
           memcmp(number, &((const struct sockaddr_in6 *)(const void *)ip)->sin6_addr, 16) == 0;
}

static bool is_usable(const struct ifaddrs *entry)
{
    if (!entry->ifa_addr || !(entry->ifa_flags & IFF_UP) || (entry->ifa_flags & IFF_LOOPBACK))
        return false;
    if (entry->ifa_addr->sa_family == AF_INET)
        return true;
    return entry->ifa_addr->sa_family == AF_INET6 &&
           !IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)(void *)entry->ifa_addr)->sin6_addr);
}

/* Asks the connection manager which device and port an address leads to. */
static bool resolve(struct rdma_event_channel *channel, const struct ifaddrs *entry, struct candidate *candidate)
{
    struct rdma_cm_id *id;
    bool v4 = entry->ifa_addr->sa_family == AF_INET;
    if (rdma_create_id(channel, &id, NULL, RDMA_PS_TCP))
        return false;
    memset(candidate, 0, sizeof(*candidate));
    memcpy(&candidate->ip, entry->ifa_addr, v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    bool ours = rdma_bind_addr(id, (struct sockaddr *)&candidate->ip) == 0 && id->verbs;
    if (ours) {
        snprintf(candidate->device, sizeof(candidate->device), "%s", ibv_get_device_name(id->verbs->device));
        candidate->port = id->port_num;
        ours = port_is_active(candidate->device, candidate->port);
    }
    rdma_destroy_id(id);
    return ours;
}

/* IPv4 first: its GID is the same whatever else the network interface has. */
static weir_status find_candidates(const char *hint, struct candidate *candidates, unsigned *count)
{
    static const int families[] = {AF_INET, AF_INET6};
    struct ifaddrs *entries;
    *count = 0;
    struct rdma_event_channel *channel = rdma_create_event_channel();
    if (!channel)
        return wi_error(WEIR_ERR_NO_DEVICE, "verbs: no channel to the connection manager: %s", strerror(errno));
    if (getifaddrs(&entries)) {
        rdma_destroy_event_channel(channel);
        return wi_error(WEIR_ERR_IO, "verbs: the network interfaces cannot be listed: %s", strerror(errno));
    }
    for (int f = 0; f < 2; f++) {
        for (const struct ifaddrs *entry = entries; entry && *count < CANDIDATES_MAX; entry = entry->ifa_next) {
            struct candidate *candidate = &candidates[*count];
            if (!is_usable(entry) || entry->ifa_addr->sa_family != families[f] || !resolve(channel, entry, candidate))
                continue;
            candidate->hinted = is_hinted(entry, hint);
            ++*count;
        }
    }
    freeifaddrs(entries);
    rdma_destroy_event_channel(channel);
    return WEIR_OK;
}

/* ---- Choice ------------------------------------------------------------------------------------------------------ */

static weir_status none_usable(const char *wanted)
{
    char names[256];
    list_sysfs(names, sizeof(names));
    if (wanted[0])
        return wi_error(WEIR_ERR_NO_DEVICE,
                        "verbs: WEIR_DEVICE: %s is no device, or device:port, that is active and has an IP address; devices here: "
                        "%s; `weir doctor` tells of their ports",
                        wanted, names);
    return wi_error(WEIR_ERR_NO_DEVICE,
                    "verbs: no active port of %s has an IP address, which connecting needs; give its "
                    "network interface (InfiniBand: IPoIB) one",
                    names);
}

/* Those of the candidates that belong to a choice. */
static void collect(const struct candidate *candidates, unsigned count, const struct verbs_choice *choice,
                    struct wi_verbs_address *address)
{
    address->count = 0;
    for (unsigned i = 0; i < count && address->count < choice->addresses_max; i++) {
        const struct candidate *candidate = &candidates[i];
        if (candidate->port == choice->port && strcmp(candidate->device, choice->device) == 0 &&
            candidate->hinted == choice->hinted)
            memcpy(&address->ip[address->count++], &candidate->ip, sizeof(address->ip[0]));
    }
}

weir_status wi_verbs_addresses(const struct verbs_choice *choice, struct wi_verbs_address *address)
{
    struct candidate candidates[CANDIDATES_MAX];
    unsigned count;
    weir_status status = find_candidates(choice->hint, candidates, &count);
    memset(address, 0, sizeof(*address));
    if (status == WEIR_OK)
        collect(candidates, count, choice, address);
    return status;
}

/* The device that fits a wish; those that were hinted at first. NULL: none does. */
static const struct candidate *choose_one(const struct candidate *candidates, unsigned count,
                                          const struct wi_device_wish *wish)
{
    const struct candidate *best = NULL;
    for (unsigned i = 0; i < count; i++) {
        const struct candidate *candidate = &candidates[i];
        if ((wish->name[0] && strcmp(wish->name, candidate->device)) || (wish->port && wish->port != candidate->port))
            continue;
        if (!best || (candidate->hinted && !best->hinted))
            best = candidate;
    }
    return best;
}

/* A listed device that exists but cannot be used now is left out, as long as another one is left. */
weir_status wi_verbs_choose(const char *bind_address, struct verbs_choice choices[WI_VERBS_RAILS_MAX], unsigned *count)
{
    const struct wi_config *config = wi_config();
    struct wi_device_wish wishes[WI_VERBS_RAILS_MAX];
    struct candidate candidates[CANDIDATES_MAX];
    unsigned wish_count, candidate_count;
    const char *complaint = wi_read_devices(config->device, wishes, &wish_count);
    weir_status status = complaint ? wi_error(WEIR_ERR_CONFIG, "WEIR_DEVICE=%s: %s", config->device, complaint)
                                   : check_devices();
    const char *hint = bind_address ? bind_address : config->interface;
    if (status == WEIR_OK)
        status = find_candidates(hint, candidates, &candidate_count);
    if (status != WEIR_OK)
        return status;
    *count = 0;
    for (unsigned i = 0; i < wish_count; i++) {
        char path[128];
        const struct candidate *best = choose_one(candidates, candidate_count, &wishes[i]);
        if (best) {
            struct verbs_choice *choice = &choices[(*count)++];
            *choice = (struct verbs_choice){.port = best->port, .slot = (uint8_t)i, .hinted = best->hinted};
            memcpy(choice->device, best->device, sizeof(choice->device));
            snprintf(choice->hint, sizeof(choice->hint), "%s", hint);
            choice->addresses_max = (uint8_t)(WI_VERBS_ADDRESS_MAX / wish_count);
            collect(candidates, candidate_count, choice, &choice->address);
            continue;
        }
        snprintf(path, sizeof(path), SYSFS "/%s", wishes[i].name);
        if (wish_count == 1 || access(path, F_OK) != 0)
            return none_usable(wishes[i].name);
        wi_warn("verbs: %s of WEIR_DEVICE is left out: it has no active port with an IP address", wishes[i].name);
    }
    return *count > 0 ? WEIR_OK : none_usable(config->device);
}

/* ---- Opening ----------------------------------------------------------------------------------------------------- */

static weir_status open_context(struct verbs_device *device, const char *name)
{
    int count = 0;
    struct ibv_device **list = ibv_get_device_list(&count);
    for (int i = 0; i < count && !device->context; i++)
        if (strcmp(ibv_get_device_name(list[i]), name) == 0)
            device->context = ibv_open_device(list[i]);
    int error = errno;
    if (list)
        ibv_free_device_list(list);
    if (!device->context)
        return wi_error(WEIR_ERR_NO_DEVICE, "verbs: %s cannot be opened: %s", name, strerror(error));
    int flags = fcntl(device->context->async_fd, F_GETFL);
    if (flags < 0 || fcntl(device->context->async_fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return wi_error(WEIR_ERR_IO, "verbs: event descriptor of %s: %s", name, strerror(errno));
    return WEIR_OK;
}

static uint32_t at_most(uint64_t wanted, int64_t limit)
{
    return limit > 0 && wanted > (uint64_t)limit ? (uint32_t)limit : (uint32_t)wanted;
}

/* Rate of a lane times lanes, in units of 2.5 Gb/s; both are codes. */
static uint64_t port_speed(const struct ibv_port_attr *port)
{
    static const struct {
        uint8_t code, value;
    } speeds[] = {{1, 1}, {2, 2}, {4, 4}, {8, 4}, {16, 6}, {32, 10}, {64, 20}, {128, 40}},
      widths[] = {{1, 1}, {2, 4}, {4, 8}, {8, 12}, {16, 2}};
    uint64_t speed = 1, width = 1;
    for (size_t i = 0; i < sizeof(speeds) / sizeof(speeds[0]); i++)
        speed = speeds[i].code == port->active_speed ? speeds[i].value : speed;
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++)
        width = widths[i].code == port->active_width ? widths[i].value : width;
    return speed * width;
}

static weir_status query_limits(struct verbs_device *device, const struct verbs_choice *choice)
{
    struct ibv_device_attr attr;
    struct ibv_port_attr port;
    int error = ibv_query_device(device->context, &attr);
    if (!error)
        error = ibv_query_port(device->context, choice->port, &port);
    if (error)
        return wi_error(WEIR_ERR_IO, "verbs: %s:%u cannot be queried: %s", choice->device, choice->port,
                        strerror(error));
    device->max_piece = port.max_msg_sz ? port.max_msg_sz : 1u << 30;
    device->mtu = port.active_mtu;
    device->speed = port_speed(&port);
    device->max_depth = at_most(16384, attr.max_qp_wr);
    device->max_reads = (uint8_t)at_most(16, attr.max_qp_init_rd_atom);
    device->max_served = (uint8_t)at_most(16, attr.max_qp_rd_atom);
    device->atomics = attr.atomic_cap != IBV_ATOMIC_NONE;
    device->windows =
        attr.max_mw > 0 && attr.device_cap_flags & (IBV_DEVICE_MEM_WINDOW_TYPE_2A | IBV_DEVICE_MEM_WINDOW_TYPE_2B);
    device->spare_entry = device->loose_windows = device->loose_atomics = device->binds_again =
        attr.vendor_id == SOFT_ROCE_VENDOR;
    device->write_packets = attr.vendor_id == SOFT_ROCE_VENDOR ? SOFT_ROCE_WRITE_PACKETS : 0;
    if (!device->windows && wi_config()->verbs_windows == WI_VERBS_WINDOWS_ON)
        return wi_error(WEIR_ERR_UNSUPPORTED, "WEIR_VERBS_WINDOWS=on: %s has no memory windows of type 2",
                        choice->device);
    if (wi_config()->verbs_windows == WI_VERBS_WINDOWS_OFF)
        device->windows = false;
    wi_info("%s:%u: remote keys are %s", choice->device, choice->port,
            device->windows ? "windows on just what was exported" : "of registrations of just what was exported");
    device->srq_depth = at_most((uint64_t)wi_config()->verbs_receives, attr.max_srq_wr);
    uint32_t cq_wanted = 2 * device->srq_depth > WI_VERBS_CQ_DEPTH ? 2 * device->srq_depth : WI_VERBS_CQ_DEPTH;
    device->cq_depth = at_most(cq_wanted, attr.max_cqe);
    if (device->cq_depth < 2 * device->srq_depth)
        device->srq_depth = device->cq_depth / 2;
    device->srq_free = device->srq_depth;
    return WEIR_OK;
}

weir_status wi_verbs_device_open(struct verbs_device *device, const struct verbs_choice *choice)
{
    weir_status status = open_context(device, choice->device);
    if (status == WEIR_OK)
        status = query_limits(device, choice);
    if (status != WEIR_OK)
        return status;
    if (getrandom(&device->no_result, sizeof(device->no_result), 0) != (ssize_t)sizeof(device->no_result))
        return wi_error(WEIR_ERR_IO, "verbs: no random numbers: %s", strerror(errno));
    struct ibv_srq_init_attr srq = {.attr = {.max_wr = device->srq_depth, .max_sge = 1}};
    if (!(device->pd = ibv_alloc_pd(device->context)) ||
        !(device->wakeups = ibv_create_comp_channel(device->context)) ||
        !(device->cq = ibv_create_cq(device->context, (int)device->cq_depth, NULL, device->wakeups, 0)) ||
        !(device->srq = ibv_create_srq(device->pd, &srq)))
        return wi_error(errno == ENOMEM ? WEIR_ERR_LIMIT : WEIR_ERR_IO,
                        "verbs: queues of %s cannot be made: %s; the memlock limit (ulimit -l) may be too low",
                        choice->device, strerror(errno));
    int flags = fcntl(device->wakeups->fd, F_GETFL);
    if (flags < 0 || fcntl(device->wakeups->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return wi_error(WEIR_ERR_IO, "verbs: completion channel of %s: %s", choice->device, strerror(errno));
    return WEIR_OK;
}

void wi_verbs_device_close(struct verbs_device *device)
{
    if (device->srq)
        ibv_destroy_srq(device->srq);
    if (device->cq)
        ibv_destroy_cq(device->cq);
    if (device->wakeups)
        ibv_destroy_comp_channel(device->wakeups);
    if (device->pd)
        ibv_dealloc_pd(device->pd);
    if (device->context)
        ibv_close_device(device->context);
}
