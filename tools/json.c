#include "json.h"

#include <stdio.h>

void print_json_string(const char *text)
{
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

void print_json_member(const char *name, const char *value, const char *end)
{
    printf("\"%s\": ", name);
    if (value)
        print_json_string(value);
    else
        printf("null");
    printf("%s", end);
}
