//! The process that keeps the others: it starts the receiver, another one when that dies or hangs, and the plugin where it
//! is asked to. It has the listener too, so no call is lost meanwhile.
//!
//! If it dies itself, the receiver starts another keeper. Only the end of both at once ends the folding.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::receiver::{Receiver, Shared};
use super::table::{MAX_TURNS, Table, Word};
use crate::journal::{Journal, Level};
use crate::sys::descriptor;
use crate::sys::fork;
use crate::sys::poll::Watch;
use crate::sys::process;
use crate::sys::signal;

/// How long the receiver may be at a call of its own.
const TICK: Duration = Duration::from_millis(2);
/// Without such calls for this long, the keeper sleeps until the next one.
const QUIET: Duration = Duration::from_millis(50);
/// So often it is looked whether all other processes have ended, once this one was asked to.
const LAST_LOOK: Duration = Duration::from_millis(20);
/// A plugin that ends sooner than this waits before it is started again, longer each time.
const SOON: Duration = Duration::from_secs(5);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What the keeper is to look after.
pub struct Keeper<'a> {
    /// The calls, if any are folded.
    pub shared: Option<&'a Shared>,
    journal: &'a Journal,
    /// How the plugin is started, if it is.
    plugin: Option<&'a [CString]>,
    bell: (OwnedFd, OwnedFd),
    /// The receivers that live, the one whose turn it is last.
    lives: Vec<Life>,
    /// Nobody receives: another receiver is to be started, and could not be so far.
    vacant: bool,
    /// The same pipe's other end, in the receiver and its workers.
    life: Option<OwnedFd>,
    /// The keeper's own pid.
    pid: u32,
}

/// A receiver.
struct Life {
    pid: u32,
    /// Where it is among the table's turns.
    place: usize,
    /// Closed when it and its workers are gone.
    ended: OwnedFd,
}

impl<'a> Keeper<'a> {
    /// A keeper that has started nothing yet.
    pub fn new(
        shared: Option<&'a Shared>,
        journal: &'a Journal,
        plugin: Option<&'a [CString]>,
    ) -> io::Result<Keeper<'a>> {
        let (bell, lives, life) = (descriptor::pipe()?, Vec::new(), None);
        Ok(Keeper { shared, journal, plugin, bell, lives, vacant: false, life, pid: 0 })
    }

    /// The process that keeps us.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Wakes the keeper.
    pub fn ring(&self) {
        // A full pipe has woken it already.
        let _ = descriptor::write(self.bell.1.as_fd(), &[0]);
    }

    /// Starts another keeper, from the receiver.
    pub fn start_again(&mut self) -> io::Result<()> {
        let receiver = std::process::id();
        match fork::fork()? {
            Some(pid) => self.pid = pid,
            None => {
                self.life = None;
                if let Some(life) = self.lives.last_mut() {
                    life.pid = receiver;
                }
                fork::exit_now(self.keep(None));
            }
        }
        Ok(())
    }

    /// Keeps until nothing is left to do. `ready` is told once calls are received, or what is wrong. The exit status.
    pub fn keep(&mut self, ready: Option<UnixStream>) -> i32 {
        self.pid = std::process::id();
        process::set_name(c"uid-keeper");
        match self.try_keep(ready) {
            Ok(()) => 0,
            Err(e) => {
                self.journal.say(Level::Error, format_args!("cannot keep the server: {e}"));
                1
            }
        }
    }

    fn try_keep(&mut self, mut ready: Option<UnixStream>) -> io::Result<()> {
        let waiter = signal::catch(&[libc::SIGCHLD, libc::SIGTERM])?;
        if self.shared.is_some() && self.lives.is_empty() {
            self.start_receiver(&mut ready)?;
        } else if let Some(mut ready) = ready.take() {
            let _ = ready.write_all(&[0]);
        }
        drop(ready);
        let mut plugin = self.plugin.map(Kept::new);
        let mut ending = false;
        let mut own = Own::default();
        loop {
            if let Some(plugin) = &mut plugin {
                plugin.see(self.journal);
            }
            let alone = ending.then_some(LAST_LOOK);
            let restart = plugin.as_ref().and_then(Kept::due);
            let watch = self.shared.and_then(|shared| own.tick(&shared.table));
            let vacant = self.vacant.then_some(LAST_LOOK);
            let timeout = [alone, restart, watch, vacant].into_iter().flatten().min();
            let mut watched = [Watch::Nothing; 2 + MAX_TURNS];
            watched[0] = Watch::Input(self.bell.0.as_fd());
            if let Some(shared) = self.shared {
                watched[1] = Watch::End(shared.listener.as_fd());
            }
            for life in &self.lives {
                watched[2 + life.place] = Watch::End(life.ended.as_fd());
            }
            let ready = waiter.wait(watched, timeout);
            if let Some(shared) = self.shared {
                shared.table.word(Word::KeeperSleeps).store(0, Ordering::Release);
            }
            if ready[0].ready {
                let mut rings = [0; 64];
                let _ = descriptor::read(self.bell.0.as_fd(), &mut rings);
            }
            if signal::came(libc::SIGCHLD) {
                while let Some((pid, _)) = fork::reap() {
                    if let Some(plugin) = &mut plugin {
                        plugin.ended(pid, self.journal);
                    }
                }
            }
            ending |= signal::came(libc::SIGTERM);
            // Nothing is left that the filter is on; or nothing at all but the init and us, at the end of a node.
            if ready[1].hangup || (ending && (is_node_ending() || is_alone())) {
                return self.end(plugin);
            }
            if let Some(shared) = self.shared {
                let hung = own.hangs(&shared.table, self.lives.last().map(|life| life.pid));
                let gone: Vec<usize> = (0..MAX_TURNS).filter(|place| ready[2 + place].hangup).collect();
                self.see_to_receivers(shared, &gone, hung);
            }
        }
    }

    fn end(&self, plugin: Option<Kept>) -> io::Result<()> {
        if let Some(shared) = self.shared {
            shared.table.word(Word::Ending).store(1, Ordering::Release);
        }
        for life in &self.lives {
            // Its end would have been seen.
            let _ = fork::kill(life.pid, libc::SIGKILL);
        }
        if let Some(pid) = plugin.and_then(|plugin| plugin.pid) {
            let _ = fork::kill(pid, libc::SIGTERM);
        }
        Ok(())
    }

    fn see_to_receivers(&mut self, shared: &Shared, gone: &[usize], hung: bool) {
        let last = self.lives.last().map(|life| life.place);
        let died = last.is_some_and(|place| gone.contains(&place));
        self.lives.retain(|life| !gone.contains(&life.place));
        for place in gone {
            shared.table.turns()[*place].store(0, Ordering::Release);
        }
        if died {
            shared.say(Level::Warning, "the process that receives calls has died; another one goes on where it was");
        }
        if died || self.vacant || (hung && self.lives.len() < MAX_TURNS - 1) {
            let started = self.start_receiver(&mut None);
            // Processes may be short for the moment, by a pod's doing. One that hangs still has its turn.
            if let Err(e) = &started
                && !self.vacant
            {
                shared.say(
                    Level::Error,
                    format_args!("cannot start a process that receives calls, and tries again: {e}"),
                );
            }
            self.vacant = started.is_err() && (died || self.vacant);
            return;
        }
        if !gone.is_empty()
            && let Some(life) = self.lives.last()
        {
            // For it to take what those had in hand.
            let _ = fork::kill(life.pid, libc::SIGUSR2);
        }
    }

    /// Starts a receiver, whose turn it is from then on.
    fn start_receiver(&mut self, ready: &mut Option<UnixStream>) -> io::Result<()> {
        let Some(shared) = self.shared else { return Ok(()) };
        let table = &shared.table;
        let turn = table.word(Word::Turn).load(Ordering::Relaxed) as u32 + 1;
        let place = table.turns().iter().position(|word| word.load(Ordering::Relaxed) == 0);
        let place = place.ok_or_else(|| io::Error::from_raw_os_error(libc::EAGAIN))?;
        let (ended, life) = descriptor::pipe()?;
        table.turns()[place].store(turn.into(), Ordering::Release);
        table.word(Word::Turn).store(turn.into(), Ordering::Release);
        // Whoever was at a call of its own is not the one to be watched any more.
        if !table.word(Word::Own).load(Ordering::Acquire).is_multiple_of(2) {
            table.word(Word::Own).fetch_add(1, Ordering::AcqRel);
        }
        self.lives.push(Life { pid: 0, place, ended });
        let forked = fork::fork();
        if forked.is_err() {
            self.lives.pop();
            table.word(Word::Turn).store((turn - 1).into(), Ordering::Release);
            table.turns()[place].store(0, Ordering::Release);
        }
        match forked? {
            Some(pid) => {
                if let Some(life) = self.lives.last_mut() {
                    life.pid = pid;
                }
                ready.take();
                Ok(())
            }
            None => {
                process::set_name(c"uid-supervise");
                self.life = Some(life);
                let mut told = ready.take();
                let tell = move || {
                    if let Some(mut ready) = told.take() {
                        let _ = ready.write_all(&[0]);
                    }
                };
                let served = Receiver::run(shared, self, turn, tell);
                if let Err(e) = &served {
                    shared.say(Level::Error, format_args!("cannot serve calls: {e}"));
                }
                fork::exit_now(served.is_err().into())
            }
        }
    }
}

/// What the receiver is at, as far as the keeper has to know.
#[derive(Default)]
struct Own {
    seen: u64,
    since: Option<Instant>,
}

impl Own {
    /// How long to wait before the next look. None: until the bell rings.
    fn tick(&mut self, table: &Table) -> Option<Duration> {
        let now = table.word(Word::Own).load(Ordering::Acquire);
        let changed = now != self.seen || self.since.is_none();
        if changed {
            (self.seen, self.since) = (now, Some(Instant::now()));
        }
        if !now.is_multiple_of(2) || self.since.is_some_and(|since| since.elapsed() < QUIET) {
            return Some(TICK);
        }
        table.word(Word::KeeperSleeps).store(1, Ordering::SeqCst);
        // A call may have begun before that was to be seen.
        (table.word(Word::Own).load(Ordering::SeqCst) != now).then_some(TICK)
    }

    /// Whether the receiver, of this pid, hangs in a call that it makes.
    fn hangs(&self, table: &Table, receiver: Option<u32>) -> bool {
        let now = table.word(Word::Own).load(Ordering::Acquire);
        let long = self.since.is_some_and(|since| since.elapsed() >= TICK);
        if now.is_multiple_of(2) || now != self.seen || !long {
            return false;
        }
        // On a busy machine it may only wait for a processor.
        let stat = receiver.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
        stat.is_some_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| !rest.starts_with('R')))
    }
}

struct Kept<'a> {
    command: &'a [CString],
    pid: Option<u32>,
    started: Instant,
    wait: Duration,
}

impl<'a> Kept<'a> {
    fn new(command: &'a [CString]) -> Kept<'a> {
        Kept { command, pid: None, started: Instant::now(), wait: Duration::ZERO }
    }

    /// How long until it is to be started. None: it runs.
    fn due(&self) -> Option<Duration> {
        self.pid.is_none().then(|| self.wait.saturating_sub(self.started.elapsed()).max(Duration::from_millis(1)))
    }

    /// Starts it if it is time to.
    fn see(&mut self, journal: &Journal) {
        if self.pid.is_some() || self.started.elapsed() < self.wait {
            return;
        }
        self.started = Instant::now();
        let parent = std::process::id();
        match fork::fork() {
            Ok(Some(pid)) => self.pid = Some(pid),
            Ok(None) => {
                // exec keeps this, and the mask.
                if signal::on_death_of(parent, libc::SIGTERM) && signal::unblock().is_ok() {
                    let e = fork::execute(Path::new("/proc/self/exe"), self.command);
                    journal.say(Level::Error, format_args!("cannot start the plugin: {e}"));
                }
                fork::exit_now(1);
            }
            Err(e) => {
                self.wait = Duration::from_secs(1);
                journal.say(Level::Error, format_args!("cannot start the plugin: {e}"));
            }
        }
    }

    /// A child has ended.
    fn ended(&mut self, pid: u32, journal: &Journal) {
        if self.pid != Some(pid) {
            return;
        }
        self.pid = None;
        let soon = self.started.elapsed() < SOON;
        self.wait = match soon {
            true => (self.wait * 2).clamp(Duration::from_millis(500), LONGEST_WAIT),
            false => Duration::ZERO,
        };
        self.started = Instant::now();
        let when = if self.wait.is_zero() { "now".to_owned() } else { format!("in {:.1} s", self.wait.as_secs_f32()) };
        journal.say(Level::Warning, format_args!("the plugin has ended; it is started again {when}"));
    }
}

/// Whether systemd is at its last step, where it waits for all processes that it can tell to end. It does not tell those of
/// user 65535, such as pause containers, so these may be left.
fn is_node_ending() -> bool {
    fs::read_to_string("/proc/1/comm").is_ok_and(|comm| comm.starts_with("systemd-shutdow"))
}

/// Whether only the init and processes of this program are left.
fn is_alone() -> bool {
    let number = |path: &str| fs::metadata(path).map(|meta| (meta.dev(), meta.ino())).ok();
    let ours = number("/proc/self/exe");
    let is_other = |pid: &u32| {
        let exe = number(&format!("/proc/{pid}/exe"));
        // Those that have ended, and the kernel's own, run no program.
        *pid != 1 && exe.is_some() && exe != ours
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    !pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).any(|pid| is_other(&pid))
}
