//! The threads that serve calls.
//!
//! One of them always waits for the next call, so that a slow one (a file system that does not answer) holds up nobody
//! else; when the last waiting one gets a call, it first starts another thread. One container may keep only some of
//! them busy: its further calls wait in a queue of their own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::caller::{self, Node, Proc};
use super::calls::{Call, Op};
use super::chown::Own;
use super::setid::{End, Folded};
use super::{calls, chown, setid};
use crate::journal::{Journal, Level, Subject};
use crate::sys::seccomp::{self, Answer, Notification};
use crate::sys::{identity, process};

/// Threads at most; one of them only waits.
const MAX_THREADS: usize = 64;
/// Calls of one container that are served at once.
const MAX_PER_CONTAINER: usize = 8;
const STACK: usize = 256 * 1024;
/// What has been told of; more is not.
const MAX_TOLD: usize = 1024;

/// A container, by the number of its mount namespace. 0: unknown.
type Container = u64;

struct Shared {
    listener: OwnedFd,
    node: Node,
    proc: Proc,
    journal: Mutex<Journal>,
    state: Mutex<State>,
    arrays_free: Condvar,
    counters: Counters,
}

#[derive(Default)]
struct State {
    threads: usize,
    waiting: usize,
    busy: HashMap<Container, usize>,
    queue: VecDeque<(Container, Notification)>,
    /// Threads whose call is being made again: what they ask meanwhile goes through.
    folding: HashSet<u32>,
    /// Processes of which one thread's setgroups array is replaced for a moment.
    arrays: HashSet<u32>,
    told: HashSet<(Container, u32)>,
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
        journal: Mutex::new(journal),
        state: Mutex::default(),
        arrays_free: Condvar::new(),
        counters: Counters::default(),
    });
    shared.state().threads += 1;
    start(&shared)?;
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

/// Starts a thread, which the caller has counted already.
fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    let work = move || {
        let own = identity::own_directories()
            .and_then(|()| Ok(Own { identity: caller::own_identity()?, root: File::open("/")?.into() }));
        match own {
            Ok(own) => shared.work(&own),
            Err(e) => shared.say(Level::Error, format!("a thread could not start: {e}")),
        }
    };
    thread::Builder::new().stack_size(STACK).spawn(work).map(drop)
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock; if it did, the state would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, level: Level, message: String) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).say(level, message);
    }

    fn work(self: &Arc<Shared>, own: &Own) {
        self.state().waiting += 1;
        loop {
            // Failures are of single calls: their caller died, or a signal came.
            let Ok(n) = seccomp::receive(self.listener.as_fd()) else { continue };
            let container = self.proc.namespace(n.tid, "mnt").unwrap_or_default();
            let mut next = self.admit(n, container);
            while let Some((container, n)) = next {
                self.handle(&n, container, own);
                next = self.finish(container);
            }
        }
    }

    /// What this thread is to do now: this call, if another thread waits for the next one meanwhile.
    fn admit(self: &Arc<Shared>, n: Notification, container: Container) -> Option<(Container, Notification)> {
        let mut state = self.state();
        if state.folding.contains(&n.tid) {
            drop(state);
            self.answer(&n, Answer::Continue);
            return None;
        }
        if state.busy.get(&container).is_some_and(|busy| *busy >= MAX_PER_CONTAINER) {
            state.queue.push_back((container, n));
            return None;
        }
        if state.waiting == 1 {
            let more = state.threads < MAX_THREADS && start(self).is_ok();
            if !more {
                state.queue.push_back((container, n));
                return None;
            }
            state.threads += 1;
        }
        state.waiting -= 1;
        *state.busy.entry(container).or_default() += 1;
        Some((container, n))
    }

    /// Notes that a call is done; the next one from the queue, if there is one that may be served.
    fn finish(&self, container: Container) -> Option<(Container, Notification)> {
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
        match &next {
            Some((container, _)) => *state.busy.entry(*container).or_default() += 1,
            None => state.waiting += 1,
        }
        next
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

    fn handle(&self, n: &Notification, container: Container, own: &Own) {
        let call = calls::arch(n.arch).and_then(|arch| arch.call(n.nr));
        match call {
            None => self.answer(n, Answer::Continue),
            Some(Call { op: Op::Uids(_) | Op::Gids(_) | Op::Groups, .. }) => {
                if let Some(call) = call {
                    self.set_ids(n, call, container);
                }
            }
            Some(call) => {
                let (first, _) = call.op.ids();
                let ids = [super::id(n.args[first], call.narrow), super::id(n.args[first + 1], call.narrow)];
                let answer = chown::fold(n, call.op, ids, (&self.proc, &self.node, own), || self.valid(n));
                if answer == Answer::Done {
                    self.tell(n, container, &ids);
                }
                self.answer(n, answer);
            }
        }
    }

    fn set_ids(&self, n: &Notification, call: Call, container: Container) {
        // libc sets the groups of all threads of a process from one array: one thread after the other may read it.
        let process = (call.op == Op::Groups).then(|| self.take_array(n.tid));
        match setid::plan(n, call, &self.proc, &self.node) {
            Ok(Some(folded)) => {
                self.state().folding.insert(n.tid);
                let answer = |answer| seccomp::send(self.listener.as_fd(), n.id, answer);
                let over = || {
                    self.state().folding.remove(&n.tid);
                };
                let end = setid::fold(n, &folded, &self.proc, answer, || self.valid(n), over);
                match end {
                    End::Made => {
                        self.counters.set_ids.fetch_add(1, Ordering::Relaxed);
                        if let Folded::Arguments(_) = folded {
                            let (_, count) = call.op.ids();
                            let ids: Vec<u32> = n.args[..count].iter().map(|a| super::id(*a, call.narrow)).collect();
                            self.tell(n, container, &ids);
                        }
                    }
                    End::Again => {}
                    End::Traced => {
                        self.say(Level::Warning, format!("thread {} is traced: its set-id call fails", n.tid));
                        self.answer(n, Answer::Errno(libc::EINVAL));
                    }
                }
            }
            Ok(None) => self.answer(n, Answer::Continue),
            Err(_) => self.answer(n, Answer::Errno(libc::EINVAL)),
        }
        if let Some(process) = process {
            self.state().arrays.remove(&process);
            self.arrays_free.notify_all();
        }
    }

    /// Waits until no other thread of this one's process has its array replaced.
    fn take_array(&self, tid: u32) -> u32 {
        let process = caller::Status::of(&self.proc, tid).map_or(tid, |status| status.process);
        let mut state = self.state();
        while !state.arrays.insert(process) {
            state = self.arrays_free.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        process
    }

    /// One line for each new id of a container, not for each call.
    fn tell(&self, n: &Notification, container: Container, ids: &[u32]) {
        let lacking = |id: &&u32| **id != super::NO_CHANGE && !self.node.uids.contains(**id);
        for id in ids.iter().filter(lacking) {
            let mut state = self.state();
            if state.told.len() >= MAX_TOLD || !state.told.insert((container, *id)) {
                continue;
            }
            drop(state);
            let place = self.node.uids.place(*id);
            let name = self.proc.read(n.tid, "comm").unwrap_or_default();
            let who = Subject { pod: &container.to_string(), namespace: "mnt", container: name.trim_end() };
            let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.about(Level::Info, &who, format_args!("id {id} is folded to {place}"));
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
