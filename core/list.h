/*
 * Doubly linked lists of structures that embed a link: adding and removing in one step, whatever the length. A list is a
 * link too, of no structure, that points at itself while the list is empty.
 */
#ifndef WI_CORE_LIST_H
#define WI_CORE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct wi_list {
    struct wi_list *prev, *next;
};

#define WI_LIST_ITEM(_link, _type, _member) ((_type *)(void *)((char *)(_link)-offsetof(_type, _member)))

/* Makes an empty list, or a link that is in none. */
static inline void wi_list_init(struct wi_list *list)
{
    list->prev = list->next = list;
}

static inline bool wi_list_empty(const struct wi_list *list)
{
    return list->next == list;
}

static inline void wi_list_append(struct wi_list *list, struct wi_list *link)
{
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

/* Takes a link out of its list; of one that is in none, and was initialised, nothing comes. */
static inline void wi_list_remove(struct wi_list *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
    wi_list_init(link);
}

/* Moves all that `from` holds to `to`, which need not be initialised; `from` is empty then. */
static inline void wi_list_take(struct wi_list *to, struct wi_list *from)
{
    wi_list_append(from, to); /* it takes the place of the head when that leaves */
    wi_list_remove(from);
}

/* Moves all that `from` holds to the front of `list`; `from` is empty then. */
static inline void wi_list_put_first(struct wi_list *list, struct wi_list *from)
{
    if (wi_list_empty(from))
        return;
    from->prev->next = list->next;
    list->next->prev = from->prev;
    from->next->prev = list;
    list->next = from->next;
    wi_list_init(from);
}

#endif
