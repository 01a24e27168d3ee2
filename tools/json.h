/* JSON on standard output, for all commands with --json. */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

/* A string with its quotes. */
void print_json_string(const char *text);

/* "name": "value", then `end`; a NULL value is null. */
void print_json_member(const char *name, const char *value, const char *end);

#endif
