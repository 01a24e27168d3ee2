/* Fuzzes what reads files: the secret's, and the metrics that `weir top` shows. */
#include "bytes_of.h"
#include "bootstrap/secret.h"
#include "tools/top/metric.h"
#include "tools/top/rates.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void read_secret(const uint8_t *data, size_t size)
{
    static struct wi_secret secret;
    char path[32];
    int fd = memfd_create("secret", MFD_CLOEXEC);
    check(fd >= 0 && fchmod(fd, 0600) == 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    weir_status status = wi_secret_load(path, &secret);
    check(status == WEIR_OK || status == WEIR_ERR_CONFIG);
    check(status == WEIR_OK ? secret.len >= WI_SECRET_MIN && secret.len <= size : secret.len == 0);
    close(fd);
}

static void read_metrics(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    struct gathered first = {0}, second = {0};
    check(gather(&first, text) && gather(&second, text));
    for (int i = 0; i < first.peer_count; i++)
        check(find_peer(&second, &first.peers[i]) != NULL);
    for (int i = 0; i < first.rank_count; i++) {
        const struct rank_row *row = find_rank(&second, first.ranks[i].rank);
        check(row && row->latency_count <= OPERATIONS_MAX);
        for (int k = 0; k < row->latency_count; k++)
            check(row->latencies[k].buckets <= BUCKETS_MAX && quantile_s(&row->latencies[k], NULL, 0.5) == quantile_s(&first.ranks[i].latencies[k], NULL, 0.5));
        for (const char *c = first.ranks[i].rank; *c; c++)
            check((unsigned char)*c >= 0x20 && *c != 0x7f); /* it is shown on a terminal */
    }
    gathered_free(&first);
    gathered_free(&second);
    free(text);
}

/* The same with a beginning that most lines have. */
static void read_line(const uint8_t *data, size_t size)
{
    static const char heads[4][64] = {"weir_operations_total{rank=\"1\",peer=\"2\",transport=\"",
                                      "weir_operation_seconds_bucket{rank=\"1\",operation=\"put\",le=\"", "weir_sleeps_total{rank=\"",
                                      "weir_operation_bytes_total{"};
    char text[512];
    if (size == 0)
        return;
    int used = snprintf(text, sizeof(text), "%s", heads[data[0] % 4]);
    size_t len = size - 1 < sizeof(text) - (size_t)used ? size - 1 : sizeof(text) - (size_t)used;
    memcpy(text + used, data + 1, len);
    read_metrics((const uint8_t *)text, (size_t)used + len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_metrics(data, size);
    read_line(data, size);
    read_secret(data, size);
    return 0;
}
