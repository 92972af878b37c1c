//! The log: journald's socket where there is one, else stderr. It never blocks.
//!
//! A plugin that containerd launches has /dev/null for stderr, so without journald nobody would hear it.

use std::cell::RefCell;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use crate::map::printable;
use crate::sys::poll::{self, Watch};

const SOCKET: &str = "/run/systemd/journal/socket";

/// How much a message matters; journald's PRIORITY (`syslog(3)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Why a container was left alone, and the like.
    Debug = 7,
    /// What was done.
    Info = 6,
    /// What the user should know.
    Warning = 4,
    /// What went wrong.
    Error = 3,
}

impl Level {
    /// By its name in options and configuration.
    pub fn parse(name: &str) -> Result<Level, String> {
        match name {
            "debug" => Ok(Level::Debug),
            "info" => Ok(Level::Info),
            "warning" => Ok(Level::Warning),
            "error" => Ok(Level::Error),
            _ => Err(format!("{name:?} is not a log level (debug, info, warning, error)")),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Info => "info",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

/// Whom a message is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct Subject<'a> {
    pub pod: &'a str,
    /// Its Kubernetes namespace.
    pub namespace: &'a str,
    /// The container's name; empty for the pod itself.
    pub container: &'a str,
}

impl fmt::Display for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pod {}/{}", self.namespace, self.pod)?;
        if !self.container.is_empty() {
            write!(f, " container {}", self.container)?;
        }
        Ok(())
    }
}

/// A pod may say this much in this time; what it says beyond is counted, not written.
const BURST: u32 = 50;
const WINDOW: Duration = Duration::from_secs(10);
/// Pods are told apart by hash, so that memory stays bounded.
const BUCKETS: usize = 64;
/// Longer messages are cut, and so is the line for stderr. Less than PIPE_BUF, so that a pipe that can be written takes
/// one whole without blocking.
const MAX_MESSAGE: usize = 3000;

#[derive(Clone, Copy)]
struct Bucket {
    since: Instant,
    written: u32,
    left_out: u32,
}

pub struct Journal {
    level: Level,
    socket: Option<UnixDatagram>,
    buckets: RefCell<[Bucket; BUCKETS]>,
    /// Keyed anew at each start, so that no pod can choose another one's bucket.
    hasher: RandomState,
}

impl Journal {
    /// A log that writes messages of at least this level.
    pub fn new(level: Level) -> Journal {
        let socket = UnixDatagram::unbound().and_then(|s| s.set_nonblocking(true).map(|()| s)).ok();
        let empty = Bucket { since: Instant::now(), written: 0, left_out: 0 };
        Journal { level, socket, buckets: RefCell::new([empty; BUCKETS]), hasher: RandomState::new() }
    }

    pub fn level(&self) -> Level {
        self.level
    }

    pub fn set_level(&mut self, level: Level) {
        self.level = level;
    }

    /// Writes a message about the plugin itself.
    pub fn say(&self, level: Level, message: impl fmt::Display) {
        if level <= self.level {
            self.write(level, None, &message.to_string());
        }
    }

    /// Writes a message about a pod or container, unless it has said too much lately.
    pub fn about(&self, level: Level, subject: &Subject, message: impl fmt::Display) {
        if level > self.level {
            return;
        }
        let Some(left_out) = self.admit(subject) else { return };
        if left_out > 0 {
            self.write(level, Some(subject), &format!("{left_out} earlier messages were left out"));
        }
        self.write(level, Some(subject), &message.to_string());
    }

    /// None: too much. Else how many messages were left out before this one.
    fn admit(&self, subject: &Subject) -> Option<u32> {
        let hash = self.hasher.hash_one((subject.namespace, subject.pod));
        let bucket = &mut self.buckets.borrow_mut()[hash as usize % BUCKETS];
        let mut left_out = 0;
        if bucket.since.elapsed() >= WINDOW {
            left_out = bucket.left_out;
            *bucket = Bucket { since: Instant::now(), written: 0, left_out: 0 };
        }
        if bucket.written >= BURST {
            bucket.left_out = bucket.left_out.saturating_add(1);
            return None;
        }
        bucket.written += 1;
        Some(left_out)
    }

    fn write(&self, level: Level, subject: Option<&Subject>, message: &str) {
        let message = shortened(message);
        let sent = match &self.socket {
            Some(socket) => socket.send_to(&entry(level, subject, message), SOCKET).map(drop),
            None => Err(io::Error::from_raw_os_error(libc::ENOTSOCK)),
        };
        match sent {
            Ok(()) => {}
            // journald is there but busy: better to lose a line than to keep the runtime waiting.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => {
                let line = line(level, subject, message);
                let stderr = io::stderr();
                let [state] = poll::wait([Watch::Output(stderr.as_fd())], Some(Duration::ZERO));
                if state.ready && !state.hangup {
                    // Nobody is left to tell of a failure.
                    let _ = stderr.lock().write_all(line.as_bytes());
                }
            }
        }
    }
}

/// journald's native protocol: `KEY=value`, or the key, a length and the value where that has a newline.
fn entry(level: Level, subject: Option<&Subject>, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + 200);
    let mut field = |key: &str, value: &str| {
        out.extend_from_slice(key.as_bytes());
        if value.contains('\n') {
            out.push(b'\n');
            out.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend_from_slice(value.as_bytes());
        out.push(b'\n');
    };
    field("SYSLOG_IDENTIFIER", "uid-nri-plugin");
    field("PRIORITY", &(level as u8).to_string());
    match subject {
        Some(s) => {
            field("MESSAGE", &format!("{s}: {message}"));
            field("POD", s.pod);
            field("NAMESPACE", s.namespace);
            field("CONTAINER", s.container);
        }
        None => field("MESSAGE", message),
    }
    out
}

/// One line for stderr; control characters of a hostile name are shown, not sent.
fn line(level: Level, subject: Option<&Subject>, message: &str) -> String {
    let text = match subject {
        Some(s) => format!("{s}: {message}"),
        None => message.to_owned(),
    };
    let line = format!("uid-nri-plugin: {}: {}", level.name(), printable(&text));
    format!("{}\n", shortened(&line))
}

fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_MESSAGE)).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUBJECT: Subject = Subject { pod: "web", namespace: "team", container: "app" };

    #[test]
    fn entries_have_the_fields_of_journald() {
        let text = String::from_utf8(entry(Level::Warning, Some(&SUBJECT), "two ids")).unwrap();
        assert_eq!(
            text,
            "SYSLOG_IDENTIFIER=uid-nri-plugin\nPRIORITY=4\nMESSAGE=pod team/web container app: two ids\n\
             POD=web\nNAMESPACE=team\nCONTAINER=app\n"
        );
    }

    #[test]
    fn a_newline_cannot_forge_a_field() {
        let bytes = entry(Level::Info, None, "a\nPRIORITY=0");
        let expected = b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\n";
        assert!(bytes.windows(expected.len()).any(|w| w == expected));
        let shown = line(Level::Info, None, "a\nb\x1b[2J");
        assert_eq!(shown, "uid-nri-plugin: info: a\\nb\\u{1b}[2J\n");
    }

    #[test]
    fn a_flood_is_counted_not_written() {
        let journal = Journal::new(Level::Info);
        // Two pods may share a bucket; not so many.
        let names: Vec<String> = (0..64).map(|n| format!("quiet-{n}")).collect();
        assert_eq!((0..500).filter(|_| journal.admit(&SUBJECT).is_some()).count(), BURST as usize);
        let quiet = |pod: &&String| journal.admit(&Subject { pod, ..SUBJECT }) == Some(0);
        let sharing = names.iter().take_while(|pod| !quiet(pod)).count() as u32;
        assert!(sharing < 64);
        journal.buckets.borrow_mut().iter_mut().for_each(|b| b.since -= WINDOW);
        assert_eq!(journal.admit(&SUBJECT), Some(450 + sharing));
    }

    #[test]
    fn levels() {
        assert!(Level::Error < Level::Warning && Level::Info < Level::Debug);
        assert_eq!(Level::parse("info"), Ok(Level::Info));
        assert!(Level::parse("loud").is_err());
    }
}
