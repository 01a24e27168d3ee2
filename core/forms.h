/*
 * Texts of a form of their own: values of variables that are more than a word or a number. Here is how they are read, once:
 * the table of variables (config_vars.h) refuses by it what cannot be read, and who uses such a value reads it by the same.
 * All of this is pure: whether there is such a device, node or address on this host is for its user to find out.
 *
 * Each returns NULL where the text has the form, else what is wrong and what to use, to stand behind "WEIR_NUMA=foo: ". The
 * results are then undefined.
 */
#ifndef WI_CORE_FORMS_H
#define WI_CORE_FORMS_H

#include <stdint.h>
#include <sys/socket.h>

#define WI_DEVICES_MAX 4u /* that are used at once */

/* An entry of WEIR_DEVICE. */
struct wi_device_wish {
    char name[64]; /* "": any */
    unsigned port; /* 0: any */
};

/* "mlx5_0:1,mlx5_1:1", without a port: any of the device's; "": one wish for any device. */
const char *wi_read_devices(const char *text, struct wi_device_wish wishes[WI_DEVICES_MAX], unsigned *count);

enum { WI_NUMA_NODES_MAX = 1024, WI_NUMA_AUTO = -1, WI_NUMA_OFF = -2 };

/* "auto", "off" or the number of a node, which is below WI_NUMA_NODES_MAX. */
const char *wi_read_numa(const char *text, int *node);

/* "[ADDRESS:]PORT", on loopback without the address; an IPv6 address stands in brackets. */
const char *wi_read_place(const char *text, struct sockaddr_storage *address, uint16_t *port);

/* A numeric IP address, with port 0. Its length for bind(), 0: it is none. */
socklen_t wi_read_address(const char *text, struct sockaddr_storage *address);

/* The same as the table asks it: has the text the form? wi_check_interface(): a numeric address, or what may be a name. */
const char *wi_check_devices(const char *text);
const char *wi_check_numa(const char *text);
const char *wi_check_place(const char *text);
const char *wi_check_interface(const char *text);

#endif
