#include "break.h"

#ifdef WEIR_WITH_VERBS
#include "transport/verbs/rails.h"

/* Of several devices another one's each time the endpoint was connected again. */
static struct verbs_ep *one_connection(weir_ep *ep)
{
    if (ep->ops != &wi_rails_ops)
        return verbs_ep(ep);
    const struct rails_ep *rails = rails_ep(ep);
    unsigned turn = rails->rail[rails->main]->again;
    for (unsigned i = 0; i < rails->iface->count; i++) {
        struct verbs_ep *rail = rails->rail[(turn + i) % rails->iface->count];
        if (rail && rail->base.ready)
            return rail;
    }
    return rails->rail[rails->main];
}

void break_queue_pair(weir_ep *ep)
{
    struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
    struct ibv_qp *qp = ep->ready ? one_connection(ep)->end.qp : NULL;
    if (qp)
        ibv_modify_qp(qp, &attr, IBV_QP_STATE);
}
#else
void break_queue_pair(weir_ep *ep)
{
    (void)ep;
}
#endif
