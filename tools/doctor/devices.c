/* Checks of the adapter: is there one, has the kernel its modules, may this process open its files? */
#include "doctor.h"
#include "rdma.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Hardware ---------------------------------------------------------------------------------------------------- */

/* Who makes RDMA adapters, and the module for them. */
static const struct {
    long vendor;
    const char *name, *module;
} vendors[] = {
    {0x15b3, "Mellanox/NVIDIA", "mlx5_ib"}, {0x14e4, "Broadcom", "bnxt_re"}, {0x1077, "QLogic/Marvell", "qedr"},
    {0x1425, "Chelsio", "iw_cxgb4"},        {0x1d0f, "Amazon", "efa"},       {0x19e5, "Huawei", "hns_roce_hw_v2"},
};

/* PCI functions that look like an RDMA adapter, though the kernel shows no RDMA device. */
static bool find_idle_adapter(struct doctor *doctor)
{
    char names[256][READ_NAME];
    size_t count = list_folder(doctor->root, names, 256, "/sys/bus/pci/devices");
    for (size_t i = 0; i < count; i++) {
        long vendor = 0, class = 0;
        read_number(doctor->root, &vendor, "/sys/bus/pci/devices/%s/vendor", names[i]);
        read_number(doctor->root, &class, "/sys/bus/pci/devices/%s/class", names[i]);
        bool network = class >> 8 == 0x0200 || class >> 8 == 0x0207;
        for (size_t v = 0; v < sizeof(vendors) / sizeof(vendors[0]) && network; v++) {
            if (vendors[v].vendor != vendor || (vendor != 0x15b3 && class >> 8 != 0x0207))
                continue;
            doctor_say(doctor, doctor->verbs == DOCTOR_NEEDED ? DOCTOR_FAIL : DOCTOR_WARN,
                       "no RDMA device, though %s is an adapter of %s -> modprobe %s", names[i], vendors[v].name,
                       vendors[v].module);
            return true;
        }
    }
    return false;
}

void check_devices(struct doctor *doctor)
{
    char devices[RDMA_PORTS_MAX][READ_NAME], list[DOCTOR_TEXT] = "", wanted[READ_NAME];
    size_t count = list_folder(doctor->root, devices, RDMA_PORTS_MAX, "/sys/class/infiniband");
    for (size_t i = 0; i < count; i++) {
        char firmware[RDMA_TEXT];
        append(list, sizeof(list), "%s%s", i ? ", " : "", devices[i]);
        if (read_text(doctor->root, firmware, sizeof(firmware), "/sys/class/infiniband/%s/fw_ver", devices[i]) &&
            firmware[0])
            append(list, sizeof(list), " (firmware %s)", firmware);
    }
    doctor_variable("WEIR_DEVICE", wanted, sizeof(wanted));
    if (count)
        doctor_say(doctor, DOCTOR_OK, "%s", list);
    else if (wanted[0] && doctor->verbs != DOCTOR_NEEDED)
        doctor_say(doctor, DOCTOR_WARN,
                   "none: /sys/class/infiniband is empty, though WEIR_DEVICE=%s names one -> load the adapter's driver; in a "
                   "container: --device=/dev/infiniband",
                   wanted);
    else if (!find_idle_adapter(doctor))
        doctor_say(doctor, doctor_blame(doctor->verbs),
                   "none: /sys/class/infiniband is empty -> load the adapter's driver, or make a soft-RoCE device: "
                   "modprobe rdma_rxe; rdma link add rxe0 type rxe netdev DEV");
}

/* ---- Modules ----------------------------------------------------------------------------------------------------- */

/* A module may be built in, so what it shows in /sys counts. */
static const struct {
    const char *module, *shows;
} modules[] = {{"ib_uverbs", "/sys/class/infiniband_verbs"}, {"rdma_ucm", "/sys/class/misc/rdma_cm"}};

/* "mlx5_core", "rdma_rxe"; "" when /sys does not say. */
static void find_driver(const struct doctor *doctor, const char *device, char *driver, size_t size)
{
    if (read_link_name(doctor->root, driver, size, "/sys/class/infiniband/%s/device/driver", device))
        return;
    static const char *const software[] = {"rdma_rxe", "siw"};
    for (size_t i = 0; i < 2 && path_exists(doctor->root, "/sys/class/infiniband/%s/parent", device); i++)
        if (path_exists(doctor->root, "/sys/module/%s", software[i]))
            snprintf(driver, size, "%s", software[i]);
}

void check_modules(struct doctor *doctor)
{
    char missing[64] = "", devices[RDMA_PORTS_MAX][READ_NAME], loaded[DOCTOR_TEXT] = "ib_uverbs, rdma_ucm";
    for (size_t i = 0; i < 2; i++)
        if (!path_exists(doctor->root, "%s", modules[i].shows))
            append(missing, sizeof(missing), " %s", modules[i].module);
    if (missing[0]) {
        doctor_say(doctor, doctor_blame(doctor->verbs), "not loaded:%s -> modprobe -a%s%s", missing, missing,
                   doctor->container ? " (on the host)" : "");
        return;
    }
    size_t count = list_folder(doctor->root, devices, RDMA_PORTS_MAX, "/sys/class/infiniband");
    for (size_t i = 0; i < count; i++) {
        char driver[READ_NAME];
        find_driver(doctor, devices[i], driver, sizeof(driver));
        if (driver[0] && !strstr(loaded, driver))
            append(loaded, sizeof(loaded), ", %s", driver);
    }
    doctor_say(doctor, DOCTOR_OK, "%s", loaded);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

/* "crw------- root:root" would need the mode's letters; the octal digits are what chmod takes. */
static void describe_owner(const char *path, char *text, size_t size)
{
    struct stat info;
    text[0] = '\0';
    if (stat(path, &info) != 0)
        return;
    const struct passwd *user = getpwuid(info.st_uid);
    const struct group *group = getgrgid(info.st_gid);
    snprintf(text, size, "mode %03o of %s:%s", (unsigned)info.st_mode & 0777, user ? user->pw_name : "?",
             group ? group->gr_name : "?");
}

/* Opening tells more than the mode: a container's device rules refuse with EPERM. */
static bool check_device_file(struct doctor *doctor, const char *name)
{
    char path[300], owner[128];
    snprintf(path, sizeof(path), "%s/dev/infiniband/%s", doctor->root, name);
    int fd = doctor->root[0] ? (access(path, R_OK | W_OK) == 0 ? dup(0) : -1) : open(path, O_RDWR | O_CLOEXEC);
    int error = errno;
    if (fd >= 0) {
        close(fd);
        return true;
    }
    enum doctor_level level = doctor_blame(doctor->verbs);
    describe_owner(path, owner, sizeof(owner));
    if (error == ENOENT)
        doctor_say(doctor, level, "%s is missing -> %s", path, doctor_mend_devices(doctor));
    else if (error == EACCES)
        doctor_say(doctor, level,
                   "%s: %s (%s) -> chmod 0666 %s; for good: a udev rule, or rdma-core's (KERNEL==\"%s\", MODE=\"0666\")",
                   path, strerror(error), owner, path, strncmp(name, "uverbs", 6) == 0 ? "uverbs*" : name);
    else if (error == EPERM)
        doctor_say(doctor, level, "%s: %s: the container's device rules refuse it -> %s", path, strerror(error),
                   doctor_mend_devices(doctor));
    else
        doctor_say(doctor, level, "%s: %s -> see the kernel log (dmesg)", path, strerror(error));
    return false;
}

void check_device_files(struct doctor *doctor)
{
    char names[RDMA_PORTS_MAX][READ_NAME];
    size_t count = list_folder(doctor->root, names, RDMA_PORTS_MAX, "/sys/class/infiniband_verbs");
    if (count == 0) /* abi_version alone, or nothing: no device */
        return;
    bool good = check_device_file(doctor, "rdma_cm");
    size_t files = 1;
    for (size_t i = 0; i < count; i++) {
        if (strncmp(names[i], "uverbs", 6) != 0)
            continue;
        good = check_device_file(doctor, names[i]) && good;
        files++;
    }
    if (good)
        doctor_say(doctor, DOCTOR_OK, "%zu files of /dev/infiniband can be opened", files);
}
