#include "conn/log.hh"

namespace vmsgr::conn {

seastar::logger log("vmsgr_net");

}  // namespace vmsgr::conn
