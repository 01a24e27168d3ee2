#include "boot.h"

#include "core/error.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

void boot_begin(struct boot_job *job, struct run *run, int servers)
{
    memset(job, 0, offsetof(struct boot_job, entry)); /* entries are many, and overwritten */
    job->failure = WEIR_OK;
    job->world = run->world;
    job->ranks = run->ranks;
    job->servers = servers;
    job->dead = &run->dead;
    job->timeout_ns = TIMEOUT_NS;
    job->news_ns = wi_sim_between(&run->random, 0, 20000000);
}

int weir_boot_rank(const weir_boot *boot)
{
    return boot->rank;
}

int weir_boot_size(const weir_boot *boot)
{
    return boot->job->ranks;
}

int weir_boot_servers(const weir_boot *boot)
{
    return boot->job->servers;
}

weir_role weir_boot_role(const weir_boot *boot)
{
    return boot->rank < boot->job->ranks - boot->job->servers ? WEIR_ROLE_WORKER : WEIR_ROLE_SERVER;
}

/* Nobody sleeps on a descriptor here: communicators look at weir_boot_check(). */
int weir_boot_fd(const weir_boot *boot)
{
    (void)boot;
    return -1;
}

weir_status weir_boot_attend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    (void)boot;
    (void)attend;
    (void)arg;
    return WEIR_OK;
}

void weir_boot_unattend(weir_boot *boot, weir_attend_fn *attend, void *arg)
{
    (void)boot;
    (void)attend;
    (void)arg;
}

static int find(const struct boot_job *job, const char *key)
{
    int i = 0;
    while (i < job->entries && strcmp(job->entry[i].key, key) != 0)
        i++;
    return i;
}

weir_status weir_boot_put(weir_boot *boot, const char *key, const void *value, size_t len)
{
    struct boot_job *job = boot->job;
    int i = find(job, key);
    if (i < job->entries)
        return wi_error(WEIR_ERR_MISMATCH, "key '%s' is taken", key);
    if (i == BOOT_ENTRIES || len > BOOT_VALUE || strlen(key) > WEIR_BOOT_KEY_MAX)
        return wi_error(WEIR_ERR_LIMIT, "the simulated store is too small for key '%s'", key);
    snprintf(job->entry[i].key, sizeof(job->entry[i].key), "%s", key);
    memcpy(job->entry[i].value, value, len);
    job->entry[i].len = len;
    job->entries++;
    return WEIR_OK;
}

weir_status weir_boot_check(weir_boot *boot)
{
    const struct boot_job *job = boot->job;
    if (job->failure == WEIR_OK || wi_sim_now(job->world) < job->failed_ns + job->news_ns)
        return WEIR_OK;
    return wi_error(job->failure, "%s", job->sentence);
}

void weir_boot_fail(weir_boot *boot, weir_status status, const char *sentence)
{
    struct boot_job *job = boot->job;
    if (job->failure != WEIR_OK || *job->dead >> boot->rank & 1)
        return;
    job->failure = status;
    job->failed_ns = wi_sim_now(job->world);
    snprintf(job->sentence, sizeof(job->sentence), "%s", sentence);
}

weir_status weir_boot_get(weir_boot *boot, const char *key, void *value, size_t *len, int timeout_ms)
{
    struct boot_job *job = boot->job;
    uint64_t bound_ns = timeout_ms < 0 ? job->timeout_ns : (uint64_t)timeout_ms * 1000000u;
    uint64_t end_ns = wi_sim_now(job->world) + bound_ns;
    int i;
    while ((i = find(job, key)) == job->entries) {
        weir_status status = weir_boot_check(boot);
        if (status != WEIR_OK)
            return status;
        if (wi_sim_now(job->world) >= end_ns)
            return wi_error(WEIR_ERR_TIMEOUT, "key '%s': nobody has stored it in time", key);
        wi_sim_sleep(job->world, 100000);
    }
    if (job->entry[i].len > *len)
        return wi_error(WEIR_ERR_RANGE, "the value of key '%s' has %zu bytes", key, job->entry[i].len);
    memcpy(value, job->entry[i].value, job->entry[i].len);
    *len = job->entry[i].len;
    return WEIR_OK;
}
