//! A process that has the calls of one container made again, with other ids.
//!
//! Nobody can change the ids or files of a container with just the container's rights, and an answer to a notification
//! carries no arguments. But a thread that is told to make its call again stops on its way, and at the call's entry its
//! arguments are replaced. So it is the thread's own call; the kernel decides in truth whether it may be made.
//!
//! Between the answer and the entry the thread is in its own hands: it, or whoever shares its memory, can have it make
//! another call, or none. So nothing of it is changed before the entry of just this call is seen. Nothing here waits for
//! one thread: a loop takes what has come, from the receiver or from a thread, and a thread that never comes only keeps
//! its slot. Where the kernel makes us wait for somebody all the same, an alarm ends this process, and another one goes on
//! with its calls.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::NO_CHANGE;
use super::calls::{self, Call, Op};
use super::fold::{self, Plan};
use super::receiver::{PUT_BACK, Shared};
use super::table::{Count, Owner, State};
use super::thread::{Proc, Thread};
use crate::journal::Level;
use crate::map::kind::Kind;
use crate::sys::poll::Watch;
use crate::sys::process;
use crate::sys::ptrace::{self, ERESTARTNOINTR, ERESTARTSYS, Registers, Stop, Syscall};
use crate::sys::seccomp::{self, Answer, Notification};
use crate::sys::signal;

/// How long a thread may take to its call's entry before it is let go.
const PATIENCE: Duration = Duration::from_secs(1);
/// So often what comes next is looked for before it is waited for: it mostly comes within microseconds, and to be woken on
/// an idle processor takes longer. The thread may be on our processor, so it is given that each time.
const TRIES: u32 = 64;
/// A call that signals have interrupted so often on its way is made without them: else one who gets signals faster than
/// his call can be prepared would ask for ever.
const MAX_SIGNALS: u32 = 3;
/// Threads whose interruptions are counted.
const MAX_INTERRUPTED: usize = 1024;
/// Where the processor comes back later than this, others want it: one that waits is given it sooner than one that looks.
const BUSY: Duration = Duration::from_micros(50);
/// Seconds after which a worker that is at one thing is ended.
const STUCK: u32 = 3;
/// The alarm is set anew no more often than this.
const ALARM: Duration = Duration::from_millis(500);
/// Calls that are taken before threads that have stopped are looked at.
const AT_ONCE: usize = 64;
/// Threads that are on their way to their calls at once. Others are parked: to find out which one has stopped takes the
/// kernel longer the more there may be, and a thread that is stopped is not in the queue in which all containers wait.
const ON_THEIR_WAY: usize = 16;
/// Ids of a container that are told of in the log; more are not.
const MAX_TOLD: usize = 64;

/// A thread that we trace.
struct Held {
    slot: u32,
    n: Notification,
    /// None: to be worked out when it is its turn.
    plan: Option<Plan>,
    at: At,
    since: Instant,
    /// The signals that it blocks by itself, while all are blocked on its way.
    blocks: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// On its way to the stop that we asked for.
    Stop,
    /// Stopped there, until it is its turn.
    Parked,
    /// On its way to its call.
    Entry,
    /// In its call, with the folded arguments.
    Exit,
    /// On its way to a stop where it is let go.
    Leave,
    /// The same, and there it gets back what a dead worker has replaced.
    PutBack,
}

pub struct Worker<'a> {
    shared: &'a Shared,
    proc: Rc<Proc>,
    owner: Owner,
    calls: File,
    held: HashMap<u32, Held>,
    /// How often a thread's call has been interrupted on its way.
    signals: HashMap<u32, u32>,
    /// Threads that are parked.
    parked: VecDeque<u32>,
    /// Those of them whose calls have arrays: one array of a container is replaced at a time, since processes can share
    /// memory.
    parked_arrays: VecDeque<u32>,
    /// How many threads are at `At::Entry`.
    on_their_way: usize,
    /// Calls of threads that a dead worker of ours still holds, and since when.
    refused: Vec<(u32, Instant)>,
    array: Option<u32>,
    caller: Option<Thread>,
    pin: Option<PathBuf>,
    told: HashSet<(Kind, u32)>,
    told_of_tracer: bool,
    alarm: Option<Instant>,
}

impl<'a> Worker<'a> {
    /// A worker for what comes through this pipe: numbers of slots.
    pub fn new(shared: &'a Shared, proc: Rc<Proc>, owner: Owner, calls: OwnedFd) -> Worker<'a> {
        Worker {
            shared,
            proc,
            owner,
            calls: File::from(calls),
            held: HashMap::new(),
            signals: HashMap::new(),
            parked: VecDeque::new(),
            parked_arrays: VecDeque::new(),
            on_their_way: 0,
            refused: Vec::new(),
            array: None,
            caller: None,
            pin: None,
            told: HashSet::new(),
            told_of_tracer: false,
            alarm: None,
        }
    }

    /// Works until the receiver closes the pipe and nothing is left to do.
    pub fn work(&mut self) -> io::Result<()> {
        let waiter = signal::catch(&[libc::SIGCHLD])?;
        ptrace::reap_while_seizing()?;
        signal::die_of_alarm()?;
        let mut open = true;
        let mut idle = 0;
        let mut looked = Instant::now();
        while open || !self.held.is_empty() || !self.refused.is_empty() {
            let mut busy = false;
            // Not only when there is nothing else to do: somebody who calls all the time must not keep others here.
            if looked.elapsed() >= PATIENCE / 4 {
                self.set_alarm();
                self.let_late_ones_go();
                looked = Instant::now();
            }
            for _ in 0..AT_ONCE {
                self.set_alarm();
                match self.next() {
                    _ if !open => break,
                    Ok(Some(slot)) => {
                        match slot & PUT_BACK {
                            0 => self.begin(slot, Instant::now()),
                            _ => self.begin_to_put_back(slot & !PUT_BACK),
                        }
                        self.shared.table.taken(self.owner.worker.into()).fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(None) => open = false,
                    Err(_) => break,
                }
                busy = true;
            }
            for (tid, stop) in std::iter::from_fn(ptrace::stopped).take(AT_ONCE) {
                busy = true;
                self.set_alarm();
                self.went_on(tid, stop);
            }
            self.go_on();
            if busy {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < TRIES {
                let start = Instant::now();
                process::yield_now();
                if start.elapsed() > BUSY {
                    idle = TRIES;
                }
                continue;
            }
            let timeout = match (self.refused.is_empty(), self.held.is_empty()) {
                (false, _) => Some(Duration::from_millis(1)),
                (true, false) => Some(PATIENCE / 4),
                (true, true) => None,
            };
            self.alarm = None;
            signal::alarm(0);
            let calls = if open { Watch::Input(self.calls.as_fd()) } else { Watch::Nothing };
            waiter.wait([calls], timeout);
            self.set_alarm();
            for (slot, since) in std::mem::take(&mut self.refused) {
                self.begin(slot, since);
            }
        }
        Ok(())
    }

    /// What is done next may make this process wait in the kernel: for another one that executes a program (seize), or for
    /// another one's memory.
    fn set_alarm(&mut self) {
        if self.alarm.is_none_or(|set| set.elapsed() > ALARM) {
            self.alarm = Some(Instant::now());
            signal::alarm(STUCK);
        }
    }

    /// The next call's slot. None: there will be none. WouldBlock: not yet.
    fn next(&mut self) -> io::Result<Option<u32>> {
        let mut number = [0; 4];
        // Written whole, so read whole.
        Ok((self.calls.read(&mut number)? == 4).then(|| u32::from_ne_bytes(number)))
    }

    fn answer(&self, slot: u32, answer: Answer) {
        let slot = self.shared.table.slot(slot);
        self.shared.answer(&slot, answer);
        self.shared.table.done(self.owner.worker.into()).fetch_add(1, Ordering::Relaxed);
    }

    /// Begins with a call, or has it wait.
    fn begin(&mut self, slot: u32, since: Instant) {
        let n = self.shared.table.slot(slot).call();
        // The registers of a 32-bit ARM program are of a layout that ptrace.rs does not know.
        let Some(call) = call(&n).filter(|_| n.arch != calls::ARM.audit) else {
            return self.answer(slot, Answer::Continue);
        };
        if let Some(held) = self.held.get(&n.tid) {
            match held.at {
                // It asks once more for the call that it is in, but not as it should: the kernel is to say what is wrong.
                At::Exit => return self.answer(slot, Answer::Continue),
                // It has asked anew before it came to its stop.
                _ if self.restart(slot, n.tid) => return,
                // It is not ours any more.
                _ => drop(self.take(n.tid).map(|held| self.end(held, 0))),
            }
        }
        // What is in memory while somebody else's array is replaced may be that one's.
        let plan = match (!call.op.has_array() || self.array.is_none()).then(|| self.plan(&n)).transpose() {
            Ok(Some(Plan::LetThrough)) => return self.answer(slot, Answer::Continue),
            Ok(Some(Plan::Refuse(errno))) => return self.answer(slot, Answer::Errno(errno)),
            // Most likely it is gone, and nobody waits for the answer.
            Err(e) => return self.answer(slot, Answer::Errno(e.raw_os_error().unwrap_or(libc::ESRCH))),
            Ok(plan) => plan,
        };
        let valid = || seccomp::is_waiting(self.shared.listener.as_fd(), n.id);
        // One that is dead, and that nobody has reaped, can hold up whoever tries to trace it: see set_alarm.
        if !valid() {
            return self.answer(slot, Answer::Errno(libc::ESRCH));
        }
        let seized = ptrace::seize(n.tid).or_else(|e| match self.tracer(n.tid).as_str() {
            // It has just been let go; or else nobody may trace it.
            "0" => ptrace::seize(n.tid),
            _ => Err(e),
        });
        if seized.is_err() {
            // A dying thread says EPERM as well.
            if valid() {
                // One that we let go while it was not stopped, which had no effect.
                if self.restart(slot, n.tid) {
                    return;
                }
                if since.elapsed() < PATIENCE && self.is_about_to_be_let_go(n.tid) {
                    return self.refused.push((slot, since));
                }
                self.tell_of_tracer(n.tid);
            }
            return self.answer(slot, Answer::Errno(libc::EINVAL));
        }
        let mut at = At::Leave;
        if ptrace::interrupt(n.tid).is_ok() {
            at = At::Stop;
            // Before Linux 5.19 the interrupt has ended the wait by itself, and there is nothing to answer any more. Should the
            // number have become another thread's before it was seized: that one is let go at its stop, as it makes no such call.
            let _ = seccomp::send(self.shared.listener.as_fd(), n.id, Answer::Restart);
        }
        self.held.insert(n.tid, Held { slot, n, plan, at, since: Instant::now(), blocks: None });
    }

    fn plan(&mut self, n: &Notification) -> io::Result<Plan> {
        let Some(call) = call(n) else { return Ok(Plan::LetThrough) };
        let caller = Thread::turn_to(&mut self.caller, &self.proc, n.tid);
        fold::plan(n, call, &self.shared.node, caller, &mut self.pin)
    }

    /// A thread that we trace, as somebody who is to decide what becomes of it.
    fn take(&mut self, tid: u32) -> Option<Held> {
        let held = self.held.remove(&tid)?;
        self.on_their_way -= usize::from(held.at == At::Entry);
        Some(held)
    }

    /// Has parked threads go on to their calls, as many as may.
    fn go_on(&mut self) {
        while self.on_their_way < ON_THEIR_WAY {
            let array = if self.array.is_none() { self.parked_arrays.pop_front() } else { None };
            let Some(tid) = array.or_else(|| self.parked.pop_front()) else { return };
            // It may have died, and its number be another one's.
            if self.held.get(&tid).is_none_or(|held| held.at != At::Parked) {
                continue;
            }
            let Some(mut held) = self.take(tid) else { continue };
            match self.resume(&mut held) {
                Ok(()) => {
                    (held.at, held.since) = (At::Entry, Instant::now());
                    self.on_their_way += 1;
                    self.held.insert(tid, held);
                }
                Err(_) => self.end(held, 0),
            }
        }
    }

    /// Has a thread that we trace make its call again, after a stop. False: we do not. Without a stop to come the kernel would
    /// not make the call again, but return this answer.
    fn restart(&self, slot: u32, tid: u32) -> bool {
        let ours = ptrace::interrupt(tid).is_ok();
        if ours {
            self.answer(slot, Answer::Restart);
        }
        ours
    }

    /// Begins with a thread that a dead worker has left in its call.
    fn begin_to_put_back(&mut self, slot: u32) {
        let (n, folded) = (self.shared.table.slot(slot).call(), self.shared.table.slot(slot).folded());
        let plan = match (call(&n).is_some_and(|call| call.op.has_array()), self.undo().noted()) {
            (true, Some((tid, address, theirs, ours))) if tid == n.tid => {
                match Thread::open(&self.proc, tid).memory() {
                    Ok(memory) => {
                        self.array = Some(tid);
                        Plan::Array { address, theirs, ours, memory, program: self.undo().program() }
                    }
                    Err(_) => Plan::LetThrough,
                }
            }
            (true, _) => Plan::LetThrough,
            (false, _) => Plan::Arguments(folded),
        };
        let held = Held { slot, n, plan: Some(plan), at: At::PutBack, since: Instant::now(), blocks: None };
        match ptrace::seize(n.tid).and_then(|()| ptrace::interrupt(n.tid)) {
            Ok(()) => {
                // Should it be waiting for an answer to this call still.
                let _ = seccomp::send(self.shared.listener.as_fd(), n.id, Answer::Restart);
                self.held.insert(n.tid, held);
            }
            // It is gone.
            Err(_) => self.end(held, 0),
        }
    }

    /// Puts back what a dead worker has replaced, as far as the thread has not gone on from there.
    fn put_back(&self, held: &Held) -> io::Result<()> {
        let n = &held.n;
        match &held.plan {
            Some(Plan::Arguments(folded)) => {
                let mut regs = Registers::read(n.tid)?;
                if regs.are_of(is_old(n), n.ip, *folded) {
                    regs.set_arguments(is_old(n), *folded, n.args);
                    regs.write(n.tid)?;
                }
                Ok(())
            }
            Some(Plan::Array { address, theirs, ours, memory, program }) => {
                let mut now = vec![0; ours.len()];
                fold::read(memory, *address, &mut now);
                // It may have run another program by the time that its memory was opened, one that is not its own to change.
                match now == *ours && Thread::open(&self.proc, n.tid).program()? == *program {
                    true => memory.write_all_at(theirs, *address),
                    false => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    /// A thread has stopped, or is gone.
    fn went_on(&mut self, tid: u32, stop: Stop) {
        let Some(mut held) = self.take(tid) else {
            // It was let go while it was not stopped, which had no effect; or it has died. Or the kernel has made us its tracer
            // since it was made by a thread that we trace (CLONE_PTRACE), before that one was where we can see what it does.
            let signal = if let Stop::Signal(signal) = stop { signal } else { 0 };
            let _ = ptrace::detach(tid, signal);
            return;
        };
        if held.at == At::PutBack && stop != Stop::Gone {
            let _ = self.put_back(&held);
        }
        match (held.at, stop) {
            (At::Stop, Stop::Trap) => {
                held.at = At::Parked;
                let has_array = call(&held.n).is_some_and(|call| call.op.has_array());
                if has_array { &mut self.parked_arrays } else { &mut self.parked }.push_back(tid);
                self.held.insert(tid, held);
            }
            (At::Entry, Stop::Syscall) if self.enter(&mut held).is_ok() => {
                held.at = At::Exit;
                self.held.insert(tid, held);
            }
            (At::Exit, Stop::Syscall) => {
                let _ = self.leave(&held);
                self.end(held, 0);
            }
            (_, Stop::Signal(signal)) => {
                self.interrupted(tid);
                self.end(held, signal);
            }
            _ => self.end(held, 0),
        }
    }

    /// Lets it go on to its call from the stop that we asked for.
    fn resume(&mut self, held: &mut Held) -> io::Result<()> {
        let tid = held.n.tid;
        let plan = match held.plan.take() {
            Some(plan) => plan,
            None => self.plan(&held.n)?,
        };
        if let Plan::Array { .. } = plan {
            self.array = Some(tid);
        }
        held.plan = Some(plan);
        if !Registers::read(tid)?.restarts(held.n.nr) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if self.signals.get(&tid).is_some_and(|signals| *signals >= MAX_SIGNALS) {
            held.blocks = Some(ptrace::block_signals(tid)?);
        }
        ptrace::to_syscall(tid)
    }

    /// It is about to make a call: if that is the one that was asked about, with the folded arguments.
    fn enter(&self, held: &mut Held) -> io::Result<()> {
        // A call that changes ids may have to ask once more, and takes no time.
        if call(&held.n).is_some_and(|call| !call.op.is_set_id()) {
            unblock(held);
        }
        let n = &held.n;
        let now = Syscall::read(n.tid)?;
        if (now.entry(), now.arch, now.ip, now.args) != (Some(n.nr), n.arch, n.ip, n.args) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let slot = self.shared.table.slot(held.slot);
        match &held.plan {
            Some(Plan::Arguments(folded)) => {
                slot.set_folded(*folded);
                slot.set(State::Folded, self.owner);
                self.replace(n, n.args, *folded)?;
                return ptrace::to_syscall(n.tid);
            }
            Some(Plan::Array { address, theirs, ours, memory, program }) => {
                self.undo().note(n.tid, *program, *address, theirs, ours);
                // A part of it may have been written. Where nothing can be (a shared mapping that is only to be read), the
                // call is made as it is.
                if memory.write_all_at(ours, *address).is_err() {
                    let _ = memory.write_all_at(theirs, *address);
                }
            }
            _ => {}
        }
        // Not before: what the thread asks once more is let through from now on.
        slot.set_folded(n.args);
        slot.set(State::Folded, self.owner);
        ptrace::to_syscall(n.tid)
    }

    /// Its call is over: puts back what was replaced, and keeps the result.
    fn leave(&mut self, held: &Held) -> io::Result<()> {
        let n = &held.n;
        let now = Syscall::read(n.tid)?;
        if !now.is_exit() {
            return Ok(());
        }
        let mut regs = Registers::read(n.tid)?;
        let mut result = regs.result();
        let mut folded = result >= 0;
        match &held.plan {
            Some(Plan::Arguments(folded)) => regs.set_arguments(is_old(n), *folded, n.args),
            Some(Plan::Array { address, theirs, memory, .. }) => memory.write_all_at(theirs, *address)?,
            Some(Plan::Refuse(errno)) if result < 0 && result != -ERESTARTSYS => result = -errno,
            _ => folded = false,
        }
        // On ARM the result is in the first argument's register. A call that was interrupted while it asked again is made
        // anew: by itself it never returns EINTR.
        regs.set_result(if result == -ERESTARTSYS { -ERESTARTNOINTR } else { result });
        regs.write(n.tid)?;
        match result == -ERESTARTSYS {
            true => self.interrupted(n.tid),
            false => drop(self.signals.remove(&n.tid)),
        }
        if folded {
            self.tell(n);
        }
        Ok(())
    }

    /// A signal has come before a call was made.
    fn interrupted(&mut self, tid: u32) {
        if self.signals.len() >= MAX_INTERRUPTED {
            self.signals.clear();
        }
        *self.signals.entry(tid).or_default() += 1;
    }

    fn replace(&self, n: &Notification, from: [u64; 6], to: [u64; 6]) -> io::Result<()> {
        let mut regs = Registers::read(n.tid)?;
        regs.set_arguments(is_old(n), from, to);
        regs.write(n.tid)
    }

    fn undo(&self) -> super::table::Undo {
        self.shared.table.undo(self.owner.worker.into())
    }

    /// Lets a stopped thread go, with this signal. One that has died meanwhile is reaped later.
    fn end(&mut self, mut held: Held, signal: i32) {
        if self.array == Some(held.n.tid) {
            self.undo().clear();
            self.array = None;
        }
        // Before it goes on: what it asks from then on is about another call.
        self.shared.table.slot(held.slot).free();
        unblock(&mut held);
        let _ = ptrace::detach(held.n.tid, signal);
        self.shared.table.done(self.owner.worker.into()).fetch_add(1, Ordering::Relaxed);
    }

    /// Stops those that do not come to their call; forgets those that have become other threads.
    fn let_late_ones_go(&mut self) {
        let late = |held: &Held| held.at != At::Parked && held.since.elapsed() > PATIENCE;
        let mut gone = Vec::new();
        for (tid, held) in self.held.iter_mut().filter(|(_, held)| late(held)) {
            held.since = Instant::now();
            // Inside its call it is not to be disturbed: that takes as long as it takes.
            let there = match held.at {
                At::Exit | At::PutBack => {
                    Thread::open(&self.proc, *tid).read(c"status").is_ok_and(|status| is_ours(&status))
                }
                _ => ptrace::interrupt(*tid).is_ok(),
            };
            if held.at == At::Entry {
                held.at = At::Leave;
                self.on_their_way -= 1;
            }
            if !there {
                gone.push(*tid);
            }
        }
        for tid in gone {
            if let Some(held) = self.take(tid) {
                self.end(held, 0);
            }
        }
    }

    /// One line for each new id of a container, not for each call.
    fn tell(&mut self, n: &Notification) {
        let Some(call) = call(n) else { return };
        let (kinds, count) = match call.op {
            Op::Groups => return self.shared.table.count(Count::SetIds),
            Op::Xattr | Op::Xattrat => return self.shared.table.count(Count::Chowns),
            Op::Uids(_) => ([Kind::Uid; 3], Count::SetIds),
            Op::Gids(_) => ([Kind::Gid; 3], Count::SetIds),
            _ => ([Kind::Uid, Kind::Gid, Kind::Gid], Count::Chowns),
        };
        self.shared.table.count(count);
        let (first, ids) = call.op.ids();
        for (argument, kind) in n.args[first..first + ids].iter().zip(kinds) {
            let id = super::id(*argument, call.narrow);
            if id == NO_CHANGE || self.shared.node.of(kind).contains(id) || self.told.len() >= MAX_TOLD {
                continue;
            }
            if self.told.insert((kind, id)) {
                let name = Thread::open(&self.proc, n.tid).read(c"comm").unwrap_or_default();
                self.shared.tell(name.trim_end(), kind, id);
            }
        }
    }

    /// The tracer of a thread; "0": none, or one outside of our pid namespace.
    fn tracer(&self, tid: u32) -> String {
        let status = Thread::open(&self.proc, tid).read(c"status").unwrap_or_default();
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        tracer.unwrap_or_default().trim().to_owned()
    }

    /// Whether a thread's tracer is one of ours, or dying: one that is about to be gone, and has closed its files (which is
    /// how its end is seen) but not yet let go.
    fn is_about_to_be_let_go(&self, tid: u32) -> bool {
        let tracer = self.tracer(tid);
        match std::fs::read_link(format!("/proc/{tracer}/exe")) {
            Ok(exe) => std::fs::read_link("/proc/self/exe").is_ok_and(|own| own == exe),
            Err(_) => tracer != "0",
        }
    }

    fn tell_of_tracer(&mut self, tid: u32) {
        if !std::mem::replace(&mut self.told_of_tracer, true) {
            let why = "is traced, or may not be: its chown and set-id calls with unmapped ids fail";
            self.shared.say(Level::Warning, format_args!("thread {tid} {why}"));
        }
    }
}

fn call(n: &Notification) -> Option<Call> {
    calls::arch(n.arch).and_then(|arch| arch.call(n.nr))
}

/// Takes back what `resume` has done to a thread's signals.
fn unblock(held: &mut Held) {
    if let Some(mask) = held.blocks.take() {
        // It may be gone.
        let _ = ptrace::set_blocked_signals(held.n.tid, mask);
    }
}

/// Whether a thread's status says that this process traces it.
fn is_ours(status: &str) -> bool {
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() == std::process::id().to_string())
}

/// Whether this is x86's 32-bit way, whose arguments are in other registers.
fn is_old(n: &Notification) -> bool {
    n.arch == calls::I386.audit
}
