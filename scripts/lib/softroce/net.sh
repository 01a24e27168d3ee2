# shellcheck shell=sh
# rdma_rxe devices on made-up links. Source this file; POSIX sh; root. Used in the guest and on a host that may load
# rdma_rxe.
#
#   rxe_one MTU        rxe0 on a dummy device, 10.77.0.1 and fd77::1: peers talk in the device's loopback path
#   rxe_pair MTU       rxe0 and rxe1 on the ends of a veth pair, 10.77.0.1 and 10.77.0.2: peers talk over the wire
#   rxe_loss PERCENT   drops that share of the pair's packets in both directions
#   rxe_remove         undoes what the first two did
#
# Two rxe devices in one network namespace would be short-circuited: the kernel delivers what goes to a local address
# through lo, where rxe does not listen. The pair therefore gets policy routing: a table per direction, applied to
# packets made here (iif lo) alone, ahead of the local table; a client that binds to no address goes out of the other
# end. rdma_cm asks which way a peer lies without saying that the packet is made here, but names the device (oif). One namespace per device would be simpler, but rxe in 6.1 opens its UDP socket in the first namespace only, so
# a device in another one receives nothing.

RXE_LINK0=weirv0 RXE_LINK1=weirv1
RXE_ADDR0=10.77.0.1 RXE_ADDR1=10.77.0.2
RXE_ADDR6_0=fd77::1 RXE_ADDR6_1=fd77::2

rxe_sysctl() { echo "$2" >"/proc/sys/net/$1"; }

rxe_mac() { cat "/sys/class/net/$1/address"; }

# True where IPv6 is on. Addresses are used at once: no duplicate address detection.
rxe_ipv6() { echo 0 2>/dev/null >"/proc/sys/net/ipv6/conf/$1/accept_dad"; }

# One process for several commands: each costs 30 ms under emulation.
rxe_one() {
    ip link add "$RXE_LINK0" mtu "$1" type dummy || return 1
    {
        echo "link set $RXE_LINK0 up"
        echo "addr add $RXE_ADDR0/24 dev $RXE_LINK0"
        ! rxe_ipv6 "$RXE_LINK0" || echo "addr add $RXE_ADDR6_0/64 dev $RXE_LINK0 nodad"
    } | ip -batch - || return 1
    rdma link add rxe0 type rxe netdev "$RXE_LINK0"
}

# One direction: from address $1 to address $2, out of $3, to the link address $4, by table $5; $6 is any address.
rxe_route() {
    echo "route add $2 dev $3 src $1 table $5"
    echo "rule add pref 10 from $1 to $2 iif lo lookup $5"
    echo "rule add pref 10 from $1 to $2 oif $3 lookup $5"
    echo "rule add pref 11 from $6 to $2 iif lo lookup $5"
    echo "neigh replace $2 lladdr $4 dev $3 nud permanent"
}

# Both directions between addresses $1 and $2; $3 is any address. The local table moves below the rules for them; it is
# never absent, so connections that are open do not notice.
rxe_routes() {
    rxe_route "$1" "$2" "$RXE_LINK0" "$(rxe_mac "$RXE_LINK1")" 7701 "$3"
    rxe_route "$2" "$1" "$RXE_LINK1" "$(rxe_mac "$RXE_LINK0")" 7702 "$3"
    echo "rule add pref 100 lookup local"
    echo "rule del pref 0 lookup local"
}

rxe_pair() {
    ip link add "$RXE_LINK0" mtu "$1" type veth peer name "$RXE_LINK1" mtu "$1" || return 1
    # The kernel takes the stricter of "all" and the link's own setting.
    rxe_rp_filter=$(cat /proc/sys/net/ipv4/conf/all/rp_filter)
    rxe_sysctl ipv4/conf/all/rp_filter 0
    for rxe_l in "$RXE_LINK0" "$RXE_LINK1"; do
        rxe_sysctl "ipv4/conf/$rxe_l/rp_filter" 0
        rxe_sysctl "ipv4/conf/$rxe_l/accept_local" 1
    done
    {
        echo "link set $RXE_LINK0 up"
        echo "link set $RXE_LINK1 up"
        echo "addr add $RXE_ADDR0/32 dev $RXE_LINK0"
        echo "addr add $RXE_ADDR1/32 dev $RXE_LINK1"
        rxe_routes "$RXE_ADDR0" "$RXE_ADDR1" 0.0.0.0/32
    } | ip -4 -batch - || return 1
    if rxe_ipv6 "$RXE_LINK0" && rxe_ipv6 "$RXE_LINK1"; then
        {
            echo "addr add $RXE_ADDR6_0/128 dev $RXE_LINK0 nodad"
            echo "addr add $RXE_ADDR6_1/128 dev $RXE_LINK1 nodad"
            rxe_routes "$RXE_ADDR6_0" "$RXE_ADDR6_1" ::/128
        } | ip -6 -batch - || return 1
    fi
    rdma link add rxe0 type rxe netdev "$RXE_LINK0" && rdma link add rxe1 type rxe netdev "$RXE_LINK1"
}

rxe_loss() {
    tc qdisc add dev "$RXE_LINK0" root netem loss "$1" && tc qdisc add dev "$RXE_LINK1" root netem loss "$1"
}

# Deleting a link takes its addresses, routes, neighbours and rxe device along.
rxe_remove() {
    for rxe_f in 4 6; do
        for rxe_t in 7701 7702; do
            while ip "-$rxe_f" rule del lookup "$rxe_t" 2>/dev/null; do :; done
        done
        if ip "-$rxe_f" rule show pref 100 2>/dev/null | grep -q 'lookup local'; then
            ip "-$rxe_f" rule add pref 0 lookup local && ip "-$rxe_f" rule del pref 100 lookup local
        fi
    done
    [ -z "${rxe_rp_filter-}" ] || rxe_sysctl ipv4/conf/all/rp_filter "$rxe_rp_filter"
    ip link del "$RXE_LINK0" 2>/dev/null
    return 0
}
