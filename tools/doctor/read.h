/*
 * Reading /sys, /proc and /dev. Every path is looked up under a root, "" for this machine's own, so that a copied tree can
 * be looked at too.
 */
#ifndef DOCTOR_READ_H
#define DOCTOR_READ_H

#include <stdbool.h>
#include <stddef.h>

#define READ_FORMAT(_at) __attribute__((format(printf, _at, _at + 1)))

/* The file's text, cut to `size`, without the newline at its end. False: it cannot be read, `text` is empty, errno. */
bool read_text(const char *root, char *text, size_t size, const char *format, ...) READ_FORMAT(4);

/* The number at the file's start. False: there is none. */
bool read_number(const char *root, long *number, const char *format, ...) READ_FORMAT(3);

bool path_exists(const char *root, const char *format, ...) READ_FORMAT(2);

/* The last part of what a symbolic link names. False: it is none, `name` is empty. */
bool read_link_name(const char *root, char *name, size_t size, const char *format, ...) READ_FORMAT(4);

enum { READ_NAME = 64 };

/* The names in a folder, without hidden ones, sorted. Returns how many, at most `room`; 0 also when there is no folder. */
size_t list_folder(const char *root, char names[][READ_NAME], size_t room, const char *format, ...) READ_FORMAT(4);

/* Adds to the end of a text, cut to fit. */
void append(char *text, size_t size, const char *format, ...) READ_FORMAT(3);

#endif
