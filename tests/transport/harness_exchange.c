/*
 * An exchange in the ranks' bulletin, for WEIR_VERBS_CONNECT=store: a table of values by key, written once, without
 * locks, as a rank may be killed at any time.
 */
#include "harness.h"

#include <string.h>

enum { FREE, CLAIMED, READY, TRIES = 1000000 };

static uint32_t start_of(const char *key)
{
    uint32_t hash = 5381;
    for (; *key; key++)
        hash = hash * 33 + (unsigned char)*key;
    return hash;
}

/* The place of a key: its own, or one that is free. Who writes there is waited for, unless it has died. */
static struct notice *find(struct bulletin *board, const char *key)
{
    for (uint32_t i = 0; i < NOTICES; i++) {
        struct notice *notice = &board->notice[(start_of(key) + i) % NOTICES];
        for (int n = 0; __atomic_load_n(&notice->state, __ATOMIC_ACQUIRE) == CLAIMED && n < TRIES; n++)
            ;
        uint32_t state = __atomic_load_n(&notice->state, __ATOMIC_ACQUIRE);
        if (state == FREE || (state == READY && strcmp(notice->key, key) == 0))
            return notice;
    }
    return NULL;
}

static weir_status put(void *arg, const char *key, const void *value, size_t len)
{
    struct notice *notice;
    if (len > sizeof(notice->value))
        return WEIR_ERR_RANGE;
    while ((notice = find(arg, key))) {
        uint32_t state = FREE;
        if (!__atomic_compare_exchange_n(&notice->state, &state, CLAIMED, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
            if (state == READY && strcmp(notice->key, key) == 0)
                return WEIR_ERR_MISMATCH;
            continue;
        }
        snprintf(notice->key, sizeof(notice->key), "%s", key);
        memcpy(notice->value, value, len);
        notice->len = (uint32_t)len;
        __atomic_store_n(&notice->state, READY, __ATOMIC_RELEASE);
        return WEIR_OK;
    }
    return WEIR_ERR_LIMIT;
}

static weir_status append(void *arg, const char *queue, const void *value, size_t len)
{
    char key[WEIR_EXCHANGE_KEY_MAX + 1];
    weir_status status = WEIR_ERR_MISMATCH;
    for (unsigned i = 0; status == WEIR_ERR_MISMATCH; i++) {
        snprintf(key, sizeof(key), "%s/%u", queue, i);
        status = put(arg, key, value, len);
    }
    return status;
}

static weir_status get(void *arg, const char *key, void *value, size_t *len)
{
    const struct notice *notice = find(arg, key);
    if (!notice || __atomic_load_n(&notice->state, __ATOMIC_ACQUIRE) != READY || strcmp(notice->key, key) != 0)
        return WEIR_ERR_AGAIN;
    size_t room = *len;
    *len = notice->len;
    if (notice->len > room)
        return WEIR_ERR_RANGE;
    memcpy(value, notice->value, notice->len);
    return WEIR_OK;
}

static void forget(void *arg, const char *key)
{
    (void)arg;
    (void)key;
}

weir_exchange board_exchange(struct rank *r)
{
    return (weir_exchange){.size = sizeof(weir_exchange),
                           .arg = r->board,
                           .fd = -1,
                           .put = put,
                           .append = append,
                           .get = get,
                           .forget = forget};
}
