/* What the environment asks for, and what that needs. */
#include "doctor.h"

#include <weir/config.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void doctor_variable(const char *name, char *value, size_t size)
{
    weir_config_entry entry;
    value[0] = '\0';
    for (size_t i = 0; weir_config_get(i, &entry) == WEIR_OK; i++)
        if (strcmp(entry.name, name) == 0)
            snprintf(value, size, "%s", entry.value);
}

uint64_t doctor_size_variable(const char *name)
{
    char value[64];
    uint64_t bytes = 0;
    doctor_variable(name, value, sizeof(value));
    return weir_parse_size(value, &bytes) == WEIR_OK ? bytes : 0;
}

/*
 * auto takes verbs where there is a device, and UCX otherwise; so each is needed only where the other one cannot stand in.
 * Shared memory is a way to be fast within a host, unless nothing else was asked for.
 */
void doctor_read_choice(struct doctor *doctor)
{
    char value[64], names[1][READ_NAME];
    doctor_variable("WEIR_TRANSPORT", doctor->transport, sizeof(doctor->transport));
    bool device = list_folder(doctor->root, names, 1, "/sys/class/infiniband") > 0;
    if (strcmp(doctor->transport, "verbs") == 0)
        doctor->verbs = DOCTOR_NEEDED;
    else if (strcmp(doctor->transport, "ucx") == 0)
        doctor->ucx = DOCTOR_NEEDED;
    else if (strcmp(doctor->transport, "auto") == 0) {
        doctor->verbs = device ? DOCTOR_WANTED : DOCTOR_UNUSED;
        doctor->ucx = device ? DOCTOR_WANTED : DOCTOR_NEEDED;
    }
    doctor_variable("WEIR_INTRANODE", value, sizeof(value));
    if (strcmp(doctor->transport, "shm") == 0)
        doctor->shm = DOCTOR_NEEDED;
    else
        doctor->shm = strcmp(value, "off") == 0 ? DOCTOR_UNUSED : DOCTOR_WANTED;
    if (doctor->port == 0) {
        doctor_variable("WEIR_MASTER_PORT", value, sizeof(value));
        doctor->port = atoi(value);
    }
}
