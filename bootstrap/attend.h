/*
 * Who is called while a call of the bootstrap waits: contexts that have to make progress meanwhile. The list has a lock
 * of its own, which is held during the calls: whoever takes an attendant off knows that it is not called any more.
 */
#ifndef WI_BOOTSTRAP_ATTEND_H
#define WI_BOOTSTRAP_ATTEND_H

#include <weir/status.h>

#include <pthread.h>

struct wi_attendant;

struct wi_attendants {
    pthread_mutex_t lock;
    struct wi_attendant *first;
};

/* In place. */
void wi_attendants_init(struct wi_attendants *attendants);
void wi_attendants_fini(struct wi_attendants *attendants);

/* Takes all off. */
void wi_attendants_clear(struct wi_attendants *attendants);

/* Adds one; one that is there already is counted, and stays until it was taken off as often. */
weir_status wi_attendants_add(struct wi_attendants *attendants, void (*attend)(void *arg), void *arg);
void wi_attendants_remove(struct wi_attendants *attendants, void (*attend)(void *arg), void *arg);

/*
 * Calls each once; this thread's error sentence stays. Returns how many milliseconds the caller may sleep until it calls
 * again: `wait_ms` where nobody is to be called, else 1 at most.
 */
int wi_attend(struct wi_attendants *attendants, int wait_ms);

#endif
