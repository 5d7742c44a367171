#include "conn/log.hh"

namespace vmsgr::net {

seastar::logger log("vmsgr_net");

}  // namespace vmsgr::net
