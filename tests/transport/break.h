/* Breaks connections for real, as a network would: from outside of the library's calls. */
#ifndef TESTS_TRANSPORT_BREAK_H
#define TESTS_TRANSPORT_BREAK_H

#include "harness.h"

/* verbs: moves the endpoint's queue pair to its error state. Does nothing before it is connected. */
void break_queue_pair(weir_ep *ep);

/* UCX over TCP: shuts all connected sockets of this process down. */
void break_sockets(void);

/* Breaks the endpoint's connection, over the transport under test. */
void break_connection(weir_ep *ep);

#endif
