/*
 * An exchange: where processes leave each other short values under names, e.g. the job's store. A context that was given
 * one (weir_ctx_params.exchange) makes its verbs connections through it when WEIR_VERBS_CONNECT=store.
 *
 * weir_boot_exchange() is a ready one; a program with a store of its own fills this structure in.
 */
#ifndef WEIR_EXCHANGE_H
#define WEIR_EXCHANGE_H

#include <weir/status.h>

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEIR_EXCHANGE_KEY_MAX 64u    /* bytes a context's keys have at most, without the final zero */
#define WEIR_EXCHANGE_VALUE_MAX 512u /* bytes its values have at most */

/*
 * The functions are called from progress of the contexts, in their threads, one call a context at a time; several
 * contexts may call at once. They return at once, and call nothing of the context. Keys of Weir begin with "weir/".
 */
typedef struct weir_exchange {
    size_t size; /* sizeof(weir_exchange) */
    void *arg;   /* given to the functions */
    int fd;      /* readable when there may be news: a context sleeps on it, but never reads it; -1: there is none */

    /*
     * Stores a value under a key, once. WEIR_ERR_AGAIN: it is on its way, to be called again until the outcome is
     * known: WEIR_OK, or WEIR_ERR_MISMATCH (the key is taken, or about to be: another value is on its way there). Any
     * other error: it cannot be stored.
     */
    weir_status (*put)(void *arg, const char *key, const void *value, size_t len);

    /*
     * Stores a value at the end of a queue: under the first of the keys QUEUE/0, QUEUE/1, ... that is free, however many
     * append at once. WEIR_OK: it is stored, or on its way there, and the caller hears no more of it. Any other error: it
     * cannot be stored.
     */
    weir_status (*append)(void *arg, const char *queue, const void *value, size_t len);

    /*
     * Reads the value of a key; `*len` is the room on entry, the length on return. WEIR_ERR_AGAIN: nobody has stored it,
     * or it is on its way; to be called again. WEIR_ERR_RANGE: too little room. Any other error: there will be none.
     */
    weir_status (*get)(void *arg, const char *key, void *value, size_t *len);

    /* The outcome of a put or get that said WEIR_ERR_AGAIN is of no interest any more. What was put is stored. */
    void (*forget)(void *arg, const char *key);
} weir_exchange;

#ifdef __cplusplus
}
#endif
#endif
