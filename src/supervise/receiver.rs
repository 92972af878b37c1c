//! The process that receives calls.
//!
//! It finds out whose a call is and hands it to the worker of that container; it waits for nobody. The one call that it
//! makes itself is the node root's chown (own.rs), and if that hangs the keeper starts another receiver.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::caller::{Ids, Node};
use super::calls;
use super::keeper::Keeper;
use super::table::{Count, MAX_WORKERS, Owner, SLOTS, Slot, State, Table, Word};
use super::thread::{Proc, Thread};
use super::worker::Worker;
use super::{NO_CHANGE, own};
use crate::journal::{Journal, Level};
use crate::map::kind::Kind;
use crate::sys::descriptor;
use crate::sys::fork;
use crate::sys::poll::Watch;
use crate::sys::process;
use crate::sys::seccomp::{self, Answer, Notification};
use crate::sys::signal::{self, Waiter};

/// A worker without calls for this long is ended when another one is needed.
const IDLE: Duration = Duration::from_secs(10);
/// The kernel has one queue for the calls of all containers, and to find one in it takes longer the more there are that
/// have been received and not answered: 0.6 us with 100, 123 us with 5000. So the receiver waits for a worker that has been
/// handed this many more than it has taken: what is not received yet costs nothing.
const MANY: u64 = 32;
/// How long it waits for one, at most, and how much of that each call earns that a worker takes: else a container whose
/// calls take long to take could have it wait for each of them.
const PATIENCE: Duration = Duration::from_millis(1);
const EARNED: Duration = Duration::from_micros(50);
/// Free slots that are looked up at once.
const FREE: usize = 256;
/// Ids of the node's root that are told of in the log.
const MAX_TOLD: usize = 256;

/// With a slot's number: its thread is to get back what was there.
pub const PUT_BACK: u32 = 1 << 31;

/// What all processes of supervise have.
pub struct Shared {
    /// Where calls come from and answers go to.
    pub listener: OwnedFd,
    pub table: Table,
    pub node: Node,
    pub journal: Journal,
}

impl Shared {
    /// Answers a call and empties its slot.
    pub fn answer(&self, slot: &Slot, answer: Answer) {
        self.table.count(match answer {
            Answer::Continue => Count::Passed,
            Answer::Errno(_) | Answer::Restart => Count::Failed,
            Answer::Done => Count::Chowns,
        });
        // It fails where the caller is gone.
        let _ = seccomp::send(self.listener.as_fd(), slot.call().id, answer);
        slot.free();
    }

    /// Writes a message.
    pub fn say(&self, level: Level, message: impl Display) {
        self.journal.say(level, message);
    }

    /// Tells where an id goes.
    pub fn tell(&self, name: &str, kind: Kind, id: u32) {
        let place = self.node.of(kind).place(id);
        self.say(Level::Info, format_args!("{name}: {kind} {id} is folded to {place}"));
    }
}

/// A worker, as its receiver knows it.
struct Known {
    number: u16,
    calls: File,
    given: u64,
    /// How many it had taken when that was last looked at.
    taken: u64,
    /// For so long it may still be waited for.
    patience: Duration,
    /// When the last one was.
    last: Instant,
}

/// The receiver.
pub struct Receiver<'a, 'k> {
    shared: &'a Shared,
    keeper: &'k mut Keeper<'a>,
    /// Whether the keeper is a child of ours; else it is our parent.
    has_keeper: bool,
    /// There is none, and none could be started so far.
    lacks_keeper: bool,
    turn: u32,
    proc: Rc<Proc>,
    workers: HashMap<u64, Known>,
    /// The numbers of all workers that live, by pid; some of them are about to end.
    numbers: HashMap<u32, u16>,
    free: Vec<u32>,
    /// The slot of a thread's last call that a worker has.
    slots: HashMap<u32, u32>,
    caller: Option<Thread>,
    told: HashSet<(Kind, u32)>,
}

impl<'a, 'k> Receiver<'a, 'k> {
    /// Serves until nothing is left that the filter is on, or somebody else receives.
    pub fn run(shared: &'a Shared, keeper: &'k mut Keeper<'a>, turn: u32, ready: impl FnOnce()) -> io::Result<()> {
        // What the node's root may do in the name of a group, it may do by itself.
        process::drop_groups();
        process::raise_descriptor_limit()?;
        process::take_short_turns();
        let waiter = signal::catch(&[libc::SIGCHLD, libc::SIGUSR1, libc::SIGUSR2])?;
        let mut receiver = Receiver {
            shared,
            keeper,
            has_keeper: false,
            lacks_keeper: false,
            turn,
            proc: Rc::new(Proc::open()?),
            workers: HashMap::new(),
            numbers: HashMap::new(),
            free: Vec::new(),
            slots: HashMap::new(),
            caller: None,
            told: HashSet::new(),
        };
        if !signal::on_death_of(receiver.keeper.pid(), libc::SIGUSR2) {
            receiver.have_keeper();
        }
        receiver.adopt();
        ready();
        receiver.receive(&waiter);
        // Somebody else receives. The workers end when they have done what they have in hand.
        receiver.workers.clear();
        for pid in receiver.numbers.keys() {
            let _ = fork::wait_child(*pid);
        }
        Ok(())
    }

    fn is_our_turn(&self) -> bool {
        self.shared.table.word(Word::Turn).load(Ordering::Acquire) == u64::from(self.turn)
    }

    fn receive(&mut self, waiter: &Waiter) {
        let listener = self.shared.listener.as_fd();
        while self.is_our_turn() {
            let [ready] = waiter.wait([Watch::Input(listener)], None);
            self.look_around();
            if ready.hangup {
                // Nothing is left that the filter is on, nor anything for the workers to do.
                fork::exit_now(0);
            }
            let Some(number) = self.free_slot().filter(|_| ready.ready) else { continue };
            let slot = self.shared.table.slot(number);
            slot.set(State::Received, Owner { turn: self.turn, worker: 0 });
            // Failures are of single calls: their caller died.
            match seccomp::receive(listener, slot.words()) {
                Ok(()) => self.route(number),
                Err(_) => slot.free(),
            }
        }
    }

    fn look_around(&mut self) {
        let turn = self.turn;
        if signal::came(libc::SIGCHLD) {
            while let Some((pid, status)) = fork::reap() {
                if self.has_keeper && pid == self.keeper.pid() {
                    self.have_keeper();
                }
                if let Some(number) = self.numbers.remove(&pid) {
                    if fork::exit_code(status) == 128 + libc::SIGALRM as u8 {
                        let why = "was kept waiting by its container; another one goes on with its calls";
                        self.shared.say(Level::Warning, format_args!("a worker {why}"));
                    }
                    self.workers.retain(|_, worker| worker.number != number);
                    self.take_over(|owner| owner == Owner { turn, worker: number });
                    self.shared.table.give_back(number);
                }
            }
        }
        if signal::came(libc::SIGUSR2) {
            if !self.has_keeper && fork::parent() != self.keeper.pid() {
                self.have_keeper();
            }
            self.adopt();
        }
        if self.lacks_keeper {
            self.have_keeper();
        }
        if signal::came(libc::SIGUSR1) {
            let [chowns, set_ids, passed, failed] = self.shared.table.counts();
            let workers = self.workers.len();
            let message = format_args!(
                "folded {chowns} chown and {set_ids} set-id calls, let {passed} through, refused {failed}; {workers} workers"
            );
            self.shared.say(Level::Info, message);
        }
    }

    /// Starts another keeper. Only whoever receives does that.
    fn have_keeper(&mut self) {
        if self.shared.table.word(Word::Ending).load(Ordering::Acquire) == 1 || !self.is_our_turn() {
            return;
        }
        if !self.lacks_keeper {
            self.shared.say(Level::Warning, "the process that keeps the others has died; another one is started");
        }
        let started = self.keeper.start_again();
        self.has_keeper |= started.is_ok();
        if let Err(e) = &started
            && !self.lacks_keeper
        {
            self.shared.say(Level::Error, format_args!("cannot start it, and tries again with the next call: {e}"));
        }
        self.lacks_keeper = started.is_err();
    }

    /// A slot that nothing is in. None: there is none, for the moment.
    fn free_slot(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let table = self.shared.table;
            // Those that were used before first.
            let free = table.used().filter(|number| table.slot(*number).state().0 == State::Free);
            self.free = free.take(FREE).collect();
            if self.free.is_empty() {
                let used = table.used().end;
                self.free = (used..SLOTS.min(used + FREE as u32)).collect();
                table.word(Word::Used).store((used + self.free.len() as u32).into(), Ordering::Release);
            }
            self.slots.retain(|_, number| table.slot(*number).state().0 != State::Free);
            self.free.reverse();
        }
        if self.free.is_empty() {
            // Each of the threads of this machine waits.
            sleep(Duration::from_millis(1));
        }
        self.free.pop()
    }

    /// Finds out whose a call is and hands it over.
    fn route(&mut self, number: u32) {
        let slot = self.shared.table.slot(number);
        let n = slot.call();
        if let Some(first) = self.slots.get(&n.tid)
            && self.shared.table.slot(*first).is_asked_again(&n)
        {
            return self.shared.answer(&slot, Answer::Continue);
        }
        let call = calls::arch(n.arch).and_then(|arch| arch.call(n.nr));
        let Some(call) = call else { return self.shared.answer(&slot, Answer::Continue) };
        // Whether there are x32 calls is for the kernel to say: most have none.
        let is_x32 = n.nr != call.nr;
        if call.op.is_chown() && !is_x32 && self.chown(&n, call) {
            return self.shared.answer(&slot, Answer::Done);
        }
        let container = Thread::turn_to(&mut self.caller, &self.proc, n.tid).container();
        self.slots.insert(n.tid, number);
        self.hand_over(number, container);
    }

    /// Makes a chown of the node's root. False: it is to be made by its caller.
    fn chown(&mut self, n: &Notification, call: calls::Call) -> bool {
        let shared = self.shared;
        let Some(caller) = Thread::turn_to_equal(&mut self.caller, &self.proc, n.tid) else { return false };
        // With so many receivers that hang, none hangs any more.
        if shared.table.turns().iter().all(|turn| turn.load(Ordering::Relaxed) != 0) {
            return false;
        }
        let (first, _) = call.op.ids();
        let ids = [super::id(n.args[first], call.narrow), super::id(n.args[first + 1], call.narrow)];
        let kinds = [Kind::Uid, Kind::Gid];
        let [uid, gid] = [0, 1].map(|i| match ids[i] {
            NO_CHANGE => NO_CHANGE,
            id => Ids::Node.place(&shared.node, kinds[i], id).0,
        });
        let begun = shared.table.word(Word::Own);
        begun.fetch_add(1, Ordering::Release);
        if shared.table.word(Word::KeeperSleeps).load(Ordering::Acquire) == 1 {
            self.keeper.ring();
        }
        let valid = || seccomp::is_waiting(shared.listener.as_fd(), n.id);
        let done = own::chown(n, call.op, uid, gid, caller, self.proc.root.as_fd(), valid).is_ok();
        if self.is_our_turn() {
            begun.fetch_add(1, Ordering::Release);
        }
        for (kind, id) in kinds
            .into_iter()
            .zip(ids)
            .filter(|(kind, id)| done && *id != NO_CHANGE && !shared.node.of(*kind).contains(*id))
        {
            if self.told.len() < MAX_TOLD && self.told.insert((kind, id)) {
                let name = Thread::open(&self.proc, n.tid).read(c"comm").unwrap_or_default();
                shared.tell(name.trim_end(), kind, id);
            }
        }
        done
    }

    /// Gives a call to the worker of a container.
    fn hand_over(&mut self, number: u32, container: u64) {
        let slot = self.shared.table.slot(number);
        let Some(container) = self.have_worker(container) else {
            return self.shared.answer(&slot, Answer::Errno(libc::EAGAIN));
        };
        let turn = self.turn;
        let Some(worker) = self.workers.get_mut(&container) else { return };
        let done = self.shared.table.done(worker.number.into()).load(Ordering::Relaxed);
        // However many containers ask for as much as they may, there is room for others.
        let held = worker.given.saturating_sub(done) as u32;
        slot.set(State::Queued, Owner { turn, worker: worker.number });
        if held >= SLOTS / 4 {
            return self.shared.answer(&slot, Answer::Errno(libc::EAGAIN));
        }
        worker.given += 1;
        worker.last = Instant::now();
        // There is room in a pipe for as many. A worker that has died is heard of soon, and then its calls are given to
        // another one.
        let _ = (&worker.calls).write_all(&number.to_ne_bytes());
        let taken = self.shared.table.taken(worker.number.into());
        loop {
            let more = taken.load(Ordering::Relaxed).saturating_sub(worker.taken);
            worker.taken += more;
            worker.patience = PATIENCE.min(worker.patience + EARNED * more.min(MANY) as u32);
            if worker.given.saturating_sub(worker.taken) < MANY || worker.patience.is_zero() {
                return;
            }
            let begun = Instant::now();
            sleep(Duration::from_micros(20));
            worker.patience = worker.patience.saturating_sub(begun.elapsed());
        }
    }

    /// The container whose worker is to take calls of this one: its own, unless there are too many.
    fn have_worker(&mut self, container: u64) -> Option<u64> {
        if self.workers.contains_key(&container) {
            return Some(container);
        }
        let table = self.shared.table;
        // Their pipes close, and they end.
        self.workers
            .retain(|_, w| w.last.elapsed() < IDLE || table.done(w.number.into()).load(Ordering::Relaxed) < w.given);
        if self.workers.len() < MAX_WORKERS / 2
            && let Ok(worker) = self.start_worker()
        {
            self.workers.insert(container, worker);
            return Some(container);
        }
        let mut others: Vec<u64> = self.workers.keys().copied().collect();
        others.sort_unstable();
        others.get(container as usize % others.len().max(1)).copied()
    }

    fn start_worker(&mut self) -> io::Result<Known> {
        let table = self.shared.table;
        let number = table.take_number(self.turn).ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))?;
        let parent = std::process::id();
        let started = descriptor::pipe().and_then(|pipe| Ok((pipe, fork::fork()?)));
        match started {
            Ok(((_, to), Some(pid))) => {
                self.numbers.insert(pid, number);
                Ok(Known {
                    number,
                    calls: File::from(to),
                    given: 0,
                    taken: 0,
                    patience: PATIENCE,
                    last: Instant::now(),
                })
            }
            Ok(((calls, to), None)) => {
                drop(to);
                // Else their pipes would not close when they are to end.
                self.workers.clear();
                process::set_name(c"uid-fold");
                if !signal::on_death_of(parent, libc::SIGKILL) {
                    fork::exit_now(0);
                }
                let owner = Owner { turn: self.turn, worker: number };
                let mut worker = Worker::new(self.shared, Rc::clone(&self.proc), owner, calls);
                fork::exit_now(worker.work().is_err().into());
            }
            Err(e) => {
                table.give_back(number);
                Err(e)
            }
        }
    }

    /// Takes what dead processes had in hand: those whose turn is nobody's any more.
    fn adopt(&mut self) {
        let table = self.shared.table;
        self.take_over(|owner| !table.lives(owner.turn));
        for number in
            table.used().filter(|number| matches!(table.slot(*number).state().0, State::Queued | State::Folded))
        {
            self.slots.insert(table.slot(number).call().tid, number);
        }
    }

    /// Takes the calls of these owners, which are dead.
    fn take_over(&mut self, dead: impl Fn(Owner) -> bool) {
        let table = self.shared.table;
        let theirs = |number: &u32| {
            let (state, owner) = table.slot(*number).state();
            (state != State::Free && dead(owner)).then_some((*number, state, owner))
        };
        let found: Vec<_> = table.used().filter_map(|number| theirs(&number)).collect();
        // First of all those in the middle of a call: what was replaced is to be put back, by a worker that has not begun
        // with anything else.
        let waits = |number: u32| {
            let id = table.slot(number).call().id;
            id != 0 && seccomp::is_waiting(self.shared.listener.as_fd(), id)
        };
        let (in_call, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|(number, state, owner)| {
            let is_noted = || table.undo(owner.worker.into()).is_of(table.slot(*number).call().tid);
            match state {
                State::Folded | State::PutBack => true,
                // It may have died between replacing an array and saying so.
                State::Queued => is_noted() && !waits(*number),
                _ => false,
            }
        });
        for (number, _, owner) in &in_call {
            self.have_put_back(*number, *owner);
        }
        for (number, ..) in &others {
            let slot = table.slot(*number);
            // A call in it that nobody waits for is one that was answered, or whose caller is gone, or that is made again.
            if !waits(*number) {
                slot.free();
            } else {
                slot.set(State::Received, Owner { turn: self.turn, worker: 0 });
                self.route(*number);
            }
        }
    }

    /// Gives a thread that is, or may be, in a call with replaced arguments to a worker that puts back what was there.
    fn have_put_back(&mut self, number: u32, dead: Owner) {
        let (table, turn) = (self.shared.table, self.turn);
        let slot = table.slot(number);
        let container = Thread::turn_to(&mut self.caller, &self.proc, slot.call().tid).container();
        let container = self.have_worker(container);
        let Some(worker) = container.and_then(|container| self.workers.get_mut(&container)) else { return slot.free() };
        table.undo(dead.worker.into()).give_to(&table.undo(worker.number.into()), slot.call().tid);
        slot.set(State::PutBack, Owner { turn, worker: worker.number });
        worker.given += 1;
        worker.last = Instant::now();
        let _ = (&worker.calls).write_all(&(number | PUT_BACK).to_ne_bytes());
    }
}
