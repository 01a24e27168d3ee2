#include "bootstrap/attend.h"

#include "core/error.h"

#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTEND_MS 1 /* between two calls of who does not sleep itself */

struct wi_attendant {
    weir_attend_fn *attend;
    void *arg;
    unsigned uses;
    struct wi_attendant *next;
};

void wi_attendants_init(struct wi_attendants *attendants)
{
    *attendants = (struct wi_attendants){.first = NULL};
    pthread_mutex_init(&attendants->lock, NULL);
}

/* To change the list. A sleep under the lock is short, but one that follows at once might have it again first. */
static void lock_to_change(struct wi_attendants *attendants)
{
    __atomic_fetch_add(&attendants->changing, 1, __ATOMIC_RELAXED);
    pthread_mutex_lock(&attendants->lock);
    __atomic_fetch_sub(&attendants->changing, 1, __ATOMIC_RELAXED);
}

void wi_attendants_clear(struct wi_attendants *attendants)
{
    lock_to_change(attendants);
    while (attendants->first) {
        struct wi_attendant *attendant = attendants->first;
        attendants->first = attendant->next;
        free(attendant);
    }
    pthread_mutex_unlock(&attendants->lock);
}

void wi_attendants_fini(struct wi_attendants *attendants)
{
    wi_attendants_clear(attendants);
    pthread_mutex_destroy(&attendants->lock);
}

/* Where the pointer to the attendant is, or the one at the end. */
static struct wi_attendant **find(struct wi_attendants *attendants, weir_attend_fn *attend, const void *arg)
{
    struct wi_attendant **at = &attendants->first;
    while (*at && ((*at)->attend != attend || (*at)->arg != arg))
        at = &(*at)->next;
    return at;
}

weir_status wi_attendants_add(struct wi_attendants *attendants, weir_attend_fn *attend, void *arg)
{
    weir_status status = WEIR_OK;
    lock_to_change(attendants);
    struct wi_attendant **at = find(attendants, attend, arg);
    if (!*at && (*at = calloc(1, sizeof(**at)))) {
        (*at)->attend = attend;
        (*at)->arg = arg;
    }
    if (*at)
        (*at)->uses++;
    else
        status = wi_error(WEIR_ERR_NO_MEMORY, "weir_boot_attend: out of memory");
    pthread_mutex_unlock(&attendants->lock);
    return status;
}

void wi_attendants_remove(struct wi_attendants *attendants, weir_attend_fn *attend, void *arg)
{
    lock_to_change(attendants);
    struct wi_attendant **at = find(attendants, attend, arg);
    struct wi_attendant *attendant = *at;
    if (attendant && --attendant->uses == 0) {
        *at = attendant->next;
        free(attendant);
    }
    pthread_mutex_unlock(&attendants->lock);
}

/* With the lock held. True: it has slept. One alone can sleep for all; several would each sleep through the others' news. */
static bool call_all(const struct wi_attendants *attendants, int fd, int wait_ms)
{
    const struct wi_attendant *first = attendants->first;
    if (!first->next && __atomic_load_n(&attendants->changing, __ATOMIC_RELAXED) == 0)
        return first->attend(first->arg, fd, wait_ms) != 0;
    for (const struct wi_attendant *attendant = first; attendant; attendant = attendant->next)
        (void)attendant->attend(attendant->arg, -1, 0);
    return false;
}

void wi_attend(struct wi_attendants *attendants, int fd, int wait_ms)
{
    char sentence[1024];
    bool slept = false;
    pthread_mutex_lock(&attendants->lock);
    if (attendants->first) {
        snprintf(sentence, sizeof(sentence), "%s", weir_last_error());
        slept = call_all(attendants, fd, wait_ms);
        if (strcmp(sentence, weir_last_error()) != 0)
            (void)wi_error(WEIR_OK, "%s", sentence); /* it may be that of the call which waits */
        wait_ms = wait_ms > ATTEND_MS ? ATTEND_MS : wait_ms;
    }
    pthread_mutex_unlock(&attendants->lock);
    struct pollfd readable = {.fd = fd, .events = POLLIN};
    if (!slept)
        poll(&readable, 1, wait_ms);
}
