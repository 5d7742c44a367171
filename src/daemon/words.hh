// The words of the status document. Any thread.
#pragma once

#include "conn/far.hh"

namespace vmsgr::daemon {

inline const char* to_text(conn::conn_state s) noexcept {
    switch (s) {
    case conn::conn_state::connecting: return "connecting";
    case conn::conn_state::established: return "established";
    case conn::conn_state::closing: return "closing";
    }
    return "?";
}

inline const char* to_text(conn::conn_path p) noexcept {
    switch (p) {
    case conn::conn_path::direct: return "direct";
    case conn::conn_path::local: return "local";
    case conn::conn_path::trunk: return "trunk";
    }
    return "?";
}

}  // namespace vmsgr::daemon
