#include "daemon/status_rows.hh"

#include "daemon/row_text.hh"
#include "daemon/words.hh"

namespace vmsgr::daemon {

namespace {

constexpr int ms_digits = 3, us_digits = 6;

// Null where there is none.
void add_stall(row_text& row, const char* name, uint64_t us) {
    us == 0 ? row.add_null(name) : row.add_seconds(name, double(us) / 1e6, us_digits);
}

void add_inode(row_text& row, const char* name, uint64_t inode) {
    inode == 0 ? row.add_null(name) : row.add(name, inode);
}

// Null where the connection is not in plain mode.
void add_plain(row_text& row, const conn::plain_info& p) {
    if (!p.on) {
        row.add_null("plain");
        return;
    }
    row_text plain = row.open("plain");
    plain.add("cause", proto::to_word(p.why)).add("why", proto::to_text(p.why)).add("moved", p.moved);
    add_inode(plain, "bell_inode", p.bell_inode);
    plain.end();
}

conn::plain_info shown_plain(uint32_t shown) {
    constexpr uint32_t cause_bits = 0xff;
    return {(shown & shm::local_plain) != 0, (shown & shm::local_moved) != 0,
            proto::read_cause(shown >> shm::local_cause_shift & cause_bits), 0};
}

void add_stays(row_text& row, bool drains, conn::stays why) {
    if (!drains) {
        row.add_null("stays");
        return;
    }
    row_text stays = row.open("stays");
    stays.add("cause", conn::to_word(why)).add("why", conn::to_text(why)).end();
}

}  // namespace

void add_row(std::string& out, const conn::conn_info& c, bool drains) {
    row_text row(out);
    row.add("id", c.id)
        .add("session", c.session)
        .add("pid", c.pid)
        .add("fd", c.fd)
        .add("role", c.role == conn::conn_role::client ? "client" : "server")
        .add("local", c.local)
        .add("peer", c.peer)
        .add("path", to_text(c.path))
        .add("route", c.route)
        .add("shard", c.shard)
        .add("state", to_text(c.state));
    add_plain(row, c.plain);
    row.add("bytes_in", c.bytes_in)
        .add("bytes_out", c.bytes_out)
        .add_seconds("opened_s", c.opened_s, ms_digits)
        .add("uid", c.uid)
        .add("encrypted", c.encrypted);
    c.peer_identity.empty() ? row.add_null("peer_identity") : row.add("peer_identity", c.peer_identity);
    row.add("ring_bytes", c.ring_bytes).add("unread_bytes", c.unread_bytes).add("unsent_bytes", c.unsent_bytes);
    add_stall(row, "program_stalls_s", c.program_stalls_us);
    add_stall(row, "network_stalls_s", c.network_stalls_us);
    add_stays(row, drains, c.why_it_stays);
    row.end();
}

void add_row(std::string& out, const attach::control_server::local_row& c) {
    row_text row(out);
    row.add_null("id")
        .add("session", c.session)
        .add("pid", c.pid)
        .add("fd", c.fd)
        .add("role", c.server ? "server" : "client")
        .add("local", c.local)
        .add("peer", c.peer)
        .add("path", to_text(conn::conn_path::local))
        .add("route", c.route)
        .add_null("shard")
        .add("state", to_text(conn::conn_state::established));
    add_plain(row, shown_plain(c.plain));
    row.add("bytes_in", c.bytes_in)
        .add("bytes_out", c.bytes_out)
        .add_seconds("opened_s", c.opened_s, ms_digits)
        .add("uid", c.uid)
        .end();
}

}  // namespace vmsgr::daemon
