//! `supervise`: runs a command so that every chown and every set-id call below it, whose id the node does not map, is
//! done with the id's place.
//!
//! Three processes: this one starts the command, forwards signals and ends as the command does. The command has the
//! filter on it. A second child serves the calls that the filter stops, for as long as anything that the filter is on
//! still runs: containers outlive the containerd that started them. Only it has the listener, so if it dies, callers get
//! ENOSYS at once and none waits for ever.

mod caller;
mod calls;
mod chown;
pub mod filter;
mod pool;
mod setid;
mod thread;

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use caller::Node;

use crate::journal::{Journal, Level};
use crate::pod;
use crate::sys::process;

/// `(uid_t)-1`.
const NO_CHANGE: u32 = u32::MAX;

/// Users or groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Users.
    User,
    /// Groups.
    Group,
}

/// The id in an argument; `narrow` ones have 16 bits.
fn id(argument: u64, narrow: bool) -> u32 {
    match (argument as u32, narrow) {
        (id, false) => id,
        (id, true) if id as u16 == u16::MAX => NO_CHANGE,
        (id, true) => u32::from(id as u16),
    }
}

/// What -1 is in an array of ids.
fn no_change(narrow: bool) -> u32 {
    if narrow { u32::from(u16::MAX) } else { NO_CHANGE }
}

/// Whether this is x86's 32-bit way, whose arguments are in other registers.
fn is_old(audit: u32) -> bool {
    audit == calls::I386.audit
}

/// Runs the command. The exit code is the command's, or as a shell's where it could not be started.
pub fn run(command: &[OsString], log_level: Option<Level>) -> Result<u8, String> {
    let command: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let command = command.map_err(|_| "a word of the command has a NUL")?;
    let shown = command.first().ok_or("supervise needs a command")?.to_string_lossy();
    let pod::node::Node { uids, gids, .. } = pod::node::Node::read()?;
    let node = Node { uids, gids };
    let filter = filter::program(&node.uids, &node.gids, &calls::HERE);
    let (ours, theirs) = UnixStream::pair().map_err(|e| format!("cannot make a socket: {e}"))?;
    if fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok()) != Some(std::process::id()) {
        return Err("/proc is not that of this pid namespace: mount one first".into());
    }
    let mask = process::block_signals().map_err(|e| format!("cannot block signals: {e}"))?;

    let level = log_level.unwrap_or(Level::Info);
    let Some(server) = process::fork().map_err(|e| format!("cannot fork: {e}"))? else {
        // Else the end of the other side would not be seen.
        drop(theirs);
        std::process::exit(serve(&ours, node, level));
    };
    drop(ours);
    match process::spawn_filtered(&command, &filter, theirs, &mask) {
        Ok(child) => wait(child, server, level),
        Err(e) => match e.raw_os_error() {
            Some(libc::ENOENT) => refuse(&shown, &e, 127),
            Some(libc::EACCES | libc::ENOEXEC) => refuse(&shown, &e, 126),
            _ => Err(format!("cannot start {shown} under a seccomp filter: {e}")),
        },
    }
}

fn refuse(program: &str, e: &io::Error, code: u8) -> Result<u8, String> {
    eprintln!("uid-nri-plugin: cannot run {program}: {e}");
    Ok(code)
}

/// Forwards signals until the command ends.
fn wait(child: u32, server: u32, level: Level) -> Result<u8, String> {
    let journal = Journal::new(level);
    let mut serving = true;
    loop {
        match process::wait_signal() {
            libc::SIGCHLD => {
                let ended: Vec<(u32, i32)> = std::iter::from_fn(process::reap).collect();
                if let Some((_, status)) = ended.iter().find(|(pid, _)| *pid == child) {
                    let code = process::exit_code(*status);
                    return Ok(if serving { code } else { code.max(1) });
                }
                // Status 0: nothing is left that the filter is on; the command is about to be reaped.
                if let Some((_, 1..)) = ended.iter().find(|(pid, _)| *pid == server && serving) {
                    serving = false;
                    journal.say(Level::Error, "the process that folds calls has died: ending the command");
                    // Without it no pod with an id beyond the node's can start; a service manager starts us again.
                    let _ = process::kill(child, libc::SIGTERM);
                }
            }
            libc::SIGUSR1 if serving => drop(process::kill(server, libc::SIGUSR1)),
            libc::SIGUSR1 => {}
            signal => drop(process::kill(child, signal)),
        }
    }
}

/// The second child: waits for the listener, then serves it to the end.
fn serve(from: &UnixStream, node: Node, level: Level) -> i32 {
    let journal = Journal::new(level);
    let served = listener(from).and_then(|listener| match listener {
        Some(listener) => pool::serve(listener, node, journal),
        // The command could not be started.
        None => Ok(()),
    });
    match served {
        Ok(()) => 0,
        Err(e) => {
            Journal::new(level).say(Level::Error, format!("cannot serve calls: {e}"));
            1
        }
    }
}

fn listener(from: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let listener = process::receive_descriptor(from)?;
    if let Some(listener) = &listener {
        crate::sys::seccomp::wake_in_turn(listener.as_fd());
    }
    Ok(listener)
}
