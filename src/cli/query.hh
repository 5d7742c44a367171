// The client side of the control socket for questions: attaches as a query session, asks, reads the answer.
// Every step has the same time limit, so a stopped daemon gives an error and not a hang. Single thread.
#pragma once

#include <string>

#include "base/error.hh"
#include "base/unique_fd.hh"
#include "proto/control.hh"
#include "proto/routes.hh"

namespace vmsgr::cli {

inline constexpr int query_timeout_ms = 2000;
inline constexpr size_t document_bytes_max = 256u << 20;

class query {
    base::unique_fd _socket;
    std::string _path;

    query(base::unique_fd socket, std::string path) : _socket(std::move(socket)), _path(std::move(path)) {}
    base::result<proto::received> receive(void* msg, size_t bytes);
    base::result<bool> greet();

public:
    static base::result<query> attach(const std::string& path);
    // status or routes: the document of the reply.
    base::result<std::string> ask(proto::kind what);
};

// attach and ask in one.
base::result<std::string> ask_daemon(const std::string& path, proto::kind what);
base::result<proto::route_table> ask_routes(const std::string& path);

}  // namespace vmsgr::cli
