// Tokens of one turn of an event loop.
//
// Who is woken while the sender still works takes the processor from it, comes too early for the next message, and
// often stops at a lock that the sender holds. So what a loop sends in a turn is published at once, and the readers
// that sleep are woken at its end, before the loop waits again, or does anything else that may sleep and that this
// library sees. A single answer, too: a turn that sends one holds locks as well (rados bench: PERFORMANCE.md).
//
// A thread that owes a token and then sleeps where nobody sees it (a mutex, a file) may be waiting for the very answer.
// So a thread of the library's own, the ringer, looks each 0.8 ms and sends what has been owed for 0.1. It runs while
// many tokens are sent, as its own wake-ups cost more than a few; where it does not run nobody owes. Programs
// that have only one thread get no second one, and owe nothing.
//
// To the other end this is a sender that is slow between its publication and its token (models/wake.pml has such).
#pragma once

namespace vmsgr::client {

class stream;

// The thread's loop waits: what it owes is sent. Any other call that may sleep says the same.
void end_turn() noexcept;
// It has events. Not in a signal handler: a thread may be started.
void begin_turn() noexcept;
bool is_in_turn() noexcept;
// The reader of s, which has number fd, sleeps: may its token wait? In a turn, under the send lock of s. False: send
// it.
bool owe_token(int fd, const stream& s) noexcept;
// Of all threads, and what streams hold back. Before a descriptor gets other holders, or this program is replaced.
void pay_owed_tokens() noexcept;
// Before a filter of system calls may forbid the ringer's. None is started afterwards.
void stop_ringer() noexcept;
// In the child of a fork: its parent has paid.
void forget_owed_tokens() noexcept;

// The ringer shows what was held back, too (held_back.hh), whether the program has threads or not. Before something is
// held back: it runs, or starts now. False: it does not, and in a signal handler it cannot be started.
bool start_ringer_for_held_back() noexcept;
// Something was listed. False: nobody looks.
bool wake_ringer_for_held_back() noexcept;

}  // namespace vmsgr::client
