/* The log: one line an event on standard error (or WEIR_LOG_FILE), the rank in front. */
#ifndef WI_CORE_LOG_H
#define WI_CORE_LOG_H

enum wi_log_level {
    WI_LOG_ERROR = 0, /* always shown: the library could not go on with something and no status can tell it */
    WI_LOG_WARN = 1,  /* the default: works, but not as the user may think */
    WI_LOG_INFO = 2,  /* once a job: what was chosen and why */
    WI_LOG_DEBUG = 3, /* once a connection or a registration */
    WI_LOG_TRACE = 4, /* once an operation */
};

/* Level in force; read on every wi_log so it is a plain int. Set by wi_log_setup() alone. */
extern int wi_log_level;

/*
 * Sets level and destination; called once by the configuration. `file` is a path to append to, with %r for the rank
 * (lines written before it is known go to standard error), or "": standard error.
 */
void wi_log_setup(int level, const char *file);

/* Rank shown in front of each line, -1: none yet. The configuration sets it where the environment tells it. */
void wi_log_set_rank(int rank);

/* Writes one line, whatever the level in force. Thread safe. Keeps errno. Use the macros below. */
void wi_log_write(enum wi_log_level level, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* Arguments are not evaluated above the level in force. */
#define wi_log(_level, ...)                                                                                            \
    do {                                                                                                               \
        if (__builtin_expect((int)(_level) <= __atomic_load_n(&wi_log_level, __ATOMIC_RELAXED), 0))                    \
            wi_log_write((_level), __FILE__, __LINE__, __VA_ARGS__);                                                   \
    } while (0)

#define wi_warn(...) wi_log(WI_LOG_WARN, __VA_ARGS__)
#define wi_info(...) wi_log(WI_LOG_INFO, __VA_ARGS__)
#define wi_debug(...) wi_log(WI_LOG_DEBUG, __VA_ARGS__)
#define wi_trace(...) wi_log(WI_LOG_TRACE, __VA_ARGS__)

#endif
