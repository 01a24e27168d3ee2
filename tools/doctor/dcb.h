/* Priority flow control of a network interface, as the kernel's DCB netlink tells it. */
#ifndef DOCTOR_DCB_H
#define DOCTOR_DCB_H

#include <stdbool.h>
#include <stddef.h>

/* The bits of `*priorities` are those with PFC on. False with errno: EOPNOTSUPP where the driver has no DCB. */
bool dcb_read_pfc(const char *interface, unsigned *priorities);

/* The same from a reply of the kernel's; for tests. */
bool dcb_parse_pfc(const void *reply, size_t len, unsigned *priorities);

#endif
