#include "trunks/log.hh"

namespace vmsgr::trunks {

seastar::logger log("vmsgr_trunks");

}  // namespace vmsgr::trunks
