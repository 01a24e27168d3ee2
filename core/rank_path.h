/* Files that each rank has one of: from the name that all are given, the name of one rank's. */
#ifndef WI_CORE_RANK_PATH_H
#define WI_CORE_RANK_PATH_H

#include <stddef.h>
#include <stdint.h>

/*
 * %r in the pattern becomes the rank. Without it, and with several ranks, the rank is put before the file's ending
 * ("t.json": "t.0.json"), so that who goes by endings, as node_exporter does, finds the files. Cut off at `size`.
 */
void wi_rank_path(char *path, size_t size, const char *pattern, uint64_t rank, int64_t world);

#endif
