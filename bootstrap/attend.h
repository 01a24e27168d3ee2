/*
 * Who is called while a call of the bootstrap waits: contexts that have to make progress meanwhile. The list has a lock
 * of its own, which is held during the calls: whoever takes an attendant off knows that it is not called any more.
 */
#ifndef WI_BOOTSTRAP_ATTEND_H
#define WI_BOOTSTRAP_ATTEND_H

#include <weir/bootstrap.h>

#include <pthread.h>

struct wi_attendant;

struct wi_attendants {
    pthread_mutex_t lock;
    unsigned changing; /* threads that want the lock to add or to take off: nobody sleeps under it meanwhile */
    struct wi_attendant *first;
};

/* In place. */
void wi_attendants_init(struct wi_attendants *attendants);
void wi_attendants_fini(struct wi_attendants *attendants);

/* Takes all off. */
void wi_attendants_clear(struct wi_attendants *attendants);

/* Adds one; one that is there already is counted, and stays until it was taken off as often. */
weir_status wi_attendants_add(struct wi_attendants *attendants, weir_attend_fn *attend, void *arg);
void wi_attendants_remove(struct wi_attendants *attendants, weir_attend_fn *attend, void *arg);

/*
 * Calls each once, and sleeps until `fd` is readable, at most `wait_ms`; less where an attendant wants to be called again.
 * This thread's error sentence stays.
 */
void wi_attend(struct wi_attendants *attendants, int fd, int wait_ms);

#endif
