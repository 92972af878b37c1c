//! The thread that makes a call.
//!
//! It is held by handles that stay its own: once it is dead they lead nowhere, even if its number is another thread's.
//! So they are kept from one call to the next. What they show is read anew each time.

use std::cell::OnceCell;
use std::ffi::CStr;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;

use crate::sys::pidfd;
use crate::sys::{capability, file};

/// /proc, held open, and who we are in it.
pub struct Proc {
    dir: OwnedFd,
    pub root: OwnedFd,
    /// The number of our own user namespace.
    pub user: u64,
    /// The number of our own mount namespace.
    pub mount: u64,
    /// The number of our own control group; 0: the kernel does not tell.
    pub cgroup: u64,
    /// A number for our own control groups of all versions.
    cgroups: u64,
    pub capabilities: u64,
}

impl Proc {
    /// Opens /proc.
    pub fn open() -> io::Result<Proc> {
        let dir = file::open_dir("/proc")?;
        let user = file::namespace_number(dir.as_fd(), c"self/ns/user")?;
        let mount = file::namespace_number(dir.as_fd(), c"self/ns/mnt")?;
        let own = pidfd::open_process(std::process::id()).and_then(|own| pidfd::info(own.as_fd()));
        let cgroup = own.map_or(0, |info| info.cgroup);
        let cgroups = std::fs::read_to_string("/proc/self/cgroup").map_or(0, |text| number(&text));
        let root = file::open_dir("/")?;
        Ok(Proc { dir, root, user, mount, cgroup, cgroups, capabilities: capability::effective(0)? })
    }
}

fn number(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

pub struct Thread {
    pub tid: u32,
    proc: Rc<Proc>,
    /// None before Linux 6.9.
    pidfd: Option<OwnedFd>,
    place: OnceCell<Place>,
}

/// Its folder in /proc, and two links in it, opened themselves: to read them, no path has to be walked.
struct Place {
    dir: OwnedFd,
    user: OwnedFd,
    mount: OwnedFd,
}

impl Thread {
    /// The thread of this number. Whether it is the one that was meant is for the caller to make sure of, afterwards.
    pub fn open(proc: &Rc<Proc>, tid: u32) -> Thread {
        Thread { tid, proc: Rc::clone(proc), pidfd: pidfd::open_thread(tid).ok(), place: OnceCell::new() }
    }

    /// The thread of this number: the one that is held, unless it is another one or is dead.
    pub fn turn_to<'a>(held: &'a mut Option<Thread>, proc: &Rc<Proc>, tid: u32) -> &'a Thread {
        Thread::turn_to_one(held, proc, tid, Thread::lives).0
    }

    /// The same, if it is our equal. A dead thread is nobody's, so it need not be asked whether it lives.
    pub fn turn_to_equal<'a>(held: &'a mut Option<Thread>, proc: &Rc<Proc>, tid: u32) -> Option<&'a Thread> {
        let (thread, is_equal) = Thread::turn_to_one(held, proc, tid, Thread::is_our_equal);
        (is_equal || thread.is_our_equal()).then_some(thread)
    }

    /// Also whether the thread that was held is the one, and is so.
    fn turn_to_one<'a>(
        held: &'a mut Option<Thread>,
        proc: &Rc<Proc>,
        tid: u32,
        is_so: fn(&Thread) -> bool,
    ) -> (&'a Thread, bool) {
        let opened = held.take().filter(|thread| thread.tid == tid && is_so(thread));
        let is_it = opened.is_some();
        (held.insert(opened.unwrap_or_else(|| Thread::open(proc, tid))), is_it)
    }

    fn lives(&self) -> bool {
        self.info().is_some() || self.user().is_ok()
    }

    /// None before Linux 6.13, or if it is dead.
    pub fn info(&self) -> Option<pidfd::Info> {
        self.pidfd.as_ref().and_then(|pidfd| pidfd::info(pidfd.as_fd()).ok())
    }

    fn place(&self) -> io::Result<&Place> {
        if let Some(place) = self.place.get() {
            return Ok(place);
        }
        let dir = file::open_dir_at(self.proc.dir.as_fd(), &self.tid.to_string())?;
        let link = |name| file::open_below(dir.as_fd(), name, libc::O_PATH | libc::O_NOFOLLOW);
        let (user, mount) = (link(c"ns/user")?, link(c"ns/mnt")?);
        Ok(self.place.get_or_init(|| Place { dir, user, mount }))
    }

    /// The number of its user namespace. It may be used again when the namespace is gone.
    pub fn user(&self) -> io::Result<u64> {
        file::namespace_number(self.place()?.user.as_fd(), c"")
    }

    /// The number of its mount namespace.
    pub fn mount(&self) -> io::Result<u64> {
        file::namespace_number(self.place()?.mount.as_fd(), c"")
    }

    /// Whether it is in our own user namespace.
    pub fn is_of_the_node(&self) -> io::Result<bool> {
        Ok(self.user()? == self.proc.user)
    }

    /// Whether it has all that we have ourselves: root of the node, by all four user and group ids, with all our
    /// capabilities, in our own user and mount namespaces and root: from a folder outside of its root, `..` may lead
    /// elsewhere.
    pub fn is_our_equal(&self) -> bool {
        let is_root = match self.info() {
            Some(info) => info.ids == [0; 8],
            None => self.read(c"status").is_ok_and(|status| {
                ["Uid:", "Gid:"].iter().all(|key| {
                    let ids = status.lines().find_map(|line| line.strip_prefix(key));
                    ids.is_some_and(|ids| ids.split_ascii_whitespace().eq(["0"; 4]))
                })
            }),
        };
        let ours = self.proc.capabilities;
        is_root
            && capability::effective(self.tid).is_ok_and(|theirs| ours & !theirs == 0)
            && self.user().is_ok_and(|user| user == self.proc.user)
            && self.mount().is_ok_and(|mount| mount == self.proc.mount)
            && self.place().and_then(|place| file::leads_to_root(place.dir.as_fd(), c"root")).unwrap_or(false)
    }

    /// A file of its own in /proc, up to 1 MiB of it.
    pub fn read(&self, name: &CStr) -> io::Result<String> {
        let mut text = String::new();
        File::from(self.open_file(name, libc::O_RDONLY)?).take(1 << 20).read_to_string(&mut text)?;
        Ok(text)
    }

    fn open_file(&self, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
        file::open_below(self.place()?.dir.as_fd(), name, flags)
    }

    /// A folder of its own: "root" or "cwd".
    pub fn folder(&self, name: &CStr) -> io::Result<OwnedFd> {
        self.open_file(name, libc::O_PATH)
    }

    /// Its memory, to be written to.
    pub fn memory(&self) -> io::Result<File> {
        self.open_file(c"mem", libc::O_RDWR).map(File::from)
    }

    /// A number for the program that it runs.
    pub fn program(&self) -> io::Result<u64> {
        let file = File::from(self.open_file(c"exe", libc::O_PATH)?).metadata()?;
        Ok(file.dev().rotate_left(32) ^ file.ino())
    }

    /// A copy of a descriptor of its own. EBADF if it has none of this number. Before Linux 6.9 only the first thread of a
    /// process can be asked (ENOSYS): another one may have a table of its own.
    pub fn descriptor(&self, number: i32) -> io::Result<OwnedFd> {
        match &self.pidfd {
            Some(pidfd) => pidfd::copy_descriptor(pidfd.as_fd(), number),
            // EINVAL for any but a first thread.
            None => pidfd::copy_descriptor(pidfd::open_process(self.tid)?.as_fd(), number),
        }
    }

    /// The container that it is of, as a number: its control groups. A container can make mount namespaces, as many as it
    /// likes, so these tell containers apart only where they have no control groups of their own.
    pub fn container(&self) -> u64 {
        let named = || self.read(c"cgroup").ok().map(|text| number(&text));
        match self.info() {
            Some(info) if info.cgroup != 0 && info.cgroup != self.proc.cgroup => info.cgroup,
            // Not told, or only that of version 2, where those of version 1 are in use.
            _ => match named().filter(|number| *number != self.proc.cgroups) {
                Some(number) => number | 1 << 63,
                None => self.mount().unwrap_or_default() | 1 << 63,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "needs root"]
    fn a_dead_thread_is_not_taken_for_another() {
        let proc = Rc::new(Proc::open().unwrap());
        let mut held = None;
        let mut child = std::process::Command::new("/bin/cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let thread = Thread::turn_to(&mut held, &proc, child.id());
        assert!(thread.lives() && thread.is_of_the_node().unwrap() && thread.is_our_equal());
        assert!(thread.descriptor(0).is_ok() && thread.folder(c"root").is_ok() && thread.container() != 0);
        assert_eq!(thread.mount().unwrap(), proc.mount);
        child.kill().unwrap();
        child.wait().unwrap();
        let thread = held.as_ref().unwrap();
        assert!(!thread.lives() && !thread.is_our_equal());
        assert!(thread.descriptor(0).is_err() && thread.folder(c"root").is_err() && thread.user().is_err());
        assert!(!Thread::turn_to(&mut held, &proc, child.id()).lives());
    }
}
