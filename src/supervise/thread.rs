//! The thread that makes a call: where it is, who it is, and its memory.
//!
//! It is held by handles that stay its own: once it is dead they lead nowhere, even if its number is another thread's.
//! So they are kept from one call to the next. What they show is read anew each time.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::identity::{self, Identity};
use crate::sys::{file, process};

/// /proc, held open: a worker's root changes.
pub struct Proc {
    dir: OwnedFd,
    /// The number of our own user namespace.
    pub user: u64,
}

impl Proc {
    /// Opens /proc.
    pub fn open() -> io::Result<Proc> {
        let dir = file::open_dir("/proc")?;
        let user = file::namespace_number(dir.as_fd(), c"self/ns/user")?;
        Ok(Proc { dir, user })
    }
}

/// A thread.
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// `/proc/TID`.
    dir: OwnedFd,
    /// `/proc/TID/ns/user`, the link itself.
    user_link: OwnedFd,
    /// None before Linux 6.9.
    pidfd: Option<OwnedFd>,
    /// The number of its user namespace, when it was last looked at. It may be used again when the namespace is gone.
    pub user: u64,
    /// The same of its mount namespace, at first.
    pub mount: u64,
}

/// The process that a thread belongs to, and as whom the thread acts on files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process.
    pub process: u32,
    /// Its file-system ids, groups and effective capabilities.
    pub identity: Identity,
}

impl Thread {
    /// The thread of this number. Whether it is the one that was meant is for the caller to make sure of, afterwards.
    pub fn open(proc: &Proc, tid: u32) -> io::Result<Thread> {
        let dir = file::open_dir_at(proc.dir.as_fd(), &tid.to_string())?;
        let user_link = process::open_below(dir.as_fd(), c"ns/user", libc::O_PATH | libc::O_NOFOLLOW)?;
        let user = file::namespace_number(user_link.as_fd(), c"")?;
        let mount = file::namespace_number(dir.as_fd(), c"ns/mnt").unwrap_or_default();
        Ok(Thread { tid, dir, user_link, pidfd: process::open_thread(tid).ok(), user, mount })
    }

    /// The thread of this number: the one that is held, unless it is another one or is dead.
    pub fn turn_to<'a>(held: &'a mut Option<Thread>, proc: &Proc, tid: u32) -> io::Result<&'a Thread> {
        let is_it = held.as_mut().is_some_and(|thread| thread.tid == tid && thread.look_again().is_ok());
        if !is_it {
            *held = Some(Thread::open(proc, tid)?);
        }
        held.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
    }

    /// Sees whether it lives, and which user namespace it is in by now.
    fn look_again(&mut self) -> io::Result<()> {
        self.user = file::namespace_number(self.user_link.as_fd(), c"")?;
        Ok(())
    }

    /// A file of its own in /proc.
    pub fn read(&self, name: &CStr) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open_file(name, libc::O_RDONLY)?).read_to_string(&mut text)?;
        Ok(text)
    }

    fn open_file(&self, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
        process::open_below(self.dir.as_fd(), name, flags)
    }

    /// A place of its own: "root" or "cwd".
    pub fn place(&self, name: &CStr) -> io::Result<OwnedFd> {
        self.open_file(name, libc::O_PATH)
    }

    /// Its memory, to be written to.
    pub fn memory(&self) -> io::Result<File> {
        self.open_file(c"mem", libc::O_RDWR).map(File::from)
    }

    /// A copy of a descriptor of its own. EBADF if it has none of this number.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        match &self.pidfd {
            Some(pidfd) => process::copy_descriptor(pidfd.as_fd(), number),
            None => self.descriptor_of_process(number),
        }
    }

    /// The same of its process: a thread can have a table of its own.
    pub fn descriptor_of_process(&self, number: i32) -> io::Result<OwnedFd> {
        process::copy_descriptor(process::open_process(self.process()?)?.as_fd(), number)
    }

    /// The process that it belongs to.
    pub fn process(&self) -> io::Result<u32> {
        match self.info() {
            Some(info) => Ok(info.process),
            None => self.credentials().map(|c| c.process),
        }
    }

    /// Who it is, without its groups where these make no difference: with CAP_CHOWN, CAP_DAC_OVERRIDE and CAP_FSETID they
    /// only count for files whose owner the node does not know, and CAP_SETGID could take them off. Should
    /// something be refused, it has to be tried with the groups as well.
    pub fn quick_credentials(&self) -> io::Result<Credentials> {
        const ENOUGH: u64 = 1 << 0 | 1 << 1 | 1 << 4 | 1 << 6;
        let capabilities = identity::capabilities_of(self.tid)?;
        match self.info() {
            Some(info) if capabilities & ENOUGH == ENOUGH => Ok(Credentials {
                process: info.process,
                identity: Identity { fsuid: info.fsuid, fsgid: info.fsgid, groups: Vec::new(), capabilities },
            }),
            _ => self.credentials(),
        }
    }

    fn info(&self) -> Option<process::Info> {
        self.pidfd.as_ref().and_then(|pidfd| process::info(pidfd.as_fd()).ok())
    }

    /// Who it is, read at once, so that all of it is of one moment.
    pub fn credentials(&self) -> io::Result<Credentials> {
        // The kernel makes the text anew for each read, and it rarely is longer: one read.
        let mut first = [0; 4096];
        let mut file = File::from(self.open_file(c"status", libc::O_RDONLY)?);
        let read = file.read(&mut first)?;
        let mut rest = Vec::new();
        if read == first.len() {
            rest.extend_from_slice(&first);
            file.read_to_end(&mut rest)?;
        }
        let text = if rest.is_empty() { &first[..read] } else { &rest };
        Credentials::parse(&String::from_utf8_lossy(text))
    }
}

impl Credentials {
    /// Our own.
    pub fn own() -> io::Result<Credentials> {
        Credentials::parse(&fs::read_to_string("/proc/thread-self/status")?)
    }

    fn parse(text: &str) -> io::Result<Credentials> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "/proc/TID/status lacks a line");
        let field = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)).ok_or_else(odd);
        // Real, effective, saved, file-system.
        let fs_id = |key| field(key)?.split_ascii_whitespace().nth(3).and_then(|n| n.parse().ok()).ok_or_else(odd);
        let groups = field("Groups:")?.split_ascii_whitespace().map(|n| n.parse().map_err(|_| odd()));
        Ok(Credentials {
            process: field("Tgid:")?.trim().parse().map_err(|_| odd())?,
            identity: Identity {
                fsuid: fs_id("Uid:")?,
                fsgid: fs_id("Gid:")?,
                groups: groups.collect::<io::Result<_>>()?,
                capabilities: u64::from_str_radix(field("CapEff:")?.trim(), 16).map_err(|_| odd())?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read() {
        let text = "Name:\tUid:\t7\nTgid:\t12\nPid:\t13\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t4 24 27 \n\
                    CapInh:\t0\nCapPrm:\t0\nCapEff:\t00000000a80425fb\n";
        let read = Credentials::parse(text).unwrap();
        assert_eq!(read.process, 12);
        let i = read.identity;
        assert_eq!((i.fsuid, i.fsgid, i.groups, i.capabilities), (4, 8, vec![4, 24, 27], 0xa804_25fb));
        assert!(Credentials::parse("Tgid:\t1\n").is_err());
        assert_eq!(Credentials::own().unwrap().identity.fsuid, 0);
    }

    #[test]
    fn a_dead_thread_is_not_taken_for_another() {
        let proc = Proc::open().unwrap();
        let mut held = None;
        let mut child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let thread = Thread::turn_to(&mut held, &proc, child.id()).unwrap();
        assert_eq!(thread.process().unwrap(), child.id());
        assert_eq!(thread.credentials().unwrap().process, child.id());
        let (quick, whole) = (thread.quick_credentials().unwrap(), thread.credentials().unwrap());
        assert_eq!((quick.process, quick.identity.fsuid), (whole.process, whole.identity.fsuid));
        assert_eq!(quick.identity.capabilities, whole.identity.capabilities);
        assert!(thread.descriptor(0).is_ok());
        child.kill().unwrap();
        child.wait().unwrap();
        let thread = held.as_ref().unwrap();
        assert!(thread.credentials().is_err() && thread.descriptor(0).is_err() && thread.place(c"root").is_err());
        assert!(thread.process().is_err() && thread.quick_credentials().is_err());
        assert!(Thread::turn_to(&mut held, &proc, child.id()).is_err());
    }
}
