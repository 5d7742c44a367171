// The mistakes that the explorer has to find.
#pragma once

#include <cstdint>

namespace vmsgr::shm::explore {

// What a run does wrong on purpose: each must be found.
enum class fault : uint8_t {
    none,
    no_producer_fence,
    no_consumer_fence,
    no_announcement,
    no_second_look,
    take_everything,
    take_before_announcing,
    count_after_sending,
    no_top_up,
    no_relief,
    token_lost,
    mark_means_awake,
    mark_cleared,
    spin_then_sleep,
    spin_and_read_less,
    no_send_recovery,
    no_decision,
    sleeps_unsettled,
    no_look_at_what_was_shown,
    takes_over_without_token,
    takes_over_with_token_for_data,
    takes_over_trusting_counts,
    takes_over_the_old_index,
    takes_over_without_relief,
    takes_over_and_sleeps,
    forgets_refused_token,
};

}  // namespace vmsgr::shm::explore
