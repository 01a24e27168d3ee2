#include "info_rdma.h"

#include "doctor/rdma.h"
#include "json.h"

#include <weir/transport.h>

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct listing {
    char used[64]; /* what a verbs context takes, e.g. "mlx5_0:1,mlx5_1:1"; "": none can be made */
    size_t count;
    struct rdma_port ports[RDMA_PORTS_MAX];
};

/* ---- What would be used ------------------------------------------------------------------------------------------ */

static weir_status nothing_put(void *arg, const char *key, const void *value, size_t len)
{
    (void)arg, (void)key, (void)value, (void)len;
    return WEIR_ERR_AGAIN;
}

static weir_status nothing_get(void *arg, const char *key, void *value, size_t *len)
{
    (void)arg, (void)key, (void)value, (void)len;
    return WEIR_ERR_AGAIN;
}

static void nothing_forget(void *arg, const char *key)
{
    (void)arg, (void)key;
}

/* By making a context: so it is what a program gets. Its exchange leads nowhere, as nobody connects. */
static void find_used(char *device, size_t size)
{
    const weir_exchange exchange = {
        .size = sizeof(exchange),
        .fd = -1,
        .put = nothing_put,
        .append = nothing_put,
        .get = nothing_get,
        .forget = nothing_forget,
    };
    const weir_ctx_params params = {.size = sizeof(params), .transport = "verbs", .exchange = &exchange};
    weir_ctx_attr attr;
    weir_ctx *ctx;
    device[0] = '\0';
    if (weir_transport_probe("verbs", device, size) != WEIR_OK || weir_ctx_create(&params, &ctx) != WEIR_OK) {
        device[0] = '\0'; /* why not, the list of transports tells */
        return;
    }
    weir_ctx_query(ctx, &attr);
    snprintf(device, size, "%s", strcmp(attr.network, "verbs") == 0 ? attr.device : "");
    weir_ctx_destroy(ctx);
}

static bool is_ethernet(const struct rdma_port *port)
{
    return strcmp(port->link_layer, "Ethernet") == 0;
}

/* Peers are reached by an address of the port's network interface: over Ethernet its GID is one of RoCE v2. */
static bool is_used_gid(const struct rdma_port *port, const struct rdma_gid *gid)
{
    if (!is_ethernet(port))
        return gid->index == 0;
    return strcmp(gid->type, "RoCE v2") == 0 && !rdma_gid_is_link_local(gid);
}

static void take_listing(struct listing *listing)
{
    listing->count = rdma_list_ports("", listing->ports, RDMA_PORTS_MAX);
    listing->used[0] = '\0';
    if (listing->count > 0)
        find_used(listing->used, sizeof(listing->used));
}

static bool is_used(const struct listing *listing, const struct rdma_port *port)
{
    return listing->used[0] && rdma_is_listed(listing->used, port);
}

/* Bytes of a packet; 0: only the device knows. */
static unsigned packet_bytes(const struct rdma_port *port)
{
    long mtu = 0;
    bool known = is_ethernet(port) && read_number("", &mtu, "/sys/class/net/%s/mtu", port->netdev);
    return known ? rdma_mtu_over(mtu) : 0;
}

/* ---- Text -------------------------------------------------------------------------------------------------------- */

static void print_port_text(const struct rdma_port *port, bool used)
{
    struct rdma_gid gids[RDMA_GIDS_MAX];
    size_t count = rdma_list_gids("", port, gids, RDMA_GIDS_MAX);
    unsigned mtu = packet_bytes(port);
    char name[READ_NAME + 16], text[INET6_ADDRSTRLEN];
    snprintf(name, sizeof(name), "%s:%u", port->device, port->number);
    printf("%c %-9s %s, %s%s%s, %s", used ? '*' : ' ', name, port->state_text, port->link_layer,
           port->netdev[0] ? " on " : "", port->netdev, port->rate);
    if (mtu)
        printf(", MTU %u", mtu);
    printf("\n");
    for (size_t i = 0; i < count; i++) {
        rdma_gid_text(&gids[i], text);
        printf("  %c   GID %-3u %s, %s%s%s\n", used && is_used_gid(port, &gids[i]) ? '*' : ' ', gids[i].index, text,
               gids[i].type, gids[i].netdev[0] ? ", " : "", gids[i].netdev);
    }
}

void info_print_rdma_text(void)
{
    struct listing listing;
    take_listing(&listing);
    printf("\nrdma%s\n", listing.used[0] ? "        (*: what verbs would use; weir doctor --to HOST tells the GID to a peer)"
                         : listing.count ? "        (verbs would use none of them)"
                                         : "        no device");
    for (size_t i = 0; i < listing.count; i++)
        print_port_text(&listing.ports[i], is_used(&listing, &listing.ports[i]));
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void print_gids_json(const struct rdma_port *port, bool used)
{
    struct rdma_gid gids[RDMA_GIDS_MAX];
    size_t count = rdma_list_gids("", port, gids, RDMA_GIDS_MAX);
    char text[INET6_ADDRSTRLEN];
    printf("\"gids\": [");
    for (size_t i = 0; i < count; i++) {
        rdma_gid_text(&gids[i], text);
        printf("%s\n      {\"index\": %u, ", i ? "," : "", gids[i].index);
        print_json_member("address", text, ", ");
        print_json_member("type", gids[i].type, ", ");
        print_json_member("interface", gids[i].netdev[0] ? gids[i].netdev : NULL, ", ");
        printf("\"used\": %s}", used && is_used_gid(port, &gids[i]) ? "true" : "false");
    }
    printf("]");
}

static void print_port_json(const struct rdma_port *port, bool used)
{
    unsigned mtu = packet_bytes(port);
    printf("    {");
    print_json_member("device", port->device, ", ");
    printf("\"port\": %u, \"used\": %s, ", port->number, used ? "true" : "false");
    print_json_member("state", port->state_text, ", ");
    print_json_member("physical", port->physical, ", ");
    print_json_member("link_layer", port->link_layer, ", ");
    print_json_member("interface", port->netdev[0] ? port->netdev : NULL, ", ");
    print_json_member("rate", port->rate, ", ");
    if (mtu)
        printf("\"mtu\": %u, ", mtu);
    else
        printf("\"mtu\": null, ");
    print_gids_json(port, used);
    printf("}");
}

void info_print_rdma_json(void)
{
    struct listing listing;
    take_listing(&listing);
    printf("[");
    for (size_t i = 0; i < listing.count; i++) {
        printf("%s\n", i ? "," : "");
        print_port_json(&listing.ports[i], is_used(&listing, &listing.ports[i]));
    }
    printf("]");
}
