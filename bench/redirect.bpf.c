// A rival to measure beside: TCP connections within one host, whose messages the kernel moves from one socket straight
// into the other (sockops and sk_msg programs of one control group). IPv4.
#include <linux/bpf.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct pair {
    __u32 local, remote;
    __u32 local_port, remote_port;  // in host order
};

struct {
    __uint(type, BPF_MAP_TYPE_SOCKHASH);
    __uint(max_entries, 65536);
    __type(key, struct pair);
    __type(value, __u64);
} established SEC(".maps");

// How many messages were moved, so that a bench can say whether any was.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} moved SEC(".maps");

SEC("sockops")
int on_connection(struct bpf_sock_ops* s) {
    const int stands = s->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB || s->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
    if (stands && s->family == 2) {
        struct pair own = {s->local_ip4, s->remote_ip4, s->local_port, bpf_ntohl(s->remote_port)};
        bpf_sock_hash_update(s, &established, &own, BPF_ANY);
    }
    return 0;
}

SEC("sk_msg")
int on_message(struct sk_msg_md* m) {
    struct pair other = {m->remote_ip4, m->local_ip4, bpf_ntohl(m->remote_port), m->local_port};
    if (bpf_msg_redirect_hash(m, &established, &other, BPF_F_INGRESS) == SK_PASS) {
        __u32 first = 0;
        __u64* n = bpf_map_lookup_elem(&moved, &first);
        if (n) {
            __sync_fetch_and_add(n, 1);
        }
    }
    return SK_PASS;
}

char _license[] SEC("license") = "GPL";
