/* The wake protocol of one direction of a conduit, for spin.
 *
 * A conduit is a byte ring in shared memory and a stream socketpair, the doorbell; a byte on it is
 * a token. Run every check and every mutant with models/check.sh. One of them by hand, and the
 * trail of its error:
 *   spin -DC_EDGE -a wake.pml
 *   gcc -O2 -w -DSAFETY -o pan pan.c && ./pan -m1000000       deadlocks, assertions
 *   gcc -O2 -w -DNP -o pan pan.c && ./pan -l -m1000000        loops without progress
 *   spin -DC_EDGE -t -p -g wake.pml
 *
 * What is checked. The producer writes any amount, for ever, and stops, closes or is killed where
 * it likes.
 *  - No lost wake-up, no lost OUT: everybody who waits is woken. A run that ends with data in the
 *    ring, or with the producer waiting, is a deadlock ("invalid end state"): a consumer may end
 *    only when nothing is left.
 *  - Nobody spins: no cycle without data being taken, even without any assumption of fairness.
 *  - Tokens are bounded: the kernel never refuses one (HARD; a real socket takes four times the
 *    threshold), but after many take-overs.
 *  - -DEXACT: a reader that waits for IN never finds an empty ring, but after top-ups.
 *  - -DREST, when neither side is inside a call: data in the ring means a token in the socket, and
 *    a ring half free means that the producer's end is writable, whatever the consumer does next.
 *  - After a close all published data arrives and then EOF; after a kill, all of it and then a
 *    reset.
 *
 * What the code has to do, and each point is a mutant below (M_*):
 *  producer  publish; full fence; if consumer_waits is 1: turn it to "deciding" (3 here), look at
 *            the tail. Unread: turn it to 0, tokens_sent += 1, then send one token. All taken: turn
 *            it back to 1, for the token would show an empty ring as readable. If the consumer
 *            has changed it meanwhile, from the beginning.
 *            Ring full, also before a short count is returned: while the end is writable:
 *            tokens_sent += 1, send, look again for space. At least one look follows the last
 *            token; a look after every token is enough.
 *  consumer  publish tail; full fence. Data left: if tokens_sent - tokens_taken >= 2 and half is
 *            free, take all but one.
 *            Ring empty: s = tokens_sent; was = consumer_waits.exchange(1); look again.
 *              Still empty: take the tokens up to s and no more.
 *              Not empty: if `was` is 0, withdraw (exchange(0)); otherwise it must stay. If that met a
 *              0, or `was` is 1 or "deciding", a token is sure to come for these bytes (unless the
 *              conduit is inexact): go on as if the ring were empty. Else take all up to s but one,
 *              and go on filling the caller's buffer: a short count promises an edge-triggered
 *              program that the next byte brings an edge.
 *            A blocking call that spins raises its announcement, if it is a plain 1, from "any byte"
 *              to a mark, tail + what the call still takes: the producer sends no token until head
 *              is past it. The call must then read up to the mark, or settle the empty ring. Found
 *              with data, an announcement that was a mark stays: beyond it a token may be owed.
 *              Only while no other process holds the end: a killed spinner leaves its mark.
 *            A program that waits for edges may leave one token untaken (C_LAZY) when it returns a
 *              short count; with 2, OUT would be withheld at W = 4.
 *            Before EAGAIN or sleep, look whether the other side is gone; if it is, look into the
 *            ring again, then fin.
 *  close     the last user of an end, decided by one atomic count (not by looking at it), sets fin,
 *            then closes.
 *  doorbell  the end becomes unwritable at W = 3 tokens. With 2, a program can find a nearly empty
 *            ring unwritable: one token answers the last announcement but one, the next the present
 *            one. -DW=2 loses no wake-up, but withholds OUT until the consumer reads again; without
 *            the withdrawal W = 4 is needed.
 *  a holder killed inside a lock, the end living on in another process: the count of tokens cannot
 *            be trusted any more, so the conduit is marked inexact and the consumer asks the kernel
 *            instead (FIONREAD, before it announces). On the producer's side whoever takes the lock
 *            next also sends one token that is not counted.
 *
 *  a worker of the daemon killed at any step, another taking over its end (CRASH_PRODUCER; CRASH_CONSUMER with
 *            DAEMON), also within a take-over. Memory, doorbell and the kernel's counters are all that is left; the
 *            other side sees no hang-up. Bytes are exact: what was moved is what the next one publishes (`moved`).
 *   producer publish what was received; full fence; set inexact; one token, not counted, whatever the ring holds and
 *            the consumer has announced: it stands for one that was counted and never sent, too, which a consumer
 *            that has read the count may be about to take. It may be one for nothing: EXACT does not hold.
 *            Where nobody takes those of many take-overs the socket refuses one: it is sent as soon as this end is
 *            writable, whatever is announced. Of REST "a ring half free means writable" does not hold: who has
 *            room does not wait for OUT.
 *   consumer publish the tail; ask the kernel for tokens from now on; be awake (0); relieve as after a consume; then
 *            look into the ring, as ever before it sleeps. Until it sleeps, data in the ring needs no token.
 *
 * Abstracted: indices are their difference, as the counters are (acc = tokens_sent - tokens_taken),
 * so runs are endless and the state stays finite. Bytes have no value. A call to the kernel is one
 * step. Memory is sequentially consistent, but for -DTSO: there the publications of head and tail
 * pass through store buffers, and the fences drain them. Locks are robust: the next to take one
 * learns that its owner died.
 *
 * Variants: NP producers, NR readers (under locks; threads, or processes after a fork), N ring,
 *   W, HARD; P_EDGE, C_EDGE edge-triggered (else level); C_BLOCKING readers that sleep in the call;
 *   DAEMON polls, then parks; END_FIN closes; KILL_PRODUCER, KILL_CONSUMER at any step; FORK_KILL
 *   one of two, also inside a lock; TSO; REST; EXACT; C_SPIN blocking calls that spin, and poll in between; C_LAZY tokens left untaken (with
 *   C_EDGE); CRASH_PRODUCER, CRASH_CONSUMER, so often: CRASHES (1). Both ends programs (a local conduit): W = 4, and each side in any of its variants.
 */
#ifndef N
#define N 4
#endif
#ifndef W
#define W 3
#endif
#ifndef HARD
#define HARD (W + 1)
#endif
#ifndef NP
#define NP 1
#endif
#ifndef NR
#define NR 1
#endif
#if defined(CRASH_PRODUCER) || defined(CRASH_CONSUMER)
#define TAKE_OVER
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#ifdef M_RETRACT_ALWAYS
#define RETRACT_IF true
#elif defined(M_RETRACT_MARK)
#define RETRACT_IF prev != 1
#else
#define RETRACT_IF prev == 0
#endif
#define HALF ((N + 1) / 2)

/* shared memory */
byte data = 0;          /* head - tail */
byte consumer_waits = 1;/* 0, 1, 2: a mark stands, 3: the producer decides */
#ifdef C_SPIN
short mark = 0;         /* how far the mark lies beyond the tail; 0 while none stands */
#endif
short acc = 0;          /* tokens_sent - tokens_taken: one word of each side, so one step here */
bit fin = 0;
bit inexact = 0;        /* somebody died inside a lock: acc may be wrong */
/* kernel */
byte q = 0;             /* tokens in the socket */
bit in_edge = 0, out_edge = 0, phup = 0, chup = 0;
byte p_holders = NP, c_holders = NR;
byte p_users = NP;      /* processes that have not closed, in memory of their side */
/* locks */
byte send_lock = 0, recv_lock = 0;
bit send_owner_died = 0, recv_owner_died = 0;
/* of the model alone */
bit inflight = 0;       /* published or counted, but not yet sent */
bit p_kill = 0, c_kill = 0;
byte p_stopped = 0;
#ifdef TAKE_OVER
bit crash = 0;          /* the worker dies before its next step */
bit dead = 0;           /* it has, and the next one is not through its recovery */
bit owed = 0;           /* a token, once the socket is not full any more */
byte moved = 0;         /* by the kernel's counters, and not in the index: received, or sent */
#endif
/* REST: what programs may rely on while nobody is inside a call */
#ifdef REST
byte p_busy = 0, c_busy = 0;
#define P_BUSY p_busy++
#define C_BUSY c_busy++
#define P_REST d_step { p_busy--; AT_REST }
#define C_REST d_step { c_busy--; AT_REST }
#ifdef CRASH_CONSUMER
bit looks = 0;          /* a worker that has taken over looks into the ring, and needs no token, until it sleeps */
#define UNTIL_SETTLED || looks
#define SETTLED looks = 0
#else
#define UNTIL_SETTLED
#define SETTLED skip
#endif
#ifdef CRASH_PRODUCER
#define OUT_ANYWAY || N - data > 0      /* who has room does not wait for OUT */
#define IN_SOON || owed && q < W
#else
#define OUT_ANYWAY
#define IN_SOON
#endif
#define AT_REST \
  assert(p_busy + c_busy > 0 || phup || chup || N - data < HALF || q < W OUT_ANYWAY); \
  assert(p_busy + c_busy > 0 || phup || chup || data == 0 || q > 0 UNTIL_SETTLED IN_SOON)
#else
#define P_BUSY skip
#define C_BUSY skip
#define P_REST skip
#define C_REST skip
#define SETTLED skip
#endif

#ifdef EXACT
bit topped = 0;
#define TOPPED topped = 1
#define FOUND_NOTHING assert(topped || phup)
#else
#define TOPPED skip
#define FOUND_NOTHING skip
#endif

#ifdef C_SPIN
#define TO_MARK(k) if :: consumer_waits == 2 -> mark = (mark < k -> -1 : mark - k) :: else fi
#define NO_MARK mark = 0
#else
#define TO_MARK(k) skip
#define NO_MARK skip
#endif
#ifdef M_MARK_IGNORED
#define BELOW_MARK consumer_waits == 2
#else
#define BELOW_MARK consumer_waits == 2 && data <= mark
#endif

#if defined(REST) && defined(TAKE_OVER)
#define P_DIES p_busy = 1
#define C_DIES c_busy = 1; looks = 1
#else
#define P_DIES skip
#define C_DIES skip
#endif
#ifdef TSO
#define RETIRED(buffer) buffer = 0
#else
#define RETIRED(buffer) skip
#endif
#ifdef TSO
byte p_buf = 0, c_buf = 0;     /* published by one side, still in its store buffer */
#define P_FREE (N - data - c_buf)
#define C_DATA (data - p_buf)
#define P_FENCE (p_buf == 0)
#define C_FENCE (c_buf == 0)
#define P_PUBLISH(k) data = data + k; p_buf = p_buf + k
#define C_PUBLISH(k) data = data - k; c_buf = c_buf + k; TO_MARK(k)
active proctype p_store_buffer() { end: do :: atomic { p_buf > 0 -> p_buf = 0 } od }
active proctype c_store_buffer() { end: do :: atomic { c_buf > 0 -> c_buf = 0 } od }
#else
#define P_FREE (N - data)
#define C_DATA data
#define P_FENCE skip
#define C_FENCE skip
#define P_PUBLISH(k) data = data + k
#define C_PUBLISH(k) data = data - k; TO_MARK(k)
#endif

/* One token to the doorbell; EPIPE when all readers are gone. */
inline send_token() {
  d_step {
    if
    :: chup
    :: else -> assert(q < HARD); q++; in_edge = 1
    fi
  }
}
#ifdef CRASH_PRODUCER
/* Each take-over sends one, whether or not somebody reads: the socket may be full. Then it is sent
   once this end is writable. */
#ifdef M_NO_RETRY
#define REFUSED d_step { consumer_waits = 1; NO_MARK }
#else
#define REFUSED owed = 1; d_step { consumer_waits = 1; NO_MARK }
#endif
inline try_token() {
  d_step {
    sent = (chup || q < HARD);
    if :: !chup && sent -> q++; in_edge = 1 :: else fi
  }
}
inline signal_token() {
  acc++;
  try_token();
  if :: !sent -> acc--; REFUSED :: else fi;
  sent = 0
}
#else
inline signal_token() {
#ifdef M_COUNT_AFTER
  send_token(); acc++
#else
  acc++; send_token()
#endif
}
#endif

/* Receives at most n tokens; fewer may be there. Only a killed holder is seen between the steps. */
inline take(n) {
#ifdef FORK_KILL
  d_step { got = (n > q -> q : n); q = q - got; if :: got > 0 && q < W -> out_edge = 1 :: else fi };
  d_step { acc = acc - got; got = 0 }
#else
  d_step {
    got = (n > q -> q : n); q = q - got; if :: got > 0 && q < W -> out_edge = 1 :: else fi;
    acc = acc - got; got = 0
  }
#endif
}

/* After taking a lock: did its last owner die in it? */
#ifdef FORK_KILL
inline recover_send() {
  if
  :: send_owner_died ->
#ifndef M_NO_SEND_RECOVERY
     inexact = 1; send_token(); inflight = 0;
#endif
     send_owner_died = 0
  :: else
  fi
}
inline recover_recv() {
  if
  :: recv_owner_died ->
#ifndef M_NO_RECV_RECOVERY
     inexact = 1;
#endif
     recv_owner_died = 0
  :: else
  fi
}
#define RECOVER_SEND recover_send()
#define RECOVER_RECV recover_recv()
#else
#define RECOVER_SEND skip
#define RECOVER_RECV skip
#endif
#define P_CLOSE \
  d_step { p_holders--; if :: p_holders == 0 -> phup = 1; in_edge = 1 :: else fi; p_stopped++ }

#ifdef CRASH_PRODUCER
inline token_for_all() {               /* uncounted */
  try_token();
  if :: !sent -> REFUSED :: else fi;
  sent = 0
}
#if defined(M_NO_TOKEN) || defined(M_TOKEN_BEFORE_HEAD)
#define LAST_TOKEN skip
#elif defined(M_TOKEN_IF_DATA)
#define LAST_TOKEN if :: data > 0 -> token_for_all() :: else fi
#elif defined(M_TOKEN_IF_ANNOUNCED)
#define LAST_TOKEN if :: consumer_waits != 0 -> token_for_all() :: else fi
#elif defined(M_COUNTED_TOKEN)
#define LAST_TOKEN acc++; token_for_all()
#else
#define LAST_TOKEN token_for_all()
#endif
#ifdef M_TOKEN_BEFORE_HEAD
#define FIRST_TOKEN token_for_all()
#else
#define FIRST_TOKEN skip
#endif
#ifdef M_OLD_HEAD
#define HEAD_AGAIN skip
#else
#define HEAD_AGAIN d_step { P_PUBLISH(moved); moved = 0 }
#endif
#ifdef M_TRUST_COUNT
#define DISTRUST skip
#else
#define DISTRUST d_step { P_FENCE -> inexact = 1 }
#endif
#ifdef END_FIN
#define GO_ON if :: ending -> goto ends :: else fi
#else
#define GO_ON skip
#endif
/* A new worker as the producer: vm_conn::go_on_from, then do_again. */
inline take_over_producer() {
  if
  :: dead ->
     FIRST_TOKEN;
     HEAD_AGAIN;
     DISTRUST;
     LAST_TOKEN;
     d_step { dead = 0; inflight = 0; out_edge = (q < W) };    /* its own epoll tells it anew */
     P_REST;
     GO_ON
  :: else
  fi
}
#endif

active [NP] proctype producer() {
  bit old; byte k;
#ifdef CRASH_PRODUCER
  bit sent;
#ifdef END_FIN
  bit ending = 0;                      /* the ledger says so */
#endif
new_worker:
  skip;
#endif
  {
#ifdef CRASH_PRODUCER
  take_over_producer();
#endif
  do
  :: !chup ->
write:
     P_BUSY;
#if NP > 1
     d_step { send_lock == 0 -> send_lock = _pid + 1 };
     RECOVER_SEND;
#endif
more:
     if
     :: P_FREE > 0 ->                  /* write some, or all that fits */
        if :: k = 1 :: k = P_FREE fi;
#ifdef CRASH_PRODUCER
        d_step { assert(moved == 0); moved = k; inflight = 1 };
        d_step { P_PUBLISH(k); moved = 0; k = 0 };
#else
        d_step { P_PUBLISH(k); inflight = 1; k = 0 };
#endif
#ifndef M_NO_FENCE_PRODUCER
        P_FENCE;
#endif
decide:
        if
        :: consumer_waits == 0 -> old = 0
#ifdef C_SPIN
        :: BELOW_MARK -> old = 0
#endif
#ifdef M_NO_DECISION
        :: else -> d_step { P_FENCE -> old = (consumer_waits != 0); consumer_waits = 0; NO_MARK }
#elif defined(M_DECISION_UNSEEN)
        :: else ->
           d_step { P_FENCE -> old = (consumer_waits != 0); consumer_waits = 0; NO_MARK };
           d_step { if :: old && P_FREE == N -> old = 0; consumer_waits = 1 :: else fi }
#else
        :: else ->
           if
           :: d_step { P_FENCE && consumer_waits != 0 -> consumer_waits = 3; NO_MARK }
           :: consumer_waits == 0 -> goto decide
           fi;
           old = (P_FREE < N);
           if
           :: d_step { consumer_waits == 3 -> consumer_waits = (old -> 0 : 1) }
           :: consumer_waits != 3 -> old = 0; goto decide
           fi
#endif
        fi;
        if :: old -> old = 0; signal_token() :: else fi;
        d_step { inflight = 0; send_lock = 0 };
        P_REST
     :: else ->                        /* full: top the tokens up until the end is not writable */
#ifndef M_NO_TOP_UP
        do
        :: q < W && !chup ->
           TOPPED; inflight = 1; signal_token(); inflight = 0;
#ifndef M_NO_LOOK_IN_TOP_UP
           if :: P_FREE > 0 -> goto more :: else fi
#endif
        :: else -> break
        od;
#endif
        send_lock = 0;
        P_REST;
        /* EAGAIN; a blocking call sleeps here too */
#ifdef P_EDGE
        do
        :: d_step { out_edge || chup -> out_edge = 0 };
           if :: q < W || chup -> break :: else fi
        od;
#else
        (q < W || chup);
#endif
        if :: !chup -> goto write :: else fi
     fi
#ifdef CRASH_PRODUCER
  :: d_step { owed && q < W -> owed = 0; P_BUSY };
#ifdef M_RETRY_IF_ANNOUNCED
     goto decide
#else
     inflight = 1; signal_token(); inflight = 0; P_REST
#endif
  :: !owed -> break
#else
  :: break
#endif
  :: chup -> break
  od;
#ifdef END_FIN
#ifdef CRASH_PRODUCER
  ending = 1;
ends:
#endif
  skip;
#ifdef FORK_KILL
  d_step { send_lock == 0 -> send_lock = _pid + 1 };
  RECOVER_SEND;
  send_lock = 0;
#endif
#ifdef M_FIN_AFTER_CLOSE
  d_step { p_users--; old = (p_users == 0) };
  P_CLOSE;
  if :: old -> fin = 1 :: else fi
#elif defined(CRASH_PRODUCER)
  fin = 1;
  P_CLOSE
#else
  d_step { p_users--; old = (p_users == 0) };
  if :: old -> fin = 1 :: else fi;
  P_CLOSE
#endif
#else
  p_stopped++
#endif
  }
#ifdef CRASH_PRODUCER
  unless { d_step { crash -> crash = 0; dead = 1; inflight = 1; old = 0; k = 0; sent = 0; owed = 0; RETIRED(p_buf); P_DIES };
progress_crashed:
    goto new_worker }
#endif
#ifdef KILL_PRODUCER
  unless { d_step { p_kill && _pid == 0 ->
    if
    :: send_lock == _pid + 1 -> send_lock = 0;
#ifdef FORK_KILL
       send_owner_died = 1
#else
       inflight = 0
#endif
    :: else
    fi;
    p_holders--; if :: p_holders == 0 -> phup = 1; in_edge = 1; inflight = 0 :: else fi;
    p_stopped++ } }
#endif
}

#ifdef CRASH_CONSUMER
/* A new worker as the consumer: vm_conn::go_on_from, then established(). */
inline take_over_consumer() {
  if
  :: dead ->
     /* tokens_taken = tokens_sent - what the socket holds, in either order */
#ifdef M_TRUST_ALL
     acc = 0;
#else
     if
     :: d = q; acc = d
     :: acc = 0; d_step { acc = acc + q }
     fi;
     d = 0;
#endif
     d_step {
#ifdef M_OLD_TAIL
       skip
#else
       C_PUBLISH(moved); moved = 0
#endif
     };
#ifndef M_TRUST_COUNT
     inexact = 1;
#endif
#ifndef M_NOT_AWAKE
     consumer_waits = 0;
#endif
#ifndef M_NO_RELIEF
     C_FENCE;
     d = (inexact -> q : acc) - 1;
     if :: d >= 1 && N - data >= HALF -> take(d) :: else fi;
#endif
     d = acc;
     if :: d > 0 -> take(d) :: else fi;
     d = 0;
     dead = 0;
     d_step { in_edge = (q > 0 || phup) };     /* its own epoll tells it anew */
     C_REST;
#ifdef M_SLEEP_FIRST
     goto sleep
#else
     goto call
#endif
  :: else
  fi
}
#endif

active [NR] proctype consumer() {
  short d, n; byte k, want, got; bit some = 0; byte prev = 0; bit answered = 0;
#ifdef EXACT
  bit again = 0;
#endif
#ifdef C_SPIN
  bit spun = 0;
#endif
#ifdef DAEMON
  byte idle = 0;
#endif
#ifdef CRASH_CONSUMER
new_worker:
  skip;
#endif
  {
  skip;                                /* spin wants no label first in a block */
#ifdef CRASH_CONSUMER
  take_over_consumer();
#endif
sleep:
  atomic { n = 0; d = 0; want = 0; some = 0 };
#ifdef EXACT
  again = 0;
#endif
  /* the application waits for IN */
#ifdef C_EDGE
  if
  :: d_step { in_edge -> in_edge = 0 };
     if :: q > 0 || phup :: else -> goto sleep fi
  :: p_stopped == NP && !phup && (data == 0 && inflight == 0 || send_owner_died) -> goto stop
  fi;
#else
  if
  :: q > 0 || phup
  :: p_stopped == NP && !phup && (data == 0 && inflight == 0 || send_owner_died) -> goto stop
  fi;
#endif
call:
  C_BUSY;
#if NR > 1
  d_step { recv_lock == 0 -> recv_lock = _pid + 1 };
  RECOVER_RECV;
#endif
  some = 0;
  if :: want = 1 :: want = N fi;
#ifdef EXACT
  if :: C_DATA == 0 && !again -> FOUND_NOTHING :: else fi;
  again = 1;
#endif
more:
  if
  :: C_DATA > 0 ->
     k = (C_DATA > want -> want : C_DATA);
progress_taken:
#ifdef CRASH_CONSUMER
     d_step { assert(moved == 0); moved = k };
     d_step { C_PUBLISH(k); moved = 0; want = want - k; some = 1; k = 0 };
#else
     d_step { C_PUBLISH(k); want = want - k; some = 1; k = 0 };
#endif
#ifndef M_NO_FENCE_CONSUMER
     C_FENCE;
#endif
     if
     :: C_DATA > 0 ->
#ifndef M_NO_ALL_BUT_ONE
        n = (inexact -> q : acc) - 1;
        if :: n >= 1 && N - data >= HALF -> take(n) :: else fi;
#endif
        if :: want > 0 -> goto more :: else -> n = 0; goto done_reading fi
     :: else
     fi
  :: else
  fi;
  /* the ring is empty */
#ifdef DAEMON
  if
  :: idle < 2 -> idle++;
     n = (inexact -> q : acc) - 1;
     if :: n >= 1 -> take(n) :: else fi;
     if :: idle == 1 -> consumer_waits = 0 :: else fi;     /* while it polls no token is wanted */
     n = 0; C_REST; goto call
  :: else -> idle = 0
  fi;
#endif
#ifdef C_SPIN
  /* a blocking call may spin: it lets go of the lock, and looks again some time later */
  if
  :: spun == 0 && want > 0 ->
     d_step {
       spun = 1;
       if :: consumer_waits == 1 -> consumer_waits = 2; mark = want :: else fi
     };
     recv_lock = 0;
#if NR > 1
     d_step { recv_lock == 0 -> recv_lock = _pid + 1 };
     RECOVER_RECV;
#endif
#ifdef M_SPIN_NO_SETTLE
     if :: C_DATA == 0 && !phup -> spun = 0; recv_lock = 0; C_REST; goto sleep :: else fi;
#endif
     if
     :: C_DATA > 0 ->
#ifdef M_SPIN_SHORT
        want = 1;
#endif
        goto more
     :: else
     fi
  :: skip
  fi;
  spun = 0;
#endif
  d = (inexact -> q : acc);
#ifdef M_TAKE_BEFORE_LOOK
  consumer_waits = 1; C_FENCE; d = acc; take(d);
  if :: C_DATA > 0 -> goto nonempty :: else fi;
settled:
  d = 0; answered = 0;
#else
#ifndef M_NO_ANNOUNCE
  d_step { prev = consumer_waits; consumer_waits = 1; NO_MARK }; C_FENCE;
#endif
#ifndef M_NO_LOOK_AGAIN
  if :: C_DATA > 0 -> goto nonempty :: else fi;
#endif
settled:
#ifdef M_DRAIN_ALL
  d = q;
#endif
#ifdef C_LAZY
  /* a short count to a program that waits for edges: a few tokens may stay, each further one is an edge */
  if :: d > 0 && (answered || !some || d > C_LAZY) -> take(d) :: else fi;
#else
  if :: d > 0 -> take(d) :: else fi;
#endif
  d_step { d = 0; prev = 0; answered = 0; SETTLED };
#endif
nothing:                               /* nothing to read: has the other side gone? */
  if
  :: some == 0 && phup ->
#ifndef M_NO_LOOK_AFTER_HUP
     if :: C_DATA > 0 -> goto more :: else fi;
#endif
     goto gone
  :: else
  fi;
  recv_lock = 0;
  C_REST;
#ifdef C_EDGE
  if :: some && phup -> goto call :: else fi;
#endif
#ifdef C_BLOCKING
  if :: some -> goto call :: else fi;
#elif defined(C_SPIN)
  if :: some -> goto call :: goto sleep fi;    /* reads on, or polls */
#endif
  goto sleep;
nonempty:
  /* answered, or sure to be: a token comes for what is there, and the call ends as if both came
     later; read now, the token would be left with an empty ring */
#ifdef M_NO_RETRACT
  answered = 0;
#else
  if
  :: RETRACT_IF -> d_step { answered = (consumer_waits == 0); consumer_waits = 0; NO_MARK }
  :: else -> answered = (prev != 2 && !inexact)
  fi;
#endif
  prev = 0;
#ifndef M_READS_ON
  if :: answered -> goto settled :: else fi;
#endif
  n = 0;
#ifndef M_LEAVE_ALL
  n = d - 1;
#endif
  d = 0;
  if :: n >= 1 -> take(n) :: else fi;
  n = 0;
#ifdef DAEMON
  recv_lock = 0; C_REST; goto call;
#endif
#ifdef M_SHORT_RETURN
  if :: some -> recv_lock = 0; C_REST; goto sleep :: else fi;
#endif
  if :: want > 0 -> goto more :: else fi;
done_reading:
  recv_lock = 0;
  C_REST;
#if defined(C_EDGE) || defined(C_BLOCKING) || defined(DAEMON)
  goto call;
#else
  if :: goto call :: goto sleep fi;
#endif
gone:                                  /* EOF or reset */
  if
  :: fin -> assert(data == 0); assert(p_holders == 0)
  :: else ->
#if defined(END_FIN) && !defined(KILL_PRODUCER)
     assert(false);
#endif
     assert(data == 0)
  fi;
  recv_lock = 0;
stop:
  skip
  }
#ifdef CRASH_CONSUMER
  unless { d_step { crash -> crash = 0; dead = 1; RETIRED(c_buf); C_DIES;
      d = 0; n = 0; k = 0; want = 0; got = 0; some = 0; prev = 0; answered = 0; idle = 0 };
progress_crashed:
    goto new_worker }
#endif
#ifdef KILL_CONSUMER
  unless { d_step { c_kill && _pid == NP ->
    if :: recv_lock == _pid + 1 -> recv_lock = 0; recv_owner_died = 1 :: else fi;
    c_holders--; if :: c_holders == 0 -> chup = 1; q = 0; out_edge = 1 :: else fi } }
#endif
}
#ifdef KILL_PRODUCER
active proctype kill_producer() { p_kill = 1 }
#endif
#ifdef KILL_CONSUMER
active proctype kill_consumer() { c_kill = 1 }
#endif
#ifdef TAKE_OVER
active proctype crasher() {
#if CRASHES
  byte left = CRASHES;
#endif
  do
#if CRASHES
  :: d_step { left > 0 && !crash -> crash = 1; left-- }
#else
  :: d_step { !crash -> crash = 1 }
#endif
  :: break
  od
}
#endif
