/*
 * Every WEIR_* variable, once: from this table come parsing, errors, `weir info --env` and the README's table.
 *
 * SIZE, DURATION (kept in ns), INT, POWER (an INT that is a power of two):
 *     (field, NAME, fallback, default, min, max, help)
 * CHOICE: (field, NAME, fallback, default, "a|b|c", help), kept as the index of the word
 * TEXT: (field, NAME, fallback, default, help)
 * FORM, a TEXT that has a form: (field, NAME, fallback, default, check, "form", help); the check is one of core/forms.h
 * A fallback is a variable that others set, read when ours is not set; NULL: none. Texts
 * hold up to 255 bytes. Sorted by area, then name.
 */

/* Job */
WI_CONFIG_TEXT(job_id, "WEIR_JOB_ID", NULL, "", "Name of the job; a process that comes with another one is turned away.")
WI_CONFIG_INT(local_rank, "WEIR_LOCAL_RANK", "LOCAL_RANK", "-1", -1, 65535, "Number of this process on its host, from 0; -1: the rank.")
WI_CONFIG_TEXT(master_addr, "WEIR_MASTER_ADDR", "MASTER_ADDR", "127.0.0.1", "Name or address (IPv4 or IPv6) of the host of rank 0.")
WI_CONFIG_INT(master_port, "WEIR_MASTER_PORT", "MASTER_PORT", "29400", 1, 65535, "TCP port on which rank 0 serves the store. Under torchrun the one after MASTER_PORT, which is PyTorch's.")
WI_CONFIG_INT(rank, "WEIR_RANK", "RANK", "0", 0, 65535, "Number of this process in the job, from 0.")
WI_CONFIG_TEXT(secret_file, "WEIR_SECRET_FILE", NULL, "", "File with a secret of at least 16 bytes that all ranks of the job share; who does not know it is turned away.")
WI_CONFIG_INT(servers, "WEIR_SERVERS", NULL, "0", 0, 65535, "How many ranks, the last ones, are parameter servers.")
WI_CONFIG_INT(world_size, "WEIR_WORLD_SIZE", "WORLD_SIZE", "1", 1, 65536, "How many processes the job has, servers included.")

/* Errors and log */
WI_CONFIG_CHOICE(log_level, "WEIR_LOG", NULL, "warn", "error|warn|info|debug|trace", "How much is logged.")
WI_CONFIG_TEXT(log_file, "WEIR_LOG_FILE", NULL, "", "File to append the log to, %r in it becomes the rank; empty: standard error.")
WI_CONFIG_DURATION(timeout_ns, "WEIR_TIMEOUT", NULL, "30s", "100ms", "1h", "Bound of every wait; a peer that is silent for so long is dead.")

/* Seen from outside */
WI_CONFIG_TEXT(metrics_file, "WEIR_METRICS_FILE", NULL, "", "File that the counters are written to as Prometheus text, again and again; %r in it becomes the rank.")
WI_CONFIG_DURATION(metrics_interval_ns, "WEIR_METRICS_INTERVAL", NULL, "5s", "100ms", "1h", "How often WEIR_METRICS_FILE is written.")
WI_CONFIG_FORM(metrics_listen, "WEIR_METRICS_LISTEN", NULL, "", wi_check_place, "[ADDRESS:]PORT", "Where the counters are served over HTTP (/metrics), without an address on loopback; the local rank is added to the port.")
WI_CONFIG_TEXT(trace_file, "WEIR_TRACE", NULL, "", "File for a Chrome trace of operations and collectives; %r in it becomes the rank.")

/* Transport */
WI_CONFIG_FORM(device, "WEIR_DEVICE", NULL, "", wi_check_devices, "DEVICE[:PORT],...", "RDMA device and port, e.g. mlx5_0:1, or a list of up to 4 that are used at once, in the same order on all hosts; empty: the port that WEIR_INTERFACE leads to, or the first active one.")
WI_CONFIG_CHOICE(huge_pages, "WEIR_HUGE_PAGES", NULL, "auto", "auto|off|require", "Pages of pools; auto: reserved huge pages where some are free, else transparent ones; off: neither.")
WI_CONFIG_FORM(interface, "WEIR_INTERFACE", NULL, "", wi_check_interface, "NAME|ADDRESS", "Network interface or numeric address to listen on; empty: the one that leads to rank 0.")
WI_CONFIG_CHOICE(intranode, "WEIR_INTRANODE", NULL, "shm", "shm|off", "How peers of the same host are reached; off: like all others. Of no meaning with WEIR_TRANSPORT=shm.")
WI_CONFIG_FORM(numa, "WEIR_NUMA", NULL, "auto", wi_check_numa, "auto|off|NODE", "NUMA node of pools: auto (that of the RDMA device, else of the thread that needs memory), off, or a node's number.")
WI_CONFIG_SIZE(pool_cache, "WEIR_POOL_CACHE", NULL, "512K", "0", "1G", "Free memory of each size that a thread keeps of a pool; larger objects always go through the pool.")
WI_CONFIG_SIZE(pool_slab, "WEIR_POOL_SLAB", NULL, "32M", "2M", "64G", "Bytes a pool grows by; registered at once.")
WI_CONFIG_SIZE(reg_cache, "WEIR_REG_CACHE", NULL, "1G", "0", "16T", "Bytes of users' memory that are kept registered for the next use, where that is needed (verbs); 0: not at all.")
WI_CONFIG_INT(service_level, "WEIR_SL", NULL, "-1", -1, 15, "Service level of verbs connections; -1: what the subnet manager says (InfiniBand), or 0.")
WI_CONFIG_DURATION(spin_ns, "WEIR_SPIN", NULL, "50us", "0us", "10s", "How long a wait polls before it sleeps.")
WI_CONFIG_INT(traffic_class, "WEIR_TC", "WEIR_VERBS_TRAFFIC_CLASS", "-1", -1, 255, "Traffic class (RoCE: the packets' TOS byte) of verbs connections; -1: the system's.")
WI_CONFIG_CHOICE(transport, "WEIR_TRANSPORT", NULL, "auto", "auto|verbs|ucx|shm", "Network backend; auto: verbs where an RDMA port is active, else ucx.")
WI_CONFIG_DURATION(verbs_ack_timeout_ns, "WEIR_VERBS_ACK_TIMEOUT", NULL, "0us", "0us", "1h", "How long a packet waits for its answer until it is sent again, rounded up to 4.096 us times a power of two; 0: so that all tries take a quarter of WEIR_TIMEOUT, at most 0.3 s each.")
WI_CONFIG_CHOICE(verbs_connect, "WEIR_VERBS_CONNECT", NULL, "cm", "cm|store", "How verbs connections are made: through the RDMA connection manager, or through the job's store; the same on all ranks.")
WI_CONFIG_INT(verbs_depth, "WEIR_VERBS_DEPTH", NULL, "256", 16, 16384, "Operations that can be outstanding on one verbs endpoint; of a power of two soft-RoCE gives one fewer.")
WI_CONFIG_SIZE(verbs_inline, "WEIR_VERBS_INLINE", NULL, "220", "0", "1K", "Longest write sent inline; the device may allow less.")
WI_CONFIG_CHOICE(verbs_post, "WEIR_VERBS_POST", NULL, "auto", "auto|wr|list", "By what operations are given to an RDMA device: ibv_wr_* (wr) or ibv_post_send() (list); auto: the former where the driver has it.")
WI_CONFIG_INT(verbs_receives, "WEIR_VERBS_RECEIVES", NULL, "8192", 64, 65536, "Signals and messages that can be on their way to this process over verbs, from all peers together.")
WI_CONFIG_CHOICE(verbs_relaxed, "WEIR_VERBS_RELAXED", NULL, "off", "off|on", "Whether writes of peers may reach this process's memory in any order (PCIe relaxed ordering), which is faster on some hosts; signals, messages and flushes still come after the data, but who polls memory must not take its last byte for the end.")
WI_CONFIG_INT(verbs_retry, "WEIR_VERBS_RETRY", NULL, "6", 0, 7, "How often a packet without an answer is sent again before the connection ends; soft-RoCE takes 7 for without end.")
WI_CONFIG_INT(verbs_rnr_retry, "WEIR_VERBS_RNR_RETRY", NULL, "7", 0, 7, "How often a signal or message is sent again to a target that has no receive for it; 7: without end.")
WI_CONFIG_SIZE(verbs_stripe, "WEIR_VERBS_STRIPE", NULL, "128K", "16K", "1T", "Shortest put or get that is striped over the devices of WEIR_DEVICE.")
WI_CONFIG_CHOICE(verbs_windows, "WEIR_VERBS_WINDOWS", NULL, "auto", "auto|on|off", "Whether a verbs key is a memory window on just what was exported, which the device revokes; auto: where the device has windows of type 2, else each exported range is registered once more, by itself.")

/* Collectives */
WI_CONFIG_SIZE(chunk, "WEIR_CHUNK", NULL, "256K", "4K", "1G", "Bytes of one pipeline step of a collective.")

/* Parameter server */
WI_CONFIG_SIZE(ps_ring, "WEIR_PS_RING", NULL, "4M", "64K", "4G", "Bytes of the request ring that a server keeps for each client.")
WI_CONFIG_POWER(ps_shards, "WEIR_PS_SHARDS", NULL, "256", 1, 65536, "Virtual shards that a table is split into.")

/* Set by scripts/softroce for the command it runs; the library does not use them. */
WI_CONFIG_TEXT(softroce, "WEIR_SOFTROCE", NULL, "", "Set by scripts/softroce for its command: on what it runs, device, native or guest.")
WI_CONFIG_TEXT(softroce_node0, "WEIR_SOFTROCE_NODE0", NULL, "", "Set by scripts/softroce for its command: address of the first RDMA device.")
WI_CONFIG_TEXT(softroce_node1, "WEIR_SOFTROCE_NODE1", NULL, "", "Set by scripts/softroce for its command: address of the second RDMA device.")
