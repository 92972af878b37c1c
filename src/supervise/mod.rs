//! `supervise`: becomes a command, so that every chown and every set-id call of it and of all below it, whose id the node
//! does not map, is done with the id's place.
//!
//! This process puts the filter on itself and becomes the command, so the command has its parent, its pid, its signals and
//! whatever a service manager has given it. Before that it starts the keeper (keeper.rs), which is nobody's child: it
//! keeps the receiver (receiver.rs) running, and that has a worker (worker.rs) for each container. They end when nothing
//! is left that the filter is on: containers outlive the containerd that started them.

mod caller;
mod calls;
mod filter;
mod fold;
mod keeper;
pub mod options;
mod own;
mod receiver;
mod table;
mod thread;
mod worker;

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use caller::Node;
use keeper::Keeper;
use options::Become;
use receiver::Shared;
use table::Table;

use crate::journal::{Journal, Level};
use crate::map::printable;
use crate::pod;
use crate::sys::descriptor;
use crate::sys::fork;
use crate::sys::socket;
use crate::sys::{process, seccomp, signal};

/// `(uid_t)-1`.
const NO_CHANGE: u32 = u32::MAX;

/// The id in an argument; `narrow` ones have 16 bits.
fn id(argument: u64, narrow: bool) -> u32 {
    match (argument as u32, narrow) {
        (id, false) => id,
        (id, true) if id as u16 == u16::MAX => NO_CHANGE,
        (id, true) => u32::from(id as u16),
    }
}

/// What is to run beside a command.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Beside {
    pub fold: bool,
    /// Keep this running: arguments for this program, its name first.
    pub plugin: Option<Vec<OsString>>,
    /// Messages go to standard error as long as there is no journal, even to a pipe that somebody reads to its end.
    pub keep_stderr: bool,
}

/// Becomes the command. Returns only if that cannot be: the exit status, as a shell's where the command cannot be run, and
/// nothing to say.
pub fn run(options: Become) -> Result<(u8, String), String> {
    let Become { command, beside, log_level } = &options;
    let words = c_strings(command)?;
    let program = command.first().ok_or("there is no command to run")?;
    let journal = Journal::new(log_level.unwrap_or(Level::Info));
    let plugin = beside.plugin.as_deref().map(c_strings).transpose()?;
    let proc = fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok());
    if proc != Some(std::process::id()) {
        return Err("/proc is not that of this pid namespace: mount one first".into());
    }
    let node = pod::node::read()?;
    let program_of_filter = filter::program(&node.uids, &node.gids, &calls::HERE);
    let folded = beside.fold && pod::presence::is_folded();
    if folded {
        journal.say(Level::Info, "chown and set-id calls are folded here already, by a supervise around this one");
    }
    let fold = beside.fold && !folded;
    if fold || plugin.is_some() {
        let (ours, theirs) = UnixStream::pair().map_err(|e| format!("cannot make a socket: {e}"))?;
        let aside = Aside { fold, node, plugin, level: journal.level(), keep_stderr: beside.keep_stderr };
        aside.start(theirs).map_err(|e| format!("cannot start the process that keeps the server: {e}"))?;
        if fold {
            if pod::presence::no_tracing() {
                let what = "no process may be traced here (kernel.yama.ptrace_scope is 3)";
                journal.say(
                    Level::Warning,
                    format_args!("{what}, so no call is folded: unmapped ids get EINVAL as before"),
                );
            }
            let listener = seccomp::install(&program_of_filter).map_err(|e| no_filter(&e))?;
            seccomp::wake_in_turn(listener.as_fd());
            socket::send_descriptor(&ours, listener.as_fd())
                .map_err(|e| format!("cannot hand the filter over: {e}"))?;
        }
        until_ready(ours)?;
    }
    signal::default_pipe();
    let e = fork::execute(Path::new(program), &words);
    // With stderr gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "uid-nri-plugin: cannot run {}: {e}", printable(&program.to_string_lossy()));
    Ok((if e.kind() == io::ErrorKind::NotFound { 127 } else { 126 }, String::new()))
}

fn c_strings(words: &[OsString]) -> Result<Vec<CString>, String> {
    let all: Result<_, _> = words.iter().map(|word| CString::new(word.as_bytes())).collect();
    all.map_err(|_| "a word of the command has a NUL".to_owned())
}

fn no_filter(e: &io::Error) -> String {
    match e.raw_os_error() {
        Some(libc::EBUSY) => {
            "another program receives the system calls of this process (seccomp, EBUSY), and does not \
                              fold them: start the node outside of it"
                .into()
        }
        _ => format!("cannot put a seccomp filter on this process: {e}"),
    }
}

/// Waits until calls are received.
fn until_ready(mut from: UnixStream) -> Result<(), String> {
    let mut byte = [1];
    match from.read(&mut byte) {
        Ok(1) => Ok(()),
        _ => Err("the process that keeps the server has ended; its message says why".into()),
    }
}

/// What goes on beside the command.
struct Aside {
    fold: bool,
    node: Node,
    plugin: Option<Vec<CString>>,
    level: Level,
    keep_stderr: bool,
}

impl Aside {
    /// Starts the keeper, as nobody's child: a command that waits for its children must not meet it.
    fn start(self, from: UnixStream) -> io::Result<()> {
        match fork::fork()? {
            Some(pid) => fork::wait_child(pid).map(drop),
            None => {
                let failed = match fork::fork() {
                    Ok(Some(_)) => 0,
                    Ok(None) => self.keep(from),
                    Err(_) => 1,
                };
                fork::exit_now(failed);
            }
        }
    }

    fn keep(self, from: UnixStream) -> i32 {
        let kept = self.be_nobodys(&from).and_then(|()| {
            let Aside { fold, node, plugin, level, .. } = self;
            let listener = if fold { socket::receive_descriptor(&from)? } else { None };
            if fold && listener.is_none() {
                // The filter could not be had; the other side says why.
                return Ok(0);
            }
            let journal = Journal::new(level);
            let shared = match listener {
                Some(listener) => Some(Shared { listener, table: Table::new()?, node, journal: Journal::new(level) }),
                None => None,
            };
            Ok(Keeper::new(shared.as_ref(), &journal, plugin.as_deref())?.keep(Some(from)))
        });
        kept.unwrap_or_else(|e| {
            let _ = writeln!(io::stderr(), "uid-nri-plugin: cannot keep the server: {e}");
            1
        })
    }

    /// Holds nothing that the command's surroundings would miss or wait for: no working directory, no terminal or pipe, no
    /// descriptor that the command inherits, no place in the control group of a service.
    fn be_nobodys(&self, from: &UnixStream) -> io::Result<()> {
        process::new_session();
        descriptor::close_inherited(from.as_fd())?;
        std::env::set_current_dir("/")?;
        leave_control_group();
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let is_pipe = fs::metadata("/proc/self/fd/2").is_ok_and(|meta| meta.file_type().is_fifo());
        let numbers = if is_pipe && !self.keep_stderr { 0..3 } else { 0..2 };
        for number in numbers {
            descriptor::replace_descriptor(number, null.as_fd())?;
        }
        Ok(())
    }
}

/// Moves this process to a control group of its own, where there are any and it may: a service manager that stops the
/// command's must neither end it nor wait for it.
fn leave_control_group() {
    for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"].map(Path::new) {
        let own = hierarchy.join("uid-nri-plugin");
        if hierarchy.join("cgroup.procs").exists() && (own.exists() || fs::create_dir(&own).is_ok()) {
            let _ = fs::write(own.join("cgroup.procs"), std::process::id().to_string());
        }
    }
}

/// How many instructions the filter of a node has, for fuzzing.
#[cfg(any(fuzzing, test))]
pub fn filter_length(node: &Node) -> usize {
    filter::program(&node.uids, &node.gids, &calls::HERE).len()
}
