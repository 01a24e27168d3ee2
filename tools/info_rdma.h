/* What `weir info` tells of RDMA ports: their state, their GIDs, and what of them verbs would use here. */
#ifndef INFO_RDMA_H
#define INFO_RDMA_H

void info_print_rdma_text(void);
void info_print_rdma_json(void); /* an array, without a newline behind it */

#endif
