//! The threads that serve calls.
//!
//! One of them, the leader, receives a call, serves it and receives the next: the kernel wakes every thread that waits to
//! receive, so there is one only. Another stands by. When the leader is at one call for too long (a file system that does
//! not answer), the standby becomes the leader, and yet another thread stands by. A call that will ask again while it is
//! served (setgroups) has the leader hand over at once.
//!
//! One container may keep only some threads busy: its further calls wait in a queue.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::caller::Node;
use super::calls::{Call, Op};
use super::chown::Own;
use super::setid::{End, Folded};
use super::thread::{Credentials, Proc, Thread};
use super::{Kind, NO_CHANGE, calls, chown, setid};
use crate::journal::{Journal, Level};
use crate::sys::seccomp::{self, Answer, Notification};
use crate::sys::{identity, process};

/// Threads at most. One that waits for a file system takes little but address space.
const MAX_THREADS: usize = 4096;
/// Calls of one container that are served at once.
const MAX_PER_CONTAINER: usize = 256;
/// Threads that stand by at most; more end.
const MAX_STANDBY: usize = 4;
const STACK: usize = 128 * 1024;
/// What has been told of; more is not.
const MAX_TOLD: usize = 1024;
/// How long the leader may be at one call.
const TICK: Duration = Duration::from_millis(2);
/// Without calls for this long, the standby sleeps until the next one.
const QUIET: Duration = Duration::from_millis(50);
/// From this many on, calls whose callers have died are looked for in the queue.
const LONG_QUEUE: usize = 1024;

/// A container, by the number of its mount namespace. 0: unknown.
type Container = u64;

struct Shared {
    listener: OwnedFd,
    node: Node,
    proc: Proc,
    own: Own,
    journal: Mutex<Journal>,
    state: Mutex<State>,
    arrays_free: Condvar,
    /// For the standby.
    wake: Condvar,
    counters: Counters,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// The leader's turn; another thread that takes over begins a new one.
    turn: u64,
    /// How many calls the leader has received, and whether it is at one.
    calls: u64,
    serving: bool,
    /// How many threads stand by, and how many of them have to be woken; one is to take over now.
    standby: usize,
    asleep: usize,
    hand_over: bool,
    busy: HashMap<Container, usize>,
    queue: VecDeque<(Container, Notification)>,
    /// Threads whose call is being made again: what they ask meanwhile goes through.
    folding: HashSet<u32>,
    /// Processes of which one thread's setgroups array is replaced for a moment.
    arrays: HashSet<u32>,
    told: HashSet<(Container, Kind, u32)>,
}

#[derive(Default)]
struct Counters {
    chowns: AtomicU64,
    set_ids: AtomicU64,
    passed: AtomicU64,
    failed: AtomicU64,
}

/// Serves until nothing is left that the filter is on.
pub fn serve(listener: OwnedFd, node: Node, journal: Journal) -> io::Result<()> {
    let shared = Arc::new(Shared {
        listener,
        node,
        proc: Proc::open()?,
        own: Own { identity: Credentials::own()?.identity, root: File::open("/")?.into() },
        journal: Mutex::new(journal),
        state: Mutex::default(),
        arrays_free: Condvar::new(),
        wake: Condvar::new(),
        counters: Counters::default(),
    });
    process::raise_descriptor_limit()?;
    // The first two, and nothing is received before both are there: a call can be served without a third.
    {
        let mut state = shared.state();
        state.hand_over = true;
        start(&shared, &mut state)?;
    }
    let for_signals = Arc::clone(&shared);
    thread::Builder::new().stack_size(STACK).spawn(move || {
        loop {
            process::wait_usr1();
            for_signals.tell_counters();
        }
    })?;
    seccomp::wait_for_last(shared.listener.as_fd());
    Ok(())
}

/// Starts a thread that stands by.
fn start(shared: &Arc<Shared>, state: &mut State) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let work = move || {
        match identity::own_directories(shared.own.root.as_fd()) {
            Ok(()) => shared.work(),
            Err(e) => {
                // Callers get ENOSYS, and a service manager starts us again: better than a server that does not serve.
                shared.say(Level::Error, format!("a thread could not start: {e}"));
                std::process::exit(1);
            }
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(work)?;
    state.threads += 1;
    state.standby += 1;
    Ok(())
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, level: Level, message: String) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).say(level, message);
    }

    /// A thread's life: stands by, leads, and stands by again when another one has taken over.
    fn work(self: &Arc<Shared>) {
        loop {
            let turn = self.stand_by();
            // Most calls come from the thread of the last one. It may have joined another mount namespace since: then its
            // call is only counted and told as if it had not.
            let mut caller: Option<Thread> = None;
            while self.leads(turn) {
                // Failures are of single calls: their caller died, or a signal came.
                let Ok(n) = seccomp::receive(self.listener.as_fd()) else { continue };
                if caller.as_ref().is_none_or(|caller| caller.tid != n.tid) {
                    caller = Thread::open(&self.proc, n.tid).ok();
                }
                let container = caller.as_ref().map_or(0, |caller| caller.mount);
                if !self.admit(n, container, turn) {
                    continue;
                }
                let mut must_end = self.handle(&n, container, &mut caller) == Some(End::Killed);
                while let Some((container, n)) = self.finish(container, turn, &mut must_end) {
                    must_end |= self.handle(&n, container, &mut caller) == Some(End::Killed);
                }
                if must_end {
                    return;
                }
            }
            let mut state = self.state();
            if state.standby >= MAX_STANDBY {
                state.threads -= 1;
                return;
            }
            state.standby += 1;
        }
    }

    /// Whether nobody has taken over, or is about to.
    fn leads(&self, turn: u64) -> bool {
        let state = self.state();
        state.turn == turn && !state.hand_over
    }

    /// Waits until this thread is to lead; its turn.
    fn stand_by(self: &Arc<Shared>) -> u64 {
        let mut state = self.state();
        let mut active = Instant::now();
        while !state.hand_over {
            let (calls, serving) = (state.calls, state.serving);
            // Each counts itself: what one of them does must not make the others be forgotten.
            state = if !serving && active.elapsed() > QUIET {
                state.asleep += 1;
                let mut woken = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
                woken.asleep -= 1;
                woken
            } else {
                self.wake.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0
            };
            if state.calls != calls {
                active = Instant::now();
            } else if serving && state.serving {
                break;
            }
        }
        state.turn += 1;
        state.standby -= 1;
        (state.hand_over, state.serving) = (false, false);
        self.have_standby(&mut state);
        state.turn
    }

    /// Sees to it that a thread stands by. If none can be had now, the next call tries again; until then the leader serves
    /// alone.
    fn have_standby(self: &Arc<Shared>, state: &mut State) -> bool {
        state.standby > 0 || (state.threads < MAX_THREADS && start(self, state).is_ok())
    }

    /// Has the standby lead from now on. False: there is none.
    fn hand_over(self: &Arc<Shared>) -> bool {
        let mut state = self.state();
        let there = state.hand_over || self.have_standby(&mut state);
        state.hand_over = there;
        self.wake.notify_one();
        there
    }

    /// Whether this call is to be served now. Else it has been answered, or waits in the queue.
    fn admit(self: &Arc<Shared>, n: Notification, container: Container, turn: u64) -> bool {
        let mut state = self.state();
        if state.folding.contains(&n.tid) {
            drop(state);
            self.answer(&n, Answer::Continue);
            return false;
        }
        if state.busy.get(&container).is_some_and(|busy| *busy >= MAX_PER_CONTAINER) {
            if state.queue.len() >= LONG_QUEUE && state.queue.len().is_power_of_two() {
                state.queue.retain(|(_, n)| seccomp::is_waiting(self.listener.as_fd(), n.id));
            }
            state.queue.push_back((container, n));
            return false;
        }
        if state.turn == turn {
            state.calls += 1;
            state.serving = true;
        }
        *state.busy.entry(container).or_default() += 1;
        self.have_standby(&mut state);
        if state.asleep > 0 {
            self.wake.notify_all();
        }
        true
    }

    /// Notes that a call is done. The next one from the queue, if there is one that may be served now. None and
    /// `must_end`: this thread is no longer counted, and another one leads.
    fn finish(
        self: &Arc<Shared>,
        container: Container,
        turn: u64,
        must_end: &mut bool,
    ) -> Option<(Container, Notification)> {
        let mut state = self.state();
        if let Some(busy) = state.busy.get_mut(&container) {
            *busy -= 1;
            if *busy == 0 {
                state.busy.remove(&container);
            }
        }
        let may = |state: &State, c: &Container| state.busy.get(c).is_none_or(|busy| *busy < MAX_PER_CONTAINER);
        let next = (0..state.queue.len()).find(|i| may(&state, &state.queue[*i].0));
        let next = next.and_then(|i| state.queue.remove(i));
        if let Some((container, _)) = &next {
            *state.busy.entry(*container).or_default() += 1;
            return next;
        }
        if *must_end && state.turn == turn {
            // Somebody has to lead; if nobody can, a zombie is the smaller evil.
            state.hand_over = self.have_standby(&mut state);
            *must_end = state.hand_over;
            self.wake.notify_all();
        }
        if *must_end {
            state.threads -= 1;
        } else if state.turn == turn {
            state.serving = false;
        }
        None
    }

    fn answer(&self, n: &Notification, answer: Answer) {
        let counter = match answer {
            Answer::Continue => &self.counters.passed,
            Answer::Errno(_) => &self.counters.failed,
            Answer::Done => &self.counters.chowns,
            Answer::Restart => &self.counters.set_ids,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        // It fails where the caller is gone.
        let _ = seccomp::send(self.listener.as_fd(), n.id, answer);
    }

    fn valid(&self, n: &Notification) -> bool {
        seccomp::is_waiting(self.listener.as_fd(), n.id)
    }

    /// Serves one call; for a set-id call, how it ended.
    fn handle(self: &Arc<Shared>, n: &Notification, container: Container, held: &mut Option<Thread>) -> Option<End> {
        let call = calls::arch(n.arch).and_then(|arch| arch.call(n.nr));
        let caller = match Thread::turn_to(held, &self.proc, n.tid) {
            Ok(caller) => caller,
            // Most likely it is gone, and nobody waits for the answer.
            Err(e) => {
                self.answer(n, Answer::Errno(e.raw_os_error().unwrap_or(libc::ESRCH)));
                return None;
            }
        };
        match call {
            None => self.answer(n, Answer::Continue),
            // The registers of a 32-bit ARM program are of a layout that ptrace.rs does not know.
            Some(Call { op: Op::Uids(_) | Op::Gids(_) | Op::Groups, .. }) if n.arch == calls::ARM.audit => {
                self.answer(n, Answer::Continue);
            }
            Some(call @ Call { op: Op::Uids(_) | Op::Gids(_) | Op::Groups, .. }) => {
                return self.set_ids(n, call, container, caller);
            }
            Some(call) => {
                let (first, _) = call.op.ids();
                let ids = [super::id(n.args[first], call.narrow), super::id(n.args[first + 1], call.narrow)];
                let ours = (&self.proc, &self.node, &self.own);
                let answer = chown::fold(n, call.op, ids, ours, caller, || self.valid(n));
                if answer == Answer::Done {
                    self.tell(caller, container, &[(Kind::User, ids[0]), (Kind::Group, ids[1])]);
                }
                self.answer(n, answer);
            }
        }
        None
    }

    fn set_ids(self: &Arc<Shared>, n: &Notification, call: Call, container: Container, caller: &Thread) -> Option<End> {
        let mut ended = None;
        // libc sets the groups of all threads of a process from one array: one thread after the other may read it.
        let process = (call.op == Op::Groups).then(|| self.take_array(caller));
        match setid::plan(n, call, (&self.proc, &self.node), caller) {
            // It will ask again while it is served, and somebody has to be there to hear it.
            Ok(Some(folded)) if folded.asks_again(&self.node) && !self.hand_over() => {
                self.answer(n, Answer::Errno(libc::EAGAIN));
            }
            Ok(Some(folded)) => {
                self.state().folding.insert(n.tid);
                let answer = |answer| seccomp::send(self.listener.as_fd(), n.id, answer);
                let over = || {
                    self.state().folding.remove(&n.tid);
                };
                let end = setid::fold(n, &folded, caller, answer, || self.valid(n), over);
                ended = Some(end);
                match end {
                    End::Made => {
                        self.counters.set_ids.fetch_add(1, Ordering::Relaxed);
                        if let Folded::Arguments(_) = folded {
                            let (_, count) = call.op.ids();
                            let kind = if let Op::Uids(_) = call.op { Kind::User } else { Kind::Group };
                            let ids = n.args[..count].iter().map(|a| (kind, super::id(*a, call.narrow)));
                            self.tell(caller, container, &ids.collect::<Vec<_>>());
                        }
                    }
                    End::Again | End::Killed => {}
                    End::Traced => {
                        let mut state = self.state();
                        let new = state.told.len() < MAX_TOLD && state.told.insert((container, Kind::User, u32::MAX));
                        drop(state);
                        if new {
                            let why = "is traced, or may not be: its set-id calls with unmapped ids fail";
                            self.say(Level::Warning, format!("thread {} of mount namespace {container} {why}", n.tid));
                        }
                        self.answer(n, Answer::Errno(libc::EINVAL));
                    }
                }
            }
            Ok(None) => self.answer(n, Answer::Continue),
            Err(e) => self.answer(n, Answer::Errno(e.raw_os_error().unwrap_or(libc::EINVAL))),
        }
        if let Some(process) = process {
            self.state().arrays.remove(&process);
            self.arrays_free.notify_all();
        }
        ended
    }

    /// Waits until no other thread of this one's process has its array replaced.
    fn take_array(&self, caller: &Thread) -> u32 {
        let process = caller.process().unwrap_or(caller.tid);
        let mut state = self.state();
        while !state.arrays.insert(process) {
            state = self.arrays_free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        process
    }

    /// One line for each new id of a container, not for each call.
    fn tell(&self, caller: &Thread, container: Container, ids: &[(Kind, u32)]) {
        for (kind, id) in ids.iter().filter(|(kind, id)| *id != NO_CHANGE && !self.node.of(*kind).contains(*id)) {
            let mut state = self.state();
            if state.told.len() >= MAX_TOLD || !state.told.insert((container, *kind, *id)) {
                continue;
            }
            drop(state);
            let (what, place) = match kind {
                Kind::User => ("uid", self.node.uids.place(*id)),
                Kind::Group => ("gid", self.node.gids.place(*id)),
            };
            let name = caller.read(c"comm").unwrap_or_default();
            let name = name.trim_end();
            self.say(Level::Info, format!("{name} in mount namespace {container}: {what} {id} is folded to {place}"));
        }
    }

    fn tell_counters(&self) {
        let c = &self.counters;
        let [chowns, set_ids, passed, failed] =
            [&c.chowns, &c.set_ids, &c.passed, &c.failed].map(|n| n.load(Ordering::Relaxed));
        let (threads, queued) = {
            let state = self.state();
            (state.threads, state.queue.len())
        };
        self.say(
            Level::Info,
            format!(
                "folded {chowns} chown and {set_ids} set-id calls, let {passed} through, refused {failed}; \
                 {threads} threads, {queued} calls queued"
            ),
        );
    }
}
