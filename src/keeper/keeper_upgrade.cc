// How a keeper lets another one take over, and how it takes over itself (docs/KEEPER.md, "Upgrade").
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "base/clock.hh"
#include "keeper/keeper.hh"

namespace vmsgr::keeper {

using to_next = successor::phase;
using from_before = predecessor::phase;

void keeper::poll_for_upgrade(std::span<pollfd, upgrade_polls> fds) const noexcept {
    fds[0] = {_before ? -1 : _next.listening(), POLLIN, 0};
    fds[1] = {_next.channel(), short(POLLIN | (_next.wants_to_write() ? POLLOUT : 0)), 0};
    fds[2] = {_next.life(), 0, 0};
    fds[3] = {_before ? _before->channel() : -1, POLLIN, 0};
}

void keeper::take_upgrade(std::span<const pollfd, upgrade_polls> fds) {
    if ((fds[1].revents & ~POLLOUT) != 0) {
        _next.hear(_custody, _manager);
    }
    if (fds[2].revents != 0) {
        _next.has_ended();
    }
    if (fds[0].revents != 0) {
        _next.accept(_stop ? "vmsgrd is about to end" : !_ready_ms ? "vmsgrd has just started; try again" : nullptr);
    }
    if (fds[3].revents != 0 && _before) {
        hear_predecessor();
    }
}

// While one keeper takes over from another, an order to stop or to reload is for the one that carries everything then.
bool keeper::is_later(int number) {
    const bool ours = _before && (_before->at() == from_before::takes || _before->at() == from_before::has_all);
    if (_next.is_between() || ours) {
        _stop_later = number;
        return true;
    }
    if (number != SIGHUP && !_before) {
        _next.fail("vmsgrd is to end");
    } else if (number != SIGHUP) {
        _why = "it was told to end";
        _stop = _killed = true;
        _worker.kill();
    }
    return _before.has_value();
}

// What the service manager does not hear.
bool keeper::take_own_word(std::string_view word) {
    if (word == word_handed_over) {
        if (_next.at() == to_next::rests) {
            _worker.kill();
            _next.worker_is_killed();
        }
        return true;
    }
    if (!_before) {
        if (word.starts_with("READY=1")) {
            _next.has_reloaded(word);
        }
        return false;
    }
    if (word == word_stands_by) {
        _before->worker_stands_by();
    } else if (word.starts_with("READY=1")) {
        _carries_ns = base::now_ns();
        _last_word.assign(word.substr(0, word_bytes));
        _before->worker_is_ready();
        if (_before->at() == from_before::over) {
            take_over();
        }
    }
    return true;
}

void keeper::attend_successor(int64_t now_ms) {
    _next.look_at_clock(now_ms);
    if (_next.takes_reload()) {
        take_signal(SIGHUP);
    }
    const bool given_up = _next.at() == to_next::none || _next.at() == to_next::fails;
    if (given_up && !_stop && std::exchange(_worker_rests, false)) {
        _worker.kill();  // the next one does all that it left off
    }
    if (_next.at() != to_next::rests) {
        return;
    }
    if (!_next.until_ms()) {
        _worker_rests = true;
        _worker.order(order_hand_over);
        _next.worker_rests(now_ms);
        _board->watched.store(0, std::memory_order_relaxed);
    } else if (now_ms >= *_next.until_ms()) {
        _worker.kill();
        _next.worker_is_killed();
    }
}

// False: this keeper goes on.
bool keeper::give_all() {
    while (_next.at() != to_next::none) {
        if (_next.at() == to_next::has_all) {
            _manager.is_now(_next.pid());
            if (_next.let_go(_stop_later)) {
                _handed_over = true;
                _exit_code = 0;
                return true;
            }
            _manager.is_now(::getpid());
            _next.fail("it has ended");
        }
        if (_next.at() == to_next::stops || _next.wants_to_write()) {
            _next.go_on_giving(_custody, *_board, _page.worker.restarts);
        }
        const int64_t now = base::now_ms();
        _next.look_at_clock(now);
        wait(next_look_ms(now), false);
        (void)reap();
    }
    if (const int number = std::exchange(_stop_later, 0)) {
        take_signal(number);
    }
    return _stop;
}

void keeper::hear_predecessor() {
    if (!_before->hear(_custody, _worker.custody(), *_board)) {
        _why = _before->last().what == upgrade_step::refusal
                   ? text_in(_before->last())
                   : std::string_view("the vmsgrd that ran has ended, or does not let this one take over");
        _killed = true;
        _worker.kill();
        return;
    }
    if (_before->at() == from_before::over) {
        take_over();
    }
}

void keeper::take_over() {
    const auto& last = _before->last();
    _stop_later = last.stop != 0 && _stop_later == 0 ? int(last.stop) : _stop_later;
    _was_ready = true;
    _ready_ms = base::now_ms();
    _page.worker.restarts.set(_before->all().restarts);
    _set.taken_over(_before->answer(), _carries_ns - _before->all().stopped_ns);
    _before.reset();
    pass_on({});
    if (const int number = std::exchange(_stop_later, 0)) {
        take_signal(number);
    }
}

}  // namespace vmsgr::keeper
