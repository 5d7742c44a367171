// Connections as rows of the status document, in JSON.
#pragma once

#include <string>

#include "attach/control_server.hh"

namespace vmsgr::daemon {

// drains: the daemon is being drained, and says of each why it stays.
void add_row(std::string& out, const conn::conn_info& c, bool drains);
void add_row(std::string& out, const attach::control_server::local_row& c);

}  // namespace vmsgr::daemon
