#include "bootstrap/attend.h"

#include "core/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTEND_MS 1

struct wi_attendant {
    void (*attend)(void *arg);
    void *arg;
    unsigned uses;
    struct wi_attendant *next;
};

void wi_attendants_init(struct wi_attendants *attendants)
{
    pthread_mutex_init(&attendants->lock, NULL);
    attendants->first = NULL;
}

void wi_attendants_clear(struct wi_attendants *attendants)
{
    pthread_mutex_lock(&attendants->lock);
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
static struct wi_attendant **find(struct wi_attendants *attendants, void (*attend)(void *arg), const void *arg)
{
    struct wi_attendant **at = &attendants->first;
    while (*at && ((*at)->attend != attend || (*at)->arg != arg))
        at = &(*at)->next;
    return at;
}

weir_status wi_attendants_add(struct wi_attendants *attendants, void (*attend)(void *arg), void *arg)
{
    weir_status status = WEIR_OK;
    pthread_mutex_lock(&attendants->lock);
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

void wi_attendants_remove(struct wi_attendants *attendants, void (*attend)(void *arg), void *arg)
{
    pthread_mutex_lock(&attendants->lock);
    struct wi_attendant **at = find(attendants, attend, arg);
    struct wi_attendant *attendant = *at;
    if (attendant && --attendant->uses == 0) {
        *at = attendant->next;
        free(attendant);
    }
    pthread_mutex_unlock(&attendants->lock);
}

int wi_attend(struct wi_attendants *attendants, int wait_ms)
{
    char sentence[1024];
    pthread_mutex_lock(&attendants->lock);
    if (attendants->first) {
        snprintf(sentence, sizeof(sentence), "%s", weir_last_error());
        for (struct wi_attendant *attendant = attendants->first; attendant; attendant = attendant->next)
            attendant->attend(attendant->arg);
        if (strcmp(sentence, weir_last_error()) != 0)
            (void)wi_error(WEIR_OK, "%s", sentence); /* it may be that of the call which waits */
        wait_ms = wait_ms > ATTEND_MS ? ATTEND_MS : wait_ms;
    }
    pthread_mutex_unlock(&attendants->lock);
    return wait_ms;
}
