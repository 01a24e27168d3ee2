/*
 * Configuration: the WEIR_* environment variables, as data. The README's table and `weir info --env` are made from it.
 */
#ifndef WEIR_CONFIG_H
#define WEIR_CONFIG_H

#include <weir/status.h>

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library's version: "major.minor.patch". */
const char *weir_version(void);

/* How it was built, for people: processor, compiler, build type, backends, e.g. "x86-64, gcc 12.2.0, Release, verbs, ucx, shm". */
const char *weir_build_options(void);

typedef struct weir_config_entry {
    const char *name;          /* e.g. "WEIR_CHUNK" */
    const char *fallback_name; /* e.g. "RANK" for WEIR_RANK; NULL where there is none */
    const char *type;          /* "size", "duration", "integer", "choice", "text" */
    const char *default_value; /* as one would write it */
    const char *range;         /* e.g. "4K..1G", "auto|verbs|ucx|shm", "[ADDRESS:]PORT"; "" where anything goes */
    const char *help;          /* one sentence */
    char value[256];           /* as in force, cut to fit */
    const char *source;        /* "default", "environment", or "invalid" */
} weir_config_entry;

/* How many variables there are. */
size_t weir_config_count(void);

/* Describes variable `index`. Errors: WEIR_ERR_INVALID (index out of range). Thread safe. */
weir_status weir_config_get(size_t index, weir_config_entry *entry);

/*
 * Reads the environment, once a process, and reports the first bad value: WEIR_ERR_CONFIG with a sentence such as
 * "WEIR_CHUNK=12Q: not a size; use e.g. 256K". Unknown WEIR_* variables are warned about with the nearest name. The
 * create calls do this themselves.
 */
weir_status weir_config_load(void);

/*
 * Reads a size such as "64K", "1.5M", "2GiB" or "100" (powers of 1024) into bytes. Errors: WEIR_ERR_INVALID. Thread safe.
 */
weir_status weir_parse_size(const char *text, uint64_t *bytes);

/*
 * Reads a duration such as "50us", "1.5s", "2min" or "100ms" (a bare number is seconds) into nanoseconds. Errors:
 * WEIR_ERR_INVALID. Thread safe.
 */
weir_status weir_parse_duration(const char *text, uint64_t *ns);

#ifdef __cplusplus
}
#endif
#endif
