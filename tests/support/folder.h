/* A folder for a group of cmocka's tests: the group's set-up makes it, its tear-down removes it with what is in it. */
#ifndef TESTS_SUPPORT_FOLDER_H
#define TESTS_SUPPORT_FOLDER_H

#include <stdio.h>
#include <stdlib.h>

static char folder[] = "/tmp/weir-test-XXXXXX"; /* its name, once it is made */

static inline int folder_make(void)
{
    return mkdtemp(folder) ? 0 : -1;
}

static inline int folder_remove(void **state)
{
    char command[96];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) == 0 ? 0 : -1;
}

#endif
