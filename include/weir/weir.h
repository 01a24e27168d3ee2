/*
 * All of Weir's public API. A program may include the parts it uses instead: each header stands alone.
 */
#ifndef WEIR_H
#define WEIR_H

#include <weir/bootstrap.h>   /* who am I, who are my peers, are they still there */
#include <weir/collectives.h> /* barrier, broadcast, all-reduce */
#include <weir/config.h>      /* the version; the WEIR_* variables as data */
#include <weir/metrics.h>     /* counters and latencies as text */
#include <weir/ps.h>          /* parameter server */
#include <weir/status.h>      /* weir_status, weir_last_error() */
#include <weir/transport.h>   /* memory, endpoints, one-sided operations */

#endif
