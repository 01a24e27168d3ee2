/* Where metrics come from: a file, or a process that serves them over HTTP. */
#ifndef TOOLS_TOP_SOURCE_H
#define TOOLS_TOP_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Reads all of a source, a file's path or [HOST:]PORT. The caller frees the text; NULL: `why` says what is wrong. Takes
 * two seconds at most, and 16 MiB.
 */
char *source_read(const char *source, char *why, size_t why_size);

/* Does the text name a port, not a file? */
bool source_is_port(const char *source);

#endif
