#include "break.h"

#ifdef WEIR_WITH_VERBS
#include "transport/verbs/verbs.h"

void break_queue_pair(weir_ep *ep)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    struct ibv_qp *qp = verbs_ep(ep)->end.qp;
    if (qp && ep->ready)
        ibv_modify_qp(qp, &attr, IBV_QP_STATE);
}
#else
void break_queue_pair(weir_ep *ep)
{
    (void)ep;
}
#endif
