#include "break.h"
#include "transport/sim/nic.h"

void break_connection(weir_ep *ep)
{
    wi_sim_ep_break((struct sim_ep *)ep, WEIR_ERR_PEER_GONE, "broken by the test");
}
