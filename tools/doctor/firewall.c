/*
 * Check of the packet filter's rules, as far as they can be read: chains that see incoming packets and may drop them.
 * Whether a packet would pass is not worked out here, which would take a copy of the kernel's rules: it is tried.
 */
#include "doctor.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ROCE_V2_PORT = 4791 };

struct ruleset {
    bool input;         /* within a chain that sees incoming packets */
    bool drops;         /* that chain's policy */
    char table[64], chain[64];
    unsigned chains;    /* those seen */
    unsigned droppers;  /* those with the policy drop */
    char dropper[130];  /* "inet filter input", the last of them */
    char rule[256];     /* the first rule that drops or rejects, and concerns us */
    unsigned others;    /* rules that drop or reject something else */
};

/* Is the number in the text as a word of its own, or within a range a-b? */
static bool names_port(const char *text, int port)
{
    for (const char *at = text; *at; at++) {
        if (!isdigit((unsigned char)*at) || (at > text && (isalnum((unsigned char)at[-1]) || at[-1] == '.')))
            continue;
        char *end;
        long first = strtol(at, &end, 10), last = first;
        if (*end == '-')
            last = strtol(end + 1, &end, 10);
        if (first <= port && port <= last && *end != '.' && !isalpha((unsigned char)*end))
            return true;
        at = end - 1;
    }
    return false;
}

static bool ends_packets(const char *rule)
{
    return strstr(rule, " drop") || strstr(rule, "drop") == rule || strstr(rule, "reject");
}

static void see_rule(struct ruleset *rules, const char *rule, int port)
{
    const char *ports = strstr(rule, "dport");
    bool ours = !ports || names_port(ports + 5, port) || names_port(ports + 5, ROCE_V2_PORT);
    if (!ends_packets(rule) || strstr(rule, "ct state invalid"))
        return;
    if (ours && !rules->rule[0])
        snprintf(rules->rule, sizeof(rules->rule), "%s %s: %s", rules->table, rules->chain, rule);
    else if (!ours)
        rules->others++;
}

/* A line of `nft list ruleset`. */
static void see_line(struct ruleset *rules, char *line, int port)
{
    line[strcspn(line, "\n")] = '\0';
    line += strspn(line, " \t");
    if (sscanf(line, "table %63[^{]", rules->table) == 1 || sscanf(line, "chain %63[^ {]", rules->chain) == 1) {
        size_t len = strlen(rules->table);
        rules->table[len > 0 && rules->table[len - 1] == ' ' ? len - 1 : len] = '\0';
        rules->input = false;
    } else if (strncmp(line, "type ", 5) == 0 && strstr(line, " hook ")) {
        rules->input = strstr(line, "hook input") || strstr(line, "hook prerouting") || strstr(line, "hook ingress");
        rules->drops = rules->input && strstr(line, "policy drop");
        rules->chains += rules->input;
        rules->droppers += rules->drops;
        if (rules->drops)
            snprintf(rules->dropper, sizeof(rules->dropper), "%s %s", rules->table, rules->chain);
    } else if (rules->input) {
        see_rule(rules, line, port);
    }
}

static bool read_rules(struct ruleset *rules, int port)
{
    char line[1024];
    FILE *nft = popen("PATH=$PATH:/usr/sbin:/sbin nft list ruleset 2>/dev/null", "re");
    if (!nft)
        return false;
    while (fgets(line, sizeof(line), nft))
        see_line(rules, line, port);
    return pclose(nft) == 0;
}

void check_firewall(struct doctor *doctor)
{
    struct ruleset rules = {0};
    char legacy[64];
    bool old_tables = read_text(doctor->root, legacy, sizeof(legacy), "/proc/net/ip_tables_names") && legacy[0];
    if (!read_rules(&rules, doctor->port))
        doctor_say(doctor, DOCTOR_NOTE, "rules are not readable: %s -> as root: nft list ruleset; iptables -S",
                   geteuid() == 0 ? "there is no nft, or it cannot ask the kernel" : "that takes root");
    else if (rules.rule[0])
        doctor_say(doctor, DOCTOR_WARN, "a rule may keep peers out: %s -> let TCP port %d in, and UDP port %d for RoCE",
                   rules.rule, doctor->port, ROCE_V2_PORT);
    else if (rules.droppers)
        doctor_say(doctor, DOCTOR_WARN,
                   "%s drops what no rule accepts -> let TCP port %d in, those of the transport, and UDP port %d for RoCE",
                   rules.dropper, doctor->port, ROCE_V2_PORT);
    else if (old_tables)
        doctor_say(doctor, DOCTOR_NOTE, "iptables of the old kind is in use, which is not read here -> iptables-legacy -S");
    else
        doctor_say(doctor, DOCTOR_OK, "no rule drops what comes in (%u chain%s, %u rule%s for other ports)", rules.chains,
                   rules.chains == 1 ? "" : "s", rules.others, rules.others == 1 ? "" : "s");
}
