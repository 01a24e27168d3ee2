/* Values of variables that can be read, but that only the job itself would stumble over: what they name is missing. */
#include "doctor.h"

#include <weir/bootstrap.h>

#include <stdlib.h>
#include <string.h>

enum { VALUE_SIZE = 256 }; /* no value is longer */

void check_secret(struct doctor *doctor)
{
    char path[VALUE_SIZE];
    int exposed;
    doctor_variable("WEIR_SECRET_FILE", path, sizeof(path));
    if (!path[0])
        return;
    if (weir_boot_check_secret(&exposed) != WEIR_OK)
        doctor_say(doctor, DOCTOR_FAIL, "%s -> put the job's secret there, of mode 600, the same on all hosts", weir_last_error());
    else if (exposed)
        doctor_say(doctor, DOCTOR_WARN, "WEIR_SECRET_FILE=%s: everybody on this host may read it -> chmod 600 %s", path,
                   path);
    else
        doctor_say(doctor, DOCTOR_OK, "WEIR_SECRET_FILE=%s can be read", path);
    if (doctor->ucx == DOCTOR_NEEDED)
        doctor_say(doctor, DOCTOR_NOTE,
                   "UCX's own TCP ports ask nobody for the secret: who speaks UCX's protocols there may do harm -> let none but "
                   "the job's hosts reach this one (firewall)");
}

void check_master(struct doctor *doctor)
{
    char name[VALUE_SIZE], why[DOCTOR_TEXT];
    struct sockaddr_storage address;
    doctor_variable("WEIR_MASTER_ADDR", name, sizeof(name));
    if (!doctor_resolve(name, &address, why, sizeof(why)))
        doctor_say(doctor, DOCTOR_FAIL, "WEIR_MASTER_ADDR: %s -> rank 0's host, by a name that all hosts know or by its address",
                   why);
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
