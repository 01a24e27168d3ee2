/* The configuration: all WEIR_* variables, parsed once a process. config_vars.h declares them. */
#ifndef WI_CORE_CONFIG_H
#define WI_CORE_CONFIG_H

#include <weir/config.h>

#include <stdbool.h>
#include <stdint.h>

enum wi_choice_transport { WI_TRANSPORT_AUTO, WI_TRANSPORT_VERBS, WI_TRANSPORT_UCX, WI_TRANSPORT_SHM };
enum wi_choice_intranode { WI_INTRANODE_SHM, WI_INTRANODE_OFF };
enum wi_choice_huge_pages { WI_HUGE_PAGES_AUTO, WI_HUGE_PAGES_OFF, WI_HUGE_PAGES_REQUIRE };
enum wi_choice_verbs_connect { WI_VERBS_CONNECT_CM, WI_VERBS_CONNECT_STORE };
enum wi_choice_verbs_windows { WI_VERBS_WINDOWS_AUTO, WI_VERBS_WINDOWS_ON, WI_VERBS_WINDOWS_OFF };
enum wi_choice_verbs_relaxed { WI_VERBS_RELAXED_OFF, WI_VERBS_RELAXED_ON };
enum wi_choice_verbs_post { WI_VERBS_POST_AUTO, WI_VERBS_POST_WR, WI_VERBS_POST_LIST };

struct wi_config {
#define WI_CONFIG_SIZE(_field, ...) uint64_t _field;
#define WI_CONFIG_DURATION(_field, ...) uint64_t _field;
#define WI_CONFIG_INT(_field, ...) int64_t _field;
#define WI_CONFIG_POWER(_field, ...) int64_t _field;
#define WI_CONFIG_CHOICE(_field, ...) int _field;
#define WI_CONFIG_TEXT(_field, ...) char _field[256];
#define WI_CONFIG_FORM WI_CONFIG_TEXT
#include "core/config_vars.h"
#undef WI_CONFIG_SIZE
#undef WI_CONFIG_DURATION
#undef WI_CONFIG_INT
#undef WI_CONFIG_POWER
#undef WI_CONFIG_CHOICE
#undef WI_CONFIG_TEXT
#undef WI_CONFIG_FORM
};

/*
 * The configuration in force. Reads the environment at the first call, under a lock. On WEIR_ERR_CONFIG the sentence
 * names the variable and `*config` is not set. Thread safe; the object never changes afterwards.
 */
weir_status wi_config_load(const struct wi_config **config);

/* After a successful wi_config_load(): the same without the check. */
const struct wi_config *wi_config(void);

/* After wi_config_load(): did the user set the variable (ours or its fallback)? `name` is ours, e.g. "WEIR_RANK". */
bool wi_config_is_set(const char *name);

/* A variable that another library owns, e.g. "UCX_TLS": as it is now, NULL when it is not set. */
const char *wi_config_foreign(const char *name);

/*
 * What weir_parse_size() and weir_parse_duration() are made of; pure. Powers of 1024; a bare duration is in seconds. They
 * return false when the text is not of the kind, or the value not below 2^64; the result is then undefined.
 */
bool wi_parse_size(const char *text, uint64_t *bytes);
bool wi_parse_duration(const char *text, uint64_t *ns);

#endif
